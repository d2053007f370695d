"""The same commands on a CUDA device; skipped where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from fftrain.registry import METHODS
from tests.helpers import python

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_pretrain_resume_evaluate_and_probe_on_a_gpu(tmp_path, method, precision):
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    run = tmp_path / "run"
    options = ["--dataset", "digits", "--width", 128, "--lr", 1e-3, "--batch-size", 32, "--mixed-precision", precision]
    for arguments in (
        ["pretrain", *options, "--method", method, "--epochs", 10, "--out", run],
        ["pretrain", "--resume", "--epochs", 20, "--out", run],
        ["evaluate", run, "--split", "test"],
        ["probe", run, "--epochs", 5],
    ):
        ended = python("-m", "fftrain", *arguments, env=environment)
        assert ended.returncode == 0, ended.stderr
        if "--method" in arguments:
            assert "1 x cuda" in ended.stderr


@pytest.mark.parametrize("method", METHODS)
def test_no_step_of_an_epoch_makes_the_host_wait(monkeypatch, method):
    from ffmodels.backbone import BackboneConfig
    from fftrain.config import PretrainConfig
    from fftrain.data import Split, load_data
    from fftrain.evaluate import make_task
    from fftrain.launcher import make_accelerator
    from fftrain.trainer import epoch_batches, prepare

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    accelerator = make_accelerator(None)
    config = PretrainConfig(dataset="digits", method=method, width=64, threshold=64.0)
    data = load_data(config)
    task = make_task(config, data.class_names)
    backbone = BackboneConfig(shape=data.shape, width=64).build(0)
    objective = METHODS.load(method)(backbone, len(task.class_names), config)
    optimizers = prepare(objective, config, accelerator)
    train = Split(data.train.images.to(accelerator.device), data.train.labels)
    batches = epoch_batches(objective, task, train, config, 1, accelerator)
    next(batches)  # what is drawn for the epoch is copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch, rows in batches:
            for (_, losses), optimizer in zip(objective.losses(batch), optimizers, strict=True):
                accelerator.backward(losses.sum() / rows)
                optimizer.step()
                optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode("default")
