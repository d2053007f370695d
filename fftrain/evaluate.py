"""How well a network tells what it was trained to tell: on every image, under every class.

Letters: N images of a split, B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ffcore.errors import RunError, SettingError
from ffcore.files import AnyPath
from ffmodels.backbones.base import size
from ffmodels.draws import Draws
from ffmodels.methods.base import Readout
from ffmodels.run import Run
from fftrain.config import DataSettings
from fftrain.data import ImageData, Split, load_data
from fftrain.launcher import make_accelerator
from fftrain.loader import scaled
from fftrain.memory import check_memory
from fftrain.own import data_of
from fftrain.parts import make_part
from fftrain.progress import Reporter
from fftrain.run import RunFolder
from fftrain.views.base import View

# What a batch of images may take as float32, in bytes, and how many images at most.
BYTES, ROWS = 2**25, 4096


def rows_of(*shapes: Sequence[int]) -> int:
    """Returns how many images are worked on at once, each of which takes numbers of these shapes."""
    return max(1, min(ROWS, BYTES // (4 * sum(map(size, shapes)))))


def load_together(
    config: DataSettings, accelerator: Accelerator, reporter: Reporter | None = None, *, training: bool = True
) -> ImageData:
    """Loads a data set on every process, on the main one first, so that one downloads; says how it was understood.

    Where it fails it fails on every process: Accelerate's own `main_process_first` would leave the others waiting.

    Args:
        config: the data set.
        accelerator: whose processes they are.
        reporter: what a person sees.
        training: whether training images are read, as in `load_data`.

    Raises:
        SettingError, DataError, ImageError: as `load_data` does.
    """
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
    try:
        data = load_data(config, training=training)
        if reporter is not None:
            for text in data.notes:
                reporter.note(text)
        return data
    finally:
        if accelerator.is_main_process:
            accelerator.wait_for_everyone()


@torch.no_grad()
def accuracy(
    readout: Readout,
    view: View,
    classes: int,
    images: Tensor,
    labels: Tensor,
    accelerator: Accelerator,
    reporter: Reporter | None = None,
) -> dict[str, float]:
    """Scores every image in every way that the view asks.

    Args:
        readout: in evaluation mode, on the accelerator's device.
        view: what was seen of the images.
        classes: K.
        images: uint8 [N, C, H, W], on any device; shared out over the processes.
        labels: of their classes, int64 [N].
        accelerator: where it runs.
        reporter: what a person sees.

    Returns:
        The accuracy of each of the readout's readers, 0 to 1.
    """
    reporter = reporter or Reporter()
    _, channels, height, width = images.shape
    # Whole chunks are shared out, so that every batch is the same on any number of processes. There are as many as
    # processes at least, empty ones too: every process sums the same readers.
    chunk = max(1, rows_of((channels, height, width)) // classes)
    chunks = max(-(-len(labels) // chunk), accelerator.num_processes)
    mine = range(accelerator.process_index, chunks, accelerator.num_processes)
    right: dict[str, float] = {}
    rows = 0
    for start in reporter.track((chunk * i for i in mine), len(mine), "evaluating"):
        part, of_part = (values[start : start + chunk].to(accelerator.device) for values in (images, labels))
        for seen, labels_B in view.variants(part, of_part):
            rows += len(labels_B)
            for reader, scores_BK in readout.readers(scaled(seen)).items():
                right[reader] = right.get(reader, 0.0) + (scores_BK.argmax(-1) == labels_B).sum().item()
    *hits, total = over_processes([*right.values(), rows], accelerator)
    return {reader: hit / total for reader, hit in zip(right, hits, strict=True)}


def over_processes(values: list[float], accelerator: Accelerator) -> list[float]:
    """Returns the sums over all processes. One process needs no float64 on its device, which not all have."""
    if accelerator.num_processes == 1:
        return values
    summed: list[float] = accelerator.reduce(
        torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum"
    ).tolist()
    return summed


def evaluate_run(
    run: AnyPath,
    *,
    split: str = "validation",
    accelerator: Accelerator | None = None,
    data: ImageData | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Measures how well a finished run tells its labels, in full precision, and records it in results.json.

    Args:
        run: a run folder.
        split: `validation` or `test`.
        accelerator: where it runs; None makes one.
        data: the run's data set, where it is loaded already.
        dataset: its name or place now; None means where it was when the run was trained.
        data_dir: where data sets are kept, or an image folder lies, now; None means where they were.
        reporter: what a person sees.

    Returns:
        {"accuracy": of the predicting reader, "by": of each reader, "images": how many}, accuracies 0 to 1.

    Raises:
        SettingError: for an unknown split.
        RunError, DataError: where the run or its data cannot be read, or do not fit, or its method tells nothing.
        InUse: where another process works in the run folder.
    """
    if split not in ("validation", "test"):
        raise SettingError(f"--split is {split!r}: choose one of validation, test")
    found = Run.load(run)
    folder = RunFolder(run)
    accelerator = accelerator or make_accelerator(None)
    with folder.claimed(accelerator):
        load = partial(load_together, accelerator=accelerator, training=False)
        data = data_of(Path(run), data, dataset=dataset, data_dir=data_dir, load=load)
        readout = found.readout()
        if readout is None:
            raise RunError(f"{run} was trained without labels ({found.config['method']['name']}): it tells nothing")
        part: Split = data.split(split)
        by = accuracy(
            readout.to(accelerator.device),
            view_of(found),
            len(found.classes),
            part.images,
            part.labels,
            accelerator,
            reporter,
        )
        result = {"accuracy": [*by.values()][-1], "by": by, "images": len(part)}
        if accelerator.is_main_process:
            folder.add_result(("pretext", split), result)
    return result


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
