"""What the commands do with `--engine ray`: list, hand out, account, and tell."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer

from ffcore.errors import DataError, UsageError
from ffcore.layout import class_folders
from ffserve import console, notes
from ffserve.account import Account
from ffserve.calibration import Calibration
from ffserve.confusion import Confusion
from ffserve.evaluate import Evaluation, class_names, sought
from ffserve.options import PART_IMAGES, OfRay
from ffserve.parts.answers import add_sums
from ffserve.parts.engine import answered, room
from ffserve.parts.finding import Ref, class_folders_at, labelled, located
from ffserve.parts.job import Job, begin
from ffserve.parts.storage import Folder, is_url, plain
from ffserve.predict import Classifier
from ffserve.progress import progress
from ffserve.session import Model


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command's options.

    Args:
        command: its name.
        out: the folder of its answers, a path or a URL.
        model: what answers.
        ray: what is asked of Ray.
        account: of what becomes of the images.
        threads: of a session; None means 1.
        provider_options: of the CUDA provider.
        top_k: classes of a prediction.
        reading: `batch_size`, `invert`, `place` and `max_pixels` of `ffserve.stream.stream`.
    """

    command: str
    out: str | None
    model: Model
    ray: OfRay
    account: Account
    threads: int | None
    provider_options: dict[str, str]
    reading: dict[str, Any]
    top_k: int = 0
    done: dict[str, int] = field(default_factory=lambda: {"images": 0, "parts": 0, "kept": 0})

    def write(self, named: Iterable[str], as_json: bool) -> None:
        """Writes the answers of images, and prints what was written."""
        if self.command == "predict":
            Classifier(self.model)  # which says what a model without classes lacks
        self._answered(located(named, self.account.left_out, self.ray.image_column))
        notes.of_images(self.account, self.reading["invert"])
        told = {"model": str(self.model.path), "device": self.model.device, "out": self.out, **self.done}
        if self.command == "features":
            told |= {"images": self._read(), "features": self.model.widths["features"]}
        row = [str(self.out), *(f"{told[key]:,}" for key in ("images", "parts"))]
        console.print_result(
            told | self.account.to_dict(),
            as_json,
            lambda _: console.print_table(f"model {self.model.path}", ["folder", "images", "parts"], [row]),
        )
        if self.account.failed:
            raise typer.Exit(1)

    def evaluate(self, folder: str) -> Evaluation:
        """Returns what `ffserve.evaluate.evaluate` does, of a folder by its path or URL."""
        folder, left_out = plain(folder), self.account.left_out
        inside = class_folders_at(folder, left_out) if is_url(folder) else class_folders(Path(folder), left_out)
        found = sought(self.model, folder, inside)
        confusion, calibration = Confusion.empty(class_names(self.model)), Calibration.empty()
        self._answered(labelled(found.folders, left_out), partial(add_sums, confusion, calibration))
        return Evaluation(confusion=confusion, calibration=calibration, missing=found.missing, unknown=found.unknown)

    def _answered(self, refs: Iterable[Ref], add: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
        """Answers every part of these images, and accounts for them; `add` is given the sums of each part.

        Raises:
            UsageError: where no folder is named, or as `ffserve.parts.engine.answered` does.
            DataError: where no image could be read.
        """
        if self.out is None:
            raise UsageError("--engine ray writes a file for each part: name a folder with --out")
        out = plain(self.out)
        content = self.model.path.read_bytes()
        asked: dict[str, Any] = {
            key: value if isinstance(value, int) else str(value) for key, value in self.reading.items()
        }
        job = Job(
            out=out if is_url(out) else os.path.abspath(out),
            command=self.command,
            model=hashlib.sha256(content).hexdigest(),
            version=version("ffstudy"),
            threads=self.threads or 1,
            top_k=self.top_k,
            device=self.model.device,
            provider_options=self.provider_options,
            image_column=self.ray.image_column,
            part_images=self.ray.part_images or PART_IMAGES,
            working=os.getcwd(),
            called=str(self.model.path),
            **asked,
        )
        address, cpus, sessions = self.ray[:3]
        run = secrets.token_hex(4)
        with (
            _cleared(Folder(job.out, run)),
            room(address, cpus or job.threads, int(job.device == "cuda"), sessions) as found,
        ):
            listed = begin(job, content, refs, self.account.report)
            with progress("images") as advance, _going_on():
                for told in answered(job, listed, found, run):
                    self.account.include(told["account"])
                    add(told["sums"])
                    for key, count in (("images", told["images"]), ("parts", 1), ("kept", int(told["kept"]))):
                        self.done[key] += count
                    advance(told["images"])
        if not self._read():
            raise DataError(f"no image could be read: the files in {self.out} have no answers")

    def _read(self) -> int:
        """Returns how many images could be read."""
        return self.done["images"] - len(self.account.failed)


@contextmanager
def _cleared(folder: Folder) -> Iterator[None]:
    """Clears up, when the block ends, what sessions that were stopped left half-written."""
    try:
        yield
    finally:
        folder.clear()


@contextmanager
def _going_on() -> Iterator[None]:
    """Says how a job goes on that is stopped in the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        notes.note("stopped: the same command goes on")
        raise
