"""Dark ink on paper as a model sees it, beside what the ink was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_digits

from ffserve.paper import negatives
from ffserve.session import BUNDLED, Model

BLACK, WHITE = (0.0, 0.0), (255.0, 0.0)
IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(0, 3), st.sampled_from([1, 3]), *[st.integers(1, 9)] * 2))


def digits():
    """Ink of real digits, uint8 [50, 1, 28, 28], with paper around it."""
    small = np.rint(load_digits().images[:50] * 255 / 16).astype(np.uint8)
    return np.pad(np.kron(small, np.ones((1, 2, 2), np.uint8)), ((0, 0), (6, 6), (6, 6)))[:, None]


def on_paper(ink, paper, dark=0, noise=0):
    share = ink / 255
    grain = np.random.default_rng(0).normal(0, 1, ink.shape) * noise
    return np.clip(np.rint(paper * (1 - share) + dark * share + grain), 0, 255).astype(np.uint8)


def slope():
    down, right = np.meshgrid(np.linspace(0, 1, 28), np.linspace(0, 1, 28), indexing="ij")
    return 235 - 60 * right - 25 * down


def test_on_white_paper_it_is_the_negative():
    ink = digits()
    np.testing.assert_array_equal(negatives(255 - ink, BLACK), ink)
    ink[:, :, 0, 9:14] = 200  # that reaches the border
    np.testing.assert_array_equal(negatives(255 - ink, BLACK), ink)
    np.testing.assert_array_equal(negatives(ink, WHITE), 255 - ink)


@pytest.mark.parametrize(
    ("paper", "dark", "noise", "most"),
    [(240, 0, 0, 1), (200, 0, 0, 1), (200, 50, 0, 64), (slope(), 0, 0, 3), (slope(), 0, 4, 30)],
)
def test_gray_paper_in_uneven_light_is_the_ground(paper, dark, noise, most):
    ink = digits()
    found = negatives(on_paper(ink, paper, dark, noise), BLACK).astype(int)
    assert np.abs(found - ink).max() <= most
    assert np.mean(found[ink == 0]) < 1
    plain = 255 - on_paper(ink, paper, dark, noise).astype(int)
    assert np.mean(plain[ink == 0]) > 14


@given(IMAGES)
def test_a_model_of_dark_ink_sees_the_same_the_other_way_round(images):
    found = negatives(images, BLACK)
    assert (found.dtype, found.shape) == (np.uint8, images.shape)
    np.testing.assert_array_equal(negatives(255 - images, WHITE), 255 - found)


@pytest.mark.parametrize(("paper", "plain"), [(200, 0.5), (slope(), 0.5), (255, 1.0)])
def test_the_model_that_ships_reads_real_digits_on_paper(real_mnist, paper, plain):
    raw = real_mnist / "MNIST" / "raw"
    ink = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    model = Model(BUNDLED, device="cpu")
    assert model.about.border is not None
    ink, labels = ink[:2000], labels[:2000]
    drawn = on_paper(ink, paper)

    def right(images):
        return float((model.run(images)["probabilities"].argmax(1) == labels).mean())

    assert right(negatives(drawn, model.about.border)) > right(ink) - 0.005
    assert right(255 - drawn) <= plain
