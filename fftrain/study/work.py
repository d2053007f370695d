"""The study: every cell of a grid, trained, measured and compared; stopped anywhere, it goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple, cast

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ffcore.errors import InUse
from ffcore.files import write_json
from fftrain.config import DataSettings
from fftrain.data import ImageData, data_folder
from fftrain.evaluations.base import Evaluation
from fftrain.launcher import make_accelerator
from fftrain.loading import main_first
from fftrain.progress import Reporter, duration
from fftrain.similar import compare_runs
from fftrain.study.folder import DAMAGED, DONE, Shard, Study
from fftrain.study.spec import Cell
from fftrain.study.steps import Work

LOCKED = "is in work by another process: left to it"


class Outcome(NamedTuple):
    """What became of a cell: what is said of it, why it failed, and whether anything was done."""

    said: str = ""
    failed: str = ""
    worked: bool = False


class Engine(AbstractContextManager["Engine"]):
    """Does the cells of a study one after the other, in this process or in those that a launcher started.

    Another one does them elsewhere. Entered, it has what it needs; left, it gives that back.

    Args:
        processes: how many must work together; None takes what the launcher started.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes
        self.data: dict[DataSettings, ImageData] = {}  # kept from one step to the next

    def __exit__(self, *_: object) -> None:
        """Gives back what it has taken: nothing."""

    def prepare(self, cells: Sequence[Cell], part: Sequence[Cell]) -> None:
        """Looks for what cells need before anything starts, and fetches what those of a part measure on.

        Raises what `run_study` does where something is missing.
        """
        for precision, track in dict.fromkeys((c.config.mixed_precision, c.config.track) for c in cells):
            make_accelerator(None, precision, track, self.processes)
        accelerator = make_accelerator(None, processes=self.processes)
        for evaluation, folder in dict.fromkeys((c.evaluation, data_folder(c)) for e in part for c in e.evaluations):
            with main_first(accelerator):
                cast(Evaluation, evaluation).fetch(folder)

    def run(self, study: Study, cells: Sequence[Cell], redo_damaged: bool, reporter: Reporter) -> dict[str, str]:
        """Does what is left of cells; returns why some failed or are damaged, by name."""
        failed = {}
        for number, cell in enumerate(cells, start=1):
            called = f"cell {number}/{len(cells)} {cell.name}"
            outcome = do_cell(study, cell, called, self.data, redo_damaged, reporter, self.processes)
            tell(study, called, outcome, cells[number:], reporter)
            if outcome.failed:
                failed[cell.name] = outcome.failed
        return failed


def run_study(
    study: Study,
    *,
    command: str,
    shard: Shard,
    processes: int | None = None,
    redo_damaged: bool = False,
    replace_plan: bool = False,
    reporter: Reporter | None = None,
    engine: Engine | None = None,
) -> dict[str, str]:
    """Does what is left of a study, or of a shard of it.

    Args:
        study: the study.
        command: what it is recorded to be made by.
        shard: which part of the cells is this process's.
        processes: how many must work together; None takes what the launcher started.
        redo_damaged: move damaged cells to discarded/ and do them over.
        replace_plan: let this plan leave out cells of the one that the folder holds.
        reporter: what a person sees.
        engine: what does the cells; None does them here, one after the other.

    Returns:
        Why cells and comparisons failed or are damaged, by name.

    Raises:
        RunError: where the study's folder is in use by something else, or cannot be written.
        DataError: where pictures that an evaluation reads cannot be had.
        SettingError: where there are too few of these, this machine lacks a precision or a tracker, or cells of the
            folder's plan would be dropped.
        TrainingError: where the processes do not fit together.
    """
    reporter = reporter or Reporter()
    cells = shard.of_cells(study.spec.cells)
    with engine or Engine(processes) as doing:
        doing.prepare(study.spec.cells, cells)  # what cannot be done is said before anything starts
        accelerator = make_accelerator(None, processes=processes)
        if accelerator.is_main_process:
            study.create(command, replace_plan=replace_plan)
        accelerator.wait_for_everyone()
        failed = doing.run(study, cells, redo_damaged, reporter)
        return {**failed, **_compare(study, doing.data, reporter, processes)}


def do_cell(
    study: Study,
    cell: Cell,
    called: str,
    data: dict[DataSettings, ImageData],
    redo_damaged: bool,
    reporter: Reporter,
    processes: int | None = None,
) -> Outcome:
    """Does what is left of one cell, unless another process is at it.

    Args:
        study: the study.
        cell: the cell.
        called: what the cell is called in what a person sees.
        data: data sets that are kept in memory.
        redo_damaged: move a damaged cell to discarded/ and do it over.
        reporter: what a person sees.
        processes: how many must work together; None takes what the launcher started.
    """
    config = cell.config  # an accelerator keeps what it prepared: each cell has its own
    accelerator = make_accelerator(config.threads, config.mixed_precision, config.track, processes)
    work = Work(accelerator=accelerator, baselines=study.path / "baselines", reporter=reporter, data=data)
    with ExitStack() as held:
        left, note = _taken(study, cell, held, redo_damaged) if accelerator.is_main_process else ((), "")
        [left, note] = broadcast_object_list([left, note])
        held.callback(accelerator.free_memory)
        if not left:
            return Outcome(note, "" if note == LOCKED else note)
        reporter.note(f"{called}: {', '.join(left)}")
        reason = study.run_cell(cell, left, work)
        return Outcome(f"failed: {reason}" if reason else "done", reason, worked=True)


def tell(study: Study, called: str, outcome: Outcome, rest: Iterable[Cell], reporter: Reporter) -> None:
    """Says what became of a cell, and about how long the rest takes, one cell after the other."""
    if outcome.worked and PartialState().is_main_process:
        forecast = study.forecast()
        left = duration(sum(forecast[cell.name] for cell in rest))
        reporter.note(f"{called} {outcome.said}; left: about {left}")
    elif outcome.said:
        reporter.note(f"{called} {outcome.said}")


def _taken(study: Study, cell: Cell, held: ExitStack, redo_damaged: bool) -> tuple[tuple[str, ...], str]:
    """Takes a cell's lock; returns what is left to do under it, and what to say where nothing is done."""
    try:
        held.enter_context(study.lock(cell.name))
        state = study.state(cell)
        if state.status == DAMAGED and redo_damaged:
            study.discard(cell)
            state = study.state(cell)
    except InUse:
        return (), LOCKED
    if state.status == DAMAGED:
        return (), f"is damaged: {state.reason} (--redo-damaged does it over)"
    if state.status == DONE:
        study.settle(cell)
    return state.left, ""


def _compare(
    study: Study, data: dict[DataSettings, ImageData], reporter: Reporter, processes: int | None
) -> dict[str, str]:
    """Compares the pairs of cells that are done and were not compared yet; returns why some could not be."""
    failed = {}
    for pair in study.spec.pairs:
        config = pair[0].config
        accelerator = make_accelerator(config.threads, processes=processes)
        work = Work(accelerator=accelerator, baselines=study.path / "baselines", reporter=reporter, data=data)
        main = accelerator.is_main_process
        name = f"pair-{pair[0].name}--{pair[1].name}"
        wanted = main and all(study.state(cell).status == DONE for cell in pair) and not study.compared(pair)
        with ExitStack() as held:
            try:
                if wanted:
                    held.enter_context(study.lock(name))
                    wanted = not study.compared(pair)  # another process may have, until now
            except InUse:  # another process compares them
                wanted = False
            [wanted] = broadcast_object_list([wanted])
            if not wanted:
                continue
            reason = ""
            try:
                images = work.load(config)
                if main:
                    folders = [study.folder(cell) for cell in pair]
                    found = compare_runs(*folders, images=pair[0].paired, data=images, reporter=reporter)
                    write_json(study.pair_file(pair), found)
                    study.failed_file(name).unlink(missing_ok=True)
            except Exception as error:
                reason = study.record_failure(name, "compare", error) if main else str(error)
        [reason] = broadcast_object_list([reason])
        if reason:
            failed[name] = reason
            reporter.note(f"{name} failed: {reason}")
    return failed
