"""Scenes that are annotated pictures: PASCAL VOC 2012 and the Oxford-IIIT Pet data set, through torchvision.

Scenes of training and validation are among the pictures published for training, those of test among VOC's `val` and
Pet's `test`. Letters: N scenes, C channels, S pixels of a scene's side, M objects.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ffcore.errors import DataError
from ffcore.files import sha256
from ffcore.images import fit
from ffcore.machine import cores
from ffmodels.draws import order
from fftrain.datasets.base import REASON, both
from fftrain.memory import check_memory
from fftrain.scenes import UNTOLD, Scenes


@dataclass(frozen=True, kw_only=True)
class _Published:
    """What is known of a data set: where it lies and comes from, its lists, classes, and what a mask's values mean."""

    place: str
    url: str
    splits: tuple[str, str]
    class_names: tuple[str, ...]
    values: Mapping[int, int]


VOC = "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
VOC += "sheep sofa train tvmonitor"
PUBLISHED = {
    "voc": _Published(
        place="VOCdevkit/VOC2012",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        splits=("train", "val"),
        class_names=(*VOC.split(),),
        values={**{k: k for k in range(21)}, 255: UNTOLD},
    ),
    "pet": _Published(
        place="oxford-iiit-pet",
        url="https://www.robots.ox.ac.uk/~vgg/data/pets",
        splits=("trainval", "test"),
        class_names=("pet",),
        values={1: 1, 2: 0, 3: UNTOLD},
    ),
}


@dataclass(frozen=True)
class Pictures:
    """A data set of annotated pictures.

    Args:
        name: of PUBLISHED.
        boxes: whether boxes are read, of VOC alone; else masks.
        folder: where data sets are kept.
    """

    name: str
    boxes: bool
    folder: Path

    @property
    def known(self) -> _Published:
        """What is known of it."""
        return PUBLISHED[self.name]

    @property
    def lists(self) -> list[Path]:
        """The files that list the pictures for training, and those for test."""
        voc = "ImageSets/Main" if self.boxes else "ImageSets/Segmentation"
        within = self.folder / self.known.place / {"voc": voc, "pet": "annotations"}[self.name]
        return [within / f"{split}.txt" for split in self.known.splits]

    def digest(self) -> str:
        """Returns a digest of the lists; "" where they are not there."""
        return " ".join(sha256(path)[:16] for path in self.lists if path.is_file())

    def open(self) -> tuple[Any, Any]:
        """Returns torchvision's data sets for training and for test, downloading what is missing.

        Raises:
            DataError: where they cannot be had, or are incomplete.
        """
        from torchvision import datasets

        def make(train: bool) -> Any:
            split, place = self.known.splits[not train], self.folder / self.known.place
            try:
                if self.name == "pet":
                    return datasets.OxfordIIITPet(self.folder, split, "segmentation", download=True)
                kind = datasets.VOCDetection if self.boxes else datasets.VOCSegmentation
                return kind(self.folder, "2012", split, download=not place.is_dir())
            except FileNotFoundError as error:
                raise DataError(
                    f"{place} is incomplete ({error.filename} is missing): complete it, or delete that folder and "
                    "it is downloaded again"
                ) from error

        return both(self.known.place, self.folder, make, f"get it from {self.known.url}")

    def scenes(self, split: str, count: int, *, size: int, channels: int, seed: int) -> Scenes:
        """Returns scenes of a split; those of training are the first, those of validation the last of one order.

        A picture is squeezed into a square, as SSD has it (Liu et al. 2016, arXiv 1512.02325): no object is lost. Its
        mask is that of the nearest pixels.

        Args:
            split: `train`, `validation` or `test`.
            count: N, as many as there are or fewer.
            size: S.
            channels: C.
            seed: of their order.

        Raises:
            DataError: where they cannot be had, or a file is damaged.
            MemoryError: where they do not fit into what is free.
        """
        check_memory(count * size**2 * (channels + 2), "scenes")
        train, test = self.open()
        data = test if split == "test" else train
        index = order(len(data), seed, 0, torch.device("cpu"))
        index = index[-count:] if split == "validation" else index[:count]

        def read(i: int) -> tuple[Tensor, ...]:
            try:
                picture, told = data[i]
                small = picture.resize((size, size), Image.Resampling.BILINEAR)
                image = torch.tensor(fit(small, height=size, width=size, channels=channels))
                return image, *(_boxes(told, picture.size, size) if self.boxes else self._mask(told, size))
            except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
                name = self.lists[split == "test"].read_text(encoding="utf-8").splitlines()[i].split()[0]
                reason = textwrap.shorten(f"{type(error).__name__}: {error}", REASON, placeholder=" ...")
                raise DataError(
                    f"{name} in {self.folder / self.known.place} cannot be read ({reason}): restore it, or delete that "
                    "folder and it is downloaded again"
                ) from error

        with ThreadPoolExecutor(cores()) as pool:
            images, classes, *objects = zip(*pool.map(read, index.tolist()), strict=True)
        padded = (pad_sequence([*of], batch_first=True) for of in objects)
        return Scenes(torch.stack(images), torch.stack(classes), *padded)

    def _mask(self, mask: Image.Image, size: int) -> tuple[Tensor, ...]:
        """Returns the class of each pixel, int16 [S, S], and no object."""
        with mask:
            if mask.mode not in ("L", "P"):
                raise ValueError(f"its mask is {mask.mode}, not one number a pixel")
            values = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST))
        if unknown := {*np.unique(values).tolist()} - self.known.values.keys():
            raise ValueError(f"its mask has the value {min(unknown)}")
        table = torch.tensor([self.known.values.get(value, UNTOLD) for value in range(256)], dtype=torch.int16)
        none = torch.zeros(0, dtype=torch.int64)
        return table[torch.tensor(values).long()], torch.zeros(0, 4), none, none.bool()


def _boxes(told: Mapping[str, Any], shape: tuple[int, int], size: int) -> tuple[Tensor, ...]:
    """Returns no mask, and of each object its box float32 [M, 4], its label and whether it is difficult [M]."""
    objects: Sequence[Mapping[str, Any]] = told["annotation"]["object"]
    edges = [[float(one["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax")] for one in objects]
    # Pixels are counted from 1, and the last one is within.
    for left, top, right, bottom in edges:
        if not (1 <= left <= right <= shape[0] and 1 <= top <= bottom <= shape[1]):
            raise ValueError(f"the box {left:g} {top:g} {right:g} {bottom:g} is not within the picture")
    boxes_M4 = (torch.tensor(edges).view(-1, 4) - torch.tensor([1, 1, 0, 0])) * (size / torch.tensor([*shape, *shape]))
    label = {name: k for k, name in enumerate(PUBLISHED["voc"].class_names, start=1)}
    labels_M = torch.tensor([label[one["name"]] for one in objects], dtype=torch.int64)
    difficult_M = torch.tensor([one.get("difficult") == "1" for one in objects], dtype=torch.bool)
    return torch.zeros(0, 0, dtype=torch.int16), boxes_M4, labels_M, difficult_M
