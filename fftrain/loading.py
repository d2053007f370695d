"""What a run is measured on: a data set on every process, and the labels that its view makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ffcore.errors import RunError, SettingError
from ffmodels.draws import Draws
from ffmodels.run import Run
from fftrain.config import DataSettings
from fftrain.data import ImageData, Split, load_data
from fftrain.memory import check_memory, rows_of
from fftrain.parts import make_part
from fftrain.progress import Reporter
from fftrain.stored import Index, Pictures, Shape, Stored
from fftrain.views.base import View


def load_together(
    config: DataSettings,
    accelerator: Accelerator,
    reporter: Reporter | None = None,
    *,
    training: bool = True,
    notes: bool = True,
) -> ImageData:
    """Loads a data set on every process, on the main one first, so that one downloads; says how it was understood.

    Where it fails it fails on every process.

    Args:
        config: the data set.
        accelerator: whose processes they are.
        reporter: what a person sees.
        training: whether training images are read, as in `load_data`.
        notes: whether a person is told how the data set was understood.

    Raises:
        SettingError, DataError, ImageError: as `load_data` does.
    """
    with main_first(accelerator):
        reporter = reporter or Reporter()
        data = load_data(config, training=training, reporter=reporter)
        for text in data.notes if notes else ():
            reporter.note(text)
        return data


@contextmanager
def main_first(accelerator: Accelerator) -> Iterator[None]:
    """Lets the main process do what follows before the others, who do it too where it fails there.

    Accelerate's own `main_process_first` would leave them waiting.
    """
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
    try:
        yield
    finally:
        if accelerator.is_main_process:
            accelerator.wait_for_everyone()


def view_of(run: Run) -> View:
    """Returns what a run's method saw of its images. Raises RunError where it cannot be made."""
    try:
        view: View = make_part("view", run.config["view"])  # type: ignore[assignment]
    except SettingError as error:
        raise RunError(f"{run.path} describes no view ({error}): train the run again") from error
    return view


class _Seen:
    """The images of a split as a view changes them that draws labels once."""

    def __init__(self, view: View, split: Split, stream: int) -> None:
        self._view, self._split, self._stream = view, split, stream

    @cached_property
    def shape(self) -> Shape:
        """C, H, W of what is seen."""
        channels, height, width = self.read(np.arange(1)).shape[1:]
        return channels, height, width

    def seen(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is seen of images, and their labels."""
        images, labels_B = self._split.images[index_B], self._split.labels[index_B]
        (seen,), drawn_B = self._view(images, labels_B, Draws(0, self._stream, index_B))
        return seen, drawn_B

    def read(self, rows_B: Index) -> Tensor:
        """Returns what is seen of images."""
        return self.seen(torch.from_numpy(rows_B))[0]

    def expect(self, rows_B: Index) -> None:
        """Tells the store below."""
        if isinstance(self._split.images, Stored):
            self._split.images.expect(torch.from_numpy(rows_B))


def pretext_data(run: Run, data: ImageData) -> ImageData:
    """Returns the images changed by labels that are drawn once, with these labels as their classes.

    Raises:
        SettingError: for a view that makes no labels.
    """
    view = view_of(run)
    if not view.pretext:
        raise SettingError("--target is pretext, but this run's view makes no labels: leave --target out")

    def of(split: Split, stream: int) -> Split:
        store = _Seen(view, split, stream)
        images: Pictures = Stored(store, np.arange(len(split)))
        parts = torch.split(torch.arange(len(split)), rows_of(data.shape))
        labels = torch.empty_like(split.labels)
        for index in parts:
            seen, labels[index] = store.seen(index)
            if isinstance(split.images, Stored):
                continue  # they are seen anew at each use
            if isinstance(images, Stored):
                check_memory(seen[0].nbytes * len(split), "pretext images")
                images = seen.new_empty(len(split), *seen.shape[1:])
            images[index] = seen
        return Split(images, labels) if len(split) else split

    return ImageData(
        name=data.name,
        train=of(data.train, 0),
        validation=of(data.validation, 1),
        test=of(data.test, 2),
        class_names=view.class_names(data.class_names),
    )
