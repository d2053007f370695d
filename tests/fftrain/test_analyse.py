from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ffcore.errors import DataError, RunError
from ffmodels.run import load_encoder
from fftrain import decoder
from fftrain.analyse import analyse_run, compare_runs, embed, linear_cka
from fftrain.config import AnalysisConfig, ProbeConfig
from fftrain.data import load_data, sample
from fftrain.decoder import PENALTIES, decode
from fftrain.features import Features
from fftrain.run import RunFolder
from tests.helpers import one_line, python

NAMES = ["block1", "block2", "block3", "block4", "blocks2-4"]
QUICK = {"images": 300, "points": 40, "threads": 1}


def feature_space_cka(x, y):
    """|Y'X|^2 / (|X'X| |Y'Y|): the formula as the paper has it."""
    x, y = (values - values.mean(0) for values in (x.astype(np.float64), y.astype(np.float64)))
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


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


@pytest.mark.parametrize("most", [decoder.BYTES, 8 * 90 * 7])  # bytes of a chunk: all at once, or a few rows
@pytest.mark.parametrize("features", [12, 90])  # fewer and more than the 70 training images
def test_the_decoder_is_scikit_learns_ridge_with_the_penalty_that_validation_chooses(monkeypatch, features, most):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    pixels = [rng.integers(256, size=(n, 20), dtype=np.uint8) for n in (70, 30, 40)]
    mixing = rng.normal(size=(20, features))
    inputs = [(p / 255) @ mixing + 0.3 * rng.normal(size=(len(p), features)) for p in pixels]
    # Away from the middle, and of other scales: the decoder centres them and divides all by one scale.
    inputs = [(x * np.linspace(1, 3, features) + 7).astype(np.float32) for x in inputs]
    monkeypatch.setattr(decoder, "BYTES", most)
    found = decode(Features(*map(torch.from_numpy, inputs)), Features(*map(torch.from_numpy, pixels)))

    def explained(penalty, split):
        x, y = inputs[0].astype(np.float64), pixels[0] / 255
        scale = np.sqrt(x.var(0).mean())
        ridge = Ridge(alpha=penalty * len(x)).fit(x / scale, y)
        target = pixels[split] / 255
        return 1 - ((target - ridge.predict(inputs[split] / scale)) ** 2).sum() / ((target - y.mean(0)) ** 2).sum()

    by_penalty = {penalty: explained(penalty, 1) for penalty in PENALTIES}
    assert found["penalty"] == max(by_penalty, key=by_penalty.get)
    assert found["validation"] == pytest.approx(by_penalty[found["penalty"]], abs=1e-6)
    assert found["test"] == pytest.approx(explained(found["penalty"], 2), abs=1e-6)


def test_an_invertible_map_keeps_all_pixels_and_noise_none():
    rng = np.random.default_rng(0)
    pixels = Features(*(torch.from_numpy(rng.integers(256, size=(n, 16), dtype=np.uint8)) for n in (400, 100, 100)))
    mixing = torch.from_numpy(np.linalg.qr(rng.normal(size=(16, 16)))[0]).float()
    parts = [(part.float() / 255) @ mixing for part in (pixels.train, pixels.validation, pixels.test)]
    found = decode(Features(*parts), pixels)
    assert found["validation"] > 0.999
    assert found["test"] > 0.999
    noise = Features(*(torch.randn(len(part), 16, generator=torch.Generator().manual_seed(0)) for part in parts))
    assert abs(decode(noise, pixels)["test"]) < 0.1
    blank = Features(*(torch.zeros(len(part), 16, dtype=torch.uint8) for part in parts))
    assert decode(noise, blank)["test"] == 0.0


def test_t_sne_is_the_same_for_the_same_seed_and_takes_any_input():
    features = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    points = embed(features, 5.0, 0)
    assert points.shape == (40, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert np.array_equal(points, embed(features, 5.0, 0))
    assert not np.array_equal(points, embed(features[::-1], 5.0, 1)[::-1])
    assert embed(features[:4], 500.0, 0).shape == (4, 2)  # perplexity beyond the points
    assert np.isfinite(embed(features[:, :1], 5.0, 0)).all()
    assert not embed(np.full_like(features, 0.1), 5.0, 0).any()


def test_records_lie_where_they_should_and_raw_pixels_are_the_ceiling(run_copy):
    config = AnalysisConfig(**QUICK, perplexity=500)
    result = analyse_run(run_copy, config)
    assert RunFolder(run_copy).read_results()["analysis"] == {"digits-neutral": result}
    assert (result["dataset"], result["reading"], result["images"]) == ("digits", "neutral", 300)
    assert result["config"]["perplexity"] == 500
    assert result["seconds"] > 0
    rows = {(row["source"], row["blocks"]): row for row in result["decoder"]}
    assert list(rows) == [("raw", "pixels"), *(("random", n) for n in NAMES), *(("ff", n) for n in NAMES)]
    for split in ("validation", "test"):
        assert rows["raw", "pixels"][split] > 0.999
        assert max(row[split] for row in result["decoder"]) == rows["raw", "pixels"][split]
    assert all(row["penalty"] in PENALTIES for row in result["decoder"])
    with np.load(run_copy / "analysis" / "digits-neutral.npz") as file:
        arrays = dict(file)
    assert sorted(arrays) == ["block1", "block2", "block3", "block4", "labels"]
    assert arrays["labels"].dtype == np.int64
    assert np.array_equal(arrays["labels"], sample(load_data(ProbeConfig(dataset="digits")).validation, 40).labels)
    for i in range(1, 5):
        assert arrays[f"block{i}"].shape == (40, 2)
        assert arrays[f"block{i}"].dtype == np.float32

    data = load_data(ProbeConfig(dataset="digits"))
    again = analyse_run(run_copy, config.changed(reading="zeros", points=0), data=data)
    assert set(RunFolder(run_copy).read_results()["analysis"]) == {"digits-neutral", "digits-zeros"}
    assert [p.name for p in (run_copy / "analysis").iterdir()] == ["digits-neutral.npz"]
    assert again["decoder"][0] == result["decoder"][0]  # raw pixels are read in one way


def test_two_runs_are_compared_on_the_same_images_each_as_its_method_reads_them(trained):
    found = compare_runs(trained / "ff", trained / "bp", images=50)
    assert found["runs"] == found["methods"] == ["ff", "bp"]
    assert found["readings"] == ["neutral", "pixels"]
    assert found["blocks"] == found["blocks_of_b"] == NAMES[:4]
    images = sample(load_data(ProbeConfig(dataset="digits")).validation, found["images"]).images.float() / 255
    blocks = {
        (run, before): [x.numpy() for x in load_encoder(trained / run, untrained=before)(images)]
        for run in ("ff", "bp")
        for before in (False, True)
    }
    for key, before in (("cka", False), ("cka_floor", True)):
        expected = [[feature_space_cka(x, y) for y in blocks["bp", before]] for x in blocks["ff", before]]
        np.testing.assert_allclose(found[key], expected, rtol=1e-6)
    expected = [
        [feature_space_cka(x, y) for x, y in zip(blocks[run, False], blocks[run, True], strict=True)]
        for run in ("ff", "bp")
    ]
    np.testing.assert_allclose(found["cka_untrained"], expected, rtol=1e-6)
    same = compare_runs(trained / "ff", trained / "ff", images=50)
    np.testing.assert_allclose(np.diag(same["cka"]), 1)


def test_a_reading_that_the_method_does_not_have_is_refused(cli, trained):
    before = (trained / "bp" / "results.json").read_bytes()
    for command in ("analyse", "probe"):
        ended = cli("fftrain", command, trained / "bp", "--reading", "zeros")
        one_line(ended, 2, "reading 'zeros' is unknown for", "choose one of pixels")
    assert (trained / "bp" / "results.json").read_bytes() == before


def test_runs_of_other_images_are_refused(trained, run_copy):
    path = run_copy / "config.json"
    config = json.loads(path.read_text())
    for key, value in (("digest", "0123"), ("shape", [1, 8, 8])):
        path.write_text(json.dumps({**config, "data": {**config["data"], key: value}}))
        with pytest.raises(RunError, match=rf"differ in the data's {key} .*compare runs of one data set"):
            compare_runs(trained / "bp", run_copy)


@pytest.mark.slow
def test_with_two_processes_one_analyses_and_both_know(trained, tmp_path):
    one, two = (Path(shutil.copytree(trained / "ff", tmp_path / name)) for name in ("one", "two"))
    expected = analyse_run(one, AnalysisConfig(images=100, points=0))
    script = tmp_path / "analyse.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom fftrain.analyse import analyse_run\n"
        "from fftrain.config import AnalysisConfig\nfrom fftrain.launcher import make_accelerator\n"
        "accelerator = make_accelerator(1)\n"
        "found = analyse_run(Path(sys.argv[1]), AnalysisConfig(images=100, points=0), accelerator=accelerator)\n"
        "out = Path(sys.argv[1]) / f'rows{accelerator.process_index}'\n"
        "out.write_text(repr([row['blocks'] for row in found['decoder']]))\naccelerator.end_training()\n"
    )
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1"
    ended = python("-m", *launch.split(), script, two, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert ended.returncode == 0, ended.stderr
    blocks = repr([row["blocks"] for row in expected["decoder"]])
    assert [(two / f"rows{i}").read_text() for i in range(2)] == [blocks, blocks]
    written = RunFolder(two).read_results()["analysis"]["digits-neutral"]["decoder"]
    for row, reference in zip(written, expected["decoder"], strict=True):
        assert row["test"] == pytest.approx(reference["test"], abs=1e-5)
