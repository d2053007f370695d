from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fftrain.data import ImageData
from fftrain.evaluations.detection import WEIGHT, WIDTH, Detection, detections, precision, targets
from fftrain.parts import EVALUATIONS
from fftrain.scenes import Scenes
from tests.fftrain.evaluations.subjects import subject_of
from tests.fftrain.evaluations.test_segmentation import lines

SMALL = {"scenes": 9, "epochs": 1}
SIDE, G, K, MOST = 40, 10, 3, 20


def scenes(count=6, seed=0):
    """Up to two boxes in each scene, one in the left half and one in the right."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform([[0, 0], [20, 0]], [[8, 20], [28, 20]], size=(count, 2, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 12, size=(count, 2, 2))], -1)
    labels = rng.integers(1, K + 1, size=(count, 2))
    labels[::3, 1] = 0
    boxes[::3, 1] = 0
    images = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.uint8)
    labels = torch.from_numpy(labels)
    return Scenes(images, images[:, 0].short(), torch.from_numpy(boxes).float(), labels, torch.zeros_like(labels) > 0)


def found_of(made, move=0.0, score=0.9):
    """Detections that are the truth, moved to the right by a share of their width."""
    for labels, boxes in zip(made.labels, made.boxes, strict=True):
        there = labels > 0
        width = (boxes[there, 2] - boxes[there, 0])[:, None]
        yield (
            torch.full((int(there.sum()),), score),
            labels[there],
            boxes[there] + move * width * torch.tensor([1, 0, 1, 0]),
        )


def nothing(made):
    return [(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)) for _ in made.labels]


def test_what_is_right_counts_1_and_what_is_wrong_or_absent_0():
    made = scenes()
    assert precision(made, found_of(made), MOST) == pytest.approx({"AP50": 1.0, "AP": 1.0})
    assert precision(made, nothing(made), MOST) == {"AP50": 0.0, "AP": 0.0}
    wrong = [(scores, labels % K + 1, boxes) for scores, labels, boxes in found_of(made)]
    assert precision(made, wrong, MOST) == {"AP50": 0.0, "AP": 0.0}
    blank = made.at(torch.zeros(0, dtype=torch.int64))
    assert precision(blank, [], MOST) == {"AP50": 0.0, "AP": 0.0}


@pytest.mark.parametrize(("overlap", "levels"), [(0.52, 1), (0.63, 3), (0.87, 8), (0.48, 0)])
def test_boxes_that_are_moved_count_at_the_overlaps_that_they_keep(overlap, levels):
    made = scenes()
    moved = found_of(made, move=(1 - overlap) / (1 + overlap))  # overlap = (1 - move) / (1 + move)
    assert precision(made, moved, MOST) == pytest.approx({"AP50": float(levels > 0), "AP": levels / 10})


def test_one_that_is_found_twice_counts_against_those_below_it():
    made = scenes(1)
    [(_, labels, boxes)] = found_of(made)
    far = boxes + 100
    above = (torch.tensor([0.95, 0.9]), labels.repeat(2), torch.cat([far, boxes]))
    below = (torch.tensor([0.85, 0.9]), labels.repeat(2), torch.cat([far, boxes]))
    assert precision(made, [above], MOST)["AP50"] == pytest.approx(0.5)
    assert precision(made, [below], MOST)["AP50"] == pytest.approx(1.0)


def overlap(box, boxes):
    """Intersection over union of a box with each of others."""
    corner, end = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    both = (end - corner).clip(min=0).prod(1)
    return both / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - both)


def average_precision(made, found, label):
    """AP50 of a class by VOC's own protocol, read at COCO's 101 recalls: the largest overlap decides."""
    truth = [(labels == label).numpy() for labels in made.labels]
    wanted = sum((at & ~hard.numpy()).sum() for at, hard in zip(truth, made.difficult, strict=True))
    told = [
        (score.item(), scene, box.numpy())
        for scene, of in enumerate(found)
        for score, k, box in zip(*of, strict=True)
        if k == label
    ]
    right, taken = [], set()
    for _, scene, box in sorted(told, key=lambda one: -one[0]):
        shares = np.where(truth[scene], overlap(box, made.boxes[scene].numpy()), 0)
        best = shares.argmax()
        if shares[best] >= 0.5 and made.difficult[scene, best]:
            continue
        right.append(shares[best] >= 0.5 and (scene, best) not in taken)
        taken |= {(scene, best)} if right[-1] else set()
    hits = np.cumsum(right)
    precise = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / wanted, np.linspace(0, 1, 101))
    return np.append(precise, 0)[at.clip(max=len(precise))].mean()


def test_what_is_found_of_difficult_objects_counts_neither_way():
    """Each is found up to three times, near it or beside it, and objects are where there are none."""
    made, rng = scenes(60), np.random.default_rng(2)
    made.difficult[:] = torch.from_numpy(rng.random(made.labels.shape) < 0.4) & (made.labels > 0)
    found = []
    for labels, boxes in zip(made.labels, made.boxes, strict=True):
        again = torch.from_numpy(rng.integers(4, size=2)) * (labels > 0)
        copies, widths = boxes.repeat_interleave(again, 0), (boxes[:, 2] - boxes[:, 0]).repeat_interleave(again)
        moved = torch.from_numpy(rng.choice([0.0, 0.1, 0.7], size=len(copies))) * widths
        copies[:, ::2] += moved[:, None]
        scores = torch.from_numpy(rng.random(len(copies)))
        found.append((scores, labels.repeat_interleave(again), copies))
    expected = np.mean([average_precision(made, found, label) for label in range(1, K + 1)])
    assert 0.2 < expected < 0.9
    assert precision(made, found, MOST)["AP50"] == pytest.approx(expected)
    easy = replace(made, difficult=torch.zeros_like(made.difficult))
    assert precision(easy, found, MOST)["AP50"] != pytest.approx(expected, abs=1e-3)


def test_a_class_of_difficult_objects_alone_has_no_part_in_the_mean():
    made = scenes()
    made.difficult[:] = made.labels == 2
    assert precision(made, found_of(made), MOST) == pytest.approx({"AP50": 1.0, "AP": 1.0})
    made.difficult[:] = made.labels > 0
    assert precision(made, found_of(made), MOST) == {"AP50": 0.0, "AP": 0.0}


def test_targets_are_a_bump_at_each_middle():
    made = scenes()
    maps, at, wanted = (x.double().numpy() for x in targets(made, K, G))
    expected = np.zeros((len(made), K, G, G))
    for scene in range(len(made)):
        for label, (left, top, right, bottom), place, told in zip(
            made.labels[scene].tolist(),
            (made.boxes[scene] * G / SIDE).double().numpy(),
            at[scene],
            wanted[scene],
            strict=True,
        ):
            if label:
                x, y = (left + right) / 2, (top + bottom) / 2
                across, down = int(x), int(y)
                assert place == down * G + across
                size = [np.log(right - left), np.log(bottom - top)]
                np.testing.assert_allclose(told, [x - across - 0.5, y - down - 0.5, *size], atol=1e-5)
                spread = 2 * WIDTH**2 * (right - left) * (bottom - top)
                for i, j in np.ndindex(G, G):
                    bump = np.exp(-((i - down) ** 2 + (j - across) ** 2) / spread)
                    expected[scene, label - 1, i, j] = max(expected[scene, label - 1, i, j], bump)
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert (maps == 1).sum() == (made.labels > 0).sum()


def test_the_loss_is_the_published_one():
    made = scenes()
    told = np.random.default_rng(1).normal(size=(len(made), K + 4, G, G))
    found = Detection().loss(torch.from_numpy(told), made).item()
    maps, at, wanted = (x.double().numpy() for x in targets(made, K, G))
    p = 1 / (1 + np.exp(-told[:, :K]))
    focal = np.where(maps == 1, (1 - p) ** 2 * np.log(p), (1 - maps) ** 4 * p**2 * np.log(1 - p))
    there = (made.labels > 0).numpy()
    away = 0.0
    for scene, k in zip(*np.nonzero(there), strict=True):
        away += np.abs(told[scene, K:].reshape(4, -1)[:, int(at[scene, k])] - wanted[scene, k]).sum()
    assert found == pytest.approx((-focal.sum() + WEIGHT * away) / there.sum(), rel=1e-5)


def test_what_is_told_as_it_should_be_gives_the_boxes_back():
    made = scenes(20)
    maps, at, wanted = targets(made, K, G)
    boxes = torch.zeros(len(made), 4, G * G).scatter(2, at[:, None].expand(-1, 4, -1), wanted.mT)
    told = torch.cat([torch.logit(maps, 1e-4), boxes.view(-1, 4, G, G)], 1)
    assert precision(made, detections(told, SIDE, MOST), MOST) == pytest.approx({"AP50": 1.0, "AP": 1.0})
    scores, labels, found = next(detections(told, SIDE, MOST))
    assert labels[0] == made.labels[0, 0]
    torch.testing.assert_close(found[0], made.boxes[0, 0], rtol=1e-4, atol=1e-3)
    assert (scores[:-1] >= scores[1:]).all()


def test_what_a_linear_filter_can_tell_is_told():
    data = ImageData(
        name="x", train=lines(40, 0), validation=lines(20, 1), test=lines(20, 2), class_names=("across", "down")
    )
    part = EVALUATIONS.load("detection")(scenes=90, objects=1, clutter=0, epochs=8, stride=2)
    records = [*part.measure(subject_of(None, data))]
    assert [(r["measure"], r["split"]) for r in records] == [
        (measure, split) for split in ("validation", "test") for measure in ("AP50", "AP")
    ]
    assert records[0]["value"] > 0.5
    assert records[0]["value"] >= records[1]["value"]
