"""Damaged images and models, thousands of them: each is read, or refused in one line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ffcore.errors import ImageError, ModelError
from ffcore.formats import FORMATS, own_formats
from ffcore.images import read_image
from ffserve.session import Model
from tests.ffserve.conftest import write_model

SHORT = settings(max_examples=120, deadline=None, derandomize=True, database=None)
LONG = settings(max_examples=5000, deadline=None, database=None)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "double", "insert"]), st.floats(0, 1, exclude_max=True), st.binary(max_size=9)
    ),
    max_size=6,
)
KEPT = st.one_of(st.just(1.0), st.floats(0, 1))
# Which of Pillow's writers make what each format can hold.
SAVED = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "GIF": ["L", "P"],
    "BMP": ["1", "L", "P", "RGB"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"],
    "WEBP": ["RGB", "RGBA"],
    "PPM": ["1", "L", "RGB", "I;16"],
    "JPEG2000": ["L", "LA", "RGB", "RGBA"],
    "TGA": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "ICO": ["RGBA"],
    "DIB": ["1", "L", "P", "RGB"],
    "AVIF": ["RGB", "RGBA"],
}


def encoded(format, mode):
    file = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = Image.new("I;16", (12, 9), 700) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(file, format, **({"exif": exif} if format in ("PNG", "JPEG", "TIFF", "WEBP") else {}))
    return file.getvalue()


SEEDS = {f"{format} {mode}": encoded(format, mode) for format in own_formats() for mode in SAVED[format]}


def damaged(content, edits, kept):
    """Returns bytes with parts set, cut out, repeated or inserted, and an end cut off."""
    found = bytearray(content)
    for kind, place, value in edits:
        at = int(place * len(found))
        if kind == "set":
            found[at : at + len(value)] = value[: len(found) - at]
        elif kind == "cut":
            del found[at : at + len(value)]
        else:
            found[at:at] = found[max(0, at - 40) : at] if kind == "double" else value
    return bytes(found[: int(kept * len(found))])


def attempt(work):
    try:
        return work()
    except (ImageError, ModelError) as error:
        return str(error)


def check_image(content):
    found = attempt(lambda: read_image(content, height=4, width=5, channels=3, max_pixels=1_000_000))
    if isinstance(found, str):
        assert len(found.splitlines()) == 1
        assert found.startswith("'the image' ")
    else:
        assert (found.shape, found.dtype) == ((3, 4, 5), np.uint8)


def test_every_format_that_is_read_is_fuzzed():
    assert set(SAVED) == set(FORMATS)
    for content in SEEDS.values():
        check_image(content)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@SHORT
@given(seed=st.sampled_from(sorted(SEEDS)), edits=EDITS, kept=KEPT)
def test_damaged_images(seed, edits, kept):
    check_image(damaged(SEEDS[seed], edits, kept))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@LONG
@given(seed=st.sampled_from(sorted(SEEDS)), edits=EDITS, kept=KEPT)
def test_many_damaged_images(seed, edits, kept):
    check_image(damaged(SEEDS[seed], edits, kept))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A whole model's content, and where damaged ones are written."""
    path = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    write_model(path)
    return path.read_bytes(), path


def check_model(model_file, edits, kept):
    content, path = model_file
    path.write_bytes(damaged(content, edits, kept))
    model = attempt(lambda: Model(path, threads=1, device="cpu"))
    if isinstance(model, str):
        assert len(model.splitlines()) == 1
        assert model.startswith(str(path))
        return
    images = np.zeros((3, 1, 4, 4), dtype=np.uint8)
    found = attempt(lambda: model.run(images))
    if not isinstance(found, str):
        assert [len(values) for values in found.values()] == [3] * len(found)


@SHORT
@given(edits=EDITS, kept=KEPT)
def test_damaged_models(model_file, edits, kept):
    check_model(model_file, edits, kept)


@pytest.mark.slow
@LONG
@given(edits=EDITS, kept=KEPT)
def test_many_damaged_models(model_file, edits, kept):
    check_model(model_file, edits, kept)
