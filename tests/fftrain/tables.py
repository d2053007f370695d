"""Tables of images as the library `datasets` keeps them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

hf = pytest.importorskip("datasets")
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SMALL = ["--threads", 1, "--lr", 0.01, "--epochs", 1, "--grayscale", "backbone.width=8", "backbone.depth=1"]


def file_of(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def cells(images):
    return [None if image is None else {"bytes": image, "path": None} for image in images]


def digits(start, count):
    """Digits of scikit-learn as a table: gray PNGs and class labels."""
    found = load_digits()
    pixels = np.rint(found.images[start : start + count] * (255 / 16)).astype(np.uint8)
    rows = {"image": cells(file_of(Image.fromarray(one)) for one in pixels)}
    rows["label"] = found.target[start : start + count].tolist()
    features = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=NAMES))
    return hf.Dataset.from_dict(rows, features=features), pixels
