"""Every kind of image file against NumPy: what is read, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ffcore.errors import ImageError
from ffcore.formats import FORMATS, SUFFIXES
from ffcore.images import MAX_PIXELS, decode, fit, fit_each, from_array, image_size, read_image

UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.swapaxes(stored[::-1, ::-1], 0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(path):
    """What a file is decoded to: [H, W] or [H, W, 3]."""
    return np.asarray(decode(path))


def mode(path):
    with Image.open(path) as image:
        return image.mode


def refused(path, *words, **limits):
    """Checks that a file is refused in one line that names it."""
    with pytest.raises(ImageError) as error:
        read_image(path, height=4, width=4, channels=1, **limits)
    text = str(error.value)
    assert text.startswith(repr(os.fspath(path)))
    assert len(text.splitlines()) == 1
    for word in words:
        assert word in text


def png(width, height, depth, kind, data, *chunks):
    """A PNG by hand: IHDR, further chunks, IDAT as it is given."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bilinear(image, height, width):
    """Resizes the shorter side with an antialiasing triangle filter and crops the centre, in float64."""
    scale = min(image.shape[0] / height, image.shape[1] / width)

    def weights(source, target):
        start = (source - target * scale) / 2
        centre = start + (np.arange(target)[:, None] + 0.5) * scale
        found = np.maximum(0, 1 - np.abs(np.arange(source) + 0.5 - centre) / max(scale, 1))
        return found / found.sum(1, keepdims=True)

    rows, columns = weights(image.shape[0], height), weights(image.shape[1], width)
    return np.einsum("ih,hw...,jw->ij...", rows, image.astype(float), columns)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif", ".webp", ".pgm", ".jp2", ".tga"])
def test_gray_of_the_right_size_passes_bit_for_bit(tmp_path, suffix):
    stored = noise(6, 9)
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", **options)
    found = read_image(tmp_path / f"a{suffix}", height=6, width=9, channels=1)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, stored[None])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp", ".ppm", ".tga"])
def test_colour_of_the_right_size_passes_bit_for_bit(tmp_path, suffix):
    stored = noise(6, 9, 3)
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored).save(tmp_path / f"a{suffix}", **options)
    found = read_image(tmp_path / f"a{suffix}", height=6, width=9, channels=3)
    np.testing.assert_array_equal(found, stored.transpose(2, 0, 1))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("format", FORMATS)
def test_every_known_format_is_one_that_pillow_opens(format):
    Image.init()
    assert format in Image.OPEN
    assert set(FORMATS[format]) <= SUFFIXES


def test_jpeg(tmp_path):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    stored = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), -1)
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg").astype(int) - stored).mean() < 2
    Image.fromarray(stored).save(
        tmp_path / "a.mpo", format="MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]
    )
    assert np.abs(pixels(tmp_path / "a.mpo").astype(int) - stored).mean() < 4


def test_colour_becomes_gray_by_itu_r_601_and_gray_three_equal_channels(tmp_path):
    stored = noise(40, 50, 3)
    Image.fromarray(stored).save(tmp_path / "colour.png")
    found = read_image(tmp_path / "colour.png", height=40, width=50, channels=1)[0]
    assert np.abs(found - stored @ [0.299, 0.587, 0.114]).max() < 0.51
    Image.fromarray(stored[..., 0]).save(tmp_path / "gray.png")
    found = read_image(tmp_path / "gray.png", height=40, width=50, channels=3)
    np.testing.assert_array_equal(found, np.stack([stored[..., 0]] * 3))


def test_one_bit(tmp_path):
    stored = noise(7, 11) > 127
    Image.fromarray(stored).save(tmp_path / "a.png")
    assert mode(tmp_path / "a.png") == "1"
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), stored * 255)


def test_palette(tmp_path):
    indices, palette = noise(7, 11) % 16, noise(16, 3)
    image = Image.fromarray(indices, "L").convert("P")
    image.putdata(indices.ravel())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png")
    assert mode(tmp_path / "a.png") == "P"
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), palette[indices])


def test_a_transparent_palette_lies_over_black(tmp_path):
    indices, palette = noise(7, 11) % 4, noise(4, 3)
    image = Image.new("P", (11, 7))
    image.putdata(indices.ravel())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", transparency=bytes([0, 255, 128, 255]))
    alpha = np.array([0, 255, 128, 255])
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), np.round(palette * (alpha[:, None] / 255))[indices])
    image.save(tmp_path / "a.gif", transparency=2)
    palette[2] = 0
    np.testing.assert_array_equal(pixels(tmp_path / "a.gif"), palette[indices])


def test_alpha_lies_over_black_for_every_value_and_every_alpha(tmp_path):
    value, alpha = np.meshgrid(np.arange(256), np.arange(256))
    expected = np.round(value * alpha / 255)
    rgba = np.stack([value, 255 - value, value, alpha], -1).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    found = pixels(tmp_path / "rgba.png")
    np.testing.assert_array_equal(found[..., 0], expected)
    np.testing.assert_array_equal(found[..., 1], np.round((255 - value) * alpha / 255))
    Image.fromarray(rgba[..., [0, 3]], "LA").save(tmp_path / "la.png")
    found = read_image(tmp_path / "la.png", height=256, width=256, channels=1)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_divided_by_257_and_rounded(tmp_path, suffix):
    stored = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(stored).save(tmp_path / f"a{suffix}")
    found = read_image(tmp_path / f"a{suffix}", height=256, width=256, channels=1)
    np.testing.assert_array_equal(found[0], np.round(stored / 257))


def test_sixteen_bits_of_a_big_endian_tiff(tmp_path):
    stored = np.arange(0, 65536, 97, dtype=">u2").reshape(26, 26)
    Image.frombytes("I;16B", (26, 26), stored.tobytes()).save(tmp_path / "a.tif")
    assert mode(tmp_path / "a.tif") == "I;16B"
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), np.round(stored / 257))


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (np.array([[0, 70000]], dtype=np.int32), "32-bit"),
        (np.array([[-1, 3]], dtype=np.int32), "32-bit"),
        (np.array([[0, 200]], dtype=np.int32), "32-bit"),
        (np.array([[0.0, 0.5]], dtype=np.float32), "float"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, stored, words):
    Image.fromarray(stored).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", words, "8 or 16 bits")


def test_cmyk(tmp_path):
    stored = noise(9, 9, 4)
    Image.fromarray(stored, "CMYK").save(tmp_path / "a.tif")
    expected = (255.0 - stored[..., :3]) * (255 - stored[..., 3:]) / 255
    assert np.abs(pixels(tmp_path / "a.tif") - expected).max() <= 1


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(np.full((5, 5), value, dtype=np.uint8)) for value in (10, 200, 90)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
    assert (read_image(tmp_path / "a.gif", height=5, width=5, channels=1) == 10).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
def test_exif_rotation_is_applied(tmp_path, suffix, orientation):
    blocks = np.kron(noise(3, 2), np.ones((16, 16), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.stack([blocks] * 3, -1)).save(tmp_path / f"a{suffix}", exif=exif)
    expected = UPRIGHT.get(orientation, UPRIGHT[1])(blocks)
    found = read_image(tmp_path / f"a{suffix}", height=expected.shape[0], width=expected.shape[1], channels=1)
    assert np.abs(found[0].astype(int) - expected).mean() < (0.01 if suffix in (".png", ".tif") else 3)
    assert image_size(tmp_path / f"a{suffix}") == expected.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 40), (41, 23), (8, 8), (7, 100), (64, 5), (300, 200)])
def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path, size, channels):
    stored = noise(*size, 3) if channels == 3 else noise(*size)
    Image.fromarray(stored).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", height=10, width=12, channels=channels)
    expected = bilinear(stored, 10, 12)
    assert found.shape == (channels, 10, 12)
    assert np.abs(found - (expected[None] if channels == 1 else expected.transpose(2, 0, 1))).max() < 1.01


def test_one_pixel_fills_the_image(tmp_path):
    Image.fromarray(np.array([[[7, 80, 200]]], dtype=np.uint8)).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png", height=5, width=3, channels=3)
    np.testing.assert_array_equal(found, np.broadcast_to(np.array([7, 80, 200])[:, None, None], (3, 5, 3)))
    assert image_size(tmp_path / "a.png") == (1, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_comes_back_from_its_image(channels):
    stored = noise(channels, 6, 9)
    np.testing.assert_array_equal(fit(from_array(stored), height=6, width=9, channels=channels), stored)


@pytest.mark.parametrize("channels", [1, 3])
def test_many_arrays_are_fitted_as_one_is(channels):
    size, stored, at = {"height": 8, "width": 5, "channels": 1}, np.stack([noise(channels, 6, 9)] * 3), np.array([2, 0])
    stored[2] //= 2
    found = fit_each(stored, at, **size)
    np.testing.assert_array_equal(found, np.stack([fit(from_array(stored[i]), **size) for i in at]))
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize(
    "name", ["a b.png", "two\nlines.png", "é三.png", os.fsdecode(b"\xff\xfe.png"), "'quoted'.png", "no suffix", "a.JPG"]
)
def test_any_file_name(tmp_path, name):
    path, stored = os.path.join(tmp_path, name), noise(4, 4)
    Image.fromarray(stored).save(path, format="PNG")
    np.testing.assert_array_equal(read_image(path, height=4, width=4, channels=1)[0], stored)
    assert image_size(path) == (4, 4)
    with open(path, "wb") as file:
        file.write(b"no image")
    refused(path)


@pytest.mark.parametrize("read", [lambda path: decode(path), lambda path: image_size(path)])
def test_files_that_are_no_images_are_refused(tmp_path, read):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image\n" * 100)
    (tmp_path / "random.jpg").write_bytes(noise(2000).tobytes())
    Image.new("L", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "eps.png").write_bytes((tmp_path / "a.eps").read_bytes())
    unknown = "no image of a known format"
    for name, words in {
        "missing.png": "no such file",
        ".": "is a directory",
        "empty.png": "is empty (0 bytes)",
        "text.png": "is no image but a text file",
        "random.jpg": unknown,
        "a.eps": "a PostScript drawing, which is not read: save it as PNG",
        "eps.png": "a PostScript drawing, which is not read: save it as PNG",
    }.items():
        refused(tmp_path / name, words)
        with pytest.raises(ImageError, match=words.replace("(", r"\(").replace(")", r"\)")):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".ppm"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_half_an_image_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path)


def test_a_cameras_raw_file_is_refused_by_its_name(tmp_path):
    """Its content calls itself TIFF, and Pillow would read the thumbnail in it."""
    Image.new("L", (9, 9), 200).save(tmp_path / "x.tif")
    (tmp_path / "x.tif").rename(tmp_path / "x.DNG")
    with pytest.raises(ImageError, match=r"x\.DNG' is a camera's raw file, which is not read: save it as PNG or JPEG"):
        read_image(tmp_path / "x.DNG", height=9, width=9, channels=1)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(300, 200, 8, 0, b"no pixels"))
    refused(path, "300x200 pixels: at most 1,000 are read", max_pixels=1000)
    refused(path, max_pixels=60_000)  # then it is damaged
    Image.fromarray(noise(200, 300)).save(path)
    assert decode(path, max_pixels=60_000).size == (300, 200)
    with pytest.raises(ImageError, match="at most 59,999"):
        decode(path, max_pixels=59_999)


@pytest.mark.parametrize("side", [8001, 10_000, 20_000])
def test_the_largest_image_has_a_limit(tmp_path, side):
    path = tmp_path / "a.png"
    path.write_bytes(png(side, side, 1, 0, b"no pixels"))
    refused(path, f"at most {MAX_PIXELS:,} are read")


def encoded(format):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(noise(9, 12, 3))
    (image.quantize(8) if format == "GIF" else image).save(file, format, exif=exif)
    return file.getvalue()


SEEDS = {format: encoded(format) for format in ("PNG", "JPEG", "GIF", "TIFF")}


def attempt(read):
    try:
        return read()
    except ImageError as error:
        return str(error)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "image"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    format=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_a_damaged_file_gives_an_image_or_an_image_error(scratch, format, edits, kept):
    content = bytearray(SEEDS[format])
    for place, value in edits:
        content[int(place * len(content))] = value
    scratch.write_bytes(content[: int(kept * len(content))])
    size = attempt(lambda: image_size(scratch))
    found = attempt(lambda: read_image(scratch, height=4, width=5, channels=3, max_pixels=1_000_000))
    if isinstance(found, str):
        assert len(found.splitlines()) == 1
    else:
        assert found.shape == (3, 4, 5)
        assert found.dtype == np.uint8
        assert size == decode(scratch).size[::-1]
