"""What a run is measured on: a data set on every process, and the labels that its view makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from ffcore.errors import RunError, SettingError
from ffmodels.draws import Draws
from ffmodels.run import Run
from fftrain.config import DataSettings
from fftrain.data import ImageData, Split, load_data
from fftrain.memory import check_memory, rows_of
from fftrain.parts import make_part
from fftrain.progress import Reporter
from fftrain.views.base import View


def load_together(
    config: DataSettings, accelerator: Accelerator, reporter: Reporter | None = None, *, training: bool = True
) -> ImageData:
    """Loads a data set on every process, on the main one first, so that one downloads; says how it was understood.

    Where it fails it fails on every process.

    Args:
        config: the data set.
        accelerator: whose processes they are.
        reporter: what a person sees.
        training: whether training images are read, as in `load_data`.

    Raises:
        SettingError, DataError, ImageError: as `load_data` does.
    """
    with main_first(accelerator):
        data = load_data(config, training=training)
        if reporter is not None:
            for text in data.notes:
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


def pretext_data(run: Run, data: ImageData) -> ImageData:
    """Returns the images changed by labels that are drawn once, with these labels as their classes.

    Raises:
        SettingError: for a view that makes no labels.
    """
    view = view_of(run)
    if not view.pretext:
        raise SettingError("--target is pretext, but this run's view makes no labels: leave --target out")

    def of(split: Split, stream: int) -> Split:
        made: Split | None = None
        for index in torch.split(torch.arange(len(split)), rows_of(data.shape)):
            (seen,), drawn = view(split.images[index], split.labels[index], Draws(0, stream, index))
            if made is None:
                check_memory(seen[0].nbytes * len(split), "pretext images")
                made = Split(seen.new_empty(len(split), *seen.shape[1:]), torch.empty_like(split.labels))
            made.images[index], made.labels[index] = seen, drawn
        return split if made is None else made

    return ImageData(
        name=data.name,
        train=of(data.train, 0),
        validation=of(data.validation, 1),
        test=of(data.test, 2),
        class_names=view.class_names(data.class_names),
    )
