"""The run folder: where everything about one training lies, each file written whole or not at all.

config.json, metrics.jsonl, backbone.safetensors, heads.safetensors, samples.npz, evaluations/, probes/,
checkpoint/epoch-NNNNN/.
"""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ffcore.errors import FFStudyError, RunError, SettingError, WriteError
from ffcore.files import LOCK_FILE, AnyPath, claimed, replacing, write_json, write_text
from ffcore.machine import machine
from ffmodels.evaluated import FOLDER as EVALUATIONS
from ffmodels.run import CONFIG_FILE, LAYOUT, SAMPLES_FILE, Run
from fftrain.config import RunConfig
from fftrain.data import ImageData, sample

SAMPLES = 64
# What every line of metrics.jsonl holds.
RECORD = {"epoch", "loss", "seconds", "train", "validation"}


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, path: AnyPath) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoint"

    @contextmanager
    def claimed(self, accelerator: Accelerator | None) -> Iterator[None]:
        """Holds the folder in the block, as `ffcore.files.claimed` does, for all the processes that work together.

        The main one claims it, before any goes on; where it cannot, all raise what it raises.
        """
        refused: list[FFStudyError | None] = [None]
        with ExitStack() as held:
            if accelerator is None or accelerator.is_main_process:
                try:
                    held.enter_context(claimed(self.path))
                except FFStudyError as error:
                    refused = [error]
            if accelerator is not None and accelerator.num_processes > 1:
                broadcast_object_list(refused)
            if refused[0] is not None:
                raise refused[0]
            yield

    def check_new(self) -> None:
        """Raises RunError where the folder, which is claimed, holds something already."""
        # What a start leaves that was killed before it wrote the settings.
        begun = (p.name in (SAMPLES_FILE, LOCK_FILE) or p.name.endswith(".partial") for p in self.path.glob("*"))
        if not all(begun):
            raise RunError(
                f"--out {self.path} is in use already: choose another folder, or continue its run with --resume"
            )

    def create(self, config: RunConfig, data: ImageData, classes: tuple[str, ...], hardware: dict[str, Any]) -> None:
        """Makes the folder and writes the resolved settings and 64 validation images.

        Args:
            config: the settings.
            data: the data set.
            classes: what the labels tell apart that are trained on.
            hardware: what `describe_hardware` says.
        """
        samples = sample(data.validation, SAMPLES)
        with replacing(self.path / SAMPLES_FILE) as partial, partial.open("wb") as file:
            np.savez_compressed(file, images=samples.images[:].numpy(), labels=samples.labels.numpy())
        write_json(  # last: a folder with settings is a run
            self.path / CONFIG_FILE,
            {
                "layout": LAYOUT,
                "config": config.to_dict(),
                "data": describe(data),
                "classes": list(classes),
                "versions": _versions(),
                "git_commit": git_commit(),
                "hardware": hardware,
            },
        )

    def read_config(self) -> RunConfig:
        """Reads the settings back. Raises RunError where they are missing or damaged."""
        return settings_of(Run.load(self.path))

    def check_there(self) -> None:
        """Raises WriteError where the folder was taken away: what is written then would be no run."""
        if not (self.path / CONFIG_FILE).exists():
            raise WriteError(f"{self.path} was moved or deleted while it was written into: start again")

    def log(self, record: dict[str, Any]) -> None:
        """Appends one epoch's record; the file is rewritten whole, so that a line is never half there."""
        self.check_there()
        write_text(self.metrics, "".join(json.dumps(r, allow_nan=False) + "\n" for r in [*self.read_metrics(), record]))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Reads the record of every epoch."""
        if not self.metrics.exists():
            return []
        try:
            records = [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise RunError(f"{self.metrics} is damaged ({error}): mend or delete the line") from error
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict) or not record.keys() >= RECORD:
                raise RunError(
                    f"{self.metrics} is damaged (line {number} is no epoch's record): mend or delete the line"
                )
        return records

    def truncate_metrics(self, epoch: int) -> None:
        """Drops the records after an epoch."""
        kept = [record for record in self.read_metrics() if record["epoch"] <= epoch]
        write_text(self.metrics, "".join(json.dumps(r) + "\n" for r in kept))

    def last_checkpoint(self) -> Path | None:
        """Returns the newest whole checkpoint."""
        whole = sorted(p for p in self.checkpoints.glob("epoch-*") if p.is_dir())
        return whole[-1] if whole else None

    @property
    def epochs_done(self) -> int:
        """The epochs that the newest checkpoint has behind it; 0 where there is none."""
        found = self.last_checkpoint()
        return int(found.name.removeprefix("epoch-")) if found else 0

    @property
    def resuming(self) -> str:
        """The command that goes on with the training."""
        return shlex.join(["fftrain", "pretrain", "--resume", "--out", str(self.path)])

    def stopped(self, epochs: int) -> str:
        """Returns how far a training of so many epochs is that was stopped, and what goes on."""
        if self.epochs_done:
            return f"stopped after epoch {self.epochs_done} of {epochs}: `{self.resuming}` goes on"
        if (self.path / CONFIG_FILE).exists():
            return f"stopped in epoch 1 of {epochs}, of which nothing is kept: `{self.resuming}` starts it again"
        return "stopped before the training began: the same command starts again"

    def checkpoint(self, epoch: int) -> Path:
        """Returns the folder of an epoch's checkpoint."""
        return self.checkpoints / f"epoch-{epoch:05d}"

    def keep_only(self, kept: Path) -> None:
        """Deletes every other checkpoint, partial ones included."""
        for path in (*self.checkpoints.glob("epoch-*"), *self.checkpoints.glob(".epoch-*.partial")):
            if path != kept:
                shutil.rmtree(path)

    def update_config(self, config: RunConfig) -> None:
        """Records settings that a continuation may change; what is recorded of the first start stays."""
        write_json(self.path / CONFIG_FILE, {**Run.load(self.path).record, "config": config.to_dict()})

    def forget_measurements(self) -> None:
        """Deletes what was measured on other weights than those that are about to be written."""
        for measured in (EVALUATIONS, "probes"):
            shutil.rmtree(self.path / measured, ignore_errors=True)


def settings_of(run: Run) -> RunConfig:
    """Returns a run's settings, checked. Raises RunError where they are not legal."""
    try:
        return RunConfig(**run.config)
    except (SettingError, TypeError) as error:
        raise RunError(f"{run.path / CONFIG_FILE} holds settings that are not legal: {error}") from error


def describe(data: ImageData) -> dict[str, Any]:
    """Returns what config.json records of a data set."""
    return {
        "name": data.name,
        "shape": list(data.shape),
        "class_names": list(data.class_names),
        "images": {name: len(data.split(name)) for name in ("train", "validation", "test")},
        "digest": data.held_out_digest,
        "train_digest": data.train_digest,
        "skipped": list(data.skipped),
        "hub": data.hub,
    }


def describe_hardware(processes: int, device: torch.device) -> dict[str, Any]:
    """Returns what config.json records of the machine: what a time may depend on."""
    here = machine()
    return {
        "machine": platform.machine(),
        "cpu": here["cpu"],
        "cores": here["cores"],
        "processes": processes,
        "cpu_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _versions() -> dict[str, str]:
    """Returns the versions that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("ffstudy", "torch", "torchvision", "accelerate", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """Returns the commit of the code where it runs from a checkout, with '+' where files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not (here.parent / ".git").exists():
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
