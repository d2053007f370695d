"""How well a backbone answers its pretext task: on every image, under every class.

Letters: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ffcore.errors import SettingError
from ffcore.files import AnyPath
from ffmodels.checkpoint import load_backbone, load_weights
from fftrain.config import DataConfig, PretrainConfig
from fftrain.data import ImageData, Split, load_data
from fftrain.launcher import make_accelerator
from fftrain.objectives import Objective, make_batch
from fftrain.own import data_of
from fftrain.pretext import Task
from fftrain.progress import Reporter
from fftrain.registry import METHODS, TASKS
from fftrain.run import RunFolder

ROWS = 4096


def make_task(config: PretrainConfig, class_names: tuple[str, ...]) -> Task:
    """Returns the task by its name, for a data set with these classes."""
    task: Task = TASKS.load(config.task)(class_names)
    return task


def load_together(config: DataConfig, accelerator: Accelerator, reporter: Reporter | None = None) -> ImageData:
    """Loads a data set on every process, on the main one first, so that one downloads; says how it was understood.

    Where it fails it fails on every process: Accelerate's own `main_process_first` would leave the others waiting.

    Raises:
        SettingError, DataError, ImageError: as `load_data` does.
    """
    if not accelerator.is_main_process:
        accelerator.wait_for_everyone()
    try:
        data = load_data(config)
        if reporter is not None:
            for text in data.notes:
                reporter.note(text)
        return data
    finally:
        if accelerator.is_main_process:
            accelerator.wait_for_everyone()


@torch.no_grad()
def pretext_accuracy(
    objective: Objective, task: Task, split: Split, accelerator: Accelerator, reporter: Reporter | None = None
) -> dict[str, float]:
    """Scores every image under every class of the task, the images shared out over the processes.

    Returns:
        The accuracy of each reader of `objective.scores`, 0 to 1.
    """
    reporter = reporter or Reporter()
    # Whole chunks are shared out, so that every batch is the same on any number of processes. There are as many as
    # processes at least, empty ones too: every process sums the same readers.
    chunk = max(1, ROWS // len(task.class_names))
    chunks = max(-(-len(split) // chunk), accelerator.num_processes)
    mine = range(accelerator.process_index, chunks, accelerator.num_processes)
    right: dict[str, float] = {}
    rows = 0
    for start in reporter.track((chunk * i for i in mine), len(mine), "evaluating"):
        images = split.images[start : start + chunk].to(accelerator.device)
        class_labels = split.labels[start : start + chunk].to(accelerator.device)
        for transformed, labels in task.variants(images, class_labels):
            rows += len(labels)
            for reader, scores in objective.scores(transformed.float() / 255).items():
                right[reader] = right.get(reader, 0.0) + (scores.argmax(-1) == labels).sum().item()
    *hits, total = _over_processes([*right.values(), rows], accelerator)
    return {reader: hit / total for reader, hit in zip(right, hits, strict=True)}


@torch.no_grad()
def mean_losses(
    objective: Objective, task: Task, split: Split, seed: int, accelerator: Accelerator
) -> dict[str, float]:
    """Returns each loss over a split, with draws that are the same in every epoch."""
    rng = np.random.default_rng([seed])
    labels_N = task.draw(split.labels.numpy(), rng)
    drawn_N = objective.draw(labels_N, rng)
    sums: dict[str, float] = {}
    step = accelerator.num_processes * ROWS
    for start in range(accelerator.process_index, max(len(split), accelerator.num_processes), step):
        at = slice(start, start + step, accelerator.num_processes)
        index = torch.arange(len(split))[at]
        labels = torch.from_numpy(labels_N[at]).to(accelerator.device)
        drawn = {name: torch.from_numpy(values[at]).to(accelerator.device) for name, values in drawn_N.items()}
        for name, losses in objective.losses(make_batch(task, split.images, index, labels, drawn)):
            sums[name] = sums.get(name, 0.0) + losses.sum().item()
    totals = _over_processes([*sums.values()], accelerator)
    return {name: total / len(split) for name, total in zip(sums, totals, strict=True)}


def _over_processes(values: list[float], accelerator: Accelerator) -> list[float]:
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
    """Measures a finished run's pretext accuracy, in full precision, and records it in results.json.

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
        RunError, DataError: where the run or its data cannot be read, or do not fit.
        InUse: where another process works in the run folder.
    """
    run = Path(run)
    if split not in ("validation", "test"):
        raise SettingError(f"--split is {split!r}: choose one of validation, test")
    folder = RunFolder(run)
    config = folder.read_config()
    accelerator = accelerator or make_accelerator(None)
    with folder.claimed(accelerator):
        data = data_of(
            run, data, dataset=dataset, data_dir=data_dir, load=partial(load_together, accelerator=accelerator)
        )
        task = make_task(config, data.class_names)
        objective: Objective = METHODS.load(config.method)(load_backbone(run), len(task.class_names), config)
        for name, part in objective.parts.items():
            load_weights(part, run / f"{name}.safetensors")
        for module in objective.modules:
            module.to(accelerator.device)
        by = pretext_accuracy(objective, task, data.split(split), accelerator, reporter)
        result = {"accuracy": [*by.values()][-1], "by": by, "images": len(data.split(split))}
        if accelerator.is_main_process:
            folder.add_result(("pretext", split), result)
    return result


def default_slot(method: str) -> str:
    """Returns what the label pixels hold when features are read: `neutral` where the backbone saw labels there."""
    return "neutral" if METHODS[method].facts["reads_label"] else "pixels"


def pretext_data(task: Task, data: ImageData) -> ImageData:
    """Returns the images transformed by labels that are drawn once, with these labels as their classes.

    Raises:
        SettingError: for a task that draws no labels.
    """
    if not task.draws:
        raise SettingError("--target is pretext, but this run's task draws no pretext labels: leave --target out")

    def of(split: Split, stream: int) -> Split:
        labels = torch.from_numpy(task.draw(split.labels.numpy(), np.random.default_rng([0, stream])))
        chunks = zip(torch.split(split.images, ROWS), torch.split(labels, ROWS), strict=True)
        return Split(torch.cat([task.apply(images, labels) for images, labels in chunks]), labels)

    return ImageData(
        name=data.name,
        train=of(data.train, 0),
        validation=of(data.validation, 1),
        test=of(data.test, 2),
        class_names=tuple(task.class_names),
    )
