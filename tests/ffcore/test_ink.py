"""Which pictures are ink on a ground, and how they are drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ffcore.ink import Ink, drawn, places, stroke_of


def pictures(paint, count=40, size=28, ground=0):
    """Returns uint8 [N, 1, H, W] of what `paint(draw, rng)` draws on canvases of four times the size."""
    found = []
    for seed in range(count):
        canvas = Image.new("L", (4 * size, 4 * size), ground)
        paint(ImageDraw.Draw(canvas), np.random.default_rng(seed))
        found.append(np.asarray(canvas.resize((size, size), Image.Resampling.BOX)))
    return np.stack(found)[:, None]


def strokes(draw, rng, ink=255):
    """Three strokes anywhere."""
    points = [tuple(map(int, rng.integers(20, 92, 2))) for _ in range(4)]
    draw.line(points, fill=ink, width=10, joint="curve")


def placed_strokes(draw, rng):
    """Strokes in a box of 20 of 28 pixels: an N that leans."""
    left, right = 36 - int(rng.integers(0, 4)), 76 + int(rng.integers(0, 4))
    draw.line([(left, 93), (left, 18), (right, 93), (right, 18)], fill=255, width=9)


def disc(draw, rng, level=255):
    x, y, r = (int(v) for v in (*rng.integers(40, 70, 2), rng.integers(15, 30)))
    draw.ellipse((x - r, y - r, x + r, y + r), fill=level)


def shaded(draw, rng):
    for level in range(60, 250, 10):
        draw.rectangle((level // 3, 30, level // 3 + 4, 90), fill=level)


def test_strokes_are_ink_whichever_way():
    found = drawn(pictures(strokes))
    assert (found.ground, found.ink, found.longest, found.centre) == (0, 255, None, None)
    assert 1.5 < found.stroke < 3.5
    found = drawn(pictures(lambda draw, rng: strokes(draw, rng, 0), ground=255))
    assert (found.ground, found.ink) == (255, 0)
    found = drawn(pictures(lambda draw, rng: strokes(draw, rng, 230), ground=90))
    assert (found.ground, found.ink) == (90, 255)


def test_pictures_that_are_placed_alike_say_where():
    images = pictures(placed_strokes)
    found = drawn(images)
    assert abs(found.longest - 20) < 1
    np.testing.assert_allclose(found.centre, (13.4, 13.5), atol=1)
    again = drawn(255 - images)
    assert (again.longest, again.centre, again.lighter) == (found.longest, found.centre, False)


def test_silhouettes_are_ink_and_shades_are_not():
    assert drawn(pictures(disc)) is not None
    assert drawn(pictures(shaded)) is None
    rng = np.random.default_rng(0)
    assert drawn(rng.integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)) is None
    assert drawn(np.zeros((20, 1, 28, 28), np.uint8)) is None


def test_classes_that_differ_in_what_would_be_changed_are_left_as_they_are():
    """Polarity, and the width of strokes."""
    light, dark = (pictures(lambda draw, rng, ink=ink: strokes(draw, rng, ink), ground=128) for ink in (255, 0))
    assert drawn(light).lighter
    assert not drawn(dark).lighter
    for sure in (False, True):
        assert drawn(np.concatenate([light, dark]), sure=sure) is None

    def lines(width):
        return pictures(lambda draw, rng: draw.line([(30, 90), tuple(map(int, rng.integers(40, 90, 2)))], 255, width))

    assert drawn(lines(6)).stroke is not None
    assert drawn(np.concatenate([lines(6), lines(16)])).stroke is None


def test_how_full_ink_is_and_how_even_the_grounds_are():
    images = pictures(strokes)
    assert (drawn(images).full, drawn(images).close) == (1, 4)
    assert drawn(images // 2).full == pytest.approx(0.5, abs=0.01)
    lifted = np.maximum(images, np.arange(len(images), dtype=np.uint8)[:, None, None, None] // 3)
    assert 6 <= drawn(lifted).close <= 13


def test_colour_is_no_ink_and_gray_of_three_channels_is():
    images = pictures(strokes)
    gray = np.repeat(images, 3, axis=1)
    assert drawn(gray) == drawn(images)
    noisy = np.clip(gray.astype(int) + np.random.default_rng(0).integers(-4, 5, gray.shape), 0, 255).astype(np.uint8)
    assert drawn(noisy) is not None  # as JPEG leaves it
    red = gray.copy()
    red[:, 1:] = 0
    assert drawn(red) is None


def test_real_data(real_mnist):
    from fftrain.config import DataSettings
    from fftrain.data import load_data, sample

    images = sample(load_data(DataSettings(dataset="mnist", data_dir=str(real_mnist))).validation, 64).images.numpy()
    found = drawn(images)
    assert (found.ground, found.ink, found.mass) == (0, 255, True)
    assert abs(found.longest - 20) < 0.2
    np.testing.assert_allclose(found.centre, 14, atol=0.2)
    assert abs(found.stroke - 2.5) < 0.2


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_the_width_of_strokes(width):
    amount = np.zeros((60, 60), np.float32)
    amount[10:50, 20 : 20 + width] = 1
    assert stroke_of(amount) == pytest.approx(4 / np.pi * width * 40 / (40 + width), rel=1e-5)


def test_places_against_loops():
    rng = np.random.default_rng(0)
    amount = np.where(rng.random((5, 9, 7)) > 0.8, rng.random((5, 9, 7)), 0).astype(np.float32)
    low, high, middle = places(amount, mass=True)
    for i, one in enumerate(amount):
        rows, columns = np.nonzero(one >= 0.2)
        weights = one[rows, columns].astype(float)
        assert low[i].tolist() == [rows.min(), columns.min()]
        assert high[i].tolist() == [rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(
            middle[i], [np.average(rows, weights=weights), np.average(columns, weights=weights)], rtol=1e-5
        )
    _, _, middle = places(amount, mass=False)
    np.testing.assert_allclose(middle, (low + high - 1) / 2)


@pytest.mark.parametrize(
    "ink",
    [Ink(ground=0.0, ink=255.0), Ink(ground=255.0, ink=0.0, longest=20.0, centre=(14.5, 13.0), mass=False, stroke=2.0)],
)
def test_it_comes_back_from_json(ink):
    assert Ink.from_dict(json.loads(json.dumps(ink.to_dict()))) == ink
