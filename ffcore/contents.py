"""What a file is by its first bytes, where it is not what was wanted: a pointer, a page, an archive, another format."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

HEAD = 512  # bytes that are looked at
# Marks with which text begins in each encoding that has one; longer ones first, for one begins as another does.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


class Content(NamedTuple):
    """What a file is.

    Args:
        what: in words, with an article.
        mend: what gives the file that was wanted; empty where nothing general does.
        picture: whether it can be saved as an image.
        plugin: the package with which Pillow reads it, if there is one.
    """

    what: str
    mend: str = ""
    picture: bool = False
    plugin: str = ""


_LFS = Content("a Git LFS pointer, not the file itself", "run `git lfs pull`")
_PAGE = Content("an HTML page, as a download leaves that failed", "download the file itself")
_HEIC = Content("a HEIC image", picture=True, plugin="pillow-heif")
_AVIF = Content("an AVIF image", picture=True, plugin="pillow-avif-plugin")
_JXL = Content("a JPEG XL image", picture=True, plugin="pillow-jxl-plugin")
_VIDEO = Content("a video")
# Where, which bytes, what.
_KNOWN: tuple[tuple[int, bytes, Content], ...] = (
    (0, b"version https://git-lfs", _LFS),
    (0, b"\x1f\x8b", Content("a gzip archive", "unpack it with gunzip")),
    (0, b"PK\x03\x04", Content("a ZIP archive, as .ts, .pt2 and .npz files are")),
    (0, b"PK\x05\x06", Content("an empty ZIP archive")),
    (0, b"Rar!\x1a\x07", Content("a RAR archive", "unpack it with unrar")),
    (0, b"BZh", Content("a bzip2 archive", "unpack it with bunzip2")),
    (0, b"\xfd7zXZ\0", Content("an xz archive", "unpack it with unxz")),
    (0, b"\x28\xb5\x2f\xfd", Content("a zstd archive", "unpack it with unzstd")),
    (0, b"7z\xbc\xaf\x27\x1c", Content("a 7z archive", "unpack it")),
    (257, b"ustar", Content("a tar archive", "unpack it with tar")),
    (0, b"%PDF", Content("a PDF", picture=True)),
    (0, b"%!PS", Content("a PostScript drawing", picture=True)),
    (0, b"8BPS", Content("a Photoshop image", picture=True)),
    (0, b"gimp xcf", Content("a GIMP image", picture=True)),
    (0, b"\x76\x2f\x31\x01", Content("an OpenEXR image", picture=True)),
    (0, b"#?RADIANCE", Content("a Radiance image", picture=True)),
    (128, b"DICM", Content("a DICOM image", picture=True)),
    (0, b"\xff\x0a", _JXL),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", _JXL),
    (0, b"\x1a\x45\xdf\xa3", _VIDEO),
    (0, b"\0\0\x01\xba", _VIDEO),
    (4, b"ORTM", Content("an ORT model", "name the .onnx file that it was made from")),
    (4, b"TFL3", Content("a TensorFlow Lite model")),
    (0, b"\x93NUMPY", Content("a NumPy array")),
    (0, b"\x89HDF", Content("an HDF5 file")),
)
# Which of the formats that images are read from a file has; more than what they begin with where text might begin so.
_IMAGES = {
    rb"\x89PNG\r\n\x1a\n": "a PNG image",
    rb"\xff\xd8\xff": "a JPEG image",
    rb"GIF8[79]a.{0,4}[\0-\x08]": "a GIF image",
    rb"BM.{4}\0{4}": "a BMP image",
    rb"II\*\0|MM\0\*": "a TIFF image",
    rb"RIFF.{4}WEBPVP8": "a WebP image",
    rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s": "a PNM image",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 image",
    rb"\0\0\x01\0[^\0]\0": "an ICO image",
}
# Of files of ISO's base media format.
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), _HEIC),
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
}


def what_is(head: bytes) -> Content | None:
    """Returns what a file is that begins with these bytes; None where they are of nothing that is known here.

    Formats that images and models are read from are not among what is known.
    """
    for place, magic, content in _KNOWN:
        if head.startswith(magic, place):
            return content
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4]), len(head))
        named = [head[i : i + 4] for i in (8, *range(16, length, 4))]
        if b"avif" in named:  # which may call itself mif1 first
            return _AVIF
        return next((_BRANDS[brand] for brand in named if brand in _BRANDS), _VIDEO)
    return _program(head) or _written(head)


def image_of(head: bytes) -> Content | None:
    """Returns which image that is read begins with these bytes; None where none does that has a mark."""
    found = (what for mark, what in _IMAGES.items() if re.match(mark, head, re.DOTALL))
    return next((Content(what, picture=True) for what in found), None)


def is_text(head: bytes) -> bool:
    """Returns whether a file that begins with these bytes is text: UTF-8, or in an encoding that its mark tells."""
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # its last letter may be cut
    except UnicodeDecodeError:
        return False
    return bool(text) and not re.search(r"[\0-\x08\x0b\x0e-\x1f\x7f-\x9f]", text)


def _program(head: bytes) -> Content | None:
    """Returns what a file is in which programs keep numbers or objects, and that has no plain mark."""
    if re.match(rb"\x80[\x02-\x05][\x28-\x95]", head):
        return Content("a pickle, as torch.save wrote them once")
    if head[8:10] in (b'{"', b"{}") and int.from_bytes(head[:8], "little") < 2**27:
        return Content("a safetensors file")
    return None


def _written(head: bytes) -> Content | None:
    """Returns what kind of text a file is, whose marks are ASCII in nearly every encoding."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype html|html|head|body)\b", text, re.DOTALL):
        return _PAGE
    if re.match(rb"<svg|<\?xml[^>]*>\s*(<!--.*?-->\s*|<!doctype[^>]*>\s*)*<svg", text, re.DOTALL):
        return Content("an SVG drawing", picture=True)
    if text.startswith(b"<?xml"):
        return Content("an XML file")
    return Content("a text file") if is_text(head) else None
