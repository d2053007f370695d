"""The training loop: one for every objective, task and device.

Letters: B batch, C channels, H W pixels, K classes, N images of a data set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ffcore.errors import RunError, SettingError, TrainingError
from ffcore.files import AnyPath
from ffmodels.backbone import BackboneConfig
from ffmodels.checkpoint import BACKBONE_FILE, CONFIG_FILE, read_config, save_weights
from ffmodels.labels import check_slot
from ffmodels.registry import GOODNESS, public_name
from fftrain.checkpoints import restore, save
from fftrain.config import PretrainConfig, continued
from fftrain.data import ImageData, Split, sample
from fftrain.evaluate import default_slot, evaluate_run, load_together, make_task, mean_losses, pretext_accuracy
from fftrain.launcher import make_accelerator
from fftrain.objectives import Batch, Objective, make_batch
from fftrain.own import found_at, recognised
from fftrain.precision import slower_in_bf16
from fftrain.pretext import Task
from fftrain.progress import Reporter, time_left
from fftrain.registry import METHODS
from fftrain.run import RunFolder, describe, describe_hardware


def pretrain(
    config: PretrainConfig,
    out: AnyPath,
    *,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    data: ImageData | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trains a backbone on a pretext task and leaves a run folder.

    Args:
        config: what to train.
        out: the run folder: new, or with `resume` one that holds a run.
        resume: go on from the newest checkpoint; the end is bit-identical to a run that was never stopped.
        accelerator: devices and processes; None makes one from the config.
        data: the data set, where it is loaded already; it is recorded under its own name. One to resume may have moved:
            it is told by its digest.
        reporter: what a person sees; None means nothing.

    Returns:
        The pretext results: {"validation": {"accuracy", "by", "images"}}, accuracies 0 to 1.

    Raises:
        SettingError: for settings that do not fit the data or the run to resume.
        DataError, ImageError: where the data cannot be read.
        RunError, WriteError: where `out` holds something else, or cannot be written.
        TrainingError: where the loss is not finite; the last good checkpoint is kept.
        InUse: where another process works in `out`.
    """
    out = Path(out)
    begun = RunFolder(out).read_config().mixed_precision if resume and (out / CONFIG_FILE).exists() else None
    precision = config.mixed_precision or begun
    accelerator = accelerator or make_accelerator(config.threads, precision, config.track)
    config = replace(config, mixed_precision=precision or accelerator.mixed_precision)
    if config.mixed_precision != accelerator.mixed_precision:
        raise SettingError(
            f"--mixed-precision is {config.mixed_precision}, but the accelerator that was given has "
            f"{accelerator.mixed_precision}: make it with the same"
        )
    with RunFolder(out).claimed(accelerator):
        return _pretrain(config, out, resume, accelerator, data, reporter or Reporter())


def _pretrain(
    config: PretrainConfig,
    out: Path,
    resume: bool,
    accelerator: Accelerator,
    data: ImageData | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Does the work of `pretrain`."""
    run = RunFolder(out)
    resume = resume and (out / CONFIG_FILE).exists()
    if not resume:
        run.check_new()
    elif run.epochs_done > config.epochs:
        raise SettingError(f"--epochs is {config.epochs}, but {out} has {run.epochs_done} behind it: ask for more")
    if data is None:
        place = found_at(out, config) if resume else config
        data = load_together(place, accelerator, None if resume else reporter)
    if resume:
        data = recognised(out, data)
        config = replace(config, dataset=run.read_config().dataset)
    else:
        config = replace(config, dataset=data.name)
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
        hardware = describe_hardware(accelerator.num_processes, accelerator.device)
        run.create(config, model, data, task, default_slot(config.method), hardware)

    optimizers = prepare(objective, config, accelerator)
    parameters = sum(p.numel() for module in objective.modules for p in module.parameters())
    start = restore(run, config, accelerator, reporter) if resume else 0
    whole = data.train if config.holdout else data.train_and_validation
    train = Split(whole.images.to(accelerator.device), whole.labels)
    curves = {
        "train": sample(data.train, config.eval_images),
        "validation": sample(data.validation, config.eval_images),
    }
    reporter.note(
        f"{config.method} on {public_name(data.name)} {config.task}: {len(train):,} images, "
        f"{parameters:,} parameters, {accelerator.num_processes} x {accelerator.device.type}, "
        f"{torch.get_num_threads()} threads -> {out}"
    )
    if config.mixed_precision == "bf16" and accelerator.device.type == "cpu" and accelerator.is_main_process:
        remark = slower_in_bf16(-(-config.batch_size // accelerator.num_processes), config.width)
        if remark is not None:
            reporter.note(remark)
    if config.track is not None:
        accelerator.project_configuration.logging_dir = str(out)
        accelerator.init_trackers(config.track, config={k: v for k, v in asdict(config).items() if v is not None})

    started = time.perf_counter()
    for epoch in range(start + 1, config.epochs + 1):
        began = time.perf_counter()
        try:
            losses = train_epoch(objective, optimizers, task, train, config, epoch, accelerator, reporter)
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
        accelerator.log(_flat(record), step=epoch)
        save(run, epoch, accelerator)
        left = time_left(time.perf_counter() - started, epoch - start, config.epochs - epoch)
        reporter.note(
            f"epoch {epoch}/{config.epochs}  loss {sum(losses.values()):.4f}  "
            f"accuracy train {record['train']['accuracy']:.3f} validation {record['validation']['accuracy']:.3f}  "
            f"{seconds:.1f} s" + (f", {left}" if epoch < config.epochs else "")
        )

    for tracker in accelerator.trackers:
        tracker.finish()
    if accelerator.is_main_process:
        if start < config.epochs:
            run.forget_measurements()  # of the weights before
        save_weights(backbone, out / BACKBONE_FILE)
        for name, part in objective.parts.items():
            save_weights(part, out / f"{name}.safetensors")
    accelerator.wait_for_everyone()
    return {"validation": evaluate_run(out, split="validation", accelerator=accelerator, data=data, reporter=reporter)}


def prepare(objective: Objective, config: PretrainConfig, accelerator: Accelerator) -> list[Any]:
    """Wraps an objective's modules, each by itself, and returns an optimizer for each."""
    objective.modules = [accelerator.prepare(module) for module in objective.modules]

    def adam(module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(module.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)

    return [accelerator.prepare(adam(module)) for module in objective.modules]


def train_epoch(
    objective: Objective,
    optimizers: list[Any],
    task: Task,
    train: Split,
    config: PretrainConfig,
    epoch: int,
    accelerator: Accelerator,
    reporter: Reporter,
) -> dict[str, float]:
    """Trains on every image once and returns the mean of each loss over the epoch.

    A module takes its step as soon as its loss has gone backward, and its gradients are gone before the next module's
    are there.

    Raises:
        FloatingPointError: with the loss's name, before the optimizer steps on a loss that is not finite (on a GPU
            it is looked at when the epoch ends: to look makes the device wait).
    """
    names: dict[str, None] = {}
    # Kept in one place: small tensors that outlive a step lie in the holes that large ones leave, and break them up.
    sums = torch.zeros(len(optimizers), device=accelerator.device)
    steps = -(-len(train) // config.batch_size)
    batches = epoch_batches(objective, task, train, config, epoch, accelerator)
    ahead = steps * (config.epochs - epoch)
    for batch, rows in reporter.track(batches, steps, f"epoch {epoch}/{config.epochs}", ahead):
        for i, ((name, losses_B), optimizer) in enumerate(zip(objective.losses(batch), optimizers, strict=True)):
            names[name] = None
            # Processes average their gradients: scaled so, the average is the mean over the global batch.
            accelerator.backward(losses_B.sum() * (accelerator.num_processes / rows))
            sums[i] += losses_B.detach().sum()
            del losses_B  # and with it the graph
            if accelerator.device.type == "cpu":
                _check_finite(name, sums[i], accelerator)
            optimizer.step()
            optimizer.zero_grad()
    totals = accelerator.reduce(sums, "sum")
    for name, total in zip(names, totals, strict=True):
        _check_finite(name, total, accelerator)
    return {name: total / len(train) for name, total in zip(names, totals.tolist(), strict=True)}


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
        drawn = {name: values[index] for name, values in drawn_N.items()}
        yield make_batch(task, train.images, index, all_labels[index], drawn), rows


def _check_finite(name: str, total: Tensor, accelerator: Accelerator) -> None:
    """Raises FloatingPointError, on every process at once, where a loss is not finite."""
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total, "sum")
    if not torch.isfinite(total):
        raise FloatingPointError(name)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns a record's numbers under names like train/loss/layer1, as trackers take them."""
    found: dict[str, float] = {}
    for key, value in record.items():
        found.update(_flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value})
    return found


def _kept(run: RunFolder) -> str:
    """Returns what a run that diverged leaves, and what may help."""
    if run.epochs_done:
        return f"the last good checkpoint, of epoch {run.epochs_done}, is kept; try a smaller --lr in a new --out"
    return f"nothing was learned yet: delete {run.path} and try a smaller --lr, or --mixed-precision no"
