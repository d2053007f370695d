"""A study on the digits that takes seconds, and what is read of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from PIL import Image

from ffcore.files import read_json
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

[probe]
epochs = 3
limit = 300
threads = 1

[analysis]
images = 100
points = 40
threads = 1
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
    """Every figure of a study, without what a clock says."""

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k != "seconds"}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return {name: timeless(read_json(path / "results.json")) for name, path in cells(out).items()}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts}


def planned(text=SPEC, name="mine", **overrides):
    import tomllib

    return plan(tomllib.loads(text), name, overrides)


def folder_of_images(path, sizes):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.fromarray(rng.integers(256, size=(size, size), dtype=np.uint8)).save(path / name / f"{i}.png")
