"""Classes of images, by an exported model with a head."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffcore.errors import ImageError, ModelError, UsageError
from ffcore.folders import Item
from ffcore.images import MAX_PIXELS
from ffserve.session import Model, find_model
from ffserve.stream import BATCH_SIZE, Batch, stream

Image = str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image, the first the most; probabilities 0 to 1."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    inverted: bool = False
    """Whether the image was turned into its negative first."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0]


class Classifier:
    """Classifies images with an exported model. Safe to share between threads.

    Args:
        model: an .onnx file, a folder with one, a loaded `Model`, or None for FFSERVE_MODEL or the bundled model.
        threads: CPU threads of a run; None means all cores.
        device: `auto`, `cpu` or `cuda`, as `Model` takes it; not for a loaded one.
        provider_options: of the CUDA provider.

    Raises:
        ModelError: where the model is missing, damaged, or has no head.
        DeviceError: where `cuda` was asked for and does not work.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        *,
        threads: int | None = None,
        device: str = "auto",
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(model, Model):
            model = Model(find_model(model), threads=threads, device=device, provider_options=provider_options)
        self.model = model
        if model.about.class_names is None:
            raise ModelError(
                f"{model.path} has no probe, it gives features alone: "
                "`fftrain probe RUN` and `ffexport RUN` make one with classes, or name another with --model"
            )
        self.class_names = model.about.class_names

    def predict(
        self,
        images: Iterable[Image],
        *,
        top_k: int = 5,
        batch_size: int = BATCH_SIZE,
        invert: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> list[Prediction]:
        """Returns a prediction for each image, in order.

        Args:
            images: paths of image files, contents of such as bytes, or uint8 arrays [C, H, W] of the model's size;
                any number, but not one by itself.
            top_k: how many classes of each image, at least 1.
            batch_size: images of one run.
            invert: `auto` (see `ffserve.paper.inverts`), `yes` or `no`.
            max_pixels: larger images are refused.

        Raises:
            ImageError: where an image cannot be read.
            ModelError: where an array has another type or shape.
            UsageError: where an argument is not legal.
        """
        if isinstance(images, str | bytes | bytearray | os.PathLike):
            raise UsageError(f"images is one {type(images).__name__}: give a list, [image]")
        items = [Item(_name(image, number), image) for number, image in enumerate(images)]
        for item in items:
            if isinstance(item.source, np.ndarray):
                self.model.check(item.source[None])
        predictions = []
        for batch in self.predict_batches(
            items, top_k=top_k, batch_size=batch_size, invert=invert, max_pixels=max_pixels
        ):
            for _, found in batch:
                if isinstance(found, ImageError):
                    raise found
                predictions.append(found)
        return predictions

    def predict_batches(
        self,
        items: Iterable[Item],
        *,
        top_k: int = 5,
        batch_size: int = BATCH_SIZE,
        invert: str = "auto",
        max_pixels: int = MAX_PIXELS,
        workers: int | None = None,
        processes: bool = False,
    ) -> Iterator[list[tuple[Item, Prediction | ImageError]]]:
        """Yields up to `batch_size` items at a time, each with its prediction or with why it could not be read.

        In order, and in constant memory. `ffcore.folders.find` makes items of files, folders and patterns;
        `workers` and `processes` are those of `ffserve.stream.stream`; the other arguments are those of `predict`.

        Raises:
            ModelError: where the model cannot be run, or an array is not of its size.
            UsageError: where an argument is not legal.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}: it must be at least 1")
        batches = stream(
            self.model,
            items,
            batch_size=batch_size,
            invert=invert,
            max_pixels=max_pixels,
            workers=workers,
            processes=processes,
        )
        return (self._predictions(batch, top_k) for batch in batches)

    def _predictions(self, batch: Batch, top_k: int) -> list[tuple[Item, Prediction | ImageError]]:
        probabilities_BK = batch.outputs["probabilities"]
        order_BK = np.argsort(-probabilities_BK, axis=1, kind="stable")[:, :top_k]
        top_BK = np.take_along_axis(probabilities_BK, order_BK, axis=1).tolist()
        rows = zip(order_BK.tolist(), top_BK, strict=True)
        found: list[tuple[Item, Prediction | ImageError]] = []
        for item, error, inverted in zip(batch.items, batch.errors, batch.inverted, strict=True):
            if error is not None:
                found.append((item, error))
                continue
            order, top = next(rows)
            classes = tuple(self.class_names[k] for k in order)
            found.append((item, Prediction(classes=classes, probabilities=tuple(top), inverted=inverted)))
        return found


def _name(image: Image, number: int) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    if not isinstance(image, bytes | np.ndarray):
        raise UsageError(
            f"images[{number}] is of type {type(image).__name__}: give a path, the bytes of a file, or a uint8 array"
        )
    return f"images[{number}]"
