"""Rows of all processes: those of one where there is one, and gradients to every one."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from ffmodels.batch import Batch
from ffmodels.draws import Draws

ROWS = [pytest.param([3, 1], marks=pytest.mark.slow), [2, 1, 0]]  # of each process


def made(count, shares=(), empty=False):
    images = torch.zeros(count, 1, 1, 1)
    return Batch(
        (images,), torch.zeros(count, dtype=torch.int64), Draws(0, 1, torch.arange(count)), shares=shares, empty=empty
    )


def rows_of(counts, dtype=torch.float64):
    return torch.split(torch.linspace(-1, 2, 3 * sum(counts), dtype=dtype).view(-1, 3), counts)


def loss_of(z, weight):
    """Couples every row with every other."""
    p = (z @ weight).tanh()
    return (p @ p.T).square().mean() + p.std(0).sum()


def process(rank, counts, port, found):
    import torch.distributed as dist

    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(counts))
    try:
        own = rows_of(counts)[rank]
        empty = not len(own)
        x = (torch.full((1, 3), 9.0, dtype=torch.float64) if empty else own).clone().requires_grad_()
        weight = torch.eye(3, dtype=torch.float64).requires_grad_()
        batch = made(len(x), tuple(counts), empty)
        gathered = batch.gather(x * 2)
        rows = 0 if empty else len(x)
        weighted = loss_of(gathered, weight) * (rows * len(counts) / sum(counts))
        weighted.backward()
        dist.all_reduce(weight.grad)
        labels = batch.gather(torch.full((len(x),), rank))
        found[rank] = (gathered.detach(), x.grad / len(counts), weight.grad / len(counts), labels)
    finally:
        dist.destroy_process_group()


def test_on_one_process_rows_are_gathered_as_they_are():
    z = torch.rand(3, 2)
    assert made(3).gather(z) is z


def test_several_views_at_once_are_refused_before_processes_wait_for_each_other():
    with pytest.raises(ValueError, match="6 rows of 3 images cannot be gathered: give one view at a time"):
        made(3, shares=(3, 2)).gather(torch.rand(6, 2))


@pytest.mark.parametrize("counts", ROWS, ids=str)
def test_a_loss_over_all_rows_has_the_gradients_of_one_process(counts, unused_port):
    x = torch.cat(rows_of(counts)).requires_grad_()
    weight = torch.eye(3, dtype=torch.float64).requires_grad_()
    loss_of(x * 2, weight).backward()
    with mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(process, (counts, unused_port, found), nprocs=len(counts))
        found = dict(found)
    gradients = torch.split(x.grad, counts)
    for rank, (gathered, of_rows, of_weight, labels) in found.items():
        assert torch.equal(gathered, (x * 2).detach())
        assert labels.tolist() == [r for r, count in enumerate(counts) for _ in range(count)]
        torch.testing.assert_close(of_weight, weight.grad)
        if counts[rank]:
            torch.testing.assert_close(of_rows, gradients[rank])
        else:
            assert not of_rows.any()  # the row that stands for none
