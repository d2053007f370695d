"""Which image formats are read, and what a file is said to be that is of none of them."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache

from PIL import Image, features

from ffcore.contents import what_is

# Formats that Pillow decodes by itself; others start programs (EPS) or are no pictures. A file is known by its content;
# the suffixes are those under which one that is damaged is still called an image.
FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".jpg_large", ".jpeg_large", ".mpo"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff", ".btf"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".jpg2"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "ICO": (".ico",),
    "AVIF": (".avif", ".avifs"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Cameras' raw files, whose content calls itself TIFF: Pillow would read the thumbnail in them.
RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"})
# What packages beside Pillow add: the format's name there, and what registers it.
_PLUGINS = {
    "pillow-heif": ("HEIF", "pillow_heif", "register_heif_opener"),
    "pillow-jxl-plugin": ("JXL", "pillow_jxl", ""),
}
# Formats whose decoders hold several copies of an image: half as many pixels are read, so that memory stays under 1 GB.
HUNGRY = ("WEBP", "JPEG2000", "AVIF", "HEIF", "JXL")


@cache
def own_formats() -> tuple[str, ...]:
    """Returns the formats that the installed Pillow reads by itself: older ones lack AVIF."""
    return tuple(name for name in FORMATS if name != "AVIF" or features.check("avif"))


def formats_of(head: bytes) -> tuple[str, ...]:
    """Returns the formats that a file is opened as that begins so: with a package's that reads it, if it is here."""
    content = what_is(head)
    name, module, register = _PLUGINS.get(content.plugin if content else "", ("", "", ""))
    if not name or importlib.util.find_spec(module) is None:
        return own_formats()
    plugin = importlib.import_module(module)
    if register and name not in Image.OPEN:
        getattr(plugin, register)()
    return (*own_formats(), name)


def is_raw(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is a camera's raw one by its name."""
    return os.path.splitext(os.fspath(path))[1].lower() in RAW_SUFFIXES


def instead(head: bytes) -> str:
    """Returns what a file is that begins so and cannot be opened as an image, and what mends it."""
    content = what_is(head)
    if content is None:
        if head[:4] in (b"II*\0", b"MM\0*"):
            return "a TIFF image of a kind that Pillow does not read: save it as PNG, with 8 bits a channel"
        return f"no image of a known format ({', '.join(own_formats())})"
    if content.picture:
        pip = f"pip install {content.plugin}, or " if content.plugin else ""
        return f"{content.what}, which is not read: {pip}save it as PNG or JPEG"
    return f"no image but {content.what}" + (f": {content.mend}" if content.mend else "")
