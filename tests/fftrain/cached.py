"""Folders of images, read in any way, and what is the same of two that were."""

from __future__ import annotations

import torch

from fftrain.config import DataSettings
from fftrain.data import load_data
from fftrain.stored import Stored

SPLITS = ("train", "validation", "test")


def load(folder, reporter=None, **settings):
    settings = {"image_size": 8, "skip_bad": True, **settings}
    return load_data(DataSettings(dataset=f"imagefolder:{folder}", **settings), reporter=reporter)


def same(one, other):
    """Holds stored images against those in memory."""
    for split in SPLITS:
        kept, stored = one.split(split), other.split(split)
        assert isinstance(stored.images, Stored)
        assert tuple(kept.images.shape) == stored.images.shape
        assert torch.equal(kept.images, stored.images[:])
        assert torch.equal(kept.labels, stored.labels)
    assert torch.equal(one.train_and_validation.images, other.train_and_validation.images[:])
    assert (one.notes, one.skipped, one.class_names) == (other.notes, other.skipped, other.class_names)
