"""The same commands on a CUDA device; skipped where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from tests.fftrain.training import LOSSES, settings
from tests.helpers import python

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("recipe", LOSSES)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_pretrain_resume_evaluate_and_probe_on_a_gpu(tmp_path, recipe, precision):
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    run = tmp_path / "run"
    options = ["--dataset", "digits", "backbone.width=128", "--lr", 1e-3, "--batch-size", 32]
    options += ["--mixed-precision", precision]
    commands = [
        ["pretrain", *options, "--recipe", recipe, "--epochs", 10, "--out", run],
        ["pretrain", "--resume", "--epochs", 20, "--out", run],
        ["evaluate", run, "linear", "knn", "few-labels", "decoder", "similarity", "linear.epochs=5"],
        ["evaluate", run, "robustness", "finetune", "robustness.epochs=5", "finetune.epochs=2"],
    ]
    for arguments in commands + ([] if recipe == "ff-unsupervised" else [["evaluate", run, "readout.split=test"]]):
        ended = python("-m", "fftrain", *arguments, env=environment)
        assert ended.returncode == 0, ended.stderr
        if "--recipe" in arguments:
            assert "1 x cuda" in ended.stderr


@pytest.mark.parametrize("recipe", LOSSES)
def test_no_step_of_an_epoch_makes_the_host_wait(monkeypatch, tmp_path, recipe):
    from fftrain.data import load_data
    from fftrain.launcher import make_accelerator
    from fftrain.loop import train
    from fftrain.progress import Reporter
    from fftrain.training import Training
    from fftrain.watch import Watch

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    accelerator = make_accelerator(None)
    config = settings(recipe, dataset="digits", width=64, mixed_precision=accelerator.mixed_precision)
    training = Training(config, tmp_path, False, accelerator, load_data(config), Reporter())
    stretch = training.stretch(1)
    watch = Watch(accelerator, stretch.names)
    batches = training.loader.epoch(1)
    next(batches)  # what is kept on the device is copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(
            training.method,
            training.classes,
            stretch.turns,
            batches,
            begin=lambda number: None,
            backward=accelerator.backward,
            watch=watch,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
