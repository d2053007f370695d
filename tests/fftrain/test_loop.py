"""The loop: what is gone before the next unit runs, what is weighted, and that measuring changes nothing."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from ffmodels.backbones.base import Backbone
from ffmodels.parts import METHODS
from ffmodels.units import make_units
from fftrain.loop import measure, step
from tests.ffmodels.making import SHAPE, K, batch, make


def sgd(units, lr=0.1):
    return [torch.optim.SGD(unit.parameters(), lr=lr) for unit in units]


def taken(method, units, optimizers, data, *, backward=lambda loss: loss.backward(), watch=None, **more):
    """Takes a step: the losses of all units."""
    found = {}

    def keep(losses, batch, optimizer):
        assert batch is data
        assert not any(loss.requires_grad for loss in losses.values())
        found.update({name: loss.item() for name, loss in losses.items()})

    step(method, K, units, optimizers, data, backward=backward, watch=watch or keep, **more)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_units_graph_and_gradients_are_gone_before_the_next_unit_runs(name):
    method, backbone, units = make(name, depth=4)
    graphs, seen = [], []

    class Watched(nn.Module):
        def __init__(self, unit):
            super().__init__()
            self.unit = unit

        def forward(self, h, data):
            assert all(graph() is None for graph in graphs)
            assert all(p.grad is None for p in backbone.parameters())
            h, losses = self.unit(h, data)
            graphs.extend(weakref.ref(loss) for loss in losses.values())
            seen.append(len(graphs))
            return h, losses

    taken(method, [Watched(unit) for unit in units], sgd(units), batch(views=method.needs().views))
    assert seen == [1, 2, 3, 4]


def test_the_losses_of_a_unit_go_backward_as_one_sum_times_the_weight():
    method, backbone, units = make("cross-entropy", cut="never")
    given = []

    def backward(loss):
        given.append(loss.item())
        loss.backward()

    before = [p.clone() for p in backbone.parameters()]
    losses = taken(method, units, sgd(units), batch(), backward=backward, weight=0.0)
    assert [*losses] == ["block1", "block2", "block3"]
    assert given == [0.0]
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    taken(method, units, sgd(units), batch(), backward=backward, weight=0.5)
    assert given[1] == pytest.approx(0.5 * sum(losses.values()))


def test_a_step_lowers_the_losses_of_its_batch():
    method, _, units = make("cross-entropy")
    optimizers, data = sgd(units), batch()
    first = taken(method, units, optimizers, data)
    for _ in range(20):
        last = taken(method, units, optimizers, data)
    assert all(last[name] < first[name] for name in first)


def test_who_watches_is_asked_before_the_optimizer_steps():
    method, backbone, units = make("cross-entropy")
    before = [p.clone() for p in backbone.parameters()]

    def refuse(losses, data, optimizer):
        raise FloatingPointError(*losses)

    with pytest.raises(FloatingPointError, match=r"^block1$"):
        taken(method, units, sgd(units), batch(), watch=refuse)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))


def test_a_unit_without_anything_to_train_is_passed_through():
    method = METHODS.load("hybrid-forward-forward")(threshold=1.0)
    blocks = [nn.ReLU(), nn.Linear(32, 8)]
    backbone = Backbone(nn.Flatten(), blocks, shape=SHAPE, between="rms")
    units = make_units(method, backbone, K)
    optimizers = [None, torch.optim.SGD(units[1].parameters(), lr=0.1)]
    before = blocks[1].weight.clone()
    assert [*taken(method, units, optimizers, batch())] == ["block1", "block2"]
    assert not torch.equal(before, blocks[1].weight)


def test_measuring_changes_no_weight_and_no_statistic_and_draws_nothing():
    method = METHODS.load("cross-entropy")()
    blocks = [nn.Sequential(nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)), nn.Linear(8, 8)]
    backbone = Backbone(nn.Flatten(), blocks, shape=SHAPE, between="rms")
    units = make_units(method, backbone, K)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    one, two = (measure(method, K, units, [(batch(), 0.25), (batch(seed=1), 0.75)]) for _ in range(2))
    assert one == two
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(unit.training for unit in units)


def test_what_is_measured_is_the_mean_over_all_rows():
    method, _, units = make("cross-entropy")
    whole = measure(method, K, units, [(batch(9), 1.0)])
    data = batch(9)
    parts = []
    for rows in (slice(0, 6), slice(6, 9)):
        part = type(data)((data.views[0][rows],), data.labels[rows], data.draws.of(data.draws.images[rows]))
        parts.append((part, len(part.labels) / 9))
    found = measure(method, K, units, parts)
    for name, loss in whole.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-5)
