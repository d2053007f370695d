"""The same commands on a CUDA device; skipped where there is none."""

from __future__ import annotations

import os

import pytest
import torch
from accelerate.state import AcceleratorState

from fftrain import evaluate_run
from fftrain.data import load_data
from fftrain.evaluations.linear import Linear
from fftrain.features import Features
from fftrain.launcher import make_accelerator
from fftrain.loop import train
from fftrain.parts import BACKBONES, EVALUATIONS
from fftrain.progress import Reporter
from fftrain.training import Training, pretrain
from fftrain.watch import Watch
from tests import parts
from tests.fftrain.evaluations.subjects import blobs, made
from tests.fftrain.training import LOSSES, evaluation
from tests.helpers import python
from tests.parts import ALL, METHOD, small_run
from tests.test_contract import Trained, float64

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
every_pair = pytest.mark.parametrize(
    ("method", "backbone"), [(m, b) for m, b in ALL if m != "untrained" and b != "pixels"]
)


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


@pytest.fixture
def _on_the_gpu(monkeypatch):
    """Runs of this process are of its first GPU."""
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@every_pair
def test_gradients_are_those_of_a_cpu(method, backbone):
    """In float64, from the same draws of views, partners and wrong labels; views that resample round in float32."""
    found = []
    for device in ("cpu", "cuda"):
        made = Trained(method, backbone, device=device)
        for unit in made.units:
            unit.double()
        made.batch = float64(made.batch)
        found.append(made.gradients())
    assert all(found[0])
    for on_cpu, on_gpu in zip(*found, strict=True):
        for one, other in zip(on_cpu, on_gpu, strict=True):
            assert other.device.type == "cuda"
            assert (other.cpu() - one).norm() <= 1e-4 * one.norm() + 1e-9


@every_pair
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")  # torch's own, of a prototype
@pytest.mark.usefixtures("_on_the_gpu")
def test_no_step_of_an_epoch_makes_the_host_wait(tmp_path, method, backbone):
    config = small_run(method, backbone)
    accelerator = make_accelerator(None)
    training = Training(config, tmp_path, False, accelerator, load_data(config), Reporter())
    stretch = training.stretch(1)
    watch = Watch(accelerator, stretch.names)
    batches = training.loader.epoch(1)
    training.method.inputs(next(batches)[0], training.classes)  # what is kept on the device is copied once
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


@pytest.mark.usefixtures("_on_the_gpu")
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_every_network_is_trained_resumed_and_measured_by_every_evaluation(tmp_path, backbone, precision):
    config = small_run(METHOD, backbone, mixed_precision=precision)
    pretrain(config.model_copy(update={"epochs": 1}), tmp_path)
    pretrain(config, tmp_path, resume=True)
    for name in EVALUATIONS:
        if name == "readout":  # Barlow Twins tells no classes
            continue
        [found] = evaluate_run(tmp_path, evaluation(name, **getattr(parts.tested_by("evaluation", name), "SMALL", {})))
        assert found.records


def test_a_probe_is_that_of_a_cpu():
    """One graph of kernels, and the last step of an epoch, which is shorter, without it: the same weights."""
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((300, 0), (200, 1), (400, 2)))
    features, data = Features(train, validation, test).standardised(), made([a, b, c])
    assert features.on(torch.device("cuda")) is not None
    devices = map(torch.device, ("cpu", "cuda"))
    on_cpu, on_gpu = (Linear(epochs=5, batch_size=64).fit(features, data, of, Reporter(), "x") for of in devices)
    torch.testing.assert_close(on_gpu[0].linear.weight, on_cpu[0].linear.weight, rtol=1e-3, atol=1e-4)
    assert on_gpu[1]["test"] == pytest.approx(on_cpu[1]["test"], abs=0.01)
