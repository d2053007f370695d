"""Accuracies are measured on any number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ffmodels.units import heads_of, make_units
from fftrain.told import accuracy
from tests.fftrain.training import SMALL, data_of, settings


@dataclass
class Share:
    """What tells one process of several which part is its own."""

    process_index: int
    num_processes: int
    device = torch.device("cpu")


def measured(config, images, share):
    data = data_of(config)
    split = data.validation.at(slice(images))
    classes = len(config.view.class_names(data.class_names))
    backbone = config.backbone.build(data.shape, 0)
    heads = heads_of(make_units(config.method, backbone, classes, cut=config.cut, at=config.at))
    condition = config.method.condition(classes, data.shape)
    readout = config.method.readout(backbone, condition, heads, classes).eval()
    return accuracy(readout, config.view, classes, split.images, split.labels, share)


@pytest.mark.parametrize(
    ("recipe", "view", "images"),
    [("ff", "jigsaw", 40), ("bp-goodness-last", "rotation", 5), ("bp", "plain", 143), ("bp", "plain", 5)],
)
def test_any_number_of_processes_measures_the_same(monkeypatch, recipe, view, images):
    monkeypatch.setattr("fftrain.memory.ROWS", 40)
    config = settings(recipe, view=view, **SMALL)
    alone = measured(config, images, Share(0, 1))
    parts = []

    def keep(values, accelerator):
        parts.append(values)
        return [1.0] * len(values)

    monkeypatch.setattr("fftrain.told.over_processes", keep)
    for world in (1, 2, 3, 7):
        parts.clear()
        for rank in range(world):
            assert [*measured(config, images, Share(rank, world))] == [*alone]
        *hits, rows = np.sum(parts, axis=0)  # as many values of each process, else they would wait for ever
        assert rows == images * {"jigsaw": 24, "rotation": 4, "plain": 1}[view]
        assert [hit / rows for hit in hits] == [*alone.values()]
