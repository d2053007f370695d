from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffmodels.backbone import BackboneConfig
from ffmodels.checkpoint import load_backbone
from ffmodels.errors import RunError, SettingError, TrainingError
from fftrain.config import PretrainConfig
from fftrain.data import load_data
from fftrain.evaluate import evaluate_run, make_task, mean_losses, pretext_accuracy
from fftrain.registry import METHODS, TASKS, fits
from fftrain.run import RunFolder
from fftrain.trainer import epoch_batches, make_accelerator, pretrain
from tests.helpers import ROOT, one_line, python

SMALL = {
    "dataset": "digits",
    "width": 32,
    "depth": 3,
    "batch_size": 64,
    "lr": 3e-3,
    "epochs": 2,
    "limit": 300,
    "threads": 1,
}


LOSSES = {
    "ff": ["layer1", "layer2", "layer3"],
    "ff-unsupervised": ["layer1", "layer2", "layer3"],
    "bp": ["cross_entropy"],
    "bp-goodness-last": ["last_layer"],
    "bp-goodness-all": ["all_layers"],
}


def weights(run):
    return (run / "backbone.safetensors").read_bytes()


def epochs(run):
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@cache
def data_of(config):
    return load_data(config)


def share_of(rank, world):
    """One process of several, without starting them."""
    return SimpleNamespace(device=make_accelerator(1).device, process_index=rank, num_processes=world)


def made(config):
    """The objective and the task of a run."""
    data = data_of(config)
    task = make_task(config, data.class_names)
    model = BackboneConfig(shape=data.shape, width=config.width, depth=config.depth)
    config = replace(config, threshold=1.0)
    return METHODS.load(config.method)(model.build(0), len(task.class_names), config), task


def batches(config, epoch, rank=0, world=1):
    """The batches of one process of several."""
    objective, task = made(config)
    return list(epoch_batches(objective, task, data_of(config).train, config, epoch, share_of(rank, world)))


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
    assert {*os.listdir(run)} == files | ({"head.safetensors"} if method == "bp" else set())
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


def everything(config, epoch):
    """Labels and draws of an epoch, in its order of the images."""
    found = [batch for batch, _ in batches(config, epoch)]
    drawn = {name: torch.cat([batch.drawn[name] for batch in found]) for name in found[0].drawn}
    return {"labels": torch.cat([batch.labels for batch in found]), **drawn}


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


def split_threshold(objective, split):
    """Sets the threshold so that an untrained backbone calls some of these an image, some a hybrid."""
    with torch.no_grad():
        goodness = torch.stack([objective.goodness.of(h) for h in objective.backbone.activations(split.images / 255)])
    objective.threshold = goodness.mean(0).median().item()


@pytest.mark.parametrize(
    ("method", "task", "images"),
    [
        ("ff-unsupervised", "hybrid", 143),
        ("ff-unsupervised", "hybrid", 5),
        ("ff", "jigsaw", 40),
        ("bp-goodness-last", "rotation", 5),
        ("bp", "supervised", 143),
    ],
)
def test_any_number_of_processes_measures_the_same(monkeypatch, method, task, images):
    monkeypatch.setattr("fftrain.evaluate.ROWS", 40)
    config = PretrainConfig(method=method, task=task, **SMALL)
    objective, pretext = made(config)
    split = data_of(config).validation.at(slice(images))
    if task == "hybrid":
        split_threshold(objective, split)
    accuracy = pretext_accuracy(objective, pretext, split, share_of(0, 1))
    losses = mean_losses(objective, pretext, split, 0, share_of(0, 1))
    parts = []

    def keep(values, accelerator):
        parts.append(values)
        return [1.0] * len(values)

    monkeypatch.setattr("fftrain.evaluate._over_processes", keep)
    for world in (1, 2, 3, 7):
        parts.clear()
        for rank in range(world):
            assert [*pretext_accuracy(objective, pretext, split, share_of(rank, world))] == [*accuracy]
        *hits, rows = np.sum(parts, axis=0)  # as many values of each process, else they would wait for ever
        assert rows == images * {"hybrid": 2, "jigsaw": 24, "rotation": 4, "supervised": 1}[task]
        assert [hit / rows for hit in hits] == [*accuracy.values()]
        parts.clear()
        for rank in range(world):
            assert [*mean_losses(objective, pretext, split, 0, share_of(rank, world))] == [*losses]
        assert np.sum(parts, axis=0) / images == pytest.approx([*losses.values()], rel=1e-5)


def test_hybrids_are_told_from_images_by_hand_as_by_the_measure():
    config = PretrainConfig(method="ff-unsupervised", **SMALL)
    objective, task = made(config)
    split = data_of(config).validation
    split_threshold(objective, split)
    right = []
    for images, labels in task.variants(split.images, split.labels):
        for image, label in zip(images, labels, strict=True):
            [score] = objective.scores(image[None] / 255)["layer1"]
            right.append(bool(score.argmax() == label))
    assert len(right) == 286
    assert pretext_accuracy(objective, task, split, share_of(0, 1))["layer1"] == pytest.approx(np.mean(right), abs=0.01)


def keep_trained_images(monkeypatch):
    """The images of every epoch that is trained from now on."""
    from fftrain import trainer

    seen = []

    def watched(*arguments):
        counts = Counter()
        seen.append(counts)
        for batch, rows in epoch_batches(*arguments):
            counts.update(image.numpy().tobytes() for image in batch.images)
            yield batch, rows

    monkeypatch.setattr(trainer, "epoch_batches", watched)
    return seen


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
    with pytest.raises(RunError, match=r"is not what .* was trained on"):
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
    with pytest.raises(RunError, match="is a file"):
        pretrain(PretrainConfig(**SMALL), tmp_path / "mine.txt")
    with pytest.raises(RunError, match="cannot be made"):
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


def test_evaluating_again_gives_what_training_recorded(trained):
    recorded = RunFolder(trained / "ff").read_results()["pretext"]["validation"]
    assert evaluate_run(trained / "ff", split="validation", accelerator=make_accelerator(2)) == recorded


OPTIONS = ["--dataset", "digits", "--threads", 1, "--width", 300, "--lr", 1e-3, "--batch-size", 16, "--seed", 7]


def test_killed_in_mid_epoch_and_resumed_is_bit_identical(tmp_path):
    options = ["-m", "fftrain", "pretrain", *map(str, OPTIONS), "--epochs", "6"]
    whole = python(*options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, *options, "--out", str(run)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoint" / "epoch-00002").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 2 <= len(epochs(run)) < 6
    assert not (run / "backbone.safetensors").exists()
    resumed = python("-m", "fftrain", "pretrain", "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert weights(run) == weights(tmp_path / "whole")
    assert epochs(run) == [1, 2, 3, 4, 5, 6]
    assert len(list((run / "checkpoint").iterdir())) == 1


def launched(*arguments):
    """Runs a program in two processes, as `accelerate launch` starts them."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1"
    return python("-m", *launch.split(), *arguments, env={**os.environ, "ACCELERATE_USE_CPU": "true"})


def apart(one, other):
    a, b = (load_file(run / "backbone.safetensors") for run in (one, other))
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_two_processes_agree_with_one_within_1e_4(tmp_path):
    """Sums are added in another order: weights of up to 0.1 differ by up to 1e-5 after 3 epochs here."""
    options = [*OPTIONS, "--epochs", 3, "--batch-size", 50, "--width", 64, "--limit", 451]
    options += ["--eval-images", 1]  # fewer than processes; and the last batch has one row
    one = python("-m", "fftrain", "pretrain", *options, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = launched("-m", "fftrain", "pretrain", *options, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert "2 x cpu" in two.stderr
    assert two.stdout.splitlines()[1:] == one.stdout.splitlines()[1:]
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-4


def test_two_processes_agree_with_one_by_every_other_method(tmp_path):
    """One launch for all: to start processes takes longer than to train these."""
    program = tmp_path / "train.py"
    settings = {**SMALL, "epochs": 3, "batch_size": 50, "limit": 451, "eval_images": 3, "lr": 1e-3}
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from fftrain import PretrainConfig, pretrain\n"
        "for method in sys.argv[2:]:\n"
        f"    pretrain(PretrainConfig(method=method, **{settings}), Path(sys.argv[1]) / method)\n"
    )
    others = [method for method in METHODS if method != "ff"]
    two = launched(program, tmp_path / "two", *others)
    assert two.returncode == 0, two.stderr
    for method in others:
        pretrain(PretrainConfig(method=method, **settings), tmp_path / "one" / method)
        assert apart(tmp_path / "one" / method, tmp_path / "two" / method) < 1e-4
        one, other = (RunFolder(tmp_path / name / method) for name in ("one", "two"))
        assert one.read_results() == other.read_results()
        for a, b in zip(one.read_metrics(), other.read_metrics(), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
            assert b["validation"]["loss"] == pytest.approx(a["validation"]["loss"], rel=1e-4)
            assert b["validation"]["accuracy"] == pytest.approx(a["validation"]["accuracy"], abs=0.01)


def test_processes_that_do_not_join_are_refused(cli, monkeypatch, tmp_path):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(os, "_exit", leave)  # what a process of several does
    ended = cli("fftrain", "pretrain", "--dataset", "digits", "--out", tmp_path / "run")
    one_line(ended, 1, "started 2 processes but Accelerate joined 1", "ACCELERATE_USE_CPU")
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_and_python_m_run_the_same_program(tmp_path):
    options = ["fftrain", "pretrain", *OPTIONS, "--epochs", 1, "--width", 40]
    for name, launcher in (("python", []), ("launch", ["accelerate.commands.launch", "--cpu", "-m"])):
        ended = python("-m", *launcher, *options, "--out", tmp_path / name)
        assert ended.returncode == 0, ended.stderr
    assert weights(tmp_path / "python") == weights(tmp_path / "launch")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lr", "least"), [("ff", 1e-3, 0.96), ("bp", 3e-4, 0.98)])
def test_rotation_of_mnist_is_learned_in_six_epochs(real_mnist, tmp_path, method, lr, least):
    config = PretrainConfig(method=method, lr=lr, epochs=6, mixed_precision="bf16", data_dir=str(real_mnist))
    assert pretrain(config, tmp_path / "run")["validation"]["accuracy"] >= least


def test_the_curves_of_tensorboard_are_those_of_the_metrics_after_resuming_too(cli, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    small = ["--dataset", "digits", "--width", 16, "--depth", 2, "--limit", 80]
    for extra in ([*small, "--epochs", 2, "--track", "tensorboard"], ["--resume", "--epochs", 3]):
        ended = cli("fftrain", "pretrain", "--threads", 1, "--out", run, *extra)
        assert ended.code == 0, ended.err
    folder = run / "tensorboard"
    events = EventAccumulator(str(folder)).Reload()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 3
    for record in records:
        expected = {f"loss/{name}": value for name, value in record["loss"].items()}
        expected |= {name: record[name] for name in ("seconds", "images_per_second")}
        for split in ("train", "validation"):
            expected |= {f"{split}/loss/{name}": value for name, value in record[split]["loss"].items()}
            expected[f"{split}/accuracy"] = record[split]["accuracy"]
        for tag, value in expected.items():
            [at_epoch] = [event.value for event in events.Scalars(tag) if event.step == record["epoch"]]
            assert at_epoch == pytest.approx(value, rel=1e-6), tag
