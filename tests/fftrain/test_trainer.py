from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
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
from fftrain.evaluate import evaluate_run, make_task
from fftrain.registry import METHODS, TASKS
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


def weights(run):
    return (run / "backbone.safetensors").read_bytes()


def epochs(run):
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def batches(config, epoch, rank=0, world=1):
    """The batches of one process of several, without starting them."""
    accelerator = make_accelerator(1)

    share = SimpleNamespace(device=accelerator.device, process_index=rank, num_processes=world)

    data = load_data(config)
    task = make_task(config, data.class_names)
    model = BackboneConfig(shape=data.shape, width=config.width, depth=config.depth)
    config = replace(config, threshold=1.0)
    objective = METHODS.load(config.method)(model.build(0), len(task.class_names), config)
    return list(epoch_batches(objective, task, data.train, config, epoch, share))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", TASKS)
def test_every_method_trains_on_every_task(tmp_path, method, task):
    config = PretrainConfig(method=method, task=task, **{**SMALL, "limit": 100, "epochs": 1, "eval_images": 4})
    result = pretrain(config, tmp_path / "run")["validation"]
    assert 0 <= result["accuracy"] <= 1
    assert result["images"] == 143
    assert epochs(tmp_path / "run") == [1]


def test_two_runs_with_one_seed_are_bit_identical_and_another_seed_differs(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain(PretrainConfig(seed=seed, **SMALL), tmp_path / name)
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
            assert list(part) == (["layer1", "layer2", "layer3"] if method == "ff" else ["cross_entropy"])
            assert all(np.isfinite(value) for value in part.values())
        assert 0 <= record["train"]["accuracy"] <= 1
        assert record["seconds"] > 0
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


@pytest.mark.parametrize("world", [2, 3, 70])
def test_processes_share_out_the_very_batches_of_one(world):
    config = PretrainConfig(**SMALL)
    whole = batches(config, 3)
    shares = [batches(config, 3, rank, world) for rank in range(world)]
    for step, (batch, rows) in enumerate(whole):
        for rank, share in enumerate(shares):
            part, part_rows = share[step]
            assert part_rows == rows
            assert torch.equal(part.images, batch.images[rank::world])
            assert torch.equal(part.labels, batch.labels[rank::world])
            assert torch.equal(part.drawn["wrong"], batch.drawn["wrong"][rank::world])


def test_every_epoch_draws_afresh_and_the_same_again():
    config = PretrainConfig(**SMALL)

    def drawn(epoch):
        return torch.cat([batch.labels for batch, _ in batches(config, epoch)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_batch_size_does_not_change_what_is_drawn_for_an_image():
    def drawn(batch_size):
        config = PretrainConfig(task="rotation", **{**SMALL, "batch_size": batch_size})
        return torch.cat([batch.labels for batch, _ in batches(config, 1)])

    assert torch.equal(drawn(64), drawn(17))


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


def test_both_methods_learn_the_rotation_of_digits(tmp_path):
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


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_agree_with_one_within_1e_4(tmp_path, method):
    """Sums are added in another order: weights of up to 0.1 differ by up to 1e-5 after 3 epochs here."""
    options = [*OPTIONS, "--method", method, "--epochs", 3, "--batch-size", 50, "--width", 64, "--limit", 451]
    options += ["--eval-images", 1]  # fewer than processes; and the last batch has one row
    one = python("-m", "fftrain", "pretrain", *options, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1 -m fftrain pretrain"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    two = python("-m", *launch.split(), *options, "--out", tmp_path / "two", env=environment)
    assert two.returncode == 0, two.stderr
    assert "2 x cpu" in two.stderr
    assert two.stdout.splitlines()[1:] == one.stdout.splitlines()[1:]
    a, b = (load_file(tmp_path / name / "backbone.safetensors") for name in ("one", "two"))
    assert max((a[name] - b[name]).abs().max().item() for name in a) < 1e-4


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
