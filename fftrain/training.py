"""RunConfig -> run folder: build, resume, train, save, watch. The steps themselves are `fftrain.loop`'s.

Letters: B batch, N images of a data set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ffcore.errors import RunError, SettingError, TrainingError
from ffcore.files import AnyPath
from ffcore.places import public_name
from ffmodels.backbones.base import Backbone
from ffmodels.batch import Batch
from ffmodels.draws import key
from ffmodels.evaluated import Evaluated
from ffmodels.methods.base import Method, Readout
from ffmodels.run import BACKBONE_FILE, CONFIG_FILE, HEADS_FILE, Run, as_module, save_weights
from ffmodels.units import Unit, heads_of, make_units
from fftrain.checkpoints import restore, save
from fftrain.config import EvaluationConfig, RunConfig
from fftrain.data import ImageData, Split, sample
from fftrain.evaluate import evaluate_run
from fftrain.launcher import make_accelerator
from fftrain.loader import Loader
from fftrain.loading import load_together
from fftrain.loop import measure, train
from fftrain.memory import rows_of
from fftrain.optimise import Stretch, stretches
from fftrain.own import found_at, recognised
from fftrain.precision import slower_in_bf16
from fftrain.progress import Reporter, time_left
from fftrain.run import RunFolder, describe, describe_hardware, settings_of
from fftrain.stored import Stored
from fftrain.told import accuracy, evaluating, over_processes, with_told
from fftrain.views.base import View
from fftrain.watch import Watch

# What a training ends with, where its method tells something.
READOUT = "readout"


def pretrain(
    config: RunConfig,
    out: AnyPath,
    *,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    data: ImageData | None = None,
    reporter: Reporter | None = None,
) -> list[Evaluated]:
    """Trains a backbone and leaves a run folder.

    Args:
        config: what to train.
        out: the run folder: new, or with `resume` perhaps one that holds a run.
        resume: go on from the newest checkpoint, where `out` holds a run, else begin; the end is bit-identical to a run
            that was never stopped.
        accelerator: devices and processes; None makes one from the config.
        data: the data set, where it is loaded already; it is recorded under its own name. One to resume may have moved:
            it is told by its digest.
        reporter: what a person sees; None means nothing.

    Returns:
        What the method tells of the validation split; nothing where it has nothing to tell.

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
    config = config.changed(mixed_precision=precision or accelerator.mixed_precision)
    if config.mixed_precision != accelerator.mixed_precision:
        raise SettingError(
            f"--mixed-precision is {config.mixed_precision}, but the accelerator that was given has "
            f"{accelerator.mixed_precision}: make it with the same"
        )
    with RunFolder(out).claimed(accelerator):
        training = Training(config, out, resume, accelerator, data, reporter or Reporter())
        training.run()
        return training.finish()


class Training:
    """What one training works with, made from its settings."""

    def __init__(
        self,
        config: RunConfig,
        out: Path,
        resume: bool,
        accelerator: Accelerator,
        data: ImageData | None,
        reporter: Reporter,
    ) -> None:
        self.folder = folder = RunFolder(out)
        self.accelerator, self.reporter = accelerator, reporter
        resume = resume and (out / CONFIG_FILE).exists()
        if not resume:
            folder.check_new()
        elif folder.epochs_done > config.epochs:
            raise SettingError(
                f"--epochs is {config.epochs}, but {out} has {folder.epochs_done} behind it: ask for more"
            )
        if data is None:
            place = found_at(out, config) if resume else config
            data = load_together(place, accelerator, reporter, notes=not resume)
        if resume:
            run = Run.load(out)
            data, was = recognised(run, data), settings_of(run)
            config = was.continued(config.changed(dataset=was.dataset))
            told = describe(data)
            if any(told.get(key) != value for key, value in run.data.items()):  # an earlier version recorded less
                raise RunError(
                    f"{data.name} is not what {out} was trained on (images, classes or splits): train a new run"
                )
        else:
            config = config.changed(dataset=data.name)
        self.config, self.data = config, data
        view, method = config.view, config.method
        assert isinstance(view, View)
        assert isinstance(method, Method)
        self.view, self.method = view, method
        class_names = config.class_names(data.shape, data.class_names)
        self.classes = len(class_names)
        self.condition = method.condition(self.classes, data.shape)
        self.backbone: Backbone = config.backbone.build(data.shape, config.seed)  # type: ignore[attr-defined]
        self.units: list[Unit] = make_units(
            method, self.backbone, self.classes, cut=config.cut, at=config.at, seed=config.seed
        )
        self.stretches = stretches(self.units, self.backbone, config, accelerator)
        self.loader = self._loader(data.train if config.holdout else data.train_and_validation)
        self.steps = self.loader.steps
        accelerator.wait_for_everyone()
        if accelerator.is_main_process and not resume:
            hardware = describe_hardware(accelerator.num_processes, accelerator.device)
            folder.create(config, data, class_names, hardware)
        self.start = restore(folder, config, accelerator, reporter) if resume else 0
        # Of a loss that needs full batches, one at least.
        shown = max(config.eval_images, config.batch_size) if method.needs().drop_last else config.eval_images
        self.curves = {
            name: self._loader(sample(split, shown))
            for name, split in (("train", data.train), ("validation", data.validation))
        }
        self._say()

    def run(self) -> None:
        """Trains the epochs that are left, measures and saves after each."""
        config, accelerator, folder = self.config, self.accelerator, self.folder
        if config.track is not None:
            accelerator.project_configuration.logging_dir = str(folder.path)
            accelerator.init_trackers(config.track, config=_flat(config.to_dict()))
        started = time.perf_counter()
        for epoch in range(self.start + 1, config.epochs + 1):
            began = time.perf_counter()
            stretch = self.stretch(epoch)
            try:
                losses = self.train_epoch(epoch)
            except FloatingPointError as error:
                raise TrainingError(f"the loss of {error} is not finite in epoch {epoch}: {_kept(folder)}") from error
            seconds = time.perf_counter() - began
            record: dict[str, Any] = {
                "epoch": epoch,
                "loss": losses,
                "seconds": seconds,
                "images_per_second": self.loader.used / seconds,
                **{name: self._curve(loader, stretch) for name, loader in self.curves.items()},
            }
            if not all(map(math.isfinite, [*losses.values(), *record["validation"]["loss"].values()])):
                raise TrainingError(f"a loss is not finite after epoch {epoch}: {_kept(folder)}")
            if accelerator.is_main_process:
                folder.log(record)
            accelerator.log(_flat(record), step=epoch)
            save(folder, epoch, accelerator)
            left = time_left(time.perf_counter() - started, epoch - self.start, config.epochs - epoch)
            self.reporter.note(
                f"epoch {epoch}/{config.epochs}  loss {sum(losses.values()):.4f}  "
                + _reached(record)
                + f"{seconds:.1f} s"
                + (f", {left}" if epoch < config.epochs else "")
            )
        for tracker in accelerator.trackers:
            tracker.finish()

    def finish(self) -> list[Evaluated]:
        """Writes the weights, and measures what the method tells of the validation split."""
        folder, accelerator = self.folder, self.accelerator
        if accelerator.is_main_process:
            if self.start < self.config.epochs:
                folder.forget_measurements()  # of the weights before
            heads = as_module(heads_of(self.units))
            if heads.state_dict():
                save_weights(heads, folder.path / HEADS_FILE)
            trained = self.backbone if self.method.trains else Run.load(folder.path).network(untrained=True)
            save_weights(trained, folder.path / BACKBONE_FILE)  # last: a run that has it has been trained
        accelerator.wait_for_everyone()
        if self.readout(self.stretches[-1]) is None:
            return []
        told = EvaluationConfig.made({"evaluation": READOUT})
        return evaluate_run(folder.path, told, accelerator=accelerator, data=self.data, reporter=self.reporter)

    def _loader(self, split: Split) -> Loader:
        device, images = self.accelerator.device, split.images
        return Loader(
            images=images if isinstance(images, Stored) else images.to(device),
            labels=split.labels.to(device),
            view=self.view,
            needs=self.method.needs(),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            block=self.config.shuffle_block,
        )

    def stretch(self, epoch: int) -> Stretch:
        """Returns what learns in an epoch, from 1; what is below is frozen."""
        found = next(s for s in reversed(self.stretches) if epoch > s.before)
        found.begin()
        return found

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Trains on every image once, and returns the mean of each loss that is trained.

        Raises:
            FloatingPointError: with the losses' names, where one is not finite: on a CPU before the step, on a GPU when
                the epoch ends, the steps having been left out.
        """
        config, accelerator, steps = self.config, self.accelerator, self.steps
        stretch = self.stretch(epoch)
        watch = Watch(accelerator, stretch.names, config.clip)
        ahead = steps * (config.epochs - epoch)

        def begin(number: int) -> None:
            torch.manual_seed(key(config.seed, epoch, number, accelerator.process_index))
            stretch.set_rates(config.schedule, epoch - 1 + number / steps)

        loaded = self._told(self.loader.epoch(epoch), stretch)
        batches = self.reporter.track(loaded, steps, f"epoch {epoch}/{config.epochs}", ahead)
        told = {"begin": begin, "backward": accelerator.backward, "watch": watch, "before": steps * (epoch - 1)}
        train(self.method, self.classes, stretch.turns, batches, **told)
        return watch.means(self.loader.used)

    def _curve(self, loader: Loader, stretch: Stretch) -> dict[str, Any]:
        """Returns loss and, where the method tells something, accuracy of a split; nothing of the network changes."""
        batches = self._told(loader.once(rows_of(self.data.shape)), stretch)
        measured = measure(self.method, self.classes, stretch.units, batches)
        found = over_processes([float(measured.get(name, 0.0)) for name in stretch.names], self.accelerator)
        curve: dict[str, Any] = {"loss": dict(zip(stretch.names, found, strict=True))}
        if (readout := self.readout(stretch)) is not None:
            with evaluating(readout):
                by = accuracy(readout, self.view, self.classes, loader.images, loader.labels, self.accelerator)
            curve["accuracy"] = [*by.values()][-1]
        return curve

    def readout(self, stretch: Stretch) -> Readout | None:
        """Returns what the blocks tell that have learned by then; None where the method has nothing to tell."""
        return self.method.readout(self.backbone, self.condition, heads_of(stretch.units), self.classes)

    def _told(self, batches: Iterable[tuple[Batch, float]], stretch: Stretch) -> Iterator[tuple[Batch, float]]:
        readout = self.readout(stretch)
        return ((with_told(batch, self.method, readout, self.classes), weight) for batch, weight in batches)

    def _say(self) -> None:
        """Says what is trained, on what."""
        config, accelerator, reporter = self.config, self.accelerator, self.reporter
        parameters = sum(p.numel() for unit in self.units for p in unit.parameters())
        reporter.note(
            f"{config.label} on {public_name(self.data.name)} {config.view.called}: {self.loader.used:,} images, "
            f"{parameters:,} parameters, {accelerator.num_processes} x {accelerator.device.type}, "
            f"{torch.get_num_threads()} threads -> {self.folder.path}"
        )
        if left := len(self.loader.labels) - self.loader.used:
            reporter.note(
                f"{left} images of the last batch are left out of each epoch: {config.label} needs full batches"
            )
        if config.mixed_precision == "bf16" and accelerator.device.type == "cpu" and accelerator.is_main_process:
            widest = max(block.dim for block in self.backbone.info)
            remark = slower_in_bf16(-(-config.batch_size // accelerator.num_processes), widest)
            if remark is not None:
                reporter.note(remark)


def _reached(record: dict[str, Any]) -> str:
    """Says what an epoch reached."""
    if "accuracy" in record["train"]:
        return f"accuracy train {record['train']['accuracy']:.3f} validation {record['validation']['accuracy']:.3f}  "
    return f"validation {sum(record['validation']['loss'].values()):.4f}  "


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a record's values under names like train/loss/block1, as trackers take them."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}/"))
        elif value is not None:
            found[prefix + name] = value
    return found


def _kept(folder: RunFolder) -> str:
    """Returns what a run that diverged leaves, and what may help."""
    if folder.epochs_done:
        return f"the last good checkpoint, of epoch {folder.epochs_done}, is kept; try a smaller --lr in a new --out"
    return f"nothing was learned yet: delete {folder.path} and try a smaller --lr, or --mixed-precision no"
