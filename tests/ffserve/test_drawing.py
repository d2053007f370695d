"""Ink on any ground, anywhere on a picture, as a model sees it, beside what the ink was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from benchmarks.drawn_digits import KINDS, coloured, large
from ffcore.folders import Item
from ffcore.images import fit
from ffcore.ink import Ink, places, stroke_of
from ffserve import Classifier
from ffserve.drawing import settled, take
from ffserve.session import BUNDLED, Model
from ffserve.stream import stream

LIGHT = Ink(ground=0.0, ink=255.0)
DARK = Ink(ground=255.0, ink=0.0)
PLACED = Ink(ground=0.0, ink=255.0, longest=20.0, centre=(14.0, 14.0), stroke=2.5)
SHAPE = (1, 28, 28)
# What the model that ships reads where nothing is done to it.
AS_THEY_ARE = {"as MNIST has them", "white on transparent", "white on gray 60", "white on blue", "gray 120 on gray 14"}
# Turned further than the digits that it was trained on.
TURNED = {"turned left by 20 degrees", "turned right by 20 degrees"}
AS_THEY_ARE |= {"3 pixels off", "half the size", "thin pen", "thick pen"} | TURNED
COLOURS = [  # ground, ink
    ((255, 255, 255), (0, 0, 0)),
    ((128, 128, 128), (255, 255, 255)),
    ((60, 60, 60), (255, 255, 255)),
    ((20, 80, 40), (250, 250, 240)),
    ((0, 0, 255), (255, 255, 255)),
    ((255, 240, 120), (20, 20, 120)),
    ((255, 255, 255), (220, 20, 30)),
    ((245, 245, 240), (120, 120, 125)),
]


def digits(count=20):
    """Ink of real digits as MNIST has it, uint8 [N, 28, 28]: 20 pixels high, their mass in the middle."""
    found = []
    for small in load_digits().images[:count]:
        picture = Image.fromarray(np.rint(small * 255 / 16).astype(np.uint8)).resize((80, 80), Image.Resampling.BICUBIC)
        sharp = picture.point(lambda v: 255 * (v > 127))
        pixels = np.asarray(sharp.crop(sharp.getbbox()).resize((14, 20), Image.Resampling.BOX))
        canvas = np.zeros((40, 40), np.uint8)
        canvas[10:30, 13:27] = pixels
        down, right = (np.rint((canvas.sum(1 - a) @ np.arange(40)) / canvas.sum()).astype(int) - 14 for a in (0, 1))
        found.append(canvas[down : down + 28, right : right + 28])
    return np.stack(found)


def taken(picture, ink=LIGHT, *, shape=SHAPE, clear=True, place=False):
    return take(picture, ink, shape, clear=clear, place=place)


def alike(found, ink):
    """Returns how alike two drawings are, at most 1."""
    a, b = (values.astype(float).ravel() for values in (found, ink))
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("reach", [False, True])
def test_black_ink_on_white_paper_becomes_its_negative_exactly(reach):
    for ink in digits():
        if reach:  # the border
            ink[0, 9:14] = 255
        found, did = taken(Image.fromarray(255 - ink))
        np.testing.assert_array_equal(found[0], ink)
        assert did == {"inverted"}
        found, did = taken(Image.fromarray(ink), DARK)
        np.testing.assert_array_equal(found[0], 255 - ink)


@pytest.mark.parametrize(("ground", "colour"), COLOURS)
@pytest.mark.parametrize("times", [1, 10])
def test_ink_is_what_differs_from_its_ground_whichever_way(ground, colour, times):
    for ink in digits(5):
        found, did = taken(coloured(ink if times == 1 else large(ink, times), ground, colour))
        assert alike(found[0], ink) > (0.999 if times == 1 else 0.97)
        assert found[0, 0, 0] == 0
        assert found.max() >= 0.9 * 255
        assert ("inverted" in did) == (sum(colour) < sum(ground))
        assert ("cleared" in did) == (ground != (255, 255, 255) or sum(colour) > 0)


@pytest.mark.parametrize(("ground", "colour"), [COLOURS[0], COLOURS[3], COLOURS[5]])
def test_in_uneven_light_and_with_grain(ground, colour):
    for ink in digits(5):
        found, _ = taken(coloured(large(ink, 10), ground, colour, noise=4, shade=0.3))
        assert alike(found[0], ink) > 0.95
        assert np.mean(found[0][ink == 0]) < 6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_model_of_dark_ink_sees_the_same_the_other_way_round(seed):
    rng = np.random.default_rng(seed)
    picture = coloured(digits(1)[0], rng.integers(0, 256, 3), rng.integers(0, 256, 3), noise=rng.integers(0, 4))
    negative = Image.fromarray(255 - np.asarray(picture))
    found, did = taken(picture)
    turned, other = taken(negative, DARK)
    np.testing.assert_allclose(turned.astype(int), 255 - found.astype(int), atol=1)
    assert did == other


def test_what_is_as_the_models_own_is_left_as_it_is():
    ink = digits()
    assert settled(ink[:, None], PLACED, place=True).all()
    assert settled(255 - ink[:, None], Ink(ground=255.0, ink=0.0, longest=20.0, centre=(14.0, 14.0)), place=True).all()
    assert not settled(255 - ink[:, None], PLACED, place=False).any()
    shifted = np.roll(ink, 3, axis=1)
    assert settled(shifted[:, None], PLACED, place=False).all()
    assert not settled(shifted[:, None], PLACED, place=True).any()
    faint = ink // 3
    assert not settled(faint[:, None], PLACED, place=False).any()
    assert settled(faint[:, None], replace(PLACED, full=0.3), place=True).all()
    for ground in (10, 24):
        assert not settled(np.maximum(ink, ground)[:, None], PLACED, place=False).any()
    assert settled(np.maximum(ink, 24)[:, None], replace(PLACED, close=30.0), place=True).all()


def spots(ink):
    """Returns pictures of a drawing at many sizes and places."""
    cut = Image.fromarray(large(ink, 4)).crop(Image.fromarray(large(ink, 4)).point(lambda v: 255 * (v > 50)).getbbox())
    for size, where in [((28, 28), (7, 7)), ((112, 112), (3, 3)), ((900, 700), (500, 90)), ((200, 900), (40, 20))]:
        canvas = Image.new("L", size, 0)
        canvas.paste(cut.resize((10, 14)) if size == (28, 28) else cut, where)
        yield canvas


@pytest.mark.parametrize(
    ("ground", "colour"),
    [
        ((24, 24, 24), (255, 255, 255)),
        ((14, 14, 14), (120, 120, 120)),
        ((0, 0, 0), (200, 0, 0)),
        ((0, 0, 40), (0, 0, 255)),
    ],
)
def test_faint_ink_on_a_nearly_black_ground_is_found_at_the_models_own_size_too(ground, colour):
    for ink in digits(5):
        found, did = taken(coloured(ink, ground, colour))
        assert did == {"cleared"}
        assert alike(found[0], ink) > 0.999
        gray = fit(coloured(ink, ground, colour), height=28, width=28, channels=1)
        assert not settled(gray[None], PLACED, place=True).any()


def test_ink_is_placed_as_the_models_own():
    for ink in digits(5):
        for picture in spots(ink):
            found, did = taken(picture, PLACED, place=True)
            assert did == {"placed"}
            low, high, middle = places(found.astype(np.float32) / 255, mass=True)
            assert abs((high - low).max() - 20) <= 1
            np.testing.assert_allclose(middle[0], 14, atol=0.6)
            assert alike(found[0], ink) > (0.75 if picture.size == (28, 28) else 0.9)
            kept, did = taken(picture, PLACED, place=False)
            assert did == set()
            np.testing.assert_allclose(kept[0].astype(int), fit(picture, height=28, width=28, channels=1)[0], atol=3)


def test_dust_does_not_move_the_ink():
    ink = digits(1)[0]
    picture = Image.new("L", (600, 600), 0)
    picture.paste(Image.fromarray(large(ink, 8)), (60, 300))
    alone, _ = taken(picture, PLACED, place=True)
    for spot in [(590, 5), (3, 3), (400, 20)]:
        picture.paste(255, (*spot, spot[0] + 4, spot[1] + 4))
    found, _ = taken(picture, PLACED, place=True)
    np.testing.assert_array_equal(found, alone)


def test_thin_strokes_become_as_wide_as_the_models_own():
    one, seven = [(80, 40), (80, 240)], [(60, 50), (200, 50), (110, 240)]
    four = [(60, 40), (60, 140), (190, 140), (190, 240)]
    for points in (one, seven, four):
        picture = Image.new("L", (280, 280), 0)
        ImageDraw.Draw(picture).line(points, fill=255, width=3)
        found, did = taken(picture, PLACED, place=True)
        assert did == {"placed"}
        assert abs(stroke_of(found[0] / np.float32(255)) - 2.5) < 0.8
        assert stroke_of(fit(picture, height=28, width=28, channels=1)[0] / np.float32(255)) < 1.5


def test_strokes_in_place_that_are_no_hairs_are_left_as_they_are():
    for ink in digits(5):
        found, did = taken(Image.fromarray(large(ink, 10)), PLACED, place=True)
        assert did == set()
        assert alike(found[0], ink) > 0.97


def test_pictures_without_ink_are_blank():
    rng = np.random.default_rng(0)
    grains = [np.clip(rng.normal(200, deviation, (90, 120)), 0, 255) for deviation in (3, 10, 20)]
    small = np.clip(rng.normal(200, 15, (28, 28)), 0, 255)
    shade = np.linspace(140, 240, 300)[None].repeat(200, 0)
    made = [Image.fromarray(values.astype(np.uint8)) for values in (*grains, small, shade, shade.T)]
    for picture in (Image.new("L", (28, 28), 0), Image.new("RGB", (50, 40), (250, 250, 240)), *made):
        for place in (False, True):
            _, did = taken(picture, PLACED, place=place)
            assert "blank" in did
            assert "placed" not in did
            assert ("inverted" in did) == (np.asarray(picture).mean() > 128)


def test_a_photograph_is_no_drawing():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    found, did = taken(noise, PLACED)
    assert "blank" not in did
    assert "cleared" not in did
    assert found.shape == SHAPE


def test_ink_of_a_model_of_three_channels_is_gray():
    ink = digits(1)[0]
    found, _ = taken(coloured(ink, (0, 0, 255), (255, 255, 255)), shape=(3, 28, 28))
    assert found.shape == (3, 28, 28)
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[2].astype(int) - ink).max() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3000, 2)])
def test_pictures_of_any_shape(size):
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    for place in (False, True):
        assert taken(Image.fromarray(noise), PLACED, place=place)[0].shape == SHAPE


def test_ink_that_is_as_light_as_its_ground_is_found_by_its_colour():
    """At the model's own size too, where what is as the model's own is left as it is."""
    red, green = (200, 0, 0), (0, 102, 0)
    assert len({np.asarray(Image.new("RGB", (1, 1), colour).convert("L")).item() for colour in (red, green)}) == 1
    for times in (1, 5):
        pictures = [coloured(large(ink, times), green, red) for ink in digits(5)]
        items = [Item(str(number), picture) for number, picture in enumerate(pictures)]
        [batch] = stream(Model(BUNDLED, threads=1, device="cpu"), items)
        for found, ink, did in zip(batch.images_BCHW, digits(5), batch.did, strict=True):
            assert alike(found[0], ink) > 0.8
            assert "cleared" in did


@pytest.fixture(scope="module")
def mnist_test(request):
    raw = request.getfixturevalue("real_mnist") / "MNIST" / "raw"
    ink = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return ink[:100], labels[:100]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if i % 3 == 0 else pytest.mark.slow) for i, kind in enumerate(KINDS)]
)
def test_the_model_that_ships_reads_real_digits_however_they_are_drawn(mnist_test, kind):
    """Where it does not need that, since it was trained on moved digits, nothing is lost."""
    ink, labels = mnist_test
    pictures = [KINDS[kind](one) for one in ink]
    classifier = Classifier(BUNDLED, threads=1)

    def right(images, **how):
        found = classifier.predict(images, top_k=1, **how)
        return np.mean([int(p.label) == label for p, label in zip(found, labels, strict=True)])

    read, plainly = right(pictures), right(pictures, invert="no", place="no")
    assert read > right(list(ink), invert="no", place="no") - (0.08 if kind in TURNED else 0.03)
    assert read > plainly - 0.02
    if kind not in AS_THEY_ARE:
        assert plainly < 0.6


def test_the_models_own_pictures_are_read_as_they_are(mnist_test):
    model = Model(BUNDLED, device="cpu")
    assert settled(mnist_test[0][:, None], model.about.ink, place=True).mean() > 0.98


def lying(sheet, size, where, mode, ground):
    """Returns a sheet on something else."""
    canvas = Image.new(mode, size, ground)
    canvas.paste(sheet.convert(mode), where)
    return canvas


def test_of_a_sheet_that_lies_on_something_the_ink_is_looked_at():
    for ink in digits(5):
        for paper in (255 - large(ink, 7), large(ink, 7)):
            alone, _ = taken(Image.fromarray(paper), PLACED, place=True)
            sheet = Image.fromarray(paper)
            for picture in (
                lying(sheet, (300, 260), (60, 30), "L", 60 if paper[0, 0] else 190),  # on a table
                lying(sheet, (198, 198), (1, 1), "L", 255 - int(paper[0, 0])),  # a scan with a border
                lying(sheet, (300, 500), (50, 40), "RGB", (20, 90, 40)),
            ):
                found, did = taken(picture, PLACED, place=True)
                assert "cleared" in did
                assert alike(found[0], alone[0]) > 0.98


def test_a_square_is_no_sheet():
    """Nothing is drawn on it, or what it surrounds reaches it, or the model's own ink is as broad."""
    picture = Image.new("L", (200, 200), 255)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((50, 50, 150, 150), fill=0)
    found, _ = taken(picture, PLACED, place=True)
    assert found[0, 14, 14] == 255
    pen.line((50, 100, 150, 100), fill=255, width=12)
    found, _ = taken(picture, PLACED, place=True)
    assert found[0, 8, 14] == 255
    assert found[0, 14, 14] < 80
    pen.rectangle((50, 50, 150, 150), fill=0)
    pen.ellipse((80, 80, 120, 120), fill=255)
    for broad in (replace(PLACED, stroke=8.0), replace(PLACED, stroke=None)):
        found, _ = taken(picture, broad, place=True)
        assert found[0, 6, 14] == 255
        assert found[0, 14, 14] < 80
