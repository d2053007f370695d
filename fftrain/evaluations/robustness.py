"""Robustness: what linear probes that were fitted on clean images tell of images that were corrupted.

Every number is drawn by image: all sources, runs and processes see the same corrupted images. They are uint8, as files
would have them. Letters: N images, B batch, C channels, H W pixels, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.draws import Draws
from ffmodels.evaluated import Record
from fftrain.data import Facts, drawn
from fftrain.evaluations.base import Subject
from fftrain.features import rows_at_once
from fftrain.geometry import warp
from fftrain.loader import scaled
from fftrain.memory import rows_of
from fftrain.probe import Probe

KINDS = ("noise", "blur", "shift", "contrast")
# Right and down, by one pixel.
WAYS = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]

Positive = Annotated[float, setting(gt=0)]


class Robustness(Probe):
    """Accuracy of linear probes on images with noise, blurred, shifted, of less contrast; fitted on clean ones."""

    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the corruptions, and of the order of the rows.")

    images: int = setting(2000, ge=1, description="Held-out images of each split, each class its share.")
    noise: tuple[Positive, ...] = setting((0.1, 0.2, 0.4), description="Deviations of Gaussian noise; white is 1.")
    blur: tuple[Positive, ...] = setting((0.5, 1.0, 2.0), description="Deviations of a Gaussian blur, in pixels.")
    shift: tuple[Annotated[int, setting(ge=1)], ...] = setting(
        (1, 2, 4), description="Pixels by which an image is moved, one of eight ways; its edge is repeated."
    )
    contrast: tuple[Annotated[float, setting(ge=0, lt=1)], ...] = setting(
        (0.5, 0.25, 0.1), description="Shares that are left of what differs from the image's mean."
    )

    @property
    def corruptions(self) -> list[tuple[str, float]]:
        """Each with its strength."""
        return [(kind, strength) for kind in KINDS for strength in dict.fromkeys(getattr(self, kind))]

    def check_facts(self, facts: Facts, blocks: int) -> None:
        """Raises SettingError where nothing is corrupted, or an image would be moved out of itself."""
        if not self.corruptions:
            raise SettingError("robustness corrupts no image: give noise, blur, shift or contrast a strength")
        _, height, width = facts.shape
        if self.shift and (most := max(self.shift)) >= min(height, width):
            raise SettingError(
                f"robustness.shift is {most}, but images are {height}x{width}: move them by less, so that some is left"
            )

    def passes(self, facts: Facts) -> float:
        """Returns the held-out images, clean and under each corruption."""
        images = min(self.images, facts.validation) + min(self.images, facts.test)
        return float(images * (1 + len(self.corruptions)))

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the accuracy of each choice of blocks on some held-out images: clean, under each corruption, the mean.

        That of each corruption is of test alone: blocks are chosen by the mean on validation.
        """
        heads = []
        for choice in subject.choices():
            head, _ = self.probe(subject, choice, choice.features.standardised(together=True))
            heads.append((choice, head.to(subject.accelerator.device)))
        for split in ("validation", "test") if heads else ():
            right = self._right(subject, split, [(choice.columns, head) for choice, head in heads])
            for (choice, _), (clean, *reached) in zip(heads, right.T.tolist(), strict=True):
                told = {"clean accuracy": clean, "accuracy under corruptions": sum(reached) / len(reached)}
                if split == "test":
                    names = [
                        f"accuracy under {kind} {str(strength).removesuffix('.0')}"
                        for kind, strength in self.corruptions
                    ]
                    told |= dict(zip(names, reached, strict=True))
                for measure, value in told.items():
                    yield {"measure": measure, "split": split, "blocks": choice.name, "value": value}

    @torch.no_grad()
    def _right(self, subject: Subject, split: str, heads: list[tuple[slice, torch.nn.Module]]) -> Tensor:
        """Returns the share of images that each head tells right: a row clean, then one for each corruption."""
        encoder, device, whole = subject.encoder, subject.accelerator.device, subject.data.split(split)
        index_N = torch.arange(len(whole))[drawn(whole, self.images)]
        kinds = [("", 0.0), *self.corruptions]
        right = torch.zeros(len(kinds), len(heads), dtype=torch.int64, device=device)
        parts = torch.split(index_N, rows_at_once(encoder) if encoder else rows_of(subject.data.shape))
        for index_B in subject.reporter.track(parts, len(parts), f"corrupting {split} images, {subject.source}"):
            images, labels_B = (values[index_B].to(device) for values in (whole.images, whole.labels))
            draws = Draws(self.seed, 0, index_B.to(device))
            for i, (kind, strength) in enumerate(kinds):
                x = scaled(corrupted(images, kind, strength, draws, split))
                features_BF = torch.cat(encoder(x), 1) if encoder else x.flatten(1)
                for j, (columns, head) in enumerate(heads):
                    right[i, j] += (head(features_BF[:, columns]).argmax(-1) == labels_B).sum()
        return right.double().cpu() / len(index_N)


def corrupted(images_BCHW: Tensor, kind: str, strength: float, draws: Draws, name: str) -> Tensor:
    """Returns images that are corrupted in one way, uint8 [B, C, H, W].

    Args:
        images_BCHW: uint8.
        kind: one of KINDS, or "": as they are.
        strength: a deviation of white, one in pixels, pixels, or the share of contrast that is left.
        draws: of the images; the noise of one strength is that of another, made larger.
        name: of the draws: the split.
    """
    x = scaled(images_BCHW)
    if kind == "noise":
        x = x + strength * draws.normal(f"{name}/noise", *x.shape[1:])
    elif kind == "blur":
        size = 2 * min(math.ceil(4 * strength), min(x.shape[2:]) - 1) + 1
        x = gaussian_blur(x, [size, size], [strength, strength])
    elif kind == "shift":
        way_B2 = torch.tensor(WAYS, device=x.device)[draws.integers(f"{name}/shift", 0, len(WAYS))]
        right_B, down_B = (-strength * way_B2.to(x.dtype)).unbind(1)
        one_B, zero_B = torch.ones_like(right_B), torch.zeros_like(right_B)
        x = warp(x, (one_B, zero_B, right_B), (zero_B, one_B, down_B))
    elif kind == "contrast":
        x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, strength)
    return (255 * x).round().clamp(0, 255).to(torch.uint8)
