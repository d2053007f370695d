"""Batches: every image once, the same for any number of processes, drawn afresh in every epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.draws import Draws
from ffmodels.methods.base import Needs
from tests.fftrain.training import SMALL, batches, data_of, loader, settings


def images_of(found):
    return torch.cat([batch.views[0] for batch, _ in found])


def test_an_epoch_has_every_image_once_the_last_partial_batch_too():
    config = settings("bp", **{**SMALL, "view": "plain", "batch_size": 64})
    found = batches(config, 1)
    assert [len(batch.labels) for batch, _ in found] == [64, 64, 64, 64, 44]
    assert [weight for _, weight in found] == [1.0] * 5
    expected = Counter(image.float().div(255).numpy().tobytes() for image in data_of(config).train.images)
    assert Counter(image.numpy().tobytes() for image in images_of(found)) == expected


@pytest.mark.parametrize("recipe", ["ff", "ff-unsupervised"])
@pytest.mark.parametrize("world", [2, 3, 70])
def test_processes_share_out_the_very_batches_of_one(recipe, world):
    config = settings(recipe, **SMALL)
    whole = batches(config, 3)
    shares = [batches(config, 3, rank, world) for rank in range(world)]
    for step, (batch, _) in enumerate(whole):
        rows = len(batch.labels)
        for rank, share in enumerate(shares):
            part, weight = share[step]
            own = range(rank, rows, world)
            assert weight == pytest.approx(len(own) * world / rows)
            assert part.empty == (not len(own))
            assert part.shares[rank] == len(own)
            assert sum(part.shares) == rows
            own = own or [0]  # a row that stands for none
            assert torch.equal(part.views[0], batch.views[0][[*own]])
            assert torch.equal(part.labels, batch.labels[[*own]])
            assert torch.equal(part.draws.images, batch.draws.images[[*own]])
            if recipe == "ff-unsupervised":
                assert torch.equal(part.partner, batch.partner[[*own]])
        assert sum(share[step][1] for share in shares) == pytest.approx(world)


@pytest.mark.parametrize("recipe", ["ff", "ff-unsupervised", "bp"])
def test_every_epoch_and_seed_draws_afresh_and_the_same_again(recipe):
    config = settings(recipe, **SMALL)

    def everything(config, epoch):
        found = batches(config, epoch)
        return images_of(found), torch.cat([batch.labels for batch, _ in found])

    one, again = everything(config, 1), everything(config, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for other in (everything(config, 2), everything(config.changed(seed=1), 1)):
        assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("recipe", ["ff", "ff-unsupervised"])
def test_what_is_drawn_for_an_image_depends_on_neither_batch_nor_order(recipe):
    config = settings(recipe, **SMALL)
    seen = {}
    for size in (64, 17):
        for batch, _ in batches(config.changed(batch_size=size), 5):
            masks = batch.draws.bits("mask", 3)
            partner = batch.labels if batch.partner is None else batch.partner
            for i, index in enumerate(batch.draws.images.tolist()):
                now = (batch.views[0][i], batch.labels[i], masks[i], partner[i])
                assert all(torch.equal(a, b) for a, b in zip(seen.setdefault(index, now), now, strict=True))
    assert sorted(seen) == list(range(300))


def test_a_partner_is_another_image_under_draws_of_its_own():
    config = settings("ff", view="rotation", **SMALL)
    made = replace(loader(config), needs=Needs(partner=True))
    train = data_of(config).train
    for batch, _ in made.epoch(1):
        other = batch.draws.others("partner", 300)
        assert not (other == batch.draws.images).any()
        (expected,), _ = config.view(train.images[other], train.labels[other], Draws(0, 1, other))
        assert torch.equal(batch.partner, expected.float() / 255)


def test_a_last_batch_that_is_not_full_is_left_out_where_the_method_needs_full_ones():
    config = settings("bp", **SMALL)
    made = replace(loader(config), needs=Needs(labels=True, drop_last=True))
    assert [len(batch.labels) for batch, _ in made.epoch(1)] == [64] * 4
    assert (made.used, made.steps) == (256, 4)
    with pytest.raises(SettingError, match="--batch-size is 301, but there are 300 images"):
        _ = replace(made, batch_size=301).used
    with pytest.raises(SettingError, match="--batch-size is 1, and the method tells images of a batch apart: give 2"):
        _ = replace(made, batch_size=1).used
    for needs in (Needs(drop_last=True), Needs(partner=True)):
        with pytest.raises(SettingError, match=r"^there is 1 image to train on, and the method needs another beside"):
            _ = replace(made, images=made.images[:1], labels=made.labels[:1], needs=needs).used


@pytest.mark.parametrize(("rows", "sizes"), [(500, [64] * 4), (50, [50] * 6)])
def test_losses_of_a_batch_are_measured_on_batches_as_large_as_those_of_a_step(rows, sizes):
    made = replace(loader(settings("bp", **SMALL)), needs=Needs(labels=True, drop_last=True))
    assert [(len(batch.labels), share) for batch, share in made.once(rows)] == [(n, 1 / len(sizes)) for n in sizes]
    other = [len(batch.labels) for batch, _ in replace(made, needs=Needs(labels=True)).once(rows)]
    assert other == [*sizes, 300 - sum(sizes)][: -(-300 // sizes[0])]
    few = replace(made, batch_size=400)  # as in the curves of a small validation split: all of it is one batch
    assert [len(batch.labels) for batch, _ in few.once(500)] == [300]


@pytest.mark.parametrize("world", [1, 2, 7])
def test_what_is_measured_is_each_image_once_in_the_batches_of_one_process(world):
    config = settings("bp", **{**SMALL, "batch_size": 100})
    made = [replace(loader(config), process=rank, processes=world) for rank in range(world)]
    found = [part for each in made for part in each.once(500)]
    assert sum(share for _, share in found) == pytest.approx(1)
    assert sorted(len(batch.labels) for batch, _ in found) == [100, 100, 100]
    assert not any(batch.shares or batch.empty for batch, _ in found)
    index = torch.cat([batch.draws.images for batch, _ in found])
    assert sorted(index.tolist()) == list(range(300))
