from __future__ import annotations

import json
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ffcore.errors import RunError, SettingError, TrainingError, WriteError
from ffcore.files import sha256
from ffmodels.evaluated import evaluations
from ffmodels.run import Run
from fftrain.config import RunConfig
from fftrain.data import load_data
from fftrain.loader import Loader
from fftrain.parts import VIEWS, merged
from fftrain.recipes import read_recipe, recipes
from fftrain.run import RunFolder
from fftrain.training import pretrain
from fftrain.watch import Watch
from tests.fftrain.training import LOSSES, SMALL, epochs, settings, weights

ONE_VIEW = [name for name in VIEWS if VIEWS.load(name).views == 1]


@pytest.mark.parametrize("view", ONE_VIEW)
@pytest.mark.parametrize("recipe", LOSSES)
def test_every_recipe_trains_on_every_view(tmp_path, recipe, view):
    config = settings(recipe, **{**SMALL, "view": view, "limit": 100, "epochs": 1, "eval_images": 4})
    result = pretrain(config, tmp_path / "run")
    if recipe == "ff-unsupervised":
        assert result == []
    else:
        [told] = result
        assert 0 <= told.value(measure="pretext accuracy", split="validation") <= 1
        assert {record["images"] for record in told.records} == {143}
    assert epochs(tmp_path / "run") == [1]


@pytest.mark.parametrize("recipe", LOSSES)
def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_differs(tmp_path, recipe):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(settings(recipe, seed=seed, **SMALL), tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


@pytest.mark.parametrize("recipe", LOSSES)
def test_a_run_records_what_was_trained_and_how_it_went(tmp_path, recipe):
    run = tmp_path / "run"
    config = settings(recipe, **SMALL)
    pretrain(config, run)
    record = json.loads((run / "config.json").read_text())
    assert record["config"] == config.changed(mixed_precision="no").to_dict()
    assert RunFolder(run).read_config() == config.changed(mixed_precision="no")
    assert record["data"]["images"] == {"train": 300, "validation": 143, "test": 359}
    assert record["versions"]["torch"] in torch.__version__
    tells = recipe != "ff-unsupervised"
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for part in (line["loss"], line["train"]["loss"], line["validation"]["loss"]):
            assert list(part) == LOSSES[recipe]
            assert all(np.isfinite(value) for value in part.values())
        assert ("accuracy" in line["train"]) == tells
        assert line["seconds"] > 0
    files = {"config.json", "metrics.jsonl", "samples.npz", "checkpoint", "backbone.safetensors", ".lock"}
    files |= ({"evaluations"} if tells else set()) | ({"heads.safetensors"} if recipe == "bp" else set())
    assert {*os.listdir(run)} == files
    images, labels = Run.load(run).samples
    assert (images.shape, images.dtype, len(labels)) == ((64, 1, 28, 28), np.uint8, 64)


def test_a_setting_that_a_method_does_not_have_is_not_in_its_record(tmp_path):
    pretrain(settings("bp", **SMALL), tmp_path / "run")
    assert Run.load(tmp_path / "run").config["method"] == {"name": "cross-entropy"}


def keep_trained_images(monkeypatch):
    """The images of every epoch that is trained from now on."""
    seen, epoch = [], Loader.epoch

    def watched(self, number):
        counts = Counter()
        seen.append(counts)
        for batch, weight in epoch(self, number):
            counts.update(image.numpy().tobytes() for image in batch.views[0])
            yield batch, weight

    monkeypatch.setattr(Loader, "epoch", watched)
    return seen


def test_without_a_holdout_every_training_image_is_trained_on_and_still_none_of_the_test(tmp_path, monkeypatch):
    seen = keep_trained_images(monkeypatch)
    run = tmp_path / "run"
    config = settings("bp", **{**SMALL, "view": "plain", "limit": None, "epochs": 1, "holdout": False})
    pretrain(config, run)
    data = load_data(config)
    every = torch.cat([data.train.images, data.validation.images]).float() / 255
    expected = Counter(image.numpy().tobytes() for image in every)
    assert seen == [expected]
    assert expected.total() == 1438
    recorded = json.loads((run / "metrics.jsonl").read_text())
    assert recorded["images_per_second"] * recorded["seconds"] == pytest.approx(1438)
    with pytest.raises(SettingError, match="--holdout is True, but the run to resume has False"):
        pretrain(config.changed(epochs=2, holdout=True), run, resume=True)
    pretrain(RunFolder(run).read_config().changed(epochs=2), run, resume=True)
    assert seen == [expected, expected]


def test_with_a_holdout_no_validation_image_is_trained_on(tmp_path, monkeypatch):
    seen = keep_trained_images(monkeypatch)
    config = settings("bp", **{**SMALL, "view": "plain", "limit": None, "epochs": 1})
    pretrain(config, tmp_path / "run")
    train = load_data(config).train.images.float() / 255
    assert seen == [Counter(image.numpy().tobytes() for image in train)]


@pytest.mark.parametrize("recipe", ["ff", "bp"])
def test_curves_of_more_images_leave_the_very_same_run(tmp_path, recipe):
    for count in (1, 250):
        pretrain(settings(recipe, eval_images=count, **SMALL), tmp_path / str(count))
    assert weights(tmp_path / "1") == weights(tmp_path / "250")


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(tmp_path):
    run = tmp_path / "run"
    config = settings(**SMALL)
    pretrain(config, run)
    before = RunFolder(run).last_checkpoint()
    # The checkpoint's weights are poisoned as a diverging run would poison them.
    file = before / "model_1.safetensors"
    state = load_file(file)
    save_file({name: value * float("nan") for name, value in state.items()}, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"the loss of block1 and block2 is not finite|block2 is not finite"):
        pretrain(config.changed(epochs=4), run, resume=True)
    assert RunFolder(run).last_checkpoint() == before
    assert epochs(run) == [1, 2]


def test_on_a_device_that_is_not_looked_at_the_step_of_a_bad_loss_is_left_out():
    """The flag that a GPU's optimizer reads; the fused optimizer of a CPU reads it too."""
    accelerator = SimpleNamespace(num_processes=1, device=torch.device("cpu"), scaler=None, reduce=lambda x, how: x)
    layer = torch.nn.Linear(3, 1)
    optimizer = SimpleNamespace(optimizer=torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True))
    watch = Watch(accelerator, ["block1", "block2"])
    accelerator.device = torch.device("cuda")
    batch = SimpleNamespace(empty=False, labels=[0, 1])

    def take(value):
        loss = layer(torch.full((2, 3), value)).mean()
        loss.backward()
        watch({"block2": loss.detach()}, batch, optimizer)
        optimizer.optimizer.step()
        optimizer.optimizer.zero_grad()
        return [p.clone() for p in layer.parameters()]

    first = take(1.0)
    assert [*watch.means(2)] == ["block1", "block2"]
    second = take(float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(second, take(1.0), strict=True))
    with pytest.raises(FloatingPointError, match=r"^block2$"):
        watch.means(4)


def test_gradients_are_cut_by_the_norm_of_their_unit(tmp_path):
    """So much that Adam's own epsilon shows: the weights hardly move."""
    for name, clip in (("free", None), ("cut", 1e-12)):
        pretrain(settings("bp", clip=clip, **{**SMALL, "epochs": 1}), tmp_path / name)
    start = Run.load(tmp_path / "cut").network(untrained=True).state_dict()
    moved = {n: load_file(tmp_path / n / "backbone.safetensors") for n in ("free", "cut")}
    far = {n: max((state[k] - start[k]).abs().max().item() for k in start) for n, state in moved.items()}
    assert far["cut"] < far["free"] / 20


def test_a_damaged_checkpoint_and_changed_data_are_named(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), 20 * i).save(tmp_path / "data" / name / f"{i}.png")
    run = tmp_path / "run"
    config = settings(**{**SMALL, "dataset": f"imagefolder:{tmp_path}/data", "limit": None})
    pretrain(config, run)
    more = config.changed(epochs=3)
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
    config = settings("bp", **{**SMALL, "batch_size": 300})  # one step an epoch
    pretrain(config, run)
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
        pretrain(config.changed(epochs=4), run, resume=True)
    monkeypatch.undo()
    assert epochs(run) == [1, 2]
    assert weights(run) == good
    pretrain(config.changed(epochs=4), run, resume=True)
    assert epochs(run) == [1, 2, 3, 4]


def test_the_untrained_network_is_the_one_before_training(tmp_path):
    pretrain(settings(seed=5, **{**SMALL, "lr": 1e-30, "epochs": 1}), tmp_path / "run")
    trained, untrained = (Run.load(tmp_path / "run").network(untrained=flag) for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), untrained.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lr": 0.5}, r"--lr is 0\.5, but the run to resume has 0\.003"),
        ({"width": 31}, r"backbone\.width is 31, but the run to resume has 32"),
        ({"view": "jigsaw"}, "--view is jigsaw, but the run to resume has rotation"),
        ({"threshold": 2.0}, r"method\.threshold is 2\.0, but the run to resume has None"),
        ({"cut": "never"}, "--cut is never, but the run to resume has block"),
    ],
)
def test_other_settings_are_refused_on_resuming_and_not_recorded(tmp_path, change, said):
    run = tmp_path / "run"
    pretrain(settings(**{**SMALL, "epochs": 1}), run)
    before = (run / "config.json").read_text()
    with pytest.raises(SettingError, match=said):
        pretrain(settings(**{**SMALL, "epochs": 3, **change}), run, resume=True)
    assert (run / "config.json").read_text() == before


def test_more_training_forgets_what_was_measured_before(run_copy):
    config = RunFolder(run_copy).read_config()
    assert (run_copy / "probes").is_dir()
    assert {one.name for one in evaluations(run_copy)} == {"readout", "linear"}
    before = sha256(run_copy / "backbone.safetensors")
    pretrain(config.changed(epochs=4), run_copy, resume=True)
    assert not (run_copy / "probes").exists()
    [told] = evaluations(run_copy)
    assert (told.name, told.settings["evaluation"]["split"]) == ("readout", "validation")
    assert told.about["weights"] == sha256(run_copy / "backbone.safetensors") != before


def test_a_folder_in_use_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="in use already"):
        pretrain(settings(**SMALL), tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]
    with pytest.raises(WriteError, match="it is a file"):
        pretrain(settings(**SMALL), tmp_path / "mine.txt")
    with pytest.raises(WriteError, match="cannot be made"):
        pretrain(settings(**SMALL), tmp_path / "mine.txt" / "run")


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("recipe", ["ff", "bp"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch, recipe, schedule):
    config = settings(recipe, **{**SMALL, "epochs": 4, "schedule": schedule})
    pretrain(config, tmp_path / "whole")
    epoch = Loader.epoch

    def stop(self, number):
        if number == 3:
            raise KeyboardInterrupt
        yield from epoch(self, number)

    monkeypatch.setattr(Loader, "epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "stopped")
    monkeypatch.undo()
    pretrain(config, tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    assert epochs(tmp_path / "stopped") == [1, 2, 3, 4]


def test_a_run_goes_on_with_more_epochs_as_if_it_had_had_them(tmp_path):
    config = settings(**{**SMALL, "epochs": 4})
    pretrain(config, tmp_path / "whole")
    pretrain(config.changed(epochs=2), tmp_path / "continued")
    pretrain(config, tmp_path / "continued", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "continued")


@pytest.mark.parametrize(
    ("recipe", "least"),
    [
        ("ff", 0.5),
        ("bp", 0.85),
        pytest.param("bp-goodness-last", 0.5, marks=pytest.mark.slow),
        pytest.param("bp-goodness-all", 0.5, marks=pytest.mark.slow),
    ],
)
def test_the_rotation_of_digits_is_learned(tmp_path, recipe, least):
    """Chance is 0.25."""
    small = {**SMALL, "width": 100, "epochs": 14, "limit": None, "batch_size": 32, "lr": 1e-3}
    config = settings(recipe, **small)
    [told] = pretrain(config, tmp_path / "run")
    assert told.value(measure="pretext accuracy") > least


def test_ff_without_labels_learns_to_tell_images_from_hybrids(tmp_path):
    config = settings("ff-unsupervised", **{**SMALL, "limit": None, "batch_size": 32, "epochs": 10})
    pretrain(config, tmp_path / "run")
    losses = [sum(line["validation"]["loss"].values()) for line in RunFolder(tmp_path / "run").read_metrics()]
    assert losses[-1] < 0.8 * losses[0]


def test_bfloat16_trains_close_to_float32(tmp_path):
    for precision in ("no", "bf16"):
        pretrain(settings(mixed_precision=precision, **{**SMALL, "epochs": 1}), tmp_path / precision)
    one, other = (load_file(tmp_path / p / "backbone.safetensors") for p in ("no", "bf16"))
    assert all(value.dtype == torch.float32 for value in other.values())
    assert weights(tmp_path / "no") != weights(tmp_path / "bf16")
    losses = [json.loads((tmp_path / p / "metrics.jsonl").read_text())["loss"]["block1"] for p in ("no", "bf16")]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert (one["blocks.0.0.weight"] - other["blocks.0.0.weight"]).abs().mean() < 1e-3


def test_a_run_of_version_0_1_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"method": "ff"}, "model": {}, "data": {}, "task": {}}))
    with pytest.raises(RunError, match=r"was trained with ffstudy 0\.1, which reads it: train it again"):
        Run.load(tmp_path)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_a_point_that_can_be_trained(tmp_path, name):
    small = {"dataset": "digits", "limit": 64, "epochs": 2, "batch_size": 32, "eval_images": 10, "threads": 1}
    config = RunConfig(**merged(read_recipe(name), {"backbone": {"width": 16, "depth": 2}}, small))
    pretrain(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_config().label == config.label
