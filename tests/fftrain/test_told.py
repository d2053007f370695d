"""Accuracies are measured on any number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ffmodels.parts import METHODS
from ffmodels.units import heads_of, make_units
from fftrain.told import accuracy, with_told
from tests.ffmodels.making import SHAPE, K, batch, make
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
    [
        pytest.param("ff", "jigsaw", 40, marks=pytest.mark.slow),
        ("bp-goodness-last", "rotation", 5),
        ("bp", "plain", 143),
        ("bp", "plain", 5),
    ],
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


@pytest.mark.parametrize("name", METHODS)
def test_of_no_images_nothing_is_told(name):
    """Processes that share out images may have none of them."""
    method, backbone, units = make(name)
    readout = method.readout(backbone, method.condition(K, SHAPE), heads_of(units), K)
    if readout is not None:
        assert {scores.shape for scores in readout.readers(torch.zeros(0, *SHAPE)).values()} == {(0, K)}


def test_what_a_method_asks_to_be_told_is_told_of_some_images_at_once(monkeypatch):
    monkeypatch.setattr("fftrain.told.rows_of", lambda shape: 2 * K)
    method, backbone, units = make("forward-forward", wrong="goodness")
    readout, data = method.readout(backbone, method.condition(K, SHAPE), heads_of(units), K), batch(rows=9)
    seen = []
    readout.register_forward_pre_hook(lambda module, given: seen.append((len(given[0]), module.training)))
    told = with_told(data, method, readout, K).told
    assert seen == [(2, False)] * 4 + [(1, False)]
    assert readout.training
    torch.testing.assert_close(told, readout(data.views[0]).detach())
    assert not told.requires_grad
    other = make("forward-forward")[0]
    assert with_told(data, other, readout, K) is data
