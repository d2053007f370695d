from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ffmodels.contrast import nce_loss


def numpy_loss(rows, labels, temperature):
    """The loss by its definition, row by row, written apart from the code under test."""
    z = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        total = sum(math.exp(z[i] @ z[j] / temperature) for j in others)
        shares = [math.exp(z[i] @ z[j] / temperature) / total for j in others if labels[j] == labels[i]]
        losses.append(-np.mean(np.log(shares)) if shares else 0.0)
    return np.mean(losses)


@pytest.mark.parametrize(
    "labels", [[*range(6)] * 2, [0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 3, 4]], ids=["views", "classes-of-which-two-are-alone"]
)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_its_definition(labels, temperature):
    rows = np.random.default_rng(0).normal(size=(12, 5)) + 0.3
    found = nce_loss(torch.from_numpy(rows), torch.tensor(labels), temperature)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, numpy_loss(rows, labels, temperature), rtol=1e-12)


def test_it_is_least_where_rows_of_a_label_agree_and_labels_differ():
    p, own = torch.eye(6, dtype=torch.float64).repeat(2, 1), torch.arange(6).repeat(2)
    assert nce_loss(p, own, 0.05) < 1e-6
    assert nce_loss(p, torch.cat([torch.arange(6), torch.arange(6).roll(1)]), 0.05) > 10
    assert nce_loss(torch.ones(12, 4), own, 0.2).item() == pytest.approx(math.log(11))  # told by chance alone


def test_an_invariance_permuting_rows_turning_features_or_scaling_rows_changes_nothing():
    rows, labels, order = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 4, torch.randperm(9)
    before = nce_loss(rows, labels, 0.2)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    torch.testing.assert_close(nce_loss((rows @ turn)[order], labels[order], 0.2), before)
    torch.testing.assert_close(nce_loss(rows * torch.arange(1.0, 10)[:, None], labels, 0.2), before)


@pytest.mark.parametrize("rows", [torch.zeros(8, 3), torch.ones(8, 3)])
def test_rows_in_which_nothing_varies_are_told_by_chance_with_gradients_that_are_finite(rows):
    rows.requires_grad_()
    loss = nce_loss(rows, torch.arange(4).repeat(2), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("count", [1, 5])
def test_rows_that_are_alone_with_their_label_count_0(count):
    rows = torch.randn(count, 3, requires_grad=True)
    loss = nce_loss(rows, torch.arange(count), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert not rows.grad.any()


def test_it_is_taken_in_float32_of_bfloat16():
    rows, labels = torch.randn(128, 8), torch.arange(64).repeat(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = nce_loss(rows, labels, 0.2)
    torch.testing.assert_close(found, nce_loss(rows, labels, 0.2))
