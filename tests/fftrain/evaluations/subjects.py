"""What an evaluation is given, of features that a test makes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from fftrain.data import ImageData, Split
from fftrain.evaluations.base import Subject
from fftrain.launcher import make_accelerator
from fftrain.progress import Reporter


def blobs(count, seed, noise=0.3):
    """Three classes around three corners, in 5 features of which one never changes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    features = np.concatenate([np.eye(3)[labels], rng.normal(size=(count, 1)), np.zeros((count, 1))], axis=1)
    features[:, :3] += noise * rng.normal(size=(count, 3))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def made(labels):
    """A data set with these labels of three classes."""
    splits = [Split(torch.zeros(len(part), 1, 2, 2, dtype=torch.uint8), part) for part in labels]
    return ImageData(name="x", train=splits[0], validation=splits[1], test=splits[2], class_names=("a", "b", "c"))


def striped():
    """Images of three classes by the place of a bar, which noise hides."""

    def split(count, seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(3, size=count)
        images = rng.integers(0, 60, (count, 1, 6, 6))
        images[np.arange(count), 0, 2 * labels] += 120
        return Split(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels))

    train, validation, test = (split(n, seed) for n, seed in ((300, 0), (90, 1), (80, 2)))
    return ImageData(name="x", train=train, validation=validation, test=test, class_names=("a", "b", "c"))


def subject_of(features, data, source="raw"):
    """What is measured, of one choice of features."""
    subject = Subject(
        run=None,
        source=source,
        encoder=None,
        data=data,
        target="class",
        accelerator=make_accelerator(1),
        reporter=Reporter(),
        memory=1e9,
        probes=Path("none"),
        about={},
        held=ExitStack(),
        folder=Path("none"),
    )
    subject.__dict__["features"] = features
    return subject
