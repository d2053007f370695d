from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ffcore.errors import DataError, RunError
from ffmodels.run import load_encoder
from fftrain import compare_runs, linear_cka, load_data
from fftrain.config import DataSettings
from fftrain.data import sample
from tests.fftrain.alike import feature_space_cka

NAMES = ["block1", "block2", "block3", "block4"]


def representations(rows=60, columns=(9, 14)):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(loc=3, size=(rows, n)) for n in columns)
    y[:, :5] += x[:, :5]
    return x, y


def test_cka_agrees_with_the_formula_over_features():
    for columns in ((9, 14), (200, 3)):  # fewer and more features than images
        x, y = representations(columns=columns if columns[1] > 5 else (200, 6))
        assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(feature_space_cka(x, y), rel=1e-10)


def test_cka_is_blind_to_rotation_scale_and_shift_and_to_nothing_more():
    x, y = representations()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(9, 9)))
    before = linear_cka(torch.from_numpy(x), torch.from_numpy(y))
    moved = linear_cka(torch.from_numpy(-7 * x @ rotation + 5), torch.from_numpy(0.01 * y))
    assert moved == pytest.approx(before, rel=1e-10)
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(x @ rotation)) == pytest.approx(1, abs=1e-12)
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(x * np.arange(9))) < 0.95
    assert before < 0.6


def test_cka_of_a_constant_representation_is_zero_and_of_other_images_refused():
    x, _ = representations()
    constant = torch.full((60, 4), 0.1)
    assert linear_cka(torch.from_numpy(x), constant) == 0.0
    assert linear_cka(constant, constant) == 0.0
    with pytest.raises(DataError, match="of 60 and of 59 images"):
        linear_cka(torch.from_numpy(x), torch.from_numpy(x[:59]))


def test_two_runs_are_compared_on_the_same_images_each_as_its_method_reads_them(trained):
    found = compare_runs(trained / "ff", trained / "bp", images=50)
    assert found["runs"] == found["methods"] == ["ff", "bp"]
    assert found["readings"] == ["neutral", "pixels"]
    assert found["blocks"] == found["blocks_of_b"] == NAMES
    images = sample(load_data(DataSettings(dataset="digits")).validation, found["images"]).images.float() / 255
    blocks = {
        (run, before): [x.numpy() for x in load_encoder(trained / run, untrained=before)(images)]
        for run in ("ff", "bp")
        for before in (False, True)
    }
    for key, before in (("cka", False), ("cka_floor", True)):
        expected = [[feature_space_cka(x, y) for y in blocks["bp", before]] for x in blocks["ff", before]]
        np.testing.assert_allclose(found[key], expected, rtol=1e-6)
    same = compare_runs(trained / "ff", trained / "ff", images=50)
    np.testing.assert_allclose(np.diag(same["cka"]), 1)


def test_runs_of_other_images_are_refused(trained, run_copy):
    path = run_copy / "config.json"
    config = json.loads(path.read_text())
    for key, value in (("digest", "0123"), ("shape", [1, 8, 8])):
        path.write_text(json.dumps({**config, "data": {**config["data"], key: value}}))
        with pytest.raises(RunError, match=rf"differ in the data's {key} .*compare runs of one data set"):
            compare_runs(trained / "bp", run_copy)
