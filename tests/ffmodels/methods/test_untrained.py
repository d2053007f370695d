from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ffmodels.run import Run
from fftrain.config import RunConfig
from fftrain.run import RunFolder
from fftrain.training import pretrain

SMALL = {}
FEW = {"dataset": "digits", "limit": 60, "threads": 1, "eval_images": 10}


@pytest.mark.parametrize("epochs", [{}, {"epochs": 7}])
def test_a_run_is_the_network_as_it_was_drawn(tmp_path, epochs):
    config = RunConfig(method="untrained", backbone={"name": "mlp", "width": 8}, seed=3, **FEW, **epochs)
    assert config.epochs == 0
    assert pretrain(config, tmp_path / "run") == []
    saved = load_file(tmp_path / "run" / "backbone.safetensors")
    drawn = config.backbone.build((1, 28, 28), 3).state_dict()
    assert saved.keys() == drawn.keys()
    assert all(torch.equal(saved[name], value) for name, value in drawn.items())
    assert not RunFolder(tmp_path / "run").read_metrics()
    assert not list((tmp_path / "run").glob("checkpoint/*"))


def test_neither_an_optimizer_nor_a_wrapper_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.optim.AdamW", None)
    pretrain(RunConfig(method="untrained", backbone={"name": "mlp", "width": 8}, **FEW), tmp_path / "run")


def test_statistics_of_a_batch_are_those_of_the_runs_samples_as_beside_any_run(tmp_path):
    network = {"name": "mlp", "width": 8, "depth": 2, "norm": "batch"}
    for method in ("untrained", "cross-entropy"):
        pretrain(RunConfig(method=method, backbone=network, view="plain", epochs=1, **FEW), tmp_path / method)
    alone, beside = Run.load(tmp_path / "untrained"), Run.load(tmp_path / "cross-entropy")
    saved = load_file(tmp_path / "untrained" / "backbone.safetensors")
    for name, value in beside.network(untrained=True).state_dict().items():
        assert torch.equal(saved[name], value), name
    read = alone.network().read(0, torch.from_numpy(alone.samples[0]).flatten(1) / 255)
    product = alone.network().blocks[0][0](read)
    torch.testing.assert_close(saved["blocks.0.1.running_mean"], product.mean(0))
    torch.testing.assert_close(saved["blocks.0.1.running_var"], product.var(0))
