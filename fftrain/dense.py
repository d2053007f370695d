"""What a frozen network says of each place of a scene, and linear heads that read it: what dense evaluations share.

A network whose blocks give maps of any image reads the whole scene; one that takes images of one size, and the pixels,
are read through a window of that size that slides over the scene. Letters: N scenes, B of a batch, C channels, H W
pixels of a scene, h w places, D features, K outputs, R rates.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Shape
from ffmodels.draws import order
from ffmodels.encoder import Encoder
from ffmodels.evaluated import Record
from ffmodels.linear import Standardisation
from fftrain.data import Facts, ImageData
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import allocate, name_of, rows_at_once
from fftrain.loader import scaled
from fftrain.memory import rows_of
from fftrain.pictures import PUBLISHED, Pictures
from fftrain.scenes import SIDES, Scenes, make_scenes

# Scenes of a run's own images.
MADE = "made"
# What validation chooses from.
RATES = (5e-2, 1e-2, 1e-3)
BATCH = 8
SPLITS = ("train", "validation", "test")


class Dense(Evaluation):
    """An evaluation of what linear heads read off each place of scenes."""

    data: str = setting("made", description="Scenes.")
    scenes: int = setting(600, ge=1, description="Training scenes; validation and test have a third as many each.")
    size: int | None = setting(None, ge=1, description="Pixels of a scene's side. [default: twice an image's]")
    objects: int = setting(3, ge=1, le=20, description="Objects of a made scene, at most.")
    clutter: int = setting(6, ge=0, le=1000, description="Fragments of other images on the ground of a made scene.")
    ink: bool | None = setting(
        None,
        description="A made object is its ink, light on dark; false: its whole image. [default: true for gray images]",
    )
    stride: int | None = setting(
        None,
        ge=1,
        description="Pixels between windows, for pixels and networks without maps. [default: a quarter of an image]",
    )
    epochs: int = setting(10, ge=1, description="Passes over the training scenes.")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the scenes and of their order.")

    boxes: ClassVar[bool] = False
    """Whether it asks for boxes, not masks."""

    @model_validator(mode="after")
    def _of_made_scenes(self) -> Self:
        for name in ("objects", "clutter", "ink"):
            value, fields = getattr(self, name), type(self).model_fields
            if self.data != MADE and value != fields[name].default:
                raise SettingError(f"{name} is {value}, of scenes that are made, and data is {self.data}: leave it out")
        return self

    @property
    def labels(self) -> bool:  # type: ignore[override]
        """Whether it tells the labels of a run's images: pictures have their own."""
        return self.data == MADE

    @property
    def measured(self) -> str:
        """What it is called, and of which pictures."""
        return self.called if self.data == MADE else f"{self.called} on {self.data}"

    def place(self, dataset: str, target: str) -> dict[str, str]:
        """Returns whose labels it tells: those of images, or of pictures."""
        return super().place(dataset, target) if self.data == MADE else {"dataset": self.data, "target": "class"}

    def pictures(self, folder: Path) -> Pictures | None:
        """Returns the pictures that are scenes, of the folder where data sets are kept; None where scenes are made."""
        return None if self.data == MADE else Pictures(self.data, self.boxes, folder)

    def fetch(self, folder: Path) -> None:
        """Raises DataError where there are no pictures, SettingError where they are too few."""
        if pictures := self.pictures(folder):
            train, test = map(len, pictures.open())
            if self.scenes > (most := min(3 * train // 4, 3 * test)):
                raise SettingError(
                    f"{self.called}.scenes is {self.scenes}, and validation and test have a third as many each; "
                    f"{self.data} has {train} pictures for training and validation, {test} for test: ask for {most}"
                )

    def depends(self, folder: Path) -> dict[str, str]:
        """Returns which pictures there are."""
        pictures = self.pictures(folder)
        return {self.data: pictures.digest()} if pictures else {}

    def check_facts(self, facts: Facts, blocks: int) -> None:
        """Raises SettingError for scenes that are too small for an object, and windows that leave some out."""
        side = max(facts.shape[1:])
        if self.data == MADE and self.side(facts.shape) < SIDES[1] * side:
            raise SettingError(
                f"{self.called}.size is {self.size}, and objects have up to {SIDES[1]} times the {side} pixels of an "
                f"image: make it {int(SIDES[1] * side) + 1} or more"
            )
        if self.side(facts.shape) < side:
            raise SettingError(f"{self.called}.size is {self.size}, and a window has {side} pixels: make it no less")
        if self.stride is not None and self.stride > side:
            raise SettingError(
                f"{self.called}.stride is {self.stride}, and a window has {side} pixels: make it no more, so that all "
                "of a scene is seen"
            )

    @property
    def held_out(self) -> int:
        """Scenes of validation, and of test."""
        return -(-self.scenes // 3)

    def side(self, shape: Shape) -> int:
        """Returns the pixels of a scene's side, of images of a shape."""
        return self.size or 2 * max(shape[1:])

    def windows(self, shape: Shape) -> int:
        """Returns through how many windows a scene is read, of images of a shape."""
        return grid_of(shape, self.side(shape), self.stride)[1] ** 2

    def passes(self, facts: Facts) -> float:
        """Returns the windows of all scenes; a network with maps takes no more."""
        return float((self.scenes + 2 * self.held_out) * self.windows(facts.shape))

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of the heads' steps, as if each map had the places of a window's."""
        places = self.windows(facts.shape)
        classes = facts.classes if self.data == MADE else len(PUBLISHED[self.data].class_names)
        return self.epochs * self.scenes * places * len(RATES) * sum(6.0 * (classes + 1) * F for F in widths)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields each score on validation and test of each choice of blocks, with the rate that validation chose."""
        known = subject.data if self.data == MADE else PUBLISHED[self.data]
        classes = len(known.class_names)
        scenes = {split: self.scenes_of(subject.data, split, subject.folder) for split in SPLITS}
        with read_maps(subject, scenes, self.stride) as maps:
            for blocks in subject.blocks():
                name, of = name_of(blocks), maps.of(blocks)
                heads = self.fit(of, scenes["train"], classes, subject, name)
                validation = [self.told(head, of, scenes, "validation", classes) for head in heads]
                best = max(range(len(RATES)), key=lambda i: next(iter(validation[i].values())))
                test = self.told(heads[best], of, scenes, "test", classes)
                for split, values in (("validation", validation[best]), ("test", test)):
                    for measure, value in values.items():
                        yield {"measure": measure, "split": split, "blocks": name, "value": value, "lr": RATES[best]}

    @torch.no_grad()
    def told(self, head: Head, maps: Maps, scenes: Mapping[str, Scenes], split: str, classes: int) -> dict[str, float]:
        """Returns the scores of a head on a split."""
        indices = torch.split(torch.arange(len(scenes[split])), self.rows(scenes[split], classes))
        return self.scores((head(maps.batch(split, index)) for index in indices), scenes[split], classes)

    def scenes_of(self, data: ImageData, split: str, folder: Path) -> Scenes:
        """Returns the scenes of a split, of images or of the pictures in the folder where data sets are kept."""
        count = self.scenes if split == "train" else self.held_out
        size = self.side(data.shape)
        if pictures := self.pictures(folder):
            return pictures.scenes(split, count, size=size, channels=data.shape[0], seed=self.seed)
        return make_scenes(
            data.split(split),
            split,
            count,
            size=size,
            objects=self.objects,
            clutter=self.clutter,
            ink=data.shape[0] == 1 if self.ink is None else self.ink,
            seed=self.seed,
        )

    def fit(self, maps: Maps, scenes: Scenes, classes: int, subject: Subject, name: str) -> list[Head]:
        """Trains a linear head for each rate, side by side: AdamW without decay, a cosine to 0."""
        heads = [Head(maps.dims, self.outputs(classes), self.places(scenes)).to(maps.device) for _ in RATES]
        groups = [{"params": [*head.parameters()], "lr": lr} for head, lr in zip(heads, RATES, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        what, rows = f"{self.called} {subject.source} {name}", self.rows(scenes, classes)
        for epoch in subject.reporter.track(range(1, self.epochs + 1), self.epochs, what):
            for index in torch.split(order(len(scenes), self.seed, epoch, torch.device("cpu")), BATCH):
                optimizer.zero_grad()
                for part in torch.split(index, rows):
                    x, wanted = maps.batch("train", part), scenes.at(part).to(maps.device)
                    for head in heads:
                        torch.autograd.backward(self.loss(head(x), wanted) * (len(part) / len(index)))
                optimizer.step()
            schedule.step()
        return heads

    def rows(self, scenes: Scenes, classes: int) -> int:
        """Returns how many scenes are told at once: a batch, or fewer where what is told of them is large."""
        return min(BATCH, rows_of((self.outputs(classes), *self.places(scenes))))

    @abstractmethod
    def outputs(self, classes: int) -> int:
        """Returns K, what a head tells of each place."""

    @abstractmethod
    def places(self, scenes: Scenes) -> tuple[int, int]:
        """Returns of how many places a head tells it, down and across."""

    @abstractmethod
    def loss(self, told_BKhw: Tensor, scenes: Scenes) -> Tensor:
        """Returns the mean loss of what a head tells of some scenes."""

    @abstractmethod
    def scores(self, told: Iterable[Tensor], scenes: Scenes, classes: int) -> dict[str, float]:
        """Returns shares of 1 by their names, of what a head tells of scenes, [B, K, h, w] of some at once.

        The first is what validation chooses by.
        """


class Head(nn.Module):
    """Maps [B, h, w, D] of some blocks -> outputs [B, K, h, w]: linear at each place, resized, summed over blocks."""

    def __init__(self, dims: Sequence[int], outputs: int, places: tuple[int, int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(D, outputs) for D in dims])
        self.places = places
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the outputs."""
        told = [resized(part(x).movedim(-1, 1), self.places) for part, x in zip(self.parts, maps, strict=True)]
        return reduce(torch.add, told)


def resized(x_BKhw: Tensor, places: tuple[int, int]) -> Tensor:
    """Returns a map of other places: means where they are fewer, else bilinear."""
    if x_BKhw.shape[-2] > places[0]:
        return functional.adaptive_avg_pool2d(x_BKhw, places)
    return functional.interpolate(x_BKhw, places, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Maps:
    """What is read of each place of scenes, of some blocks.

    Args:
        splits: of each split the map of each block, float32 [N, h, w, D], on the CPU.
        standards: of each block, by which its map is standardised as it is read.
        device: where batches are wanted.
    """

    splits: Mapping[str, Sequence[Tensor]]
    standards: Sequence[Standardisation]
    device: torch.device

    @property
    def dims(self) -> list[int]:
        """D of each block."""
        return [len(standard.mean_F) for standard in self.standards]

    def of(self, blocks: Sequence[int]) -> Maps:
        """Returns those of some blocks; of the pixels for none."""
        chosen = blocks or (0,)
        splits = {split: [maps[i] for i in chosen] for split, maps in self.splits.items()}
        return Maps(splits, [self.standards[i] for i in chosen], self.device)

    def batch(self, split: str, index_B: Tensor) -> list[Tensor]:
        """Returns the standardised maps of some scenes, [B, h, w, D]."""
        pairs = zip(self.standards, self.splits[split], strict=True)
        return [standard.apply_(map_NhwD[index_B]).to(self.device) for standard, map_NhwD in pairs]


@contextmanager
def read_maps(subject: Subject, scenes: Mapping[str, Scenes], stride: int | None) -> Iterator[Maps]:
    """Gives the maps of all blocks, in memory or, where they take more than the subject may, in a mapped file.

    Raises:
        MemoryError: where they do not fit into what is free.
        RunError: where that file does not fit on the disk.
    """
    device = subject.accelerator.device
    images = {split: of.images for split, of in scenes.items()}
    read = reader(subject.encoder, subject.data.shape, images["train"].shape[-1], stride)
    with torch.no_grad():
        first = images["train"][:1].to(device if subject.encoder else "meta")
        shapes = [x.shape[1:] for x in read(scaled(first))]
    sizes = [len(of) * shape.numel() for of in images.values() for shape in shapes]
    count, at_once = sum(sizes), rows_of(images["train"].shape[1:], *shapes)
    with allocate(count, subject.run.path if 4 * count > subject.memory else None) as (storage, _):
        parts = iter(torch.split(storage, sizes))
        splits = {split: [next(parts).view(-1, *shape) for shape in shapes] for split in images}
        starts = [(split, start) for split, of in images.items() for start in range(0, len(of), at_once)]
        with torch.no_grad():
            for split, start in subject.reporter.track(starts, len(starts), "reading scenes"):
                found = read(scaled(images[split][start : start + at_once].to(device)))
                for kept, x in zip(splits[split], found, strict=True):
                    kept[start : start + at_once] = x
        yield Maps(splits, [Standardisation.of(of.flatten(0, 2)) for of in splits["train"]], device)


def reader(encoder: Encoder | None, shape: Shape, side: int, stride: int | None) -> Callable[[Tensor], list[Tensor]]:
    """Returns what reads scenes [B, C, H, W] in [0, 1]: a map of each block, or of the pixels, [B, h, w, D].

    Args:
        encoder: the network; None for pixels.
        shape: of the images that it was trained on.
        side: H and W.
        stride: pixels between windows; None means a quarter of an image.
    """
    if encoder is not None and _has_maps(encoder, side):
        return lambda scenes: [x.movedim(1, -1) for x in encoder.maps(scenes)]
    height, width = shape[1:]
    step, places = grid_of(shape, side, stride)
    # The middle of a window is that of the place: half of what is beyond its stride lies before it.
    before = [(length - step) // 2 for length in (width, height)]
    after = [(places - 1) * step + length - side - b for length, b in zip((width, height), before, strict=True)]

    def windows(scene_1CHW: Tensor) -> list[Tensor]:
        padded = functional.pad(scene_1CHW, [before[0], after[0], before[1], after[1]])
        cut_hwCHW = padded[0].unfold(1, height, step).unfold(2, width, step).movedim(0, 2)  # a view
        if encoder is None:
            return [cut_hwCHW.flatten(2)]
        at_once = rows_at_once(encoder)
        lines = (line.flatten(0, 1) for line in torch.split(cut_hwCHW, max(1, at_once // places)))
        found = zip(*(encoder(part) for line in lines for part in torch.split(line, at_once)), strict=True)
        return [torch.cat(x).view(places, places, -1) for x in found]

    return lambda scenes: [*map(torch.stack, zip(*map(windows, torch.split(scenes, 1)), strict=True))]


def grid_of(shape: Shape, side: int, stride: int | None) -> tuple[int, int]:
    """Returns the pixels between windows of a shape, and how many lie beside each other in a scene."""
    step = stride or max(1, max(shape[1:]) // 4)
    return step, -(-side // step)


@torch.no_grad()
def _has_maps(encoder: Encoder, side: int) -> bool:
    """Whether a network reads scenes: an image's features are those of a place, or of some."""
    first = next(encoder.backbone.parameters(), torch.empty(0))
    try:
        maps = encoder.maps(torch.zeros(1, encoder.backbone.shape[0], side, side, device=first.device))
    except torch.OutOfMemoryError:
        raise
    except (SettingError, RuntimeError):  # an activation is no map; or the network takes images of one size
        return False
    return [x.shape[1] * encoder.backbone.keeps**2 for x in maps] == [*encoder.dims]
