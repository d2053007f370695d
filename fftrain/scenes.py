"""Scenes made of a data set's images: some of them, partly hidden by each other, on a ground of fragments of others.

Which class each pixel shows and where each object lies is known. A scene is a function of (seed, split, its index), and
of images of its own split alone. Letters: B scenes of a chunk, N scenes, M objects at most, C channels, H W or S S
pixels of a scene, h w of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from ffmodels.draws import Draws
from fftrain.data import Split
from fftrain.loader import scaled
from fftrain.memory import check_memory, rows_of

# An object's side beside its image's, and the side of a fragment of the ground, both as shares.
SIDES, FRAGMENT = (0.9, 1.2), 0.3
# How much of an object has to be seen, and from which opacity on a pixel is the object's.
SEEN, OPAQUE = 0.5, 0.25
# How bright ink is.
INK = (0.6, 1.0)
# The draws of each split are others.
STREAMS = {"train": 0, "validation": 1, "test": 2}
# The class of a pixel that has no part in loss and scores.
UNTOLD = -1


@dataclass(frozen=True)
class Scenes:
    """Scenes of a split, on the CPU.

    Args:
        images: uint8 [N, C, H, W].
        classes: of each pixel, int16 [N, H, W]: 0 is the ground, 1 ... K are the classes; or UNTOLD. [N, 0, 0] where
            boxes alone are known.
        boxes: of what is seen of each object, float32 [N, M, 4]: left, top, right, bottom edge in pixels.
        labels: int64 [N, M], as in `classes`; 0: there is no such object. M is 0 where masks alone are known.
        difficult: bool [N, M]: whether to find it counts neither way.
    """

    images: Tensor
    classes: Tensor
    boxes: Tensor
    labels: Tensor
    difficult: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def at(self, index_N: Tensor) -> Scenes:
        """Returns some scenes."""
        return Scenes(*(getattr(self, part.name)[index_N] for part in fields(self)))

    def to(self, device: torch.device) -> Scenes:
        """Returns them on a device."""
        return Scenes(*(getattr(self, part.name).to(device) for part in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Scenes]) -> Scenes:
        """Returns scenes one after another."""
        return cls(*(torch.cat([getattr(one, part.name) for one in parts]) for part in fields(cls)))


def make_scenes(
    split: Split, name: str, count: int, *, size: int, objects: int, clutter: int, ink: bool, seed: int
) -> Scenes:
    """Returns scenes of a split's images.

    Layers are laid from front to back. An object of which those before it would hide more than half is left out. Where
    images are ink, light on dark, an object is its ink; else it is the whole image, a rectangle.

    Args:
        split: images and their labels.
        name: its name.
        count: N.
        size: H and W, at least SIDES[1] times the larger of h and w.
        objects: M; each scene has 1 to M, before those are left out that would be hidden.
        clutter: fragments of the ground.
        ink: whether images are ink.
        seed: of the draws.
    """
    channels, parts = split.images.shape[1], list[Scenes]()
    check_memory(count * size**2 * (channels + 2), "scenes")
    for index in torch.split(torch.arange(count), rows_of((channels + 4, size, size))):
        draws = Draws(seed, STREAMS[name], index)
        parts.append(_scenes(split, draws, size, objects, clutter, ink))
    return Scenes.joined(parts)


def _scenes(split: Split, draws: Draws, size: int, objects: int, clutter: int, ink: bool) -> Scenes:
    B, channels = len(draws.images), split.images.shape[1]
    seen_BCHW, clear_B1HW = torch.zeros(B, channels, size, size), torch.ones(B, 1, size, size)
    owner_BHW = torch.zeros(B, size, size, dtype=torch.int64)
    labels_BM = torch.zeros(B, objects, dtype=torch.int64)
    wanted_B = draws.integers("objects", 1, objects + 1)
    for layer in range(objects + clutter):
        index_B = draws.integers(f"image {layer}", 0, len(split))
        source_BCHW = _with_opacity(scaled(split.images[index_B]), draws, layer, ink)
        if layer >= objects:
            source_BCHW = source_BCHW * _fragment(source_BCHW, draws, layer)
        placed_BCHW = _placed(source_BCHW, draws, layer, size, within=layer < objects)
        colour_BCHW, opacity_B1HW = placed_BCHW[:, :-1], placed_BCHW[:, -1:]
        if layer < objects:
            whole_BHW = opacity_B1HW[:, 0] >= OPAQUE
            own_BHW = whole_BHW & (owner_BHW == 0)
            areas_B, whole_B = own_BHW.sum((1, 2)), whole_BHW.sum((1, 2))
            kept_B = (wanted_B > layer) & (areas_B > 0) & (areas_B >= SEEN * whole_B)
            owner_BHW += (layer + 1) * (own_BHW & kept_B[:, None, None])
            labels_BM[:, layer] = (split.labels[index_B] + 1) * kept_B
            colour_BCHW, opacity_B1HW = (x * kept_B[:, None, None, None] for x in (colour_BCHW, opacity_B1HW))
        seen_BCHW += clear_B1HW * colour_BCHW
        clear_B1HW *= 1 - opacity_B1HW
    classes_BHW = torch.cat([torch.zeros(B, 1, dtype=torch.int64), labels_BM], 1).gather(1, owner_BHW.flatten(1))
    return Scenes(
        images=(seen_BCHW * 255).round().clamp(0, 255).to(torch.uint8),
        classes=classes_BHW.view_as(owner_BHW).to(torch.int16),
        boxes=torch.stack([boxes_of(owner_BHW == layer + 1) for layer in range(objects)], 1),
        labels=labels_BM,
        difficult=torch.zeros_like(labels_BM, dtype=torch.bool),
    )


def _with_opacity(images_BCHW: Tensor, draws: Draws, layer: int, ink: bool) -> Tensor:
    """Returns images [B, C + 1, h, w], whose colour is multiplied by the opacity that is their last channel."""
    if not ink:
        return torch.cat([images_BCHW, torch.ones_like(images_BCHW[:, :1])], 1)
    bright_B = draws.uniform(f"ink {layer}", low=INK[0], high=INK[1])
    return torch.cat([images_BCHW * bright_B[:, None, None, None], images_BCHW.amax(1, keepdim=True)], 1)


def _fragment(images_BCHW: Tensor, draws: Draws, layer: int) -> Tensor:
    """Returns 1 within a rectangle of each image and 0 elsewhere, [B, 1, h, w]."""
    inside = []
    for axis, length in enumerate(images_BCHW.shape[2:]):
        start_B = draws.uniform(f"fragment {layer} {axis}", high=1 - FRAGMENT) * length
        far_BL = torch.arange(length) - start_B[:, None]
        inside.append((far_BL >= 0) & (far_BL < FRAGMENT * length))
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


def _placed(images_BCHW: Tensor, draws: Draws, layer: int, size: int, *, within: bool) -> Tensor:
    """Returns images in scenes that are empty but for them, of sizes and at places of their own; whole if within."""
    side_B = draws.uniform(f"side {layer}", low=SIDES[0], high=SIDES[1])
    line_S = (2 * torch.arange(size) + 1) / size - 1
    lines = []
    for axis, length in enumerate(images_BCHW.shape[2:]):
        share_B = side_B * length / size
        middle_B = draws.uniform(f"middle {layer} {axis}", low=-1.0) * (1 - share_B * within)
        lines.append((line_S - middle_B[:, None]) / share_B[:, None])
    y_BSS, x_BSS = lines[0][:, :, None].expand(-1, -1, size), lines[1][:, None].expand(-1, size, -1)
    return functional.grid_sample(images_BCHW, torch.stack([x_BSS, y_BSS], -1), align_corners=False)


def boxes_of(masks_BHW: Tensor) -> Tensor:
    """Returns the edges of what masks show, float32 [B, 4]: left, top, right, bottom; zeros where they show nothing."""
    edges = []
    for axis in (1, 2):  # over rows, over columns
        line_BL = masks_BHW.any(axis).int()
        edges.append((line_BL.argmax(1), (line_BL.shape[1] - line_BL.flip(1).argmax(1))))
    (left_B, right_B), (top_B, bottom_B) = edges
    found_B4 = torch.stack([left_B, top_B, right_B, bottom_B], 1).float()
    return found_B4 * masks_BHW.flatten(1).any(1)[:, None]
