"""Any image file -> the uint8 array that a model wants. Training reads image folders through here too.

Letters: N images, B of them, C channels (1 gray, 3 RGB), H W pixels.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ffcore.contents import HEAD, image_of, what_is
from ffcore.errors import ImageError, ImageTooLarge
from ffcore.flat import BLACK, Depth, Ground, flat
from ffcore.formats import HUNGRY, formats_of, instead, is_raw

MAX_PIXELS = 64_000_000
SMALL = 1_000_000  # pixels of an image of which many may be decoded at once
# How files become pixels when a model is trained, recorded in exported models.
READING = {
    "resize": "shorter side, bilinear",
    "crop": "centre",
    "alpha": "over black",
    "sixteen_bit": "gray divided by 257, or by what a TIFF declares; colour by 256",
    "exif": "rotation applied",
}

T = TypeVar("T")
UInt8Array = npt.NDArray[np.uint8]
Source = str | os.PathLike[str] | bytes | Image.Image
_ORIENTATION = 0x0112  # the EXIF tag
_READ_WHOLE = 2**20  # bytes of a file that is read at once
# A JPEG may say its pixels again and again, scan after scan, each of which costs time and hardly any bytes: cameras
# write one, progressive files about ten.
_MOST_SCANS = 100
_SCAN = re.compile(rb"\xff\xda\0(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")  # how each begins: its components
# Blocks of more than 32 MiB go back to the system when an image is done with; of less, each thread's heap keeps them.
_BLOCK = 2**26
if "PILLOW_BLOCK_SIZE" not in os.environ:
    Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]
_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for a writer


def read_image(
    source: Source,
    *,
    height: int,
    width: int,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> UInt8Array:
    """Reads an image file of any size and mode. Safe in many threads, whose large images share one limit of memory.

    EXIF rotation is applied, alpha is laid over black, 16-bit gray is divided by 257, or by what a TIFF declares as its
    depth (Pillow reads 16-bit colour as its high byte), the shorter side is resized (bilinear) and the centre is
    cropped. Of an animation the first frame is read.

    Args:
        source: the file, or the content of one.
        height: of the result, in pixels.
        width: of the result, in pixels.
        channels: 1 (gray, ITU-R 601) or 3 (RGB).
        max_pixels: larger images are refused before they are decoded; WebP and JPEG 2000 above half of it.
        name: how errors name it; None means its path.

    Returns:
        uint8 [C, H, W], 0 to 255.

    Raises:
        ImageError: where the file is missing, empty, no image, damaged, or too large.
    """
    return read_picture(
        source,
        lambda image, _: fit(image, height=height, width=width, channels=channels),
        max_pixels=max_pixels,
        name=name,
    )


def decode(
    source: Source, *, ground: Ground = BLACK, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """Reads a file, or the content of one, into an upright image of mode L or RGB. Raises as `read_image` does."""
    return read_picture(source, lambda image, _: image, ground=ground, max_pixels=max_pixels, name=name)


def read_picture(
    source: Source,
    use: Callable[[Image.Image, bool], T],
    *,
    ground: Ground = BLACK,
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> T:
    """Returns what `use` makes of an upright image of mode L or RGB, while that is in memory.

    Args:
        source: as for `read_image`, or an image of Pillow, which stays as it is.
        use: is given the image, and whether it is nearly black since a file of 16 bits uses few of them.
        ground: what transparency is laid over.
        max_pixels: as for `read_image`.
        name: likewise.

    Raises:
        ImageError: as `read_image` does.
    """
    try:
        return _used(source, use, ground, max_pixels, name or _name(source))
    except ImageError as error:
        _let_go(error)
        raise


def is_image(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file's content is that of an image which is read, or would be, were it not damaged further on.

    Targa files have no mark of their own and are known by their suffix alone.
    """
    try:
        with _at_once(path) as file:
            head = _head(file)
            content = what_is(head)
            if not head or (content is not None and not content.plugin and image_of(head) is None):
                return False
            formats = [name for name in formats_of(head) if name != "TGA"]
            file.seek(0)
            with Image.open(file, formats=formats):
                return True
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except Exception:  # Pillow's openers raise nearly anything on what is none
        return False


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns a file's first bytes, none of what is no file: nothing is waited for. Raises OSError."""
    with _at_once(path) as file:
        return _head(file)


def image_size(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> tuple[int, int]:
    """Returns an image's upright (height, width) without decoding it. Raises ImageError, as `read_image` does."""
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else _at_once(source)
        with opened as file, Image.open(file, formats=formats_of(b"")) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            if turned and image.format == "TIFF":  # some releases of Pillow have turned its size already
                width, height = decode(source, name=name).size
                return height, width
            width, height = image.size
            return (width, height) if turned else (height, width)
    except Exception:
        width, height = decode(source, name=name).size  # raises an ImageError that says what is wrong
        return height, width


def fit(image: Image.Image, *, height: int, width: int, channels: int) -> UInt8Array:
    """Resizes the shorter side (bilinear), crops the centre, and returns uint8 [C, H, W]."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def fit_each(
    images_NCHW: UInt8Array, at_B: npt.NDArray[np.int64], *, height: int, width: int, channels: int
) -> UInt8Array:
    """Returns the images at some indices as `fit` makes them, uint8 [B, C, H, W]; one at a time is read."""
    fitted_BCHW = np.empty((len(at_B), channels, height, width), dtype=np.uint8)
    for fitted_CHW, i in zip(fitted_BCHW, at_B, strict=True):
        fitted_CHW[:] = fit(from_array(images_NCHW[i]), height=height, width=width, channels=channels)
    return fitted_BCHW


def from_array(pixels_CHW: UInt8Array) -> Image.Image:
    """Returns the Pillow image of uint8 [1 or 3, H, W]."""
    return Image.fromarray(pixels_CHW[0] if pixels_CHW.shape[0] == 1 else pixels_CHW.transpose(1, 2, 0))


class _Room:
    """Lets threads decode at once as many pixels as one image of the largest size has, so that memory has a limit."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def take(self, image: Image.Image) -> Iterator[None]:
        """Waits until there is room for an image, and holds it in the block."""
        pixels = min(image.width * image.height * (2 if image.format in HUNGRY else 1), self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_room = _Room(MAX_PIXELS)


def _at_once(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read; a pipe too is open at once, and gives nothing."""
    return open(path, "rb", opener=lambda name, _: os.open(name, _OPEN))


def _head(file: BinaryIO) -> bytes:
    return file.read(HEAD) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _name(source: Source) -> str:
    return "the image" if isinstance(source, bytes | Image.Image) else os.fsdecode(source)


def _used(source: Source, use: Callable[[Image.Image, bool], T], ground: Ground, max_pixels: int, name: str) -> T:
    with _opened(source, name, max_pixels) as (image, depth):
        if image.width * image.height <= SMALL:
            return use(*_upright(image, depth, name, max_pixels, ground))
        with _room.take(image):
            return use(*_upright(image, depth, name, max_pixels, ground))


def _let_go(error: BaseException | None) -> None:
    """Lets an error keep its lines, but not the pixels that stand in the variables of its frames."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _opened(source: Source, name: str, max_pixels: int) -> Iterator[tuple[Image.Image, Depth]]:
    """Opens a file; whatever is wrong with it, here or in the block, is an ImageError that names it.

    With its depth: a copy of an image of Pillow has none of what its file declares.
    """
    head = b""
    try:
        if isinstance(source, Image.Image):
            _check_size(name, source, max_pixels)
            depth = Depth.of(source)
            yield _copied(source, name), depth
            return
        head, content = (source[:HEAD], source) if isinstance(source, bytes) else _content(source, name)
        if content == b"":
            raise ImageError(f"{name!r} is empty (0 bytes)")
        whole = io.BytesIO(content) if content is not None else source
        with Image.open(whole, formats=formats_of(head)) as image:
            _check_size(name, image, max_pixels)
            if image.format in ("JPEG", "MPO"):
                _check_scans(name, image)
            yield image, Depth.of(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name!r} is {instead(head)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        said = re.search(r"\d+", str(error))
        count = f"{int(said[0]):,}" if said else "too many"
        raise ImageTooLarge(f"{name!r} has {count} pixels: at most {limit:,} are read (--max-pixels)") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageError(f"{name!r} cannot be read: {reason[:1].lower() + reason[1:]}") from error
    except MemoryError as error:
        raise ImageError(f"{name!r} does not fit into memory") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
        raise ImageError(f"{name!r} is damaged: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _content(path: str | os.PathLike[str], name: str) -> tuple[bytes, bytes | None]:
    """Returns a file's first bytes, and the whole of a small one: Pillow asks for a few bytes at a time."""
    if is_raw(path):
        raise ImageError(f"{name!r} is a camera's raw file, which is not read: save it as PNG or JPEG")
    file = os.open(path, _OPEN)
    try:
        status = os.fstat(file)
        if stat.S_ISFIFO(status.st_mode):
            raise ImageError(f"{name!r} is a pipe: hand its content over on standard input, as -")
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            raise ImageError(f"{name!r} is a device: name a file")
        content = os.read(file, status.st_size if status.st_size <= _READ_WHOLE else HEAD)
        return content[:HEAD], content if len(content) == status.st_size else None
    finally:
        os.close(file)


def _copied(image: Image.Image, name: str) -> Image.Image:
    """Returns a copy of an image of Pillow, of the same format."""
    if 0 in image.size:
        raise ImageError(f"{name!r} has {image.width}x{image.height} pixels: it shows nothing")
    try:
        copy = image.copy()
    except ValueError as error:
        if "closed" not in str(error):
            raise
        raise ImageError(f"{name!r} is an image that was closed: hand it over while it is open") from error
    copy.format = image.format
    return copy


def _check_size(name: str, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    most, of = (max_pixels // 2, f" of {image.format}") if image.format in HUNGRY else (max_pixels, "")
    if width * height > most:
        raise ImageTooLarge(f"{name!r} has {width}x{height} pixels: at most {most:,} are read{of} (--max-pixels)")


def _check_scans(name: str, image: ImageFile.ImageFile) -> None:
    file, count, block = image.fp, 0, b""
    assert file is not None
    place = file.tell()
    file.seek(0)
    while more := file.read(_READ_WHOLE):
        block = block[-4:] + more  # one may begin in the last
        count += len(_SCAN.findall(block))
    file.seek(place)
    if count > _MOST_SCANS:
        raise ImageError(f"{name!r} has {count:,} scans: a JPEG of at most {_MOST_SCANS} is read, save it again")


def _upright(image: Image.Image, depth: Depth, name: str, max_pixels: int, ground: Ground) -> tuple[Image.Image, bool]:
    """Decodes an opened image: mode L or RGB, EXIF rotation applied; and whether it is dim. It copies what it must."""
    image.load()
    _check_size(name, image, max_pixels)  # again, for an ICO may hold a larger image than it says
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):  # which alone holds 16 bits so
        kind = "float" if image.mode == "F" else "32-bit"
        raise ImageError(f"{name!r} has {kind} pixels: save it with 8 or 16 bits a channel")
    if image.mode == "La":  # from which Pillow converts to LA alone
        image = image.convert("LA")
    if image.info and image.getexif().get(_ORIENTATION, 1) != 1:  # EXIF data leave something in `info`
        ImageOps.exif_transpose(image, in_place=True)
    dim = depth.is_dim(image)
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image, dim
    return flat(image, depth, ground), dim
