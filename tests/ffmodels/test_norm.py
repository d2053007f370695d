from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ffmodels.norm import BatchNorm, counting, settle
from tests.together import run_together

# Rows of each step: the last are uneven, leave processes without a row, and are one alone.
STEPS = (8, 7, 5, 2, 1)


def network(maps):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3) if maps else nn.Linear(6, 4)
    net = nn.Sequential(first, BatchNorm(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
    net(rows(2, maps, 0))
    net[1].reset_running_stats()
    return net


def rows(count, maps, step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(count, *((3, 4, 4) if maps else (6,)), generator=generator, dtype=torch.float64) * 3 + 1


def trained(maps):
    """The state of a network after some steps of this process, of several or one."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    net = network(maps)
    wrapped = nn.parallel.DistributedDataParallel(net) if world > 1 else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step, count in enumerate(STEPS):
        x = rows(count, maps, step)
        own = x[rank::world]
        with counting(len(own) > 0):
            found = wrapped(own if len(own) else x[:1])
        (found.square().sum(-1).mean() * len(own) * world / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.state_dict()


def both():
    return {f"{kind}.{name}": value for kind in (False, True) for name, value in trained(kind).items()}


@pytest.mark.parametrize(("ours", "theirs", "shape"), [(4, nn.BatchNorm1d, (6, 4)), (4, nn.BatchNorm2d, (3, 4, 5, 2))])
def test_on_one_process_it_is_torchs_own_bit_for_bit(ours, theirs, shape):
    one, other = BatchNorm(ours), theirs(ours)
    for training in (True, True, False):
        found = []
        for norm in (one.train(training), other.train(training)):
            x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 1).requires_grad_()
            y = norm(x)
            y.square().sum().backward()
            found.append((y, x.grad, norm.weight.grad, *norm.buffers()))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.slow
def test_processes_agree_with_one_and_with_each_other():
    """Two do in the contract; of three, some have no row of the last steps."""
    expected, states = both(), run_together(3, both)
    for name, value in expected.items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-10, atol=1e-12)
        assert all(torch.equal(state[name], states[0][name]) for state in states)


def test_a_single_number_of_a_channel_has_no_variance_and_changes_nothing():
    norm = BatchNorm(3)
    norm(torch.randn(8, 3))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(1, 3)
    found = norm(x)
    torch.testing.assert_close(found, norm.eval()(x))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_measuring_changes_nothing():
    norm = BatchNorm(3).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.randn(8, 3, 2, 2))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("maps", [False, True])
def test_statistics_of_an_untrained_network_are_those_of_what_goes_through_it(maps):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)] if maps else [nn.Linear(6, 4), nn.Linear(4, 5)]
    net = nn.Sequential(parts[0], BatchNorm(4), nn.ReLU(), parts[1], BatchNorm(5)).double()
    x = rows(50, maps, 0)
    settle(net, lambda: x)
    assert net.training
    for norm in (1, 4):
        h = net.eval()[:norm](x)
        axes = (0, 2, 3) if maps else (0,)
        torch.testing.assert_close(net[norm].running_mean, h.mean(axes))
        torch.testing.assert_close(net[norm].running_var, h.var(axes))
    alone = nn.Sequential(nn.Linear(6, 4), BatchNorm(4)).eval()
    settle(alone, lambda: torch.rand(1, 6))  # a single number has no variance
    assert alone[1].running_var.tolist() == [1.0] * 4
    assert not alone.training
    settle(nn.Linear(6, 4), lambda: pytest.fail("nothing is read where there are no statistics"))
