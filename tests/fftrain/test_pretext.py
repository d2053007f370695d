from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from fftrain.registry import TASKS

NAMES = ("0", "1", "2")
SELF_MADE = [name for name in TASKS if name not in ("supervised", "hybrid")]


def make(name):
    return TASKS.load(name)(NAMES)


def images(count, channels=2, size=6):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8))


def numpy_reference(name, image, k):
    """The transformation of one image [C, H, W], written apart from the code under test."""
    if name == "rotation":
        return np.rot90(image, k, axes=(1, 2))
    if name == "jigsaw":
        h, w = image.shape[1] // 2, image.shape[2] // 2
        patches = [image[:, y : y + h, x : x + w] for y in (0, h) for x in (0, w)]
        order = [int(c) for c in make(name).class_names[k]]
        a, b, c, d = (patches[i] for i in order)
        return np.concatenate([np.concatenate([a, b], 2), np.concatenate([c, d], 2)], 1)
    across = {"flip-h": k == 1, "flip-v": False, "flip-hv": k in (1, 3)}[name]
    down = {"flip-h": False, "flip-v": k == 1, "flip-hv": k in (2, 3)}[name]
    image = image[:, :, ::-1] if across else image
    return image[:, ::-1] if down else image


@pytest.mark.parametrize("name", SELF_MADE)
def test_each_class_is_the_transformation_that_it_names(name):
    task, original = make(name), images(2)
    for k in range(len(task.class_names)):
        found = task.apply(original, torch.full((2,), k))
        for i in range(2):
            np.testing.assert_array_equal(found[i], numpy_reference(name, original[i].numpy(), k), err_msg=f"class {k}")


@pytest.mark.parametrize("name", SELF_MADE)
def test_a_mixed_batch_is_each_image_by_itself(name):
    task, original = make(name), images(50)
    labels = torch.arange(50) % len(task.class_names)
    found = task.apply(original, labels)
    for i in range(50):
        assert torch.equal(found[i], task.apply(original[i : i + 1], labels[i : i + 1])[0])


@pytest.mark.parametrize("name", SELF_MADE)
def test_each_class_inverts_to_the_original_and_differs_from_every_other(name):
    task, original = make(name), images(1)
    count = len(task.class_names)
    results = [task.apply(original, torch.tensor([k])) for k in range(count)]
    assert len({r.numpy().tobytes() for r in results}) == count
    for result in results:
        back = [torch.equal(task.apply(result, torch.tensor([k])), original) for k in range(count)]
        assert sum(back) == 1


def test_jigsaw_has_24_classes_and_needs_even_sizes():
    task = make("jigsaw")
    assert len(set(task.class_names)) == 24
    task.check((3, 4, 6))
    with pytest.raises(SettingError, match="even sizes, not 5x4"):
        task.check((1, 5, 4))


def test_rotation_needs_square_images():
    with pytest.raises(SettingError, match="square images, not 4x6"):
        make("rotation").check((1, 4, 6))


@pytest.mark.parametrize("name", TASKS)
def test_an_empty_share_of_a_batch_passes(name):
    assert make(name).apply(images(0), torch.zeros(0, dtype=torch.int64)).shape == (0, 2, 6, 6)


def test_supervised_asks_for_the_class_label_of_the_image_as_it_is():
    task, labels = make("supervised"), np.array([2, 0, 1])
    assert task.draw(labels, np.random.default_rng(0)) is labels
    [(found, asked)] = task.variants(images(3), torch.from_numpy(labels))
    assert torch.equal(found, images(3))
    assert asked.tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", SELF_MADE)
def test_variants_ask_each_image_once_under_each_class(name):
    task = make(name)
    asked = [labels.tolist() for _, labels in task.variants(images(3), torch.zeros(3, dtype=torch.int64))]
    assert asked == [[k] * 3 for k in range(len(task.class_names))]


@pytest.mark.parametrize("name", SELF_MADE)
def test_labels_are_drawn_uniformly(name):
    task = make(name)
    count = len(task.class_names)
    drawn = np.bincount(task.draw(np.zeros(100_000, dtype=np.int64), np.random.default_rng(0)), minlength=count)
    chi_square = ((drawn - 100_000 / count) ** 2 / (100_000 / count)).sum()
    assert chi_square < count + 6 * np.sqrt(2 * count)


def test_hybrid_is_trained_on_images_as_they_are():
    task, original = make("hybrid"), images(5)
    labels = task.draw(np.array([2, 0, 1, 1, 0]), np.random.default_rng(0))
    assert [task.class_names[k] for k in labels] == ["image"] * 5
    assert torch.equal(task.apply(original, torch.from_numpy(labels)), original)


def test_hybrid_asks_for_each_image_and_for_a_hybrid_of_it_with_another():
    task, original = make("hybrid"), images(12, size=20)
    (first, ones), (second, zeros) = task.variants(original, torch.zeros(12, dtype=torch.int64))
    assert torch.equal(first, original)
    assert {task.class_names[k] for k in ones} == {"image"}
    assert {task.class_names[k] for k in zeros} == {"hybrid"}
    assert second.dtype == torch.uint8
    for i in range(12):
        of_other = (second[i] != original[i]).any(0)  # one mask for all channels
        fits = [j for j in range(12) if torch.equal(second[i][:, of_other], original[j][:, of_other])]
        assert of_other.any()
        assert len(fits) == 1
        assert fits != [i]
    _, (again, _) = task.variants(original, torch.ones(12, dtype=torch.int64))
    assert torch.equal(again, second)


@pytest.mark.parametrize("count", [0, 1])
def test_hybrid_asks_where_there_is_no_other_image(count):
    asked = [*make("hybrid").variants(images(count), torch.zeros(count, dtype=torch.int64))]
    assert [(x.shape, labels.tolist()) for x, labels in asked] == [
        ((count, 2, 6, 6), [1] * count),
        ((count, 2, 6, 6), [0] * count),
    ]
