from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffcore.errors import RunError, SettingError, TrainingError, WriteError
from ffmodels.checkpoint import load_backbone
from fftrain.config import PretrainConfig
from fftrain.data import load_data
from fftrain.registry import METHODS, TASKS, fits
from fftrain.run import RunFolder
from fftrain.trainer import pretrain
from tests.fftrain.training import (
    LOSSES,
    SMALL,
    batches,
    data_of,
    epochs,
    everything,
    keep_trained_images,
    made,
    weights,
)


@pytest.mark.parametrize(("method", "task"), [(m, t) for m in METHODS for t in TASKS if fits(m, t)])
def test_every_method_trains_on_every_task(tmp_path, method, task):
    config = PretrainConfig(method=method, task=task, **{**SMALL, "limit": 100, "epochs": 1, "eval_images": 4})
    result = pretrain(config, tmp_path / "run")["validation"]
    assert 0 <= result["accuracy"] <= 1
    assert result["images"] == 143
    assert epochs(tmp_path / "run") == [1]


@pytest.mark.parametrize("method", METHODS)
def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_differs(tmp_path, method):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(PretrainConfig(method=method, seed=seed, **SMALL), tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_records_what_was_trained_and_how_it_went(tmp_path, method):
    run = tmp_path / "run"
    pretrain(PretrainConfig(method=method, **SMALL), run)
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["threshold"] == 32.0
    assert config["data"]["images"] == {"train": 300, "validation": 143, "test": 359}
    assert (
        config["versions"]["torch"] == torch.__version__.split("+")[0]
        or config["versions"]["torch"] in torch.__version__
    )
    for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for part in (record["loss"], record["train"]["loss"], record["validation"]["loss"]):
            assert list(part) == LOSSES[method]
            assert all(np.isfinite(value) for value in part.values())
        assert 0 <= record["train"]["accuracy"] <= 1
        assert record["seconds"] > 0
    files = {"config.json", "metrics.jsonl", "samples.npz", "results.json", "checkpoint", "backbone.safetensors"}
    assert {*os.listdir(run)} == files | {".lock"} | ({"head.safetensors"} if method == "bp" else set())
    samples = np.load(run / "samples.npz")
    assert samples["images"].shape == (64, 1, 28, 28)
    assert samples["images"].dtype == np.uint8
    assert json.loads((run / "results.json").read_text())["pretext"]["validation"]["images"] == 143


def test_an_epoch_trains_on_every_image_once_the_last_partial_batch_too():
    config = PretrainConfig(task="supervised", **{**SMALL, "batch_size": 64})
    found = batches(config, 1)
    assert [rows for _, rows in found] == [64, 64, 64, 64, 44]
    data = load_data(config)
    expected = Counter(image.float().div(255).numpy().tobytes() for image in data.train.images)
    assert Counter(image.numpy().tobytes() for batch, _ in found for image in batch.images) == expected


@pytest.mark.parametrize("method", ["ff", "ff-unsupervised"])
@pytest.mark.parametrize("world", [2, 3, 70])
def test_processes_share_out_the_very_batches_of_one(method, world):
    config = PretrainConfig(method=method, **SMALL)
    whole = batches(config, 3)
    shares = [batches(config, 3, rank, world) for rank in range(world)]
    for step, (batch, rows) in enumerate(whole):
        for rank, share in enumerate(shares):
            part, part_rows = share[step]
            assert part_rows == rows
            assert torch.equal(part.images, batch.images[rank::world])
            assert torch.equal(part.labels, batch.labels[rank::world])
            assert part.drawn.keys() == ({"wrong"} if method == "ff" else {"partner", "bits", "blurs"})
            for name, values in batch.drawn.items():
                assert torch.equal(part.drawn[name], values[rank::world])
            if method == "ff-unsupervised":
                assert torch.equal(part.partners, batch.partners[rank::world])


@pytest.mark.parametrize("method", ["ff", "ff-unsupervised", "bp"])
def test_every_epoch_and_seed_draws_afresh_and_the_same_again(method):
    config = PretrainConfig(method=method, **SMALL)
    one, again = everything(config, 1), everything(config, 1)
    assert all(torch.equal(again[name], values) for name, values in one.items())
    for other in (everything(config, 2), everything(replace(config, seed=1), 1)):
        for name, values in one.items():
            constant = method == "ff-unsupervised" and name == "labels"
            assert torch.equal(other[name], values) == constant


@pytest.mark.parametrize("method", METHODS)
def test_batch_size_does_not_change_what_is_drawn_for_an_image(method):
    one, other = (everything(PretrainConfig(method=method, **{**SMALL, "batch_size": size}), 1) for size in (64, 17))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_drawn_for_an_image_depends_on_its_index_and_not_on_the_order():
    config = PretrainConfig(method="ff-unsupervised", **SMALL)
    objective, task = made(config)
    train = data_of(config).train
    rng = np.random.default_rng([config.seed, 5, 1])
    drawn = objective.draw(task.draw(train.labels.numpy(), rng), rng)
    place = {image.numpy().tobytes(): i for i, image in enumerate(train.images.float() / 255)}
    assert len(place) == 300
    for batch, _ in batches(config, 5):
        index = [place[image.numpy().tobytes()] for image in batch.images]
        partner = [place[image.numpy().tobytes()] for image in batch.partners]
        assert partner == drawn["partner"][index].tolist()
        assert not set(zip(index, partner, strict=True)) & {(i, i) for i in range(300)}
        for name in ("bits", "blurs"):
            np.testing.assert_array_equal(batch.drawn[name], drawn[name][index])


def test_without_a_holdout_every_training_image_is_trained_on_and_still_none_of_the_test(tmp_path, monkeypatch):
    seen = keep_trained_images(monkeypatch)
    run, settings = tmp_path / "run", {**SMALL, "task": "supervised", "method": "bp", "limit": None, "epochs": 1}
    pretrain(PretrainConfig(holdout=False, **settings), run)
    data = load_data(PretrainConfig(**settings))
    every = torch.cat([data.train.images, data.validation.images]).float() / 255
    expected = Counter(image.numpy().tobytes() for image in every)
    assert seen == [expected]
    assert expected.total() == 1438
    assert json.loads((run / "config.json").read_text())["config"]["holdout"] is False
    recorded = json.loads((run / "metrics.jsonl").read_text())
    assert recorded["images_per_second"] * recorded["seconds"] == pytest.approx(1438)
    with pytest.raises(SettingError, match="--holdout is True, but the run to resume has False"):
        pretrain(PretrainConfig(**{**settings, "epochs": 2}), run, resume=True)
    pretrain(replace(RunFolder(run).read_config(), epochs=2), run, resume=True)
    assert seen == [expected, expected]


def test_with_a_holdout_no_validation_image_is_trained_on(tmp_path, monkeypatch):
    seen = keep_trained_images(monkeypatch)
    settings = {**SMALL, "task": "supervised", "method": "bp", "limit": None, "epochs": 1}
    pretrain(PretrainConfig(**settings), tmp_path / "run")
    train = load_data(PretrainConfig(**settings)).train.images.float() / 255
    assert seen == [Counter(image.numpy().tobytes() for image in train)]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    run = tmp_path / "run"
    pretrain(PretrainConfig(**SMALL), run)
    before = RunFolder(run).last_checkpoint()
    # The checkpoint's weights are poisoned as a diverging run would poison them.
    from safetensors.torch import save_file

    file = before / "model_1.safetensors"
    state = load_file(file)
    save_file({name: value * float("nan") for name, value in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"the loss of layer2 is not finite in epoch 3: .*epoch 2, is kept.*--lr"):
        pretrain(PretrainConfig(**{**SMALL, "epochs": 4}), run, resume=True)
    assert RunFolder(run).last_checkpoint() == before
    assert epochs(run) == [1, 2]


def test_a_damaged_checkpoint_and_changed_data_are_named(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / "data" / name / f"{i}.png")
    run = tmp_path / "run"
    config = PretrainConfig(**{**SMALL, "dataset": f"imagefolder:{tmp_path}/data", "limit": None})
    pretrain(config, run)
    more = replace(config, epochs=3)
    checkpoint = RunFolder(run).last_checkpoint()
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[:100])
    with pytest.raises(RunError, match="epoch-00002 is damaged"):
        pretrain(more, run, resume=True)
    (checkpoint / "model.safetensors").write_bytes(whole)
    for i in range(30):
        Image.new("L", (8, 8), i).save(tmp_path / "data" / "cat" / f"new{i}.png")
    with pytest.raises(RunError, match=r"has changed since .* was trained on it"):
        pretrain(more, run, resume=True)
    assert epochs(run) == [1, 2]


def test_an_epoch_whose_last_step_diverges_is_not_kept(tmp_path, monkeypatch):
    run = tmp_path / "run"
    settings = {**SMALL, "method": "bp", "batch_size": 300}  # one step an epoch
    pretrain(PretrainConfig(**settings), run)
    good = weights(run)
    step = torch.optim.AdamW.step

    def diverge(self, *arguments):
        result = step(self, *arguments)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("inf"))
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", diverge)
    with pytest.raises(
        TrainingError, match="a loss is not finite after epoch 3: the last good checkpoint, of epoch 2, is"
    ):
        pretrain(PretrainConfig(**{**settings, "epochs": 4}), run, resume=True)
    monkeypatch.undo()
    assert epochs(run) == [1, 2]
    assert weights(run) == good
    pretrain(PretrainConfig(**{**settings, "epochs": 4}), run, resume=True)
    assert epochs(run) == [1, 2, 3, 4]


def test_the_random_baseline_is_the_backbone_before_training(tmp_path):
    pretrain(PretrainConfig(seed=5, **{**SMALL, "lr": 1e-30, "epochs": 1}), tmp_path / "run")
    trained, untrained = (load_backbone(tmp_path / "run", untrained=flag) for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), untrained.parameters(), strict=True))


def test_other_settings_are_refused_on_resuming_and_not_recorded(tmp_path):
    run = tmp_path / "run"
    pretrain(PretrainConfig(**SMALL), run)
    before = (run / "config.json").read_text()
    with pytest.raises(SettingError, match=r"--lr is 0\.5, but the run to resume has 0\.003"):
        pretrain(PretrainConfig(**{**SMALL, "lr": 0.5, "epochs": 3}), run, resume=True)
    assert (run / "config.json").read_text() == before


def test_more_training_forgets_what_was_measured_before(run_copy):
    config = RunFolder(run_copy).read_config()
    assert (run_copy / "probes").is_dir()
    pretrain(replace(config, epochs=4), run_copy, resume=True)
    assert not (run_copy / "probes").exists()
    assert RunFolder(run_copy).read_results().keys() == {"pretext"}


def test_a_folder_in_use_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="in use already"):
        pretrain(PretrainConfig(**SMALL), tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]
    with pytest.raises(WriteError, match="it is a file"):
        pretrain(PretrainConfig(**SMALL), tmp_path / "mine.txt")
    with pytest.raises(WriteError, match="cannot be made"):
        pretrain(PretrainConfig(**SMALL), tmp_path / "mine.txt" / "run")


def test_a_run_goes_on_with_more_epochs_as_if_it_had_had_them(tmp_path):
    for name, first in (("whole", 4), ("continued", 2)):
        pretrain(PretrainConfig(**{**SMALL, "epochs": first}), tmp_path / name)
    pretrain(PretrainConfig(**{**SMALL, "epochs": 4}), tmp_path / "continued", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "continued")
    assert epochs(tmp_path / "continued") == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("method", "lr", "least"),
    [("ff-unsupervised", 3e-3, 0.68), ("bp-goodness-last", 1e-3, 0.5), ("bp-goodness-all", 1e-3, 0.5)],
)
def test_the_other_methods_of_goodness_learn_far_more_than_chance(tmp_path, method, lr, least):
    """Chance is 0.5 for hybrids, 0.25 for rotation."""
    settings = {**SMALL, "width": 100, "limit": None, "batch_size": 32, "epochs": 14, "lr": lr}
    assert pretrain(PretrainConfig(method=method, **settings), tmp_path / "run")["validation"]["accuracy"] > least


def test_ff_and_bp_learn_the_rotation_of_digits(tmp_path):
    settings = {**SMALL, "width": 200, "limit": None, "batch_size": 32, "epochs": 25, "lr": 1e-3}
    for method, least in (("ff", 0.85), ("bp", 0.9)):
        result = pretrain(PretrainConfig(method=method, **settings), tmp_path / method)["validation"]
        assert result["accuracy"] > least


def test_bfloat16_trains_close_to_float32(tmp_path):
    for precision in ("no", "bf16"):
        pretrain(PretrainConfig(mixed_precision=precision, **{**SMALL, "epochs": 1}), tmp_path / precision)
    one, other = (load_file(tmp_path / p / "backbone.safetensors") for p in ("no", "bf16"))
    assert all(value.dtype == torch.float32 for value in other.values())
    assert weights(tmp_path / "no") != weights(tmp_path / "bf16")
    losses = [json.loads((tmp_path / p / "metrics.jsonl").read_text())["loss"]["layer1"] for p in ("no", "bf16")]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert (one["layers.0.linear.weight"] - other["layers.0.linear.weight"]).abs().mean() < 1e-3
