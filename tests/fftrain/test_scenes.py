"""Scenes are held against their masks, and made again bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fftrain import scenes as module
from fftrain.data import Split
from fftrain.scenes import boxes_of, make_scenes

USUAL = {"size": 24, "objects": 3, "clutter": 4, "ink": True, "seed": 0}


def images(count=30, channels=1, side=12):
    """Squares with a margin, of a brightness for each class: 80, 120, 160, 200."""
    made = torch.zeros(count, channels, side, side, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    made[:, :, 2:-2, 2:-2] = (80 + 40 * labels).to(torch.uint8)[:, None, None, None]
    return Split(made, labels)


def made(split=None, name="train", count=40, **values):
    return make_scenes(images() if split is None else split, name, count, **{**USUAL, **values})


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


@pytest.mark.parametrize("ink", [True, False])
def test_boxes_and_classes_are_those_of_what_is_seen(monkeypatch, ink):
    owners = []
    monkeypatch.setattr(module, "boxes_of", lambda mask: owners.append(mask.numpy()) or boxes_of(mask))
    found = made(ink=ink)
    for layer, masks in enumerate(owners):
        for scene, mask in enumerate(masks):
            label = found.labels[scene, layer].item()
            assert mask.any() == (label > 0)
            if label:
                rows, columns = np.nonzero(mask)
                edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert found.boxes[scene, layer].tolist() == edges
                assert (found.classes[scene].numpy()[mask] == label).all()
            else:
                assert not found.boxes[scene, layer].any()
    owned = np.stack(owners).sum(0)
    assert owned.max() == 1  # a pixel is one object's
    assert ((found.classes > 0).numpy() == (owned == 1)).all()
    assert {*found.labels.unique().tolist()} == {0, 1, 2, 3, 4}


def test_the_first_object_hides_those_behind_it_and_is_whole():
    """Opaque images without a ground: what is seen where they overlap is the first one's brightness."""
    split = images()
    split.images[:] = (80 + 40 * split.labels).to(torch.uint8)[:, None, None, None]
    found = made(split, ink=False, clutter=0, count=80)
    overlapped = 0
    for picture, classes, boxes, labels, _ in zip(*vars(found).values(), strict=True):
        for label in labels[labels > 0].tolist():
            inner = (classes == label) & (picture[0] > 0)
            values, counts = picture[0][inner].unique(return_counts=True)
            assert values[counts.argmax()] == 40 + 40 * label
        left, top, right, bottom = boxes[0].int().tolist()
        assert labels[0]
        assert (classes[top:bottom, left:right] == labels[0]).sum() >= (bottom - top) * (right - left) - 4  # corners
        over = (boxes[1:, :2] < boxes[0, 2:]).all(1) & (boxes[1:, 2:] > boxes[0, :2]).all(1)
        overlapped += (over & (labels[1:] > 0)).sum().item()
    assert overlapped > 10


def test_an_object_is_left_out_where_less_than_half_of_it_would_be_seen():
    crowded = made(objects=12, size=16, clutter=0, count=60, ink=False)
    assert (crowded.labels > 0).sum(1).max() < 12
    areas = torch.stack([torch.tensor([(c == k).sum() for k in range(1, 5)]) for c in crowded.classes])
    assert areas.sum(1).max() <= 16 * 16


def test_fragments_are_ground():
    empty, cluttered = (made(clutter=n) for n in (0, 10))
    assert torch.equal(empty.classes, cluttered.classes)
    assert torch.equal(empty.boxes, cluttered.boxes)
    changed = (empty.images != cluttered.images)[:, 0]
    assert changed[cluttered.classes == 0].float().mean() > 0.1
    assert not empty.images.amax(1)[cluttered.classes == 0].gt(100).any()  # the soft edges of ink alone


def test_the_same_seed_gives_the_same_bytes_however_scenes_are_batched(monkeypatch):
    whole = made()
    assert same(whole, made())
    monkeypatch.setattr(module, "rows_of", lambda *shapes: 7)
    assert same(whole, made())
    assert same(made(count=10), whole.at(torch.arange(10)))
    assert not torch.equal(whole.images, made(seed=1).images)


def test_scenes_differ_and_splits_have_other_draws():
    train = made()
    assert len({scene.numpy().tobytes() for scene in train.images}) == len(train)
    test = made(name="test")
    assert not torch.equal(train.boxes, test.boxes)


def test_scenes_are_made_of_images_of_their_split_alone():
    """Each split has a brightness of its own, in another channel."""
    for channel in range(3):
        split = Split(torch.zeros(9, 3, 12, 12, dtype=torch.uint8), torch.arange(9) % 3)
        split.images[:, channel] = 200
        shown = made(split, ink=False).images.amax((0, 2, 3))
        assert [value > 0 for value in shown.tolist()] == [k == channel for k in range(3)]


def test_a_box_is_of_the_outermost_pixels():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 4:6] = True
    masks[1, 4, 6] = masks[1, 0, 0] = True
    assert boxes_of(masks).tolist() == [[4, 1, 6, 3], [0, 0, 7, 5], [0, 0, 0, 0]]
