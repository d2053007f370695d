from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ffcore.errors import RunError, SettingError
from ffmodels.evaluated import evaluations
from ffmodels.run import load_encoder, save_weights
from fftrain import compare_runs, evaluate_run, load_data
from fftrain.config import DataSettings
from fftrain.data import sample
from tests.fftrain.alike import feature_space_cka
from tests.fftrain.training import evaluation
from tests.helpers import one_line

SMALL = {"images": 40}

NAMES = ["block1", "block2", "block3", "block4"]


def test_each_block_is_compared_with_itself_before_training(run_copy):
    [found] = evaluate_run(run_copy, evaluation("similarity", images=50))
    images = sample(load_data(DataSettings(dataset="digits")).validation, 50).images.float() / 255
    trained, before = (load_encoder(run_copy, untrained=untrained)(images) for untrained in (False, True))
    assert [record["blocks"] for record in found.records] == NAMES
    assert {record["measure"] for record in found.records} == {"cka to untrained"}
    assert {record["source"] for record in found.records} == {"ff"}
    expected = [feature_space_cka(x.numpy(), y.numpy()) for x, y in zip(trained, before, strict=True)]
    np.testing.assert_allclose([record["value"] for record in found.records], expected, rtol=1e-6)
    assert max(expected) < 0.999


def test_every_pair_of_blocks_of_two_runs_is_compared(trained, run_copy):
    [itself, found] = evaluate_run(
        run_copy, evaluation("similarity", images=50), evaluation("similarity", images=50, against=str(trained / "bp"))
    )
    compared = compare_runs(run_copy, trained / "bp", images=50)
    to = f"cka to {trained.name}/bp"
    for measure, key in ((to, "cka"), (f"{to}, both untrained", "cka_floor")):
        values = {record["blocks"]: record["value"] for record in found.records if record["measure"] == measure}
        pairs = [f"{a} and {b}" for a in compared["blocks"] for b in compared["blocks_of_b"]]
        assert values == dict(zip(pairs, np.ravel(compared[key]), strict=True))
    assert len(found.records) == 2 * 4 * 4
    assert {itself.path, found.path} < {one.path for one in evaluations(run_copy)}


def test_a_reading_that_is_not_the_methods_is_refused_beside_another_run(trained, run_copy):
    with pytest.raises(SettingError, match="leave --reading out"):
        evaluate_run(run_copy, evaluation("similarity", against=str(trained / "bp")).changed(reading="zeros"))


def test_other_weights_of_the_other_run_are_compared_anew(trained, run_copy, tmp_path):
    other = Path(shutil.copytree(trained / "bp", tmp_path / "bp"))
    config = evaluation("similarity", images=50, against=str(other))
    [before] = evaluate_run(run_copy, config)
    assert evaluate_run(run_copy, config) == [before]
    network = load_encoder(other).backbone
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_weights(network, other / "backbone.safetensors")
    [after] = evaluate_run(run_copy, config)
    assert after.path != before.path
    assert not before.path.exists()
    one, two = (found.value(measure=f"cka to {other.parent.name}/bp") for found in (before, after))
    assert None not in (one, two)
    assert one != two


def test_another_run_that_is_none_is_refused(cli, run_copy, tmp_path):
    with pytest.raises(RunError, match="none is not a run folder"):
        evaluate_run(run_copy, evaluation("similarity", images=50, against=str(tmp_path / "none")))
    ended = cli("fftrain", "evaluate", run_copy, f"similarity.against={tmp_path}/none", "--threads", 1)
    one_line(ended, 1, "none is not a run folder")
