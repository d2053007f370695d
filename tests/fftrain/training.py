"""Small trainings, and what is read of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

from ffmodels.backbone import BackboneConfig
from fftrain.data import load_data
from fftrain.evaluate import make_task
from fftrain.launcher import make_accelerator
from fftrain.registry import METHODS
from fftrain.trainer import epoch_batches
from tests.helpers import python

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


def everything(config, epoch):
    """Labels and draws of an epoch, in its order of the images."""
    found = [batch for batch, _ in batches(config, epoch)]
    drawn = {name: torch.cat([batch.drawn[name] for batch in found]) for name in found[0].drawn}
    return {"labels": torch.cat([batch.labels for batch in found]), **drawn}


def split_threshold(objective, split):
    """Sets the threshold so that an untrained backbone calls some of these an image, some a hybrid."""
    with torch.no_grad():
        goodness = torch.stack([objective.goodness.of(h) for h in objective.backbone.activations(split.images / 255)])
    objective.threshold = goodness.mean(0).median().item()


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


OPTIONS = ["--dataset", "digits", "--threads", 1, "--width", 300, "--lr", 1e-3, "--batch-size", 16, "--seed", 7]


def launched(*arguments):
    """Runs a program in two processes, as `accelerate launch` starts them."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1"
    return python("-m", *launch.split(), *arguments, env={**os.environ, "ACCELERATE_USE_CPU": "true"})


def apart(one, other):
    a, b = (load_file(run / "backbone.safetensors") for run in (one, other))
    return max((a[name] - b[name]).abs().max().item() for name in a)
