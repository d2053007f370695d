"""The study: every cell of a grid, trained, measured and compared; stopped anywhere, it goes on where it was.

STUDY/study.json is the plan. STUDY/cells/NAME is a run folder; what it holds says what is done, so that nothing
finished is done again, and what was measured with other settings is. A lock for each cell keeps processes that share
the folder out of each other's way; the system takes it back from one that is killed.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from ffmodels.checkpoint import BACKBONE_FILE, CONFIG_FILE, check_weights
from ffmodels.errors import RunError, SettingError, TrainingError
from ffmodels.files import read_json, write_json
from ffmodels.labels import check_slot
from fftrain import cost
from fftrain.analyse import compare_runs
from fftrain.cells import Work, agrees, only_data, steps
from fftrain.config import DataConfig
from fftrain.data import Facts, ImageData, look_at
from fftrain.progress import Reporter
from fftrain.registry import TASKS
from fftrain.run import RunFolder, git_commit
from fftrain.spec import STUDY_FILE, Cell, Spec, keyed
from fftrain.trainer import make_accelerator

FAILED_FILE = "failed.json"
# How far a cell is.
DONE, MISSING, STARTED, FAILED, DAMAGED = "done", "missing", "started", "failed", "damaged"
LOCKED = "is in work by another process: left to it"


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a cell is, the steps that are left, and the reason where it failed or is damaged."""

    status: str
    left: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Shard:
    """The I-th of N parts of a study, counted from 1: every N-th cell."""

    index: int = 1
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """Reads I/N. Raises SettingError unless 1 <= I <= N."""
        try:
            index, count = map(int, text.split("/"))
        except ValueError:
            index, count = 0, 0
        if not 1 <= index <= count:
            raise SettingError(f"--shard is {text!r}: write I/N with 1 <= I <= N, for example 2/4")
        return cls(index, count)

    def of_cells(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """Returns the shard's cells."""
        return cells[self.index - 1 :: self.count]


class Study:
    """A study's folder and plan.

    Args:
        path: the folder: new, or a study's.
        spec: the plan.

    Raises:
        SettingError: where a cell's settings cannot go together.
        DataError, ImageError: where an image folder cannot be read.
    """

    def __init__(self, path: Path, spec: Spec) -> None:
        self.path = path
        self.spec, self.facts = resolved(spec)
        self.machine: cost.Machine | None = None

    def folder(self, cell: Cell) -> Path:
        """Returns the cell's run folder."""
        return self.path / "cells" / cell.name

    def failed_file(self, cell: Cell) -> Path:
        """Returns where it is recorded that the cell failed."""
        return self.path / "failed" / f"{cell.name}.json"

    def pair_file(self, pair: tuple[Cell, Cell]) -> Path:
        """Returns where the comparison of two cells lies."""
        return self.path / "pairs" / f"{pair[0].name}--{pair[1].name}.json"

    def listing(self, shard: Shard) -> list[dict[str, Any]]:
        """Returns how far the cells of a shard are, and about how many seconds each still takes."""
        forecast = self.forecast()
        found = []
        for cell in shard.of_cells(self.spec.cells):
            state = self.state(cell)
            about = {"name": cell.name, "status": state.status, "left": list(state.left)}
            found.append({**about, "seconds_left": forecast[cell.name], "reason": state.reason})
        return found

    def forecast(self) -> dict[str, float]:
        """Returns the estimated seconds of what is left of each cell, corrected by the cells that are done."""
        if self.machine is None:
            self.machine = cost.Machine.measure(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        left, spent, planned = {}, 0.0, 0.0
        for cell in self.spec.cells:
            steps = cost.estimate(cell, self.facts[cell.name], self.machine)
            state = self.state(cell)
            left[cell.name] = sum(steps[name] for name in state.left)
            if state.status == DONE:
                spent += sum(RunFolder(self.folder(cell)).read_results().get("seconds", {}).values())
                planned += sum(steps.values())
        return {name: seconds * (spent / planned if spent else 1.0) for name, seconds in left.items()}

    def lock(self, name: str) -> FileLock:
        """Returns the lock of a cell or a pair: taken at once or not at all."""
        (self.path / "locks").mkdir(exist_ok=True)
        return FileLock(self.path / "locks" / f"{name}.lock", blocking=False)

    def state(self, cell: Cell) -> State:
        """Reads from its run folder how far a cell is; a damaged one is said to be so, never raised."""
        folder, todo = self.folder(cell), steps(cell)
        run = RunFolder(folder)
        try:
            failed = read_json(self.failed_file(cell)) if self.failed_file(cell).exists() else {}
            reason, damaged = (failed["error"], failed["damaged"]) if failed else ("", False)
            if (folder / CONFIG_FILE).exists():
                if not agrees(keyed(run.read_config()), cell.config):
                    raise RunError(f"{folder / CONFIG_FILE} is of other settings than this cell")
            elif (folder / BACKBONE_FILE).exists():
                raise RunError(f"{folder / CONFIG_FILE} is missing")
            if (folder / BACKBONE_FILE).exists():
                check_weights(folder / BACKBONE_FILE)
            run.read_metrics()
            results = run.read_results()
            left = tuple(step.name for step in todo if not step.done(folder, results))
        except (RunError, KeyError, TypeError, AttributeError) as error:
            what = str(error) if isinstance(error, RunError) else f"a file of {folder} is damaged ({error!r})"
            return State(status=DAMAGED, reason=what)
        if not left:
            return State(status=DONE)
        if reason:
            return State(status=DAMAGED if damaged else FAILED, left=left, reason=reason)
        return State(status=STARTED if folder.exists() else MISSING, left=left)

    def create(self, command: str) -> None:
        """Makes the folder and writes the plan.

        Raises:
            RunError: where the folder is in use by something else, or cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"--out {self.path} is a file: name a folder")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / STUDY_FILE).exists():
            raise RunError(f"--out {self.path} is in use already, and not by a study: choose another folder")
        planned = self.spec.to_dict()
        if (self.path / STUDY_FILE).exists():  # the plan that goes on was made by another command
            was = read_json(self.path / STUDY_FILE)
            command = was["command"] if isinstance(was, dict) and was.get("cells") == planned["cells"] else command
        about = {"format": 1, "command": command, "version": version("ffstudy"), "git_commit": git_commit()}
        write_json(self.path / STUDY_FILE, {**about, **planned})

    def discard(self, cell: Cell) -> None:
        """Moves a cell's folder to discarded/, and forgets what was compared with it and why it failed."""
        place = self.path / "discarded" / cell.name
        number = 1
        while (moved := place.with_name(f"{place.name}-{number}")).exists():
            number += 1
        try:
            moved.parent.mkdir(exist_ok=True)
            if self.folder(cell).exists():
                self.folder(cell).rename(moved)
            self.failed_file(cell).unlink(missing_ok=True)
            for pair in self.spec.pairs:
                if cell in pair:
                    self.pair_file(pair).unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.folder(cell)} cannot be moved ({error.strerror}): move or delete it") from error

    def run_cell(self, cell: Cell, left: tuple[str, ...], work: Work) -> str:
        """Does what is left of a cell.

        Returns:
            Why it failed, in one line, as failed/NAME.json then records; an empty text where it did not.
        """
        folder, failed_file = self.folder(cell), self.failed_file(cell)
        main, name = work.accelerator.is_main_process, ""
        try:
            for step in steps(cell):
                if step.name in left:
                    name = step.name
                    began = time.perf_counter()
                    step.run(folder, work)
                    work.accelerator.wait_for_everyone()
                    if main:
                        RunFolder(folder).add_seconds(name.partition(" ")[0], time.perf_counter() - began)
        except Exception as error:
            known = getattr(error, "exit_code", None) is not None
            text = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}"
            if main:
                about = {"error": text, "step": name, "damaged": isinstance(error, RunError)}
                write_json(failed_file, {**about, "traceback": None if known else traceback.format_exc()})
            if work.accelerator.num_processes > 1 and not isinstance(error, TrainingError):
                raise  # the others may wait for this one
            return text
        if main:
            failed_file.unlink(missing_ok=True)
        return ""


def resolved(spec: Spec) -> tuple[Spec, dict[str, Facts]]:
    """Returns a study whose cells can be run, and what is known of each cell's data set, by the cell's name.

    Data sets to transfer to are left to the cells whose images have their shape.

    Raises:
        SettingError: where a cell cannot be run: a task that does not fit the images, a label slot that does not fit
            the first channel, a data set for transfer whose images have a shape that no other has.
        DataError, ImageError: where an image folder cannot be read.
    """
    looked: dict[DataConfig, Facts] = {}

    def look(config: DataConfig) -> Facts:
        key = only_data(config)
        if key not in looked:
            looked[key] = look_at(key)
        return looked[key]

    cells, found = [], {}
    wanted, used = set(), set()
    for cell in spec.cells:
        facts = found[cell.name] = look(cell.config)
        task = TASKS.load(cell.config.task)(("",) * facts.classes)
        try:
            task.check(facts.shape)
            check_slot(facts.shape, len(task.class_names))
        except SettingError as error:
            what = f"{spec.name}: task {cell.config.task!r} on {cell.config.dataset!r}"
            raise SettingError(f"{what}: {error}") from error
        probes = tuple(probe for probe in cell.probes if look(probe).shape == facts.shape)
        wanted |= {probe.dataset for probe in cell.probes}
        used |= {probe.dataset for probe in probes}
        cells.append(replace(cell, probes=probes))
    for name in sorted(wanted - used):
        raise SettingError(
            f"{spec.name}: transfer has {name!r}, whose images have the shape of no other data set: leave it out, or "
            "set image_size and grayscale"
        )
    return replace(spec, cells=tuple(cells)), found


def run_study(
    study: Study,
    *,
    command: str,
    shard: Shard,
    processes: int | None = None,
    redo_damaged: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, str]:
    """Does what is left of a study, or of a shard of it.

    Args:
        study: the study.
        command: what it is recorded to be made by.
        shard: which part of the cells is this process's.
        processes: how many must work together; None takes what the launcher started.
        redo_damaged: move damaged cells to discarded/ and do them over.
        reporter: what a person sees.

    Returns:
        Why cells failed or are damaged, by name.

    Raises:
        RunError: where the study's folder is in use by something else, or cannot be written.
        TrainingError: where the processes do not fit together.
    """
    reporter = reporter or Reporter()
    accelerator = make_accelerator(None, processes=processes)
    if accelerator.is_main_process:
        study.create(command)
    accelerator.wait_for_everyone()
    cells, failed = shard.of_cells(study.spec.cells), {}
    data: dict[DataConfig, ImageData] = {}
    for number, cell in enumerate(cells, start=1):
        config = cell.config  # an accelerator keeps what it prepared: each cell has its own
        accelerator = make_accelerator(config.threads, config.mixed_precision, config.track, processes)
        work = Work(accelerator=accelerator, baselines=study.path / "baselines", reporter=reporter, data=data)
        lock = study.lock(cell.name)
        left, note = _taken(study, cell, lock, redo_damaged) if accelerator.is_main_process else ((), "")
        [left, note] = broadcast_object_list([left, note])
        try:
            if note:
                reporter.note(f"cell {number}/{len(cells)} {cell.name} {note}")
            if note and note != LOCKED:
                failed[cell.name] = note
            if left:
                reporter.note(f"cell {number}/{len(cells)} {cell.name}: {', '.join(left)}")
                reason = study.run_cell(cell, left, work)
                if reason:
                    failed[cell.name] = reason
                said = f"failed: {reason}" if reason else "done"
                if accelerator.is_main_process:
                    forecast = study.forecast()
                    rest = duration(sum(forecast[other.name] for other in cells[number:]))
                    reporter.note(f"cell {number}/{len(cells)} {cell.name} {said}; left: about {rest}")
        finally:
            lock.release()
            accelerator.free_memory()
    if accelerator.is_main_process:
        _compare(study, Work(accelerator=accelerator, baselines=study.path, reporter=reporter, data=data))
    accelerator.wait_for_everyone()
    return failed


def _taken(study: Study, cell: Cell, lock: FileLock, redo_damaged: bool) -> tuple[tuple[str, ...], str]:
    """Takes a cell's lock; returns what is left to do under it, and what to say where nothing is done."""
    try:
        lock.acquire()
    except Timeout:
        return (), LOCKED
    state = study.state(cell)
    if state.status == DAMAGED and redo_damaged:
        study.discard(cell)
        state = study.state(cell)
    if state.status == DAMAGED:
        return (), f"is damaged: {state.reason} (--redo-damaged does it over)"
    return state.left, ""


def _compare(study: Study, work: Work) -> None:
    """Compares the pairs of cells that are done and were not compared yet."""
    for one, other in study.spec.pairs:
        path, lock = study.pair_file((one, other)), study.lock(f"pair-{one.name}--{other.name}")
        if path.exists() or any(study.state(cell).status != DONE for cell in (one, other)):
            continue
        try:
            with lock:
                if not path.exists():
                    folders = [study.folder(cell) for cell in (one, other)]
                    write_json(path, compare_runs(*folders, data=work.load(one.config), reporter=work.reporter))
        except Timeout:  # another process compares them
            continue


def duration(seconds: float) -> str:
    """Returns a time as people say it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
