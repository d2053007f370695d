"""A decoded image of any mode -> mode L or RGB: the depth that a file declares, transparency over a ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

Ground = tuple[int, ...] | None
"""What transparency is laid over: levels of gray or of red, green, blue; None: black under light, white under dark."""
BLACK = (0,)
DIM = 8  # values of at most this share of what they can be come out nearly black
_PHOTOMETRIC, _BITS, _LARGEST = 262, 258, 281  # tags of TIFF
_STRIP = 1_000_000  # pixels that are made flat at once
_SEEN = 256  # pixels a side by which it is told what is visible


@dataclass(frozen=True)
class Depth:
    """What the values of a file's pixels mean."""

    deep: bool
    """Whether they have 16 bits."""
    largest: int = 2**16 - 1
    """What 16-bit gray goes up to."""
    negative: bool = False
    """Whether its zero is white."""

    @classmethod
    def of(cls, image: Image.Image) -> Depth:
        """Reads it from an image that is opened and not decoded yet; a TIFF may declare fewer bits than it takes."""
        gray = image.mode.startswith("I")
        if not gray or image.format != "TIFF":
            return cls(gray or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())))
        tags = getattr(image, "tag_v2", {})
        whole = 2 ** min([*tags.get(_BITS, ()), 16]) - 1
        said = max([*np.atleast_1d(tags.get(_LARGEST, 0))])
        return cls(True, int(said) if 0 < said < whole else whole, tags.get(_PHOTOMETRIC) == 0)

    def is_dim(self, image: Image.Image) -> bool:
        """Returns whether a decoded image uses so little of its 16 bits that it comes out nearly black."""
        if not self.deep:
            return False
        if image.mode in ("L", "RGB", "RGBA", "LA", "CMYK"):  # of which Pillow keeps the high bytes
            return bool(np.max(image.getextrema()) * DIM <= 255)
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        return bool(0 < (self.largest - low if self.negative else high) * DIM <= self.largest)


def flat(image: Image.Image, depth: Depth, ground: Ground) -> Image.Image:
    """Returns a decoded image as mode L or RGB: 8 bits a channel, transparency laid over a ground."""
    under = _against(image) if ground is None and image.has_transparency_data else ground or BLACK
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return _flat(image, depth, under)
    found = None
    for top in range(0, image.height, rows):
        part = _flat(image.crop((0, top, image.width, min(top + rows, image.height))), depth, under)
        found = found or Image.new(part.mode, image.size)
        found.paste(part, (0, top))
    assert found is not None
    return found


def _flat(image: Image.Image, depth: Depth, ground: tuple[int, ...]) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.minimum(np.asarray(image).astype(np.uint32), depth.largest)
        values = depth.largest - values if depth.negative else values
        return Image.fromarray(((values * 255 + depth.largest // 2) // depth.largest).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*(ground if len(ground) == 3 else ground * 3), 255))
        return Image.alpha_composite(under, image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _against(image: Image.Image) -> tuple[int, ...]:
    """Returns the ground that what is visible stands out from: black under what is light, white under what is dark."""
    size = [max(1, min(side, _SEEN)) for side in image.size]
    small = image.resize(size, Image.Resampling.NEAREST).convert("RGBA")  # of a palette there is no mean
    levels, alpha = (np.asarray(band, dtype=np.float64) for band in (small.convert("L"), small.getchannel("A")))
    return (255,) if (levels * alpha).sum() < 127.5 * alpha.sum() else BLACK
