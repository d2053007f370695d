"""The runs that a report is about: of a study those that were planned, of any other folder those that lie in it.

A cell is done, failed, damaged or missing; in a plain folder it may be unfinished too. What cannot be read is named,
never filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffmodels.run import BACKBONE_FILE, CONFIG_FILE, SAMPLES_FILE
from fftrain.config import RunConfig, flat
from fftrain.parts import make_part
from fftrain.recipes import POINT, label
from fftrain.report.names import folders, in_words, renamed, short_names
from fftrain.report.records import FoundRun, as_planned, read_run, shortened
from fftrain.run import RunFolder
from fftrain.study import STUDY_FORMAT

STATES = ("done", "failed", "damaged", "missing")
# How far a run of a plain folder is that was never finished.
UNFINISHED = "unfinished"
# What tells runs apart whose figures are not averaged, and the seed.
KIND = ["dataset", "view", "method", "varied"]
CELL = ["run", "dataset", "view", "method", "seed", "varied"]
PLACE = ["measure", "split", "probed_on", "reading", "target", "source", "blocks"]
# A share of 1 is shown in %; any other unit is a number's own.
SHARE = "share"
EMPTY = {**dict.fromkeys((*CELL, *PLACE), ""), "unit": SHARE}
# What may differ between runs without being a setting of the experiment.
ALIKE = ("dataset", "view.name", "method.name", *POINT, "seed", *RunConfig.FREE)
UNREADABLE = (KeyError, TypeError, AttributeError, IndexError, ValueError)

Place = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run that a report is about: what it should be, and what was found of it.

    `planned` are the data set, reading and target of all labels that a study asks to be told; of a `search` there are
    none, and the test split is not read.
    """

    name: str
    dataset: str
    view: str
    method: str
    seed: int
    varied: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned: tuple[Place, ...] = ()
    search: bool = False
    state: str = "done"
    reason: str = ""
    run: FoundRun | None = None

    @cached_property
    def kind(self) -> tuple[str, ...]:
        """What it has in common with the cells of other seeds."""
        return self.dataset, self.view, self.method, self.varied

    @cached_property
    def probed(self) -> list[Place]:
        """The data set, reading and target of all labels that were to be told, or were."""
        return list(dict.fromkeys([*self.planned, *(self.run.told if self.run else ())]))

    def reading(self, probed_on: str) -> str:
        """Returns how the pixels are filled by default; where that was not probed, the first way that was."""
        readings = [reading for dataset, reading, target in self.probed if (dataset, target) == (probed_on, "class")]
        default = self.run.reading if self.run else ""
        return default if default in readings or not readings else readings[0]

    @cached_property
    def tells(self) -> bool:
        """Whether its method tells the labels that it is trained on; of one to be trained, whether it reads any."""
        return self.run.tells if self.run else bool(self._part("method", lambda method: method.needs().labels))

    @cached_property
    def supervised(self) -> bool:
        """Whether it is trained on the classes themselves."""
        return self.tells and not self._part("view", lambda view: view.pretext)

    def _part(self, kind: str, ask: Any) -> Any:
        """Asks a part; True where it is not known, or code outside the package that may not be run here."""
        try:
            return ask(make_part(kind, self.settings[kind]))
        except (KeyError, RunError, SettingError):
            return True

    @property
    def trained_on_validation(self) -> bool:
        """Whether the validation images were trained on too (`--no-holdout`)."""
        return self.run is not None and not self.run.config.get("holdout", True)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the frame that are this run's. Raises ValueError where a number is none."""
        head = {"run": self.name, **{key: getattr(self, key) for key in CELL[1:]}}
        return [] if self.run is None else [{**EMPTY, **head, **record} for record in self.run.records()]


def planned_cells(root: Path, study: Mapping[str, Any], names: Mapping[str, str]) -> list[Cell]:
    """Returns the cells of a study in its order, each with its state."""
    if study["format"] != STUDY_FORMAT:
        raise ValueError(f"its format is {study['format']!r}, not {STUDY_FORMAT}: another version made it")
    if not study["cells"]:
        raise ValueError("it has no cells")
    cells = []
    for planned in study["cells"]:
        path = root / "cells" / planned["name"]
        if path.parent != root / "cells":
            raise ValueError(f"{planned['name']!r} is no folder's name")
        plan = {key: planned[key] for key in ("name", "dataset", "view", "method", "seed", "settings")}
        plan |= {"varied": _varied(planned["varied"]), "search": planned.get("search", False)}
        told = ((one["dataset"], one["reading"], one["target"]) for one in planned["evaluations"])
        plan["planned"] = tuple(place for place in dict.fromkeys(told) if place[2])
        trained = (path / BACKBONE_FILE).is_file()
        cell = _cell(path, plan, _read(path, plan["name"]), names, planned) if trained else _absent(path, plan)
        failure = failure_of(root / "failed" / f"{path.name}.json")
        if failure and cell.state != "damaged" and cell.reason:  # a cell that lacks nothing was mended
            reason = failure if cell.run is None else f"{failure}; {cell.reason}"
            cell = replace(cell, state="failed", reason=in_words(reason, names))
        cells.append(cell)
    return cells


def failure_of(path: Path) -> str:
    """Returns the step and the error that a study recorded; "" where there is no such file."""
    if not path.is_file():
        return ""
    try:
        told = read_json(path)
        return f"{told['step']}: {told['error']}"
    except (RunError, KeyError, TypeError) as error:
        return f"failed, but {path} is damaged ({what_of(error)})"


def _read(path: Path, name: str) -> FoundRun | Exception:
    """Reads a finished run; returns the error where a file of it is damaged."""
    try:
        return read_run(path, name)
    except (RunError, *UNREADABLE) as error:
        return error


def _cell(
    path: Path,
    plan: dict[str, Any],
    read: FoundRun | Exception,
    names: Mapping[str, str],
    planned: Mapping[str, Any] | None = None,
) -> Cell:
    """Returns the cell of a finished run; "damaged" where a file is, or the run is another than planned."""
    try:
        if isinstance(read, Exception):
            raise read
        run, reason = shortened(read, names), ""
        for key, found in _named(run.config).items():
            if found != plan[key]:
                raise RunError(f"{path / CONFIG_FILE} has {key} {found!r}, not {plan[key]!r}: restore or delete {path}")
        if planned is not None:
            run, reason = as_planned(run, planned["evaluations"])
        cell = Cell(**plan, run=run, reason=reason)
        _ = cell.rows
        return cell
    except RunError as error:
        return Cell(**plan, state="damaged", reason=in_words(str(error), names))
    except UNREADABLE as error:
        reason = f"a file of {path} is damaged ({what_of(error)}): measure or train that run again"
        return Cell(**plan, state="damaged", reason=reason)


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what names a run, of its settings."""
    named = {"dataset": config["dataset"], "view": config["view"]["name"], "method": label(config)}
    return {**named, "seed": config["seed"]}


def _varied(varied: Mapping[str, Any]) -> str:
    """Names the settings that differ between runs of one kind: {"lr": 0.001} -> 'lr=0.001'."""
    return ", ".join(f"{key.removesuffix('.name')}={value}" for key, value in varied.items())


def _absent(path: Path, plan: Mapping[str, Any]) -> Cell:
    """Returns the cell of a study that has no weights yet."""
    try:
        reason = f"not finished: {_how_far(path)}" if (path / CONFIG_FILE).exists() else "not run"
    except RunError as error:
        reason = f"not finished: {error}"
    return Cell(**plan, state="missing", reason=reason)


def _how_far(path: Path) -> str:
    """Returns how far the training of an unfinished run is. Raises RunError where it is damaged."""
    run = RunFolder(path)
    return f"{run.epochs_done} of {run.read_config().epochs} epochs are done"


def _unfinished(path: Path, plan: Mapping[str, Any]) -> Cell:
    """Returns the cell of a run that was begun, and what goes on with it; "damaged" where that cannot be read."""
    try:
        reason = f"{_how_far(path)}; where it was stopped, `{RunFolder(path).resuming}` goes on"
        return Cell(**plan, state=UNFINISHED, reason=reason)
    except RunError as error:
        return Cell(**plan, state="damaged", reason=str(error))


def found_cells(root: Path) -> list[Cell]:
    """Returns the runs below a plain folder, by name, told apart by the settings that differ."""
    # A folder with settings and samples is a run that was begun, one with weights a run that is finished.
    begun = {p.parent for p in root.rglob(CONFIG_FILE)}
    finished = {path for path in begun if (path / BACKBONE_FILE).is_file()}
    paths = sorted(path for path in begun if path in finished or (path / SAMPLES_FILE).is_file())
    if not paths:
        raise RunError(f"{root} holds no finished run: `fftrain pretrain --out {root}/NAME` makes one")
    called = [str(path.relative_to(root)) if path != root else path.name for path in paths]
    read = [_read(path, name) if path in finished else None for path, name in zip(paths, called, strict=True)]
    runs = [run for run in read if isinstance(run, FoundRun)]
    measured = [one.about["dataset"] for run in runs for one in run.evaluated]
    records = [
        run.record if isinstance(run, FoundRun) else _content(path / CONFIG_FILE)
        for run, path in zip(read, paths, strict=True)
    ]
    names = short_names(folders([records, measured]))
    plans = _told_apart(called, renamed(records, names))
    cells = [
        _unfinished(path, plan) if run is None else _cell(path, plan, run, names)
        for path, plan, run in zip(paths, plans, read, strict=True)
    ]
    if all(cell.state == "damaged" for cell in cells):
        raise RunError(cells[0].reason)
    if not finished:
        raise RunError(f"{root} holds no finished run; of {paths[0]}, {cells[0].reason}")
    return cells


def _told_apart(called: Sequence[str], records: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns what names each run of a plain folder: of those of one kind the settings that differ, or the folder."""
    plans, settings = list[dict[str, Any]](), list[dict[str, Any]]()
    for name, record in zip(called, records, strict=True):
        try:
            plans.append({"name": name, **_named(record["config"]), "settings": record["config"]})
            settings.append(flat(record["config"]))
        except UNREADABLE:
            plans.append({"name": name, **dict.fromkeys(KIND[:3], "unknown"), "seed": -1, "settings": {}})
            settings.append({})
    kinds = [tuple(plan[key] for key in KIND[:3]) for plan in plans]
    for plan, kind, own in zip(plans, kinds, settings, strict=True):
        alike = [other for other, its in zip(settings, kinds, strict=True) if its == kind]
        differ = [key for key in own if key not in ALIKE and any(other.get(key) != own[key] for other in alike)]
        plan["varied"] = _varied({key: own[key] for key in differ})
    seen = Counter(tuple(plan[key] for key in (*KIND, "seed")) for plan in plans)
    twice = [plan for plan in plans if seen[tuple(plan[key] for key in (*KIND, "seed"))] > 1]
    for plan in twice:
        plan["varied"] = f"run={plan['name']}"
    return plans


def _content(path: Path) -> Any:
    """Returns what a JSON file holds; None where it cannot be read, which is said of its run."""
    try:
        return read_json(path)
    except RunError:
        return None


def what_of(error: Exception) -> str:
    """Returns an error of reading as words of one line."""
    return str(error) if isinstance(error, RunError | ValueError) else f"{type(error).__name__}: {error}"
