"""The same commands on a CUDA device; skipped where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from tests.helpers import python

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("method", ["ff", "bp"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
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
