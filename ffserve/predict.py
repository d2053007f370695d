"""Classes of images, by an exported model with a head."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from ffcore.errors import ImageError, ModelError, UsageError
from ffcore.folders import Item
from ffcore.images import MAX_PIXELS
from ffserve.account import Account
from ffserve.drawing import INVERTED
from ffserve.given import as_path, check_count, content_of
from ffserve.session import Model, Source, find_model
from ffserve.stream import BATCH_SIZE, Batch, stream

_MODES = (1, 2, 3, 4)  # channels of gray, gray and alpha, RGB, RGB and alpha
Image = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | PIL.Image.Image | npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image, the first the most; probabilities 0 to 1."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    did: frozenset[str] = frozenset()
    """What was done for it first and is to be said of it: the keys of `ffserve.account.WORDS`."""

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0]

    @property
    def inverted(self) -> bool:
        """Whether the image was turned into its negative first."""
        return INVERTED in self.did


class Classifier:
    """Classifies images with an exported model. Safe to share between threads.

    It can be pickled, for pools of processes and clusters, and used after a fork, as `Model` can.

    Args:
        model: an .onnx file, the content of one (bytes, or a file opened in binary mode), a folder with one, a loaded
            `Model`, or None for FFSERVE_MODEL or the bundled model.
        threads: CPU threads of a run; None means as many as the process may keep busy.
        device: `auto`, `cpu` or `cuda`, as `Model` takes it; not for a loaded one.
        provider_options: of the CUDA provider.

    Raises:
        ModelError: where the model is missing, damaged, or has no head.
        DeviceError: where `cuda` was asked for and does not work.
        UsageError: where an argument is not legal.
    """

    def __init__(
        self,
        model: Source | Model | None = None,
        *,
        threads: int | None = None,
        device: str = "auto",
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(model, Model):
            source = find_model(model) if model is None or isinstance(model, str | os.PathLike) else model
            model = Model(source, threads=threads, device=device, provider_options=provider_options)
        self.model = model
        if model.about.class_names is None:
            raise ModelError(
                f"{model.path} has no probe, it gives features alone: "
                "`fftrain evaluate RUN linear` and `ffexport RUN` make one with classes, or name another with --model"
            )
        self.class_names = model.about.class_names

    def __reduce__(self) -> tuple[Any, ...]:
        """Is pickled as its model is: by the model's place, or its content where it was given that."""
        return type(self), (self.model,)

    def predict(
        self,
        images: Iterable[Image],
        *,
        top_k: int = 5,
        batch_size: int = BATCH_SIZE,
        invert: str = "auto",
        place: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> list[Prediction]:
        """Returns a prediction for each image, in order.

        Args:
            images: any number, but not one by itself: paths of image files, contents of such as bytes, files opened in
                binary mode (read from where they stand, at their end from the beginning), images of Pillow, or uint8
                arrays [H, W], [H, W, C] or [C, H, W] of 1, 3 or 4 channels (2 and 4: the last is alpha), of any size:
                all are read as files are.
            top_k: how many classes of each image, at least 1.
            batch_size: images of one run.
            invert: `auto`, `yes` or `no`, as for `ffserve.stream.stream`.
            place: `auto` or `no`, likewise.
            max_pixels: larger images are refused.

        Raises:
            ImageError: where an image cannot be read.
            ModelError: where the model cannot be run.
            UsageError: where an argument, or an array's type or shape, is not legal.
        """
        about = self.model.about
        own = (about.channels, about.height, about.width)
        _check_many(images, own)
        items = [_item(image, number, own) for number, image in enumerate(images)]
        predictions = []
        for batch in self.predict_batches(
            items, top_k=top_k, batch_size=batch_size, invert=invert, place=place, max_pixels=max_pixels
        ):
            for _, found in batch:
                if isinstance(found, ImageError):
                    raise found
                predictions.append(found)
        return predictions

    def predict_batches(
        self,
        items: Iterable[Item],
        account: Account | None = None,
        *,
        top_k: int = 5,
        batch_size: int = BATCH_SIZE,
        invert: str = "auto",
        place: str = "auto",
        max_pixels: int = MAX_PIXELS,
        workers: int | None = None,
        processes: bool = False,
    ) -> Iterator[list[tuple[Item, Prediction | ImageError]]]:
        """Yields up to `batch_size` items at a time, each with its prediction or with why it could not be read.

        In order, and in constant memory. `ffcore.folders.find` makes items of files, folders and patterns; `account`
        is told what becomes of them; `workers` and `processes` are those of `ffserve.stream.stream`; the other
        arguments are those of `predict`.

        Raises:
            ModelError: where the model cannot be run.
            UsageError: where an argument is not legal.
        """
        check_count("top_k", top_k)
        batches = stream(
            self.model,
            items,
            batch_size=batch_size,
            invert=invert,
            place=place,
            max_pixels=max_pixels,
            workers=workers,
            processes=processes,
        )
        account = account or Account()
        return (self.predictions(batch, top_k, account) for batch in batches)

    def predictions(self, batch: Batch, top_k: int, account: Account) -> list[tuple[Item, Prediction | ImageError]]:
        """Returns the predictions of a batch that was run, or why an item could not be read; `account` is told."""
        account.take(batch)
        probabilities_BK = batch.outputs["probabilities"]
        order_BK = np.argsort(-probabilities_BK, axis=1, kind="stable")[:, :top_k]
        top_BK = np.take_along_axis(probabilities_BK, order_BK, axis=1).tolist()
        rows = zip(order_BK.tolist(), top_BK, strict=True)
        found: list[tuple[Item, Prediction | ImageError]] = []
        for item, error, did in zip(batch.items, batch.errors, batch.did, strict=True):
            if error is not None:
                found.append((item, error))
                continue
            order, top = next(rows)
            classes = tuple(self.class_names[k] for k in order)
            found.append((item, Prediction(classes=classes, probabilities=tuple(top), did=did)))
        return found


def _check_many(images: Any, own: tuple[int, int, int]) -> None:
    """Raises UsageError where `images` is one image by itself, or nothing that can be gone through."""
    one = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | PIL.Image.Image)
    what = f"one {type(images).__name__}"
    if isinstance(images, np.ndarray):
        one, what = _is_one(images.shape, own), f"one array {list(images.shape)}"
    if one or hasattr(images, "read"):
        raise UsageError(f"images is {what}: give a list, [image]")
    if not isinstance(images, Iterable):
        raise UsageError(f"images is of type {type(images).__name__}: give a list of images")


def _is_one(shape: tuple[int, ...], own: tuple[int, int, int]) -> bool:
    """Returns whether an array of this shape is an image; else it holds several."""
    if len(shape) != 3:
        return len(shape) < 3
    return (shape == own and own[0] > 1) or (shape[2] in _MODES and shape[1:] != own[1:])


def _item(image: Any, number: int, own: tuple[int, int, int]) -> Item:
    """Returns an image of a program under a name. Raises UsageError where it is none."""
    name = f"images[{number}]"
    if isinstance(image, str | os.PathLike):
        return Item(as_path(image, name), image)
    if isinstance(image, bytes | bytearray | memoryview):
        return Item(name, bytes(image))
    if isinstance(image, PIL.Image.Image):
        return Item(name, image)
    if isinstance(image, np.ndarray):
        return Item(name, _picture(image, name, own))
    if hasattr(image, "read"):
        try:
            return Item(name, content_of(image, name))
        except OSError as error:
            return Item(name, ImageError(f"{name!r} cannot be read: {error.strerror or error}"))
    raise UsageError(
        f"{name} is of type {type(image).__name__}: give a path, the bytes of a file, a file opened in binary mode, an "
        "image of Pillow, or a uint8 array"
    )


def _picture(array: npt.NDArray[Any], name: str, own: tuple[int, int, int]) -> PIL.Image.Image:
    """Returns an array as an image; channels come last, but in the model's own shape or where they must be first."""
    legal = f"{name} is {array.dtype} {list(array.shape)}: give uint8 [H, W], [H, W, C] or [C, H, W], C of 1 to 4"
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise UsageError(legal)
    if array.ndim == 2:
        return PIL.Image.fromarray(array)
    first, last = array.shape[0] in _MODES, array.shape[2] in _MODES
    if array.shape == own or (first and not last):
        array = array.transpose(1, 2, 0)
    elif not last:
        raise UsageError(legal)
    channels = array.shape[2]
    return PIL.Image.fromarray(np.ascontiguousarray(array[:, :, 0] if channels == 1 else array))
