"""A study's folder: its plan, how far each cell is, which part of the cells is whose, and how long the rest takes.

STUDY/study.json is the plan. STUDY/cells/NAME is a run folder; what it holds says what is done, so that nothing
finished is done again, and what was measured with other settings is. A lock for each cell keeps processes that share
the folder out of each other's way; the system takes it back from one that is killed.
"""

from __future__ import annotations

import fnmatch
import shlex
import shutil
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ffcore.errors import FFStudyError, InUse, RunError, SettingError, WriteError
from ffcore.files import LOCK_FILE, AnyPath, claimed, lock, read_json, write_json
from ffmodels.evaluated import evaluations
from ffmodels.run import BACKBONE_FILE, CONFIG_FILE, check_weights, weights_digest
from fftrain.report.records import read_run
from fftrain.run import RunFolder, git_commit
from fftrain.study import STUDY_FILE, STUDY_FORMAT, cost
from fftrain.study.planning import outside
from fftrain.study.spec import Cell, Spec
from fftrain.study.steps import Work, steps

# How far a cell is.
DONE, MISSING, STARTED, FAILED, DAMAGED = "done", "missing", "started", "failed", "damaged"


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a cell is, the steps that are left, and the reason where it failed or is damaged."""

    status: str
    left: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Shard:
    """The I-th of N parts of a study, counted from 1; where `only` names cells, those of them."""

    index: int = 1
    count: int = 1
    only: frozenset[str] | None = None

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
        """Returns the shard's cells: the costly ones are dealt first, each to the part that has least to do.

        The cost is counted, not measured, so that every machine deals alike.
        """
        costs = {c.name: sum(cost.estimate(c, cost.NOMINAL).values()) for c in cells}
        parts: list[list[Cell]] = [[] for _ in range(self.count)]
        for cell in sorted(cells, key=lambda cell: (-costs[cell.name], cell.name)):
            min(parts, key=lambda part: sum(costs[c.name] for c in part)).append(cell)
        mine = {cell.name for cell in parts[self.index - 1] if self.only is None or cell.name in self.only}
        return [cell for cell in cells if cell.name in mine]


class Study:
    """A study's folder and plan.

    Args:
        path: the folder: new, or a study's.
        spec: the plan.
    """

    def __init__(self, path: AnyPath, spec: Spec) -> None:
        self.path = Path(path)
        self.spec = spec
        self.machine: cost.Machine | None = None

    def named(self, patterns: Sequence[str]) -> frozenset[str] | None:
        """Returns the names of the cells that any of the patterns names (`*` is any text); None for no pattern.

        Raises:
            SettingError: where a pattern names no cell; it says which come near.
        """
        names = [cell.name for cell in self.spec.cells]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = [name for name in names if pattern in name] or get_close_matches(pattern, names, cutoff=0.4)
                hint = f"near it are {', '.join(near[:3])}" if near else f"the first is {names[0]}"
                raise SettingError(f"--only is {pattern!r}, which names no cell: {hint}; --dry-run lists all")
        found = frozenset(name for pattern in patterns for name in fnmatch.filter(names, pattern))
        return found if patterns else None

    @property
    def resuming(self) -> str:
        """Says what goes on with a study that was stopped."""
        if not (self.path / STUDY_FILE).exists():
            return "stopped before the first cell: the same command starts again"
        trusted = [word for name in sorted({*outside(self.spec.content)}) for word in ("--trust-plugin", name)]
        return f"stopped: `{shlex.join(['fftrain', 'study', '--out', str(self.path), *trusted])}` goes on"

    def folder(self, cell: Cell) -> Path:
        """Returns the cell's run folder."""
        return self.path / "cells" / cell.name

    def failed_file(self, name: str) -> Path:
        """Returns where it is recorded that a cell or a comparison failed."""
        return self.path / "failed" / f"{name}.json"

    def pair_file(self, pair: tuple[Cell, Cell]) -> Path:
        """Returns where the comparison of two cells lies."""
        return self.path / "pairs" / f"{pair[0].name}--{pair[1].name}.json"

    def compared(self, pair: tuple[Cell, Cell]) -> bool:
        """Whether the comparison of two cells is there, whole, and of the weights that they have."""
        try:
            found = read_json(self.pair_file(pair))
            weights = [weights_digest(self.folder(cell)) for cell in pair]
            return bool(found["weights"] == weights and found["cka"])
        except (RunError, OSError, KeyError, TypeError):
            return False

    def listing(self, shard: Shard) -> list[dict[str, Any]]:
        """Returns how far the cells of a shard are, and about how many seconds each still takes."""
        forecast = self.forecast()
        found = []
        for cell in shard.of_cells(self.spec.cells):
            state = self.state(cell)
            about = {
                "name": cell.name,
                "varied": self.spec.varied(cell),
                "status": state.status,
                "left": list(state.left),
            }
            found.append({**about, "seconds_left": forecast[cell.name], "reason": state.reason})
        return found

    def forecast(self) -> dict[str, float]:
        """Returns the estimated seconds of what is left of each cell, corrected by the cells that are done."""
        if self.machine is None:
            self.machine = cost.Machine.measure(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        left, spent, planned = {}, 0.0, 0.0
        for cell in self.spec.cells:
            steps = cost.estimate(cell, self.machine)
            state = self.state(cell)
            left[cell.name] = sum(steps[name] for name in state.left)
            if state.status == DONE:
                folder = RunFolder(self.folder(cell))
                spent += sum(epoch["seconds"] for epoch in folder.read_metrics())
                spent += sum(one.about["value"] for one in evaluations(folder.path))
                planned += sum(steps.values())
        return {name: seconds * (spent / planned if spent else 1.0) for name, seconds in left.items()}

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Returns the lock of a cell or a pair: taken at once, else InUse is raised."""
        return lock(self.path / "locks" / f"{name}.lock", f"{name} is another process's work")

    def state(self, cell: Cell) -> State:
        """Reads from its run folder how far a cell is; a damaged one is said to be so, never raised."""
        folder, todo = self.folder(cell), steps(cell)
        run = RunFolder(folder)
        try:
            reason, damaged = self._failure(cell)
            if folder.exists() and not folder.is_dir():
                raise RunError(f"{folder} is a file, not a run folder")
            if (folder / CONFIG_FILE).exists():
                if not cell.agrees(run.read_config()):
                    raise RunError(f"{folder / CONFIG_FILE} is of other settings than this cell")
            elif (folder / BACKBONE_FILE).exists():
                raise RunError(f"{folder / CONFIG_FILE} is missing")
            if (folder / BACKBONE_FILE).exists():
                check_weights(folder / BACKBONE_FILE)
            run.read_metrics()
            found = evaluations(folder)
            left = tuple(step.name for step in todo if not step.done(folder, found))
            if todo[0].name in left:  # training forgets what was measured on other weights
                if found and not (folder / BACKBONE_FILE).exists():
                    raise RunError(f"{folder} holds measurements, but {BACKBONE_FILE} is missing")
                left = tuple(step.name for step in todo)
            if not left:
                read_run(folder, cell.name)  # all that a report shows
        except (RunError, SettingError, KeyError, TypeError, AttributeError) as error:
            what = (
                str(error)
                if isinstance(error, RunError | SettingError)
                else f"a file of {folder} is damaged ({error!r})"
            )
            return State(status=DAMAGED, reason=what)
        if not left:
            return State(status=DONE)
        if reason:
            return State(status=DAMAGED if damaged else FAILED, left=left, reason=reason)
        return State(status=STARTED if folder.exists() else MISSING, left=left)

    def check_plan(self, *, replace_plan: bool = False) -> dict[str, Any]:
        """Returns the plan that the folder holds, an empty one where it holds none that can be read.

        Raises:
            RunError: where the folder is in use by something else.
            SettingError: where work on cells of its plan would be left out, and `replace_plan` does not say so.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"--out {self.path} is a file: name a folder")
        begun = {STUDY_FILE, "cells", "locks"} & {path.name for path in self.path.glob("*")}
        if not begun and not all(p.name == LOCK_FILE or p.name.endswith(".partial") for p in self.path.glob("*")):
            raise RunError(f"--out {self.path} is in use already, and not by a study: choose another folder")
        try:
            was: dict[str, Any] = read_json(self.path / STUDY_FILE)
            dropped = {cell["name"] for cell in was["cells"]} - {cell.name for cell in self.spec.cells}
        except (RunError, KeyError, TypeError):  # none yet, or damaged: it is written anew
            return {}
        folders = {name: self.path / "cells" / name for name in dropped}
        lost = [n for n, path in folders.items() if (path / BACKBONE_FILE).exists() or (path / "checkpoint").exists()]
        if lost and not replace_plan:
            raise SettingError(
                f"--out {self.path} holds a study of which trained cells are not in this plan ({len(lost)}, the first "
                f"{min(lost)}): choose another --out, or --replace-plan to leave them out of it"
            )
        return was

    def create(self, command: str, *, replace_plan: bool = False) -> None:
        """Makes the folder and writes the plan. Raises what `check_plan` does, and WriteError."""
        was = self.check_plan(replace_plan=replace_plan)
        planned = self.spec.to_dict()
        if was.get("cells") == planned["cells"]:  # the plan goes on that another command made
            command = was.get("command", command)
        about = {"format": STUDY_FORMAT, "command": command, "version": version("ffstudy"), "git_commit": git_commit()}
        write_json(self.path / STUDY_FILE, {**about, **planned})

    def _failure(self, cell: Cell) -> tuple[str, bool]:
        """Returns why a cell failed, and whether its folder is damaged; nothing where that is not recorded whole."""
        try:
            failed = read_json(self.failed_file(cell.name)) if self.failed_file(cell.name).exists() else {}
            return (str(failed["error"]), bool(failed["damaged"])) if failed else ("", False)
        except (RunError, KeyError, TypeError):
            return "", False

    def record_failure(self, name: str, step: str, error: Exception) -> str:
        """Writes failed/NAME.json, and returns the reason as one line."""
        known = getattr(error, "exit_code", None) is not None
        text = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}"
        damaged = isinstance(error, RunError) and not isinstance(error, InUse)
        trace = None if known else traceback.format_exc()
        about = {"error": text, "step": step, "damaged": damaged, "traceback": trace}
        write_json(self.failed_file(name), about)
        return text

    def discard(self, cell: Cell) -> None:
        """Moves a cell's folder to discarded/, and forgets what was compared with it and why it failed.

        Raises InUse where another process works in the folder, RunError where it cannot be moved.
        """
        place = self.path / "discarded" / cell.name
        number = 1
        while (moved := place.with_name(f"{place.name}-{number}")).exists():
            number += 1
        try:
            moved.parent.mkdir(exist_ok=True)
            if self.folder(cell).is_dir():
                with claimed(self.folder(cell)):
                    pass  # so nobody works there
            if self.folder(cell).exists():
                self.folder(cell).rename(moved)
            self.failed_file(cell.name).unlink(missing_ok=True)
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
        folder, name = self.folder(cell), ""
        run, accelerator = RunFolder(folder), work.accelerator
        try:
            for step in steps(cell):
                if step.name in left:
                    name = step.name
                    with run.claimed(accelerator):
                        step.run(folder, work)
                        accelerator.wait_for_everyone()
        except Exception as error:
            # Of several processes, those fail alike that find the settings, the data, the loss or another process at
            # fault. Any other error may be of one alone, for which the others wait: it ends them all.
            alike = isinstance(error, InUse) or (
                isinstance(error, FFStudyError) and not isinstance(error, RunError | WriteError)
            )
            alone = accelerator.num_processes > 1 and not alike
            known = getattr(error, "exit_code", None) is not None
            if accelerator.is_main_process or (alone and known):
                self.record_failure(cell.name, name, error)
            if alone:
                raise
            return " ".join(f"{'' if known else type(error).__name__ + ': '}{error}".split())
        if accelerator.is_main_process:
            self.settle(cell)
        return ""

    def settle(self, cell: Cell) -> None:
        """Clears away what a cell that is done does not need: why it failed once, and checkpoints."""
        self.failed_file(cell.name).unlink(missing_ok=True)
        shutil.rmtree(self.folder(cell) / "checkpoint", ignore_errors=True)
