"""Stateless draws against splitmix64 in whole numbers, and that they are uniform, independent and the same anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.draws import MIXED, Draws, key, order

MASK = 2**64 - 1


def splitmix64(x):
    """The finaliser, in Python's whole numbers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def reference(seed, epoch, image, name, place):
    golden = 0x9E3779B97F4A7C15
    state = splitmix64((image * golden + key(seed, epoch, name)) & MASK)
    return splitmix64((state + (place + 1) * golden) & MASK)


def draws(count, seed=0, epoch=1):
    return Draws(seed, epoch, torch.arange(count))


def test_bits_are_those_of_splitmix64():
    found = draws(5, seed=7, epoch=3).bits("name", 2, 3)
    assert found.shape == (5, 2, 3)
    for i, row in enumerate(found.flatten(1).tolist()):
        assert [value % 2**64 for value in row] == [reference(7, 3, i, "name", j) for j in range(6)]


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 24])
def test_whole_numbers_are_uniform_over_images_and_over_epochs(classes):
    over_images = draws(100_000).integers("label", 0, classes)
    over_epochs = torch.cat([draws(1, epoch=epoch).integers("label", 0, classes) for epoch in range(2000)])
    for drawn in (over_images, over_epochs):
        counts = np.bincount(drawn, minlength=classes)
        assert chi_square(counts) < classes + 6 * np.sqrt(2 * classes)
    assert draws(9).integers("label", 5, 7, 3).shape == (9, 3)
    assert {*draws(99).integers("label", 5, 7).tolist()} == {5, 6}


def test_normal_numbers_are_normal():
    from scipy.stats import kstest

    found = draws(200).normal("a", 300)
    assert found.dtype == torch.float32
    assert kstest(found.flatten().double().numpy(), "norm").pvalue > 1e-3
    assert 3.5 < found.abs().max() < 5.4
    assert draws(5).normal("a").shape == (5,)


def test_names_and_places_are_independent_of_each_other():
    many = draws(60_000)
    pairs = np.zeros((4, 3))
    np.add.at(pairs, (many.integers("pretext", 0, 4).numpy(), many.integers("wrong", 0, 3).numpy()), 1)
    assert chi_square(pairs.flatten()) < 12 + 6 * np.sqrt(24)
    values = torch.cat([many.uniform("a", 3), many.uniform("b")[:, None]], 1).double().T
    off = torch.corrcoef(values)[~torch.eye(4, dtype=torch.bool)]
    assert off.abs().max() < 0.02


def test_uniform_numbers_lie_in_their_range():
    found = draws(50_000).uniform("x", 2, low=-1.0, high=3.0)
    assert found.dtype == torch.float32
    assert found.shape == (50_000, 2)
    assert -1 <= found.min() < -0.99
    assert 2.99 < found.max() < 3
    assert np.histogram(found, 10)[0].std() < 250
    assert draws(4).uniform("x").shape == (4,)


def test_a_draw_is_a_function_of_the_image_whatever_its_batch():
    whole = draws(100).uniform("x", 5)
    index = torch.tensor([42, 7, 7, 99])
    assert torch.equal(draws(100).of(index).uniform("x", 5), whole[index])


def test_seed_epoch_and_name_each_draw_afresh():
    one = draws(100).bits("x")
    assert torch.equal(draws(100).bits("x"), one)
    for other in (draws(100, seed=1).bits("x"), draws(100, epoch=2).bits("x"), draws(100).bits("y")):
        assert not (other == one).any()


@pytest.mark.parametrize("count", [2, 3, 1000])
def test_another_image_is_never_the_image_itself(count):
    for epoch in range(20):
        other = draws(count, epoch=epoch).others("partner", count)
        assert not (other == torch.arange(count)).any()
        assert 0 <= other.min() <= other.max() < count


def test_others_are_uniform():
    counts = np.zeros((5, 5))
    for epoch in range(4000):
        counts[np.arange(5), draws(5, epoch=epoch).others("partner", 5)] += 1
    assert np.abs(counts[~np.eye(5, dtype=bool)] / 4000 - 1 / 4).max() < 0.04


def test_one_image_alone_has_no_other_but_itself():
    assert draws(1).others("partner", 1).tolist() == [0]


def test_the_order_of_an_epoch_holds_each_image_once_and_is_another_each_time():
    device = torch.device("cpu")
    one = order(1000, 0, 1, device)
    assert sorted(one.tolist()) == list(range(1000))
    assert torch.equal(order(1000, 0, 1, device), one)
    for other in (order(1000, 0, 2, device), order(1000, 1, 1, device)):
        assert (other == one).sum() < 10


def test_an_order_by_blocks_mixes_the_images_of_some_blocks_that_are_drawn():
    device, block, count = torch.device("cpu"), 3, 999
    one = order(count, 0, 1, device, block)
    assert sorted(one.tolist()) == list(range(count))
    groups = [{i // block for i in part.tolist()} for part in torch.split(one, MIXED * block)]
    assert sum(map(len, groups)) == count // block
    assert max(groups[0]) - min(groups[0]) > 200
    inside = one[: MIXED * block]
    assert not torch.equal(inside.sort().values, inside)
    for other in (order(count, 0, 2, device, block), order(count, 1, 1, device, block), order(count, 0, 1, device)):
        assert (other == one).sum() < 10
    assert sorted(order(1000, 0, 1, device, block).tolist()) == list(range(1000))  # the last block is not full
    assert torch.equal(order(100, 0, 1, device, 100), order(100, 0, 1, device))


def test_draws_are_made_on_the_device_without_looking_at_a_value():
    found = Draws(0, 1, torch.arange(6, device="meta")).uniform("x", 3)
    assert found.device.type == "meta"
    assert found.shape == (6, 3)
