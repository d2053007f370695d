"""A study on the digits that takes seconds, and what is read of it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from PIL import Image

from ffmodels.evaluated import evaluations
from fftrain.study import plan
from tests.helpers import ROOT, python

SMALL = {"dataset": ["digits"], "settings": {"epochs": 2}, "parts": {"mlp": {"width": 32}}}
# A view of somebody's own that gives each image twice.
TWO_VIEWS = """
from fftrain.views.base import View

class Twice(View):
    \"\"\"Each image twice.\"\"\"
    views = 2
    def __call__(self, images, labels, draws):
        return (images, images), labels
"""
SPEC = """
dataset = ["digits"]
view = ["rotation"]
recipe = ["ff", "bp", "ff-unsupervised"]

[settings]
epochs = 2
batch_size = 64
lr = 3e-3
limit = 300
eval_images = 40
threads = 1

[parts.mlp]
width = 24

[parts.forward-forward]
threshold = 24.0

[parts.linear]
epochs = 3

[parts.decoder]
images = 100

[parts.tsne]
points = 40

[parts.similarity]
images = 100

[evaluate]
limit = 300
threads = 1
"""
# An evaluation of somebody's own.
OWN_EVALUATION = """
from ffcore.settings import setting
from fftrain.evaluations.base import Evaluation

class Sum(Evaluation):
    \"\"\"Sum of the features.\"\"\"
    labels = False
    times: float = setting(1.0, gt=0, description="What it is multiplied by.")

    def measure(self, subject):
        for choice in subject.choices():
            total = sum(x.sum().item() for x in choice.features.chunks("validation"))
            yield {"measure": "sum", "split": "validation", "blocks": choice.name, "value": self.times * total}
"""


def study_command(*arguments):
    return python("-m", "fftrain", "study", *arguments)


def start(*arguments):
    command = [sys.executable, "-m", "fftrain", "study", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cells(out):
    return {path.name: path for path in sorted((out / "cells").iterdir())}


def weights(out):
    return {name: (path / "backbone.safetensors").read_bytes() for name, path in cells(out).items()}


def figures(out):
    """Every figure of a study, by cell and settings, without what a clock says."""

    def timeless(one):
        return [{k: v for k, v in one.about.items() if k != "value"}, *one.records]

    def found(path):
        return {json.dumps(dict(one.settings), sort_keys=True): timeless(one) for one in evaluations(path)}

    return {name: found(path) for name, path in cells(out).items()}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts}


def planned(text=SPEC, name="mine", **overrides):
    import tomllib

    return plan(tomllib.loads(text), name, overrides)


def folder_of_images(path, sizes, classes=2):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", *range(2, classes)):
        name = str(name)
        (path / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.fromarray(rng.integers(256, size=(size, size), dtype=np.uint8)).save(path / name / f"{i}.png")


def made(content):
    return plan(content, "my.toml").cells


def of_places(cell):
    return {place: [config.evaluation.called for config in configs] for place, configs in cell.places.items()}


def settings_of(cell, name):
    [part] = {config.evaluation for config in cell.evaluations if config.evaluation.called == name}
    return part.model_dump()
