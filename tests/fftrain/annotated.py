"""Small files in the formats of PASCAL VOC 2012 and the Oxford-IIIT Pet data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fftrain.pictures import PUBLISHED

NAMES = PUBLISHED["voc"].class_names
SHAPE = (36, 48)
OBJECT = """<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>{hard}</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def made(index):
    """A picture uint8 [H, W, 3], where it shows which object, and these: name, whether difficult, edges of the box.

    A cat on the left and in most a dog on the right, each of a colour.
    """
    rng = np.random.default_rng(index)
    pixels, mask = rng.integers(0, 40, (*SHAPE, 3), dtype=np.uint8), np.zeros(SHAPE, np.uint8)
    objects = []
    for half, (name, colour) in enumerate((("cat", (220, 60, 60)), ("dog", (60, 60, 220)))):
        if half and index % 3 == 0:
            continue
        left, top = 2 + 24 * half + rng.integers(6), 2 + rng.integers(10)
        right, bottom = left + 8 + rng.integers(6), top + 10 + rng.integers(8)
        pixels[top:bottom, left:right] = colour
        mask[top:bottom, left:right] = 1 + half
        objects.append((name, half == 1 and index % 4 == 1, (left, top, right, bottom)))
    return pixels, mask, objects


def outlined(mask, value):
    """A mask whose objects have an outline of one pixel."""
    inner = np.zeros_like(mask, dtype=bool)
    inner[1:-1, 1:-1] = True
    for axis in (0, 1):
        for step in (-1, 1):
            inner &= np.roll(mask, step, axis) == mask
    return np.where((mask > 0) & ~inner, np.uint8(value), mask)


def write_voc(folder: Path, train=8, val=3):
    """VOCdevkit/VOC2012, with as many pictures of both kinds of lists."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    ids = [f"2012_{i:06d}" for i in range(train + val)]
    for kind in ("Segmentation", "Main"):
        (root / "ImageSets" / kind / "train.txt").write_text("\n".join(ids[:train]) + "\n")
        (root / "ImageSets" / kind / "val.txt").write_text("\n".join(ids[train:]) + "\n")
    for i, name in enumerate(ids):
        pixels, mask, objects = made(i)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        labels = np.array([0, *(1 + NAMES.index(of) for of in ("cat", "dog"))], np.uint8)[mask]
        coloured = Image.fromarray(outlined(labels, 255))
        coloured.putpalette([(k * step) % 256 for k in range(256) for step in (3, 5, 7)])
        coloured.save(root / "SegmentationClass" / f"{name}.png")
        boxes = [OBJECT.format(x + 1, y + 1, *end, name=of, hard=int(hard)) for of, hard, (x, y, *end) in objects]
        size = f"<size><width>{SHAPE[1]}</width><height>{SHAPE[0]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}<segmented>1</segmented>{''.join(boxes)}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text)
    return folder


def write_pet(folder: Path, train=8, val=3):
    """oxford-iiit-pet: trimaps of 1 (pet), 2 (ground), 3 (outline)."""
    root = folder / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):
        (root / name).mkdir(parents=True)
    ids = [f"{'Abyssinian' if i % 2 else 'beagle'}_{i}" for i in range(train + val)]
    lines = [f"{name} {1 + i % 2} {1 + i % 2} 1" for i, name in enumerate(ids)]
    (root / "annotations" / "trainval.txt").write_text("\n".join(lines[:train]) + "\n")
    (root / "annotations" / "test.txt").write_text("\n".join(lines[train:]) + "\n")
    for i, name in enumerate(ids):
        pixels, mask, _ = made(i)
        Image.fromarray(pixels).save(root / "images" / f"{name}.jpg", quality=95)
        trimap = np.array([2, 1, 1, *[3] * 253], np.uint8)[outlined(mask, 255)]
        Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
    return folder
