"""What a file is by its first bytes."""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile

import pytest
from PIL import Image

from ffcore.contents import HEAD, what_is
from ffcore.errors import ImageError
from ffcore.formats import FORMATS, formats_of, own_formats
from ffcore.images import decode, is_image


def iso(brand, *others):
    """Returns the beginning of a file of ISO's base media format."""
    body = b"ftyp" + brand + bytes(4) + b"".join(others)
    return (4 + len(body)).to_bytes(4, "big") + body + bytes(100)


def packed():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "what", "mend"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer", "git lfs pull"),
        (b"\n <!doctype HTML><html>", "an HTML page", "download"),
        (b"\xef\xbb\xbf<html lang=de>", "an HTML page", "download"),
        (b"<!-- saved from -->\n<!-- x --><html>", "an HTML page", "download"),
        (b"<head><title>404</title>", "an HTML page", "download"),
        (b"<?xml version='1.0'?>\n<!DOCTYPE html>", "an HTML page", "download"),
        ("<html>é".encode("latin-1"), "an HTML page", "download"),
        (b"<header>", "a text file", ""),
        ("nicht gefunden: größer\n".encode(), "a text file", ""),
        ("\ufeffgrößer\r\n".encode("utf-16-le"), "a text file", ""),
        (b"x" * (HEAD - 1) + "ä".encode(), "a text file", ""),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive", "unrar"),
        (b"PK\x05\x06" + bytes(18), "an empty ZIP archive", ""),
        (pickle.dumps({"a": [1]}), "a pickle", ""),
        (pickle.dumps([1], protocol=2), "a pickle", ""),
        ((9).to_bytes(8, "little") + b'{"a":{}}', "a safetensors file", ""),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model", ""),
        (gzip.compress(b"x", mtime=0), "a gzip archive", "gunzip"),
        (packed(), "a ZIP archive", ""),
        (iso(b"heic"), "a HEIC image", ""),
        (iso(b"mif1", b"mif1", b"heic"), "a HEIC image", ""),
        (iso(b"mif1", b"mif1", b"avif"), "an AVIF image", ""),
        (iso(b"isom", b"mp42"), "a video", ""),
        (b"\xff\x0a" + bytes(20), "a JPEG XL image", ""),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<svg>", "an SVG drawing", ""),
        (b"<svg xmlns=", "an SVG drawing", ""),
        (b"<?xml version='1.0'?><a/>", "an XML file", ""),
        (bytes(4) + b"ORTM" + bytes(9), "an ORT model", ".onnx"),
        (b"%PDF-1.7", "a PDF", ""),
        (b"name,label\na.png,3\n", "a text file", ""),
    ],
)
def test_what_is_known(content, what, mend):
    found = what_is(content[:HEAD])
    assert found.what.startswith(what)
    assert mend in found.mend


@pytest.mark.parametrize(
    "content",
    [b"", bytes(100), b"a\x1bb", "gr\xf6\xdfer".encode("latin-1"), b"\x08\x0a\x12\x07pytorch", bytes(range(256))],
)
def test_what_is_not_known(content):
    assert what_is(content) is None


def saved(format):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 9, 9)).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", sorted({*own_formats()} - {"TGA"}))
def test_images_are_known_by_their_content_under_any_name(tmp_path, format):
    for name in ("a", "a.txt", "a.HEIC", "a.jpg_large"):
        (tmp_path / name).write_bytes(saved(format))
        assert is_image(tmp_path / name), name
    assert what_is(saved(format)[:HEAD]) is None or format == "AVIF"


def test_an_image_written_as_text_is_one_under_any_name(tmp_path):
    (tmp_path / "a").write_bytes(b"P2\n# made by hand\n2 1\n255\n7 9\n")
    assert is_image(tmp_path / "a")


@pytest.mark.parametrize(
    "content", [b"", b"text", iso(b"heic"), packed(), bytes(3000), b"BM no bitmap", b"P6 no pixels", b"\0\0\1\0\1\0"]
)
def test_what_is_no_image_is_none_under_any_name(tmp_path, content):
    (tmp_path / "a.bin").write_bytes(content)
    assert not is_image(tmp_path / "a.bin")


@pytest.mark.parametrize(("content", "plugin"), [(iso(b"heic"), "pillow-heif"), (b"\xff\x0a", "pillow-jxl-plugin")])
def test_a_picture_that_is_not_read_is_named_by_its_content(tmp_path, content, plugin):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(
        ImageError, match=rf"photo\.jpg' is a .* image, which is not read: pip install {plugin}, or save"
    ):
        decode(tmp_path / "photo.jpg")


def test_what_an_installed_package_reads_is_read(tmp_path, monkeypatch):
    """A stand-in for pillow-heif, which reads what it is given as PNG."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "import io\n"
        "def opened(file, name):\n"
        "    return PngImagePlugin.PngImageFile(io.BytesIO(file.read()[32:]))\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', opened, lambda head: head[4:12] == b'ftypheic')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    (tmp_path / "a.jpg").write_bytes(iso(b"heic")[:32].ljust(32, b"\0") + saved("PNG"))
    assert formats_of(iso(b"heic")) == (*own_formats(), "HEIF")
    assert decode(tmp_path / "a.jpg").getpixel((0, 0)) == (200, 9, 9)
    assert is_image(tmp_path / "a.jpg")


def test_formats_of_an_older_pillow(monkeypatch):
    own_formats.cache_clear()
    monkeypatch.setattr("ffcore.formats.features.check", lambda name: False)
    try:
        assert own_formats() == tuple(name for name in FORMATS if name != "AVIF")
    finally:
        own_formats.cache_clear()
