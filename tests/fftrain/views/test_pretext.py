"""The pretext tasks: each class is the transformation that it names, and labels are drawn alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.draws import Draws
from fftrain.parts import VIEWS
from tests.fftrain.views.seeing import images

NAMES = ("0", "1", "2")
PRETEXT = [name for name in VIEWS if VIEWS.load(name).pretext]


def make(name):
    return VIEWS.load(name)()


def names_of(name):
    return make(name).class_names(NAMES)


def numpy_reference(name, image, k):
    """The transformation of one image [C, H, W], written apart from the code under test."""
    if name == "rotation":
        return np.rot90(image, k, axes=(1, 2))
    if name == "jigsaw":
        h, w = image.shape[1] // 2, image.shape[2] // 2
        patches = [image[:, y : y + h, x : x + w] for y in (0, h) for x in (0, w)]
        order = [int(c) for c in names_of(name)[k]]
        a, b, c, d = (patches[i] for i in order)
        return np.concatenate([np.concatenate([a, b], 2), np.concatenate([c, d], 2)], 1)
    across = {"flip-h": k == 1, "flip-v": False, "flip-hv": k in (1, 3)}[name]
    down = {"flip-h": False, "flip-v": k == 1, "flip-hv": k in (2, 3)}[name]
    image = image[:, :, ::-1] if across else image
    return image[:, ::-1] if down else image


@pytest.mark.parametrize("name", PRETEXT)
def test_each_class_is_the_transformation_that_it_names(name):
    view, original = make(name), images(2)
    for k in range(len(names_of(name))):
        found = view.apply(original, torch.full((2,), k))
        for i in range(2):
            np.testing.assert_array_equal(found[i], numpy_reference(name, original[i].numpy(), k), err_msg=f"class {k}")


@pytest.mark.parametrize("name", PRETEXT)
def test_a_mixed_batch_is_each_image_by_itself(name):
    view, original = make(name), images(50)
    labels = torch.arange(50) % len(names_of(name))
    found = view.apply(original, labels)
    for i in range(50):
        assert torch.equal(found[i], view.apply(original[i : i + 1], labels[i : i + 1])[0])


@pytest.mark.parametrize("name", PRETEXT)
def test_each_class_inverts_to_the_original_and_differs_from_every_other(name):
    view, original = make(name), images(1)
    count = len(names_of(name))
    results = [view.apply(original, torch.tensor([k])) for k in range(count)]
    assert len({r.numpy().tobytes() for r in results}) == count
    for result in results:
        back = [torch.equal(view.apply(result, torch.tensor([k])), original) for k in range(count)]
        assert sum(back) == 1


@pytest.mark.parametrize("name", PRETEXT)
def test_images_are_seen_as_the_labels_say_that_are_drawn_uniformly(name):
    view, count = make(name), len(names_of(name))
    original = images(20_000, channels=1, size=2 if name != "jigsaw" else 4)
    class_labels = torch.zeros(20_000, dtype=torch.int64)
    (seen,), labels = view(original, class_labels, Draws(0, 1, torch.arange(20_000)))
    assert torch.equal(seen, view.apply(original, labels))
    drawn = np.bincount(labels, minlength=count)
    chi_square = ((drawn - 20_000 / count) ** 2 / (20_000 / count)).sum()
    assert chi_square < count + 6 * np.sqrt(2 * count)


@pytest.mark.parametrize("name", PRETEXT)
def test_variants_ask_each_image_once_under_each_class(name):
    view, zeros = make(name), torch.zeros(3, dtype=torch.int64)
    asked = [labels.tolist() for _, labels in view.variants(images(3), zeros)]
    assert asked == [[k] * 3 for k in range(len(names_of(name)))]


@pytest.mark.parametrize("name", PRETEXT)
def test_an_empty_share_of_a_batch_passes(name):
    assert make(name).apply(images(0), torch.zeros(0, dtype=torch.int64)).shape == (0, 2, 6, 6)


def test_jigsaw_has_24_classes_and_needs_even_sizes():
    view = make("jigsaw")
    assert len(set(view.class_names(NAMES))) == 24
    view.check((3, 4, 6))
    with pytest.raises(SettingError, match="even sizes, not 5x4"):
        view.check((1, 5, 4))


def test_rotation_needs_square_images():
    with pytest.raises(SettingError, match="square images, not 4x6"):
        make("rotation").check((1, 4, 6))


def test_plain_is_the_image_as_it_is_with_its_class():
    view, labels = make("plain"), torch.tensor([2, 0, 1])
    assert view.class_names(NAMES) == NAMES
    (seen,), told = view(images(3), labels, Draws(0, 1, torch.arange(3)))
    assert torch.equal(seen, images(3))
    assert torch.equal(told, labels)
    [(found, asked)] = view.variants(images(3), labels)
    assert torch.equal(found, images(3))
    assert torch.equal(asked, labels)
