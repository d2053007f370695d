"""Depth and transparency: what a file declares, and what it is laid over."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import ImageError
from ffcore.flat import BLACK
from ffcore.images import decode, read_picture

SHORT, LONG = 3, 4


def tiff(values, bits, photometric, *tags):
    """Returns a gray TIFF by hand, little-endian; 12 bits are packed, two values in three bytes."""
    H, W = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).tolist()
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)
    else:
        data = values.astype(f"<u{bits // 8}").tobytes()
    fixed = [(256, W), (257, H), (258, bits), (259, 1), (262, photometric), (273, None), (277, 1), (278, H)]
    entries = sorted([*fixed, (279, len(data)), *tags])
    place = 8 + 2 + 12 * len(entries) + 4
    found = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, value in entries:
        kind = LONG if tag in (273, 279) else SHORT
        found += struct.pack("<HHII", tag, kind, 1, place if value is None else value)
    return found + bytes(4) + data


def saved(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def levels(content, **how):
    return np.asarray(decode(content, **how))


def dim(content):
    return read_picture(content, lambda image, dim: dim)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_what_a_tiff_declares_is_what_is_read(bits, photometric):
    if (bits, photometric) == (12, 0):
        pytest.skip("Pillow does not open 12 bits with white as zero")
    top = 2**bits - 1
    values = np.linspace(0, top, 24).round().astype(np.uint16).reshape(4, 6)
    wanted = np.floor(values.astype(float) * 255 / top + 0.5)
    found = levels(tiff(values, bits, photometric))
    np.testing.assert_array_equal(found, 255 - wanted if photometric == 0 else wanted)


@pytest.mark.parametrize("photometric", [0, 1])
def test_twelve_bits_in_sixteen_are_read_as_they_are_declared(photometric):
    values = np.linspace(0, 4095, 24).round().astype(np.uint16).reshape(4, 6)
    found = levels(tiff(values, 16, photometric, (281, 4095)))
    wanted = np.floor(values.astype(float) * 255 / 4095 + 0.5)
    np.testing.assert_array_equal(found, 255 - wanted if photometric == 0 else wanted)
    assert not dim(tiff(values, 16, photometric, (281, 4095)))


RAMP = np.linspace(0, 4095, 24).round().astype(np.uint16).reshape(4, 6)
DEEP = np.linspace(0, 1, 72).reshape(4, 6, 3)[..., :1] * [4000, 3000, 2000]


@pytest.mark.parametrize(
    "content",
    [
        tiff(RAMP, 16, 0),
        tiff(RAMP * 16, 16, 0),
        tiff(RAMP, 16, 1, (281, 4095)),
        tiff(RAMP, 16, 0, (281, 4095)),
        tiff(RAMP, 12, 1),
        tiff(RAMP, 16, 1, (274, 6)),
        tiff((RAMP // 16).astype(np.uint8), 8, 0),
        b"P5\n6 4\n65535\n" + (RAMP * 16).astype(">u2").tobytes(),
        b"P5\n6 4\n4095\n" + RAMP.astype(">u2").tobytes(),
        b"P6\n6 4\n65535\n" + DEEP.astype(">u2").tobytes(),
        saved(Image.fromarray(RAMP)),
    ],
    ids=range(11),
)
def test_an_image_of_pillow_is_read_as_its_file_is_and_stays_as_it_is(content):
    wanted = levels(content), dim(content)
    file = io.BytesIO(content)
    with Image.open(file) as fresh, Image.open(io.BytesIO(content)) as loaded:
        loaded.load()
        before = loaded.tobytes()
        assert dim(fresh) == wanted[1]
        for image in (fresh, loaded, loaded):
            np.testing.assert_array_equal(levels(image), wanted[0])
            assert image.format is not None
            assert image.tobytes() == before
    assert not file.closed


def test_images_of_pillow_that_cannot_be_read():
    closed = Image.new("L", (3, 3))
    closed.close()
    for image, words in (
        (Image.new("L", (0, 5)), "has 0x5 pixels: it shows nothing"),
        (closed, "is an image that was closed: hand it over while it is open"),
        (Image.new("I", (3, 3)), "has 32-bit pixels: save it with 8 or 16 bits"),
    ):
        with pytest.raises(ImageError, match=words):
            levels(image)


def test_premultiplied_gray_is_read():
    image = Image.new("LA", (3, 3), (200, 128))
    assert levels(image.convert("La")).max() == pytest.approx(levels(image).max(), abs=2)


def test_twelve_bits_in_sixteen_that_nothing_declares_are_told():
    values = np.linspace(0, 4095, 24).round().astype(np.uint16).reshape(4, 6)
    for content in (
        tiff(values, 16, 1),
        tiff(65535 - values, 16, 0),
        saved(Image.fromarray(values)),
        saved(Image.frombytes("I;16B", (6, 4), values.astype(">u2").tobytes()), "TIFF"),
    ):
        assert dim(content)
        assert levels(content).max() == 16


def test_what_uses_its_bits_or_has_eight_is_not_dim():
    values = np.linspace(0, 60000, 24).round().astype(np.uint16).reshape(4, 6)
    assert not dim(tiff(values, 16, 1))
    assert not dim(saved(Image.fromarray(values)))
    assert not dim(saved(Image.fromarray(np.full((4, 6), 9, np.uint8))))
    assert not dim(saved(Image.new("I;16", (4, 6), 0)))  # black, which is another matter


def test_a_tiff_of_a_kind_that_is_not_read_is_named():
    values = np.zeros((2, 2), np.uint16)
    with pytest.raises(ImageError, match="a TIFF image of a kind that Pillow does not read: save it as PNG"):
        decode(tiff(values, 12, 0))


def written(ink, mode):
    """Returns a line of ink on a transparent canvas, as a file."""
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    for x in range(4, 16):
        image.putpixel((x, 5), (*ink, 255))
    if mode == "P":
        return saved(image, "GIF")
    return saved(image.convert(mode), "PNG")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("ink", "ground"), [((0, 0, 0), 255), ((60, 60, 60), 255), ((255,) * 3, 0), ((200,) * 3, 0)])
def test_transparency_is_laid_over_what_the_ink_stands_out_from(mode, ink, ground):
    content = written(ink, mode)
    gray = np.asarray(decode(content, ground=None).convert("L"))
    assert gray[0, 0] == ground
    assert abs(int(gray[5, 8]) - ink[0]) <= 2
    over_black = np.asarray(decode(content, ground=BLACK).convert("L"))
    assert over_black[0, 0] == 0


@pytest.mark.parametrize("ground", [(255,), (10, 200, 30)])
def test_transparency_is_laid_over_the_ground_that_is_given(ground):
    found = np.asarray(decode(written((9, 9, 9), "RGBA"), ground=ground).convert("RGB"))
    assert tuple(found[0, 0]) == (ground * 3)[:3]
    assert tuple(found[5, 8]) == (9, 9, 9)


def test_half_transparent_ink_is_mixed_with_its_ground():
    image = Image.new("RGBA", (4, 4), (100, 0, 0, 51))
    assert tuple(np.asarray(decode(saved(image), ground=(255,)))[0, 0]) == (224, 204, 204)


def test_an_image_of_pillow_stays_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(saved(Image.new("L", (8, 4), 7), "JPEG", exif=exif)))
    assert decode(image).size == (4, 8)
    assert image.size == (8, 4)
