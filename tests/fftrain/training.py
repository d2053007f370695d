"""Small trainings, and what is read of them."""

from __future__ import annotations

import json
import os
from functools import cache

from safetensors.torch import load_file

from fftrain.config import EvaluationConfig, RunConfig
from fftrain.data import load_data
from fftrain.loader import Loader
from fftrain.parts import merged
from fftrain.recipes import read_recipe
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
    "ff": ["block1", "block2", "block3"],
    "ff-unsupervised": ["block1", "block2", "block3"],
    "bp": ["block3"],
    "bp-goodness-last": ["block3"],
    "bp-goodness-all": ["block1", "block2", "block3"],
}


def weights(run):
    return (run / "backbone.safetensors").read_bytes()


def epochs(run):
    return [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def settings(recipe="ff", **flat):
    """A run's settings by a recipe's name, those of its parts given flat: width=32, threshold=4.0, view="jigsaw"."""
    point = read_recipe(recipe)
    places = {
        "backbone": ("backbone", "width", "depth", "between"),
        "method": ("goodness", "threshold") if "forward-forward" in point["method"] else (),
        "view": ("view",),
    }
    parts = {kind: {n if n != kind else "name": flat[n] for n in names if n in flat} for kind, names in places.items()}
    named = {name for names in places.values() for name in names} | {"goodness", "threshold"}
    rest = {name: value for name, value in flat.items() if name not in named}
    return RunConfig(**merged({"view": "rotation"}, point, {k: v for k, v in parts.items() if v}, rest))


def evaluation(name, **flat):
    """What is measured, its own settings given flat beside the others: evaluation("linear", epochs=1, limit=100)."""
    own = {key: value for key, value in flat.items() if key not in EvaluationConfig.model_fields}
    others = {key: value for key, value in flat.items() if key not in own}
    return EvaluationConfig(evaluation={"name": name, **own}, **{"threads": 1, **others})


@cache
def data_of(config):
    return load_data(config)


def loader(config, rank=0, world=1):
    """What gives one process of several its batches, without starting them."""
    train = data_of(config).train
    return Loader(
        images=train.images,
        labels=train.labels,
        view=config.view,
        needs=config.method.needs(),
        batch_size=config.batch_size,
        seed=config.seed,
        process=rank,
        processes=world,
    )


def batches(config, epoch, rank=0, world=1):
    """The batches of one process of several."""
    return list(loader(config, rank, world).epoch(epoch))


TINY = ["--dataset", "digits", "backbone.width=24", "backbone.depth=2", "--limit", 80, "--epochs", 1, "--threads", 1]
OPTIONS = ["--dataset", "digits", "--threads", 1, "backbone.width=300", "--lr", 1e-3, "--batch-size", 16, "--seed", 7]


def launched(*arguments):
    """Runs a program in two processes, as `accelerate launch` starts them."""
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1"
    return python("-m", *launch.split(), *arguments, env={**os.environ, "ACCELERATE_USE_CPU": "true"})


def apart(one, other):
    a, b = (load_file(run / "backbone.safetensors") for run in (one, other))
    return max((a[name] - b[name]).abs().max().item() for name in a)
