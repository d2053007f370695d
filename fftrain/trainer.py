"""The training loop: one for every objective, task and device.

Letters: B batch, C channels, H W pixels, K classes, N images of a data set.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from ffmodels.backbone import BackboneConfig
from ffmodels.checkpoint import BACKBONE_FILE, CONFIG_FILE, read_config, save_weights
from ffmodels.errors import RunError, SettingError, TrainingError
from ffmodels.labels import check_slot
from ffmodels.registry import GOODNESS
from fftrain.config import PretrainConfig, continued
from fftrain.data import Split, load_data, sample
from fftrain.evaluate import default_slot, evaluate_run, make_task, mean_losses, pretext_accuracy
from fftrain.objectives import Batch, Objective
from fftrain.pretext import Task
from fftrain.progress import Reporter
from fftrain.registry import METHODS
from fftrain.run import RunFolder, describe


def make_accelerator(threads: int | None, mixed_precision: str = "no") -> Accelerator:
    """Returns Accelerate's view of the devices and processes, with this program's number of CPU threads.

    Raises:
        TrainingError: where the launcher started more processes than work together.
        SettingError: where the device does not have this precision.
    """
    AcceleratorState._reset_state()  # else a second run in one process could not have another precision
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision)
    except ValueError as error:  # a device without this precision
        raise SettingError(f"--mixed-precision {mixed_precision} cannot be had here: {error}") from error
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise TrainingError(
            f"the launcher started {world} processes but Accelerate joined {accelerator.num_processes}: "
            "on CPUs, set ACCELERATE_USE_CPU=true before `accelerate launch --multi_gpu`"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // local))
    return accelerator


def pretrain(
    config: PretrainConfig,
    out: Path,
    *,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trains a backbone on a pretext task and leaves a run folder.

    Args:
        config: what to train.
        out: the run folder: new, or with `resume` one that holds a run.
        resume: go on from the newest checkpoint; the end is bit-identical to a run that was never stopped.
        accelerator: devices and processes; None makes one from the config.
        reporter: what a person sees; None means nothing.

    Returns:
        The pretext results: {"validation": {"accuracy", "by", "images"}}, accuracies 0 to 1.

    Raises:
        SettingError: for settings that do not fit the data or the run to resume.
        DataError, ImageError: where the data cannot be read.
        RunError: where `out` is in use or cannot be written.
        TrainingError: where the loss is not finite; the last good checkpoint is kept.
    """
    reporter = reporter or Reporter()
    accelerator = accelerator or make_accelerator(config.threads, config.mixed_precision)
    run = RunFolder(out)
    resume = resume and (out / CONFIG_FILE).exists()
    if not resume:
        if accelerator.is_main_process:
            run.check_new()
    elif run.epochs_done > config.epochs:
        raise SettingError(f"--epochs is {config.epochs}, but {out} has {run.epochs_done} behind it: ask for more")
    with accelerator.main_process_first():  # one process downloads
        data = load_data(config)
    model = BackboneConfig(
        backbone=config.backbone,
        shape=data.shape,
        width=config.width,
        depth=config.depth,
        normalisation=config.normalisation,
    )
    if config.threshold is None:
        config = replace(config, threshold=GOODNESS.load(config.goodness).threshold(config.width))
    if resume:
        config = continued(run.read_config(), asdict(config))
        if read_config(out)["data"] != describe(data):
            raise RunError(f"{data.name} is not what {out} was trained on (images, classes or splits): train a new run")
    task = make_task(config, data.class_names)
    task.check(data.shape)
    check_slot(data.shape, len(task.class_names))
    backbone = model.build(config.seed)
    objective: Objective = METHODS.load(config.method)(backbone, len(task.class_names), config)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resume:
        run.create(config, model, data, task, default_slot(config.method))

    objective.modules = [accelerator.prepare(module) for module in objective.modules]
    parameters = [p for module in objective.modules for p in module.parameters()]
    optimizer = accelerator.prepare(
        torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    )
    start = _restore(run, config, accelerator, reporter) if resume else 0
    train = Split(data.train.images.to(accelerator.device), data.train.labels)
    curves = {
        "train": sample(data.train, config.eval_images),
        "validation": sample(data.validation, config.eval_images),
    }
    reporter.note(
        f"{config.method} on {data.name} {config.task}: {len(train):,} images, "
        f"{sum(p.numel() for p in parameters):,} parameters, {accelerator.num_processes} x {accelerator.device.type}, "
        f"{torch.get_num_threads()} threads -> {out}"
    )

    for epoch in range(start + 1, config.epochs + 1):
        began = time.perf_counter()
        try:
            losses = train_epoch(objective, optimizer, task, train, config, epoch, accelerator, reporter)
        except FloatingPointError as error:
            raise TrainingError(f"the loss of {error} is not finite in epoch {epoch}: {_kept(run)}") from error
        seconds = time.perf_counter() - began
        record: dict[str, Any] = {
            "epoch": epoch,
            "loss": losses,
            "seconds": seconds,
            "images_per_second": len(train) / seconds,
        }
        for name, split in curves.items():
            accuracy = pretext_accuracy(objective, task, split, accelerator)
            record[name] = {
                "loss": mean_losses(objective, task, split, config.seed, accelerator),
                "accuracy": [*accuracy.values()][-1],
            }
        if not all(map(math.isfinite, [*losses.values(), *record["validation"]["loss"].values()])):
            raise TrainingError(f"a loss is not finite after epoch {epoch}: {_kept(run)}")
        if accelerator.is_main_process:
            run.log(record)
        _save(run, epoch, accelerator)
        reporter.note(
            f"epoch {epoch}/{config.epochs}  loss {sum(losses.values()):.4f}  "
            f"accuracy train {record['train']['accuracy']:.3f} validation {record['validation']['accuracy']:.3f}  "
            f"{seconds:.1f} s"
        )

    if accelerator.is_main_process:
        if start < config.epochs:
            run.forget_measurements()  # of the weights before
        save_weights(backbone, out / BACKBONE_FILE)
        for name, part in objective.parts.items():
            save_weights(part, out / f"{name}.safetensors")
    accelerator.wait_for_everyone()
    return {"validation": evaluate_run(out, split="validation", accelerator=accelerator, data=data, reporter=reporter)}


def train_epoch(
    objective: Objective,
    optimizer: Any,
    task: Task,
    train: Split,
    config: PretrainConfig,
    epoch: int,
    accelerator: Accelerator,
    reporter: Reporter,
) -> dict[str, float]:
    """Trains on every image once and returns the mean of each loss over the epoch.

    Raises:
        FloatingPointError: with the loss's name, before the optimizer steps on a loss that is not finite (on a GPU
            it is looked at every 50 steps).
    """
    sums: dict[str, Tensor] = {}
    steps = -(-len(train) // config.batch_size)
    batches = epoch_batches(objective, task, train, config, epoch, accelerator)
    for step, (batch, rows) in enumerate(reporter.track(batches, steps, f"epoch {epoch}/{config.epochs}"), start=1):
        optimizer.zero_grad()
        for name, losses_B in objective.losses(batch):
            # Processes average their gradients: scaled so, the average is the mean over the global batch.
            accelerator.backward(losses_B.sum() * (accelerator.num_processes / rows))
            sums[name] = sums.get(name, 0) + losses_B.detach().sum()
        if accelerator.device.type == "cpu" or step % 50 == 0 or step == steps:
            _check_finite(sums, accelerator)
        optimizer.step()
    totals = accelerator.reduce(torch.stack([*sums.values()]), "sum").tolist()
    return {name: total / len(train) for name, total in zip(sums, totals, strict=True)}


def epoch_batches(
    objective: Objective,
    task: Task,
    train: Split,
    config: PretrainConfig,
    epoch: int,
    accelerator: Accelerator,
) -> Iterator[tuple[Batch, int]]:
    """Yields this process's share of each global batch, and the rows of the global batch; the last may be smaller.

    Order, pretext labels and what the objective draws are functions of (seed, epoch, index of the image), drawn on
    the CPU: the same for any number of processes and any device.
    """
    device = accelerator.device
    order_rng, draw_rng = (np.random.default_rng([config.seed, epoch, stream]) for stream in (0, 1))
    order = torch.from_numpy(order_rng.permutation(len(train))).to(device)
    labels_N = task.draw(train.labels.numpy(), draw_rng)
    drawn_N = {k: torch.from_numpy(v).to(device) for k, v in objective.draw(labels_N, draw_rng).items()}
    all_labels = torch.from_numpy(labels_N).to(device)
    for start in range(0, len(train), config.batch_size):
        index = order[start : start + config.batch_size]
        rows = len(index)
        index = index[accelerator.process_index :: accelerator.num_processes]
        labels = all_labels[index]
        images = task.apply(train.images[index], labels).float() / 255
        yield Batch(images, labels, {name: values[index] for name, values in drawn_N.items()}), rows


def _check_finite(sums: dict[str, Tensor], accelerator: Accelerator) -> None:
    """Raises FloatingPointError, on every process at once, where a loss is not finite."""
    totals = torch.stack([*sums.values()])
    if accelerator.num_processes > 1:
        totals = accelerator.reduce(totals, "sum")
    if not torch.isfinite(totals).all():
        name = [*sums][int((~torch.isfinite(totals)).nonzero()[0])]
        raise FloatingPointError(name)


def _kept(run: RunFolder) -> str:
    """Returns what a run that diverged leaves, and what may help."""
    if run.epochs_done:
        return f"the last good checkpoint, of epoch {run.epochs_done}, is kept; try a smaller --lr in a new --out"
    return f"nothing was learned yet: delete {run.path} and try a smaller --lr, or --mixed-precision no"


def _save(run: RunFolder, epoch: int, accelerator: Accelerator) -> None:
    """Saves the state of all processes beside its place, renames it, and drops the one before."""
    final = run.checkpoint(epoch)
    partial = final.with_name(f".{final.name}.partial")
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        partial.rename(final)
        run.keep_only(final)
    accelerator.wait_for_everyone()


def _restore(run: RunFolder, config: PretrainConfig, accelerator: Accelerator, reporter: Reporter) -> int:
    """Loads the newest checkpoint, drops records after it, and returns its epoch; 0 where there is none."""
    epoch = run.epochs_done
    if epoch:
        try:
            accelerator.load_state(str(run.checkpoint(epoch)))
        except Exception as error:  # torch, safetensors and pickle share no error
            raise RunError(f"{run.checkpoint(epoch)} is damaged or of other settings ({error}): train again") from error
    if accelerator.is_main_process:
        run.truncate_metrics(epoch)
        run.update_config(config)
    reporter.note(f"resuming {run.path} after epoch {epoch}")
    return epoch
