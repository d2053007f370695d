"""What a file is by its first bytes, where it is not what was wanted: a pointer, a page, an archive, another format."""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD = 512  # bytes that are looked at


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
    (0, b"\x93NUMPY", Content("a NumPy array")),
    (0, b"\x89HDF", Content("an HDF5 file")),
)
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
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if re.match(rb"<!doctype html|<html", text):
        return _PAGE
    if re.match(rb"<svg|<\?xml[^>]*>\s*(<!--.*?-->\s*|<!doctype[^>]*>\s*)*<svg", text, re.DOTALL):
        return Content("an SVG drawing", picture=True)
    if text.startswith(b"<?xml"):
        return Content("an XML file")
    if head and not re.search(rb"[^\t\n\r\x20-\x7e]", head):
        return Content("a text file")
    return None
