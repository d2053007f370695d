"""Any image file -> the uint8 array that a model wants. Training reads image folders through here too.

Letters: C channels (1 gray, 3 RGB), H W pixels.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ffserve.errors import ImageError

# Formats that Pillow decodes by itself; others start programs (EPS) or are no pictures.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".mpo"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "TGA": (".tga",),
    "ICO": (".ico",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 64_000_000

# How files become pixels, recorded in exported models.
READING = {
    "resize": "shorter side, bilinear",
    "crop": "centre",
    "alpha": "over black",
    "sixteen_bit": "gray divided by 257, colour by 256",
    "exif": "rotation applied",
}

UInt8Array = npt.NDArray[np.uint8]


def read_image(
    path: str | os.PathLike[str], *, height: int, width: int, channels: int, max_pixels: int = MAX_PIXELS
) -> UInt8Array:
    """Reads an image file of any size and mode.

    EXIF rotation is applied, alpha is laid over black, 16-bit gray is divided by 257 (Pillow reads 16-bit colour as
    its high byte), the shorter side is resized (bilinear) and the centre is cropped. Of an animation the first frame
    is read.

    Args:
        path: the file.
        height: of the result, in pixels.
        width: of the result, in pixels.
        channels: 1 (gray, ITU-R 601) or 3 (RGB).
        max_pixels: larger images are refused before they are decoded.

    Returns:
        uint8 [C, H, W], 0 to 255.

    Raises:
        ImageError: where the file is missing, empty, no image, damaged, or too large.
    """
    return fit(decode(path, max_pixels=max_pixels), height=height, width=width, channels=channels)


def decode(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a file into an upright image of mode L or RGB. Raises ImageError, as `read_image` does."""
    name = os.fsdecode(path)
    try:
        if Path(path).stat().st_size == 0:
            raise ImageError(f"{name!r} is empty (0 bytes)")
        with Image.open(path, formats=list(FORMATS)) as image:
            _check_size(name, image, max_pixels)
            image.load()
            if image.mode == "I" and image.format != "PPM":  # which alone holds 16 bits so
                raise ImageError(f"{name!r} has 32-bit pixels: save it with 8 or 16 bits a channel")
            return _flat(name, ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name!r} is no image of a known format ({', '.join(FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name!r} has too many pixels: at most {max_pixels:,} are read") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{name!r} cannot be read: {reason[:1].lower() + reason[1:]}") from error
    except MemoryError as error:
        raise ImageError(f"{name!r} does not fit into memory") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        raise ImageError(f"{name!r} is damaged: {type(error).__name__}: {' '.join(str(error).split())}") from error


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns an image's upright (height, width) without decoding it. Raises ImageError, as `read_image` does."""
    try:
        with Image.open(path, formats=list(FORMATS)) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            if turned and image.format == "TIFF":  # some releases of Pillow have turned its size already
                width, height = decode(path).size
                return height, width
            width, height = image.size
            return (width, height) if turned else (height, width)
    except Exception:
        width, height = decode(path).size  # raises an ImageError that says what is wrong
        return height, width


def fit(image: Image.Image, *, height: int, width: int, channels: int) -> UInt8Array:
    """Resizes the shorter side (bilinear), crops the centre, and returns uint8 [C, H, W]."""
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def from_array(pixels_CHW: UInt8Array) -> Image.Image:
    """Returns the Pillow image of uint8 [1 or 3, H, W]."""
    return Image.fromarray(pixels_CHW[0] if pixels_CHW.shape[0] == 1 else pixels_CHW.transpose(1, 2, 0))


def _check_size(name: str, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{name!r} has {width}x{height} pixels: at most {max_pixels:,} are read")


def _flat(name: str, image: Image.Image) -> Image.Image:
    """Returns the image as mode L or RGB: 8 bits a channel, alpha over black."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _scaled(np.asarray(image).astype(np.uint32))
    if image.mode == "F":
        raise ImageError(f"{name!r} has float pixels: save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _scaled(values: npt.NDArray[np.uint32]) -> Image.Image:
    """Returns 16-bit gray values as 8-bit ones: divided by 257, rounded."""
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
