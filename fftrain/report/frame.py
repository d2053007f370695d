"""Folders -> one tidy frame: what lies below a study's folder, or any folder with runs, beside what was planned.

A cell is one run of a study: done, failed, damaged or missing; or one below any other folder, which may be unfinished
too. What cannot be read is named, never filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffmodels.run import BACKBONE_FILE, CONFIG_FILE, SAMPLES_FILE
from fftrain.config import RunConfig
from fftrain.parts import FOLDER, PARTS, make_part
from fftrain.recipes import label
from fftrain.report.records import FoundRun, pair_records, read_run
from fftrain.run import RunFolder
from fftrain.study import STUDY_FILE, STUDY_FORMAT

STATES = ("done", "failed", "damaged", "missing")
# How far a run of a plain folder is that was never finished.
UNFINISHED = "unfinished"
# What tells runs apart whose figures are not averaged, and the seed.
KIND = ["dataset", "view", "method", "varied"]
CELL = ["run", "dataset", "view", "method", "seed", "varied"]
PLACE = ["measure", "split", "probed_on", "reading", "target", "source", "blocks"]
EMPTY = dict.fromkeys((*CELL, *PLACE), "")
# What may differ between runs without being a setting of the experiment.
ALIKE = ("dataset", "view.name", "method.name", "cut", "at", "seed", *RunConfig.FREE)
UNREADABLE = (KeyError, TypeError, AttributeError, IndexError, ValueError)

Probe = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run that a report is about: what it should be, and what was found of it.

    `planned` are the data set, reading and target of each probe that a study asks for; of a `search` there are none,
    and the test split is not read.
    """

    name: str
    dataset: str
    view: str
    method: str
    seed: int
    varied: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned: tuple[Probe, ...] = ()
    search: bool = False
    state: str = "done"
    reason: str = ""
    run: FoundRun | None = None

    @property
    def kind(self) -> tuple[str, ...]:
        """What it has in common with the cells of other seeds."""
        return self.dataset, self.view, self.method, self.varied

    @property
    def probed(self) -> list[Probe]:
        """The data set, reading and target of each probe that was planned or measured."""
        results = self.run.results.get("probes", {}).values() if self.run else ()
        return list(dict.fromkeys([*self.planned, *map(_probe, results)]))

    def reading(self, probed_on: str) -> str:
        """Returns how the pixels are filled by default; where that was not probed, the first way that was."""
        readings = [reading for dataset, reading, target in self.probed if (dataset, target) == (probed_on, "class")]
        default = self.run.reading if self.run else ""
        return default if default in readings or not readings else readings[0]

    @property
    def tells(self) -> bool:
        """Whether its method tells the labels that it is trained on; of one to be trained, whether it reads any."""
        return self.run.tells if self.run else bool(self._part("method", lambda method: method.needs().labels))

    @property
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

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the frame that are this run's."""
        head = {"run": self.name, **{key: getattr(self, key) for key in CELL[1:]}}
        return [] if self.run is None else [{**EMPTY, **head, **record} for record in self.run.records()]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything below a folder.

    Args:
        root: the folder.
        study: its study.json; None for a plain folder.
        cells: the runs that there are or should be.
        pairs: the names of two cells that are compared, where that was done.
        frame: every measured number, a row each: CELL, PLACE, `value` (a share of 1, or seconds).
        problems: name, state and reason of what is not there, or not whole.
    """

    root: Path
    study: dict[str, Any] | None
    cells: list[Cell]
    pairs: list[tuple[str, str]]
    frame: pd.DataFrame
    problems: list[tuple[str, str, str]]

    @property
    def runs(self) -> list[FoundRun]:
        """The runs that were read."""
        return [cell.run for cell in self.cells if cell.run is not None]

    @property
    def tidy(self) -> pd.DataFrame:
        """The frame with a column for each setting in which the runs differ."""
        settings = pd.DataFrame({c.name: flat(c.run.config) for c in self.cells if c.run}, dtype=object).T
        settings = settings.drop(columns=[*ALIKE], errors="ignore")
        differ = settings.loc[:, [settings[key].map(str).nunique() > 1 for key in settings]]
        return self.frame.join(differ, on="run").fillna("").astype({"seed": int}) if len(self.frame) else self.frame


def select(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Returns the rows that have these values."""
    kept = np.ones(len(frame), dtype=bool)
    for column, value in wanted.items():
        kept &= frame[column].to_numpy() == value
    return frame[kept]


def collect(root: Path) -> Collection:
    """Reads a study's folder, or the runs below any other.

    Raises:
        RunError: where there is no run at all, or study.json is damaged; a damaged run is named in `problems`.
    """
    study, rows = None, list[dict[str, Any]]()
    pairs, problems = list[tuple[str, str]](), list[tuple[str, str, str]]()
    if (root / STUDY_FILE).is_file():
        study = read_json(root / STUDY_FILE)
        try:
            names = short_names(_folders(study))
            study = renamed(study, names)
            cells = _planned(root, study, names)
            pairs, rows, problems = _pairs(root, study, cells)
        except UNREADABLE as error:
            raise RunError(f"{root / STUDY_FILE} is damaged ({_what(error)}): run `fftrain study` again") from error
    else:
        cells = _found(root)
    lacking = [(c.name, "incomplete" if c.state == "done" else c.state, c.reason) for c in cells if c.reason]
    rows = [*(row for cell in cells for row in cell.rows()), *rows]
    # Objects: texts are compared faster so than as pandas keeps them.
    frame = pd.DataFrame(rows, columns=[*CELL, *PLACE, "value"], dtype=object).astype({"value": float})
    return Collection(root=root, study=study, cells=cells, pairs=pairs, frame=frame, problems=[*lacking, *problems])


def _planned(root: Path, study: Mapping[str, Any], names: Mapping[str, str]) -> list[Cell]:
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
        plan |= {"varied": varied_name(planned["varied"]), "search": planned.get("search", False)}
        plan["planned"] = tuple(_probe(probe) for probe in planned["probes"])
        trained = (path / BACKBONE_FILE).is_file()
        cell = _read_cell(path, plan, names, planned) if trained else _absent(path, plan)
        failure = _failure(root / "failed" / f"{path.name}.json")
        if failure and cell.state != "damaged" and cell.reason:  # a cell that lacks nothing was mended
            reason = failure if cell.run is None else f"{failure}; {cell.reason}"
            cell = replace(cell, state="failed", reason=in_words(reason, names))
        cells.append(cell)
    return cells


def _probe(found: Mapping[str, Any]) -> Probe:
    return found["dataset"], found["reading"], found.get("target", "class")


def _failure(path: Path) -> str:
    """Returns the step and the error that a study recorded; "" where there is no such file."""
    if not path.is_file():
        return ""
    try:
        told = read_json(path)
        return f"{told['step']}: {told['error']}"
    except (RunError, KeyError, TypeError) as error:
        return f"failed, but {path} is damaged ({_what(error)})"


def _read_cell(
    path: Path, plan: dict[str, Any], names: Mapping[str, str], planned: Mapping[str, Any] | None = None
) -> Cell:
    """Returns the cell of a finished run; "damaged" where a file is, or the run is another than planned."""
    try:
        run = shortened(read_run(path, plan["name"]), names)
        for key, found in named(run.config).items():
            if found != plan[key]:
                raise RunError(f"{path / CONFIG_FILE} has {key} {found!r}, not {plan[key]!r}: restore or delete {path}")
        reason = ""
        if planned is not None:
            run, reason = _as_planned(run, plan, planned)
        cell = Cell(**plan, run=run, reason=reason)
        cell.rows()
        return cell
    except RunError as error:
        return Cell(**plan, state="damaged", reason=in_words(str(error), names))
    except UNREADABLE as error:
        reason = f"a file of {path} is damaged ({_what(error)}): measure or train that run again"
        return Cell(**plan, state="damaged", reason=reason)


def _as_planned(run: FoundRun, plan: Mapping[str, Any], planned: Mapping[str, Any]) -> tuple[FoundRun, str]:
    """Returns a run without what was measured with other settings than planned, and what it lacks."""
    wanted: dict[Any, Any] = {_probe(probe): probe.get("settings", {}) for probe in planned["probes"]}
    wanted["analysis"] = planned["analysis"] if isinstance(planned["analysis"], Mapping) else {}
    kept: dict[str, dict[str, Any]] = {"probes": {}, "analysis": {}}
    others, done = dict[Any, str](), set[Any]()
    for kind, results in kept.items():
        for place, result in run.results.get(kind, {}).items():
            what = _probe(result) if kind == "probes" else kind
            if differ := _differences(result, wanted.get(what, {})):
                others[what] = f" (measured with other settings: {differ})"
            else:
                results[place] = result
                done.add(what)
    embeddings = {place: found for place, found in run.embeddings.items() if place in kept["analysis"]}
    lacking = {p: f"probe of {p[0]}, reading {p[1]}, {p[2]}" for p in plan["planned"] if p not in done}
    if planned["analysis"] not in (None, False) and "analysis" not in done:
        lacking["analysis"] = "analysis"
    splits = ("validation",) if plan["search"] else ("validation", "test")
    untold = [split for split in splits if run.tells and split not in run.results.get("pretext", {})]
    said = [f"pretext accuracy on {' and '.join(untold)}"] if untold else []
    said += [what + others.get(key, "") for key, what in lacking.items()]
    run = replace(run, results={**run.results, **kept}, embeddings=embeddings)
    return run, f"not measured: {'; '.join(said)}" if said else ""


def _differences(result: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Says how recorded settings differ from planned ones, as `epochs 3, not 50`; a reading may be left open."""
    found = result.get("config", {})
    asked = {key: value for key, value in wanted.items() if key != "reading" or value is not None}
    return "; ".join(f"{k} {found.get(k)}, not {v}" for k, v in asked.items() if found.get(k) != v)


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


def _found(root: Path) -> list[Cell]:
    """Returns the runs below a plain folder, by name, told apart by the settings that differ."""
    # A folder with settings and samples is a run that was begun, one with weights a run that is finished.
    folders = {p.parent for p in root.rglob(CONFIG_FILE)}
    finished = {path for path in folders if (path / BACKBONE_FILE).is_file()}
    paths = sorted(path for path in folders if path in finished or (path / SAMPLES_FILE).is_file())
    if not paths:
        raise RunError(f"{root} holds no finished run: `fftrain pretrain --out {root}/NAME` makes one")
    plans: list[dict[str, Any]] = []
    results = [RunFolder(path).results for path in paths]
    read = [_content(path) for path in results if path.is_file()]
    configs = [_content(path / CONFIG_FILE) for path in paths]
    names = short_names(_folders([configs, read]))
    for path, record in zip(paths, renamed(configs, names), strict=True):
        plan: dict[str, Any] = {"name": str(path.relative_to(root)) if path != root else path.name}
        try:
            plan |= {**named(record["config"]), "settings": record["config"], "flat": flat(record["config"])}
        except UNREADABLE:
            plan |= {
                "dataset": "unknown",
                "view": "unknown",
                "method": "unknown",
                "seed": -1,
                "settings": {},
                "flat": {},
            }
        plans.append(plan)
    kinds = [tuple(plan[key] for key in KIND[:3]) for plan in plans]
    for plan, kind in zip(plans, kinds, strict=True):
        alike = [other["flat"] for other, its in zip(plans, kinds, strict=True) if its == kind]
        own = plan["flat"]
        differ = [key for key in own if key not in ALIKE and any(other.get(key) != own[key] for other in alike)]
        plan["varied"] = varied_name({key: own[key] for key in differ})
    seen = Counter((*kind, plan["varied"], plan["seed"]) for kind, plan in zip(kinds, plans, strict=True))
    for kind, plan in zip(kinds, plans, strict=True):
        del plan["flat"]
        if seen[*kind, plan["varied"], plan["seed"]] > 1:
            plan["varied"] = varied_name({"run": plan["name"]})
    cells = [
        _read_cell(path, plan, names) if path in finished else _unfinished(path, plan)
        for path, plan in zip(paths, plans, strict=True)
    ]
    if all(cell.state == "damaged" for cell in cells):
        raise RunError(cells[0].reason)
    if not finished:
        raise RunError(f"{root} holds no finished run; of {paths[0]}, {cells[0].reason}")
    return cells


def _content(path: Path) -> Any:
    """Returns what a JSON file holds; None where it cannot be read, which is said of its run."""
    try:
        return read_json(path)
    except RunError:
        return None


def named(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what names a run, of its settings."""
    method = label(config["method"]["name"], config["cut"], config["at"])
    return {"dataset": config["dataset"], "view": config["view"]["name"], "method": method, "seed": config["seed"]}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by one name each: those of parts as `method.threshold`, a part itself as `method.name`."""
    parts = {f"{part}.{key}": value for part in PARTS for key, value in config[part].items()}
    return {**{key: value for key, value in config.items() if key not in PARTS}, **parts}


def varied_name(varied: Mapping[str, Any]) -> str:
    """Names the settings that differ between runs of one kind: {"lr": 0.001} -> 'lr=0.001'."""
    return ", ".join(f"{key}={value}" for key, value in varied.items())


def _pairs(
    root: Path, study: Mapping[str, Any], cells: Sequence[Cell]
) -> tuple[list[tuple[str, str]], list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Returns which cells were compared, the rows of that, and which comparisons are missing or damaged."""
    by_name = {cell.name: cell for cell in cells}
    pairs, rows, problems = [], [], []
    for a, b in study.get("pairs", ()):
        name, first, second = f"{a}--{b}", by_name[a], by_name[b]
        path = root / "pairs" / f"{name}.json"
        if not path.is_file():
            failure = _failure(root / "failed" / f"pair-{name}.json")
            problems.append((name, "failed", failure) if failure else (name, "missing", "not compared"))
            continue
        try:
            head = {"run": name, "dataset": first.dataset, "view": first.view, "seed": first.seed}
            head["varied"] = ", ".join(cell.varied for cell in (first, second) if cell.varied)
            rows += [{**EMPTY, **head, **record} for record in pair_records(read_json(path))]
            pairs.append((a, b))
        except (RunError, *UNREADABLE) as error:
            problems.append((name, "damaged", f"{path} is damaged ({_what(error)}): delete it, then compare again"))
    return pairs, rows, problems


def _what(error: Exception) -> str:
    """Returns an error of reading as words of one line."""
    return str(error) if isinstance(error, RunError | ValueError) else f"{type(error).__name__}: {error}"


def short_names(datasets: Iterable[str]) -> dict[str, str]:
    """Returns what each folder of images is called: its last part, or as many as tell it from others of one name."""
    paths = {dataset: Path(dataset.removeprefix(FOLDER)) for dataset in datasets}
    names = {}
    for dataset, path in paths.items():
        tails = (path.parts[-count:] for count in range(1, len(path.parts) + 1))
        alone = (t for t in tails if sum(other.parts[-len(t) :] == t for other in paths.values()) == 1)
        names[dataset] = FOLDER + Path(*next(alone, path.parts)).as_posix()
    return names


def _folders(value: Any) -> set[str]:
    """Returns the folders of images that are named in values within values."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return {name for inner in value for name in _folders(inner)}
    return {value} if isinstance(value, str) and value.startswith(FOLDER) else set()


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Returns values within values, with the names that these have."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {renamed(key, names): renamed(inner, names) for key, inner in value.items()}
    return type(value)(renamed(inner, names) for inner in value) if isinstance(value, list | tuple) else value


def in_words(text: str, names: Mapping[str, str]) -> str:
    """Returns a text with the names that are in it, longer ones first: one may begin like another."""
    for dataset in sorted(names, key=len, reverse=True):
        text = text.replace(dataset, names[dataset])
    return text


def shortened(run: FoundRun, names: Mapping[str, str]) -> FoundRun:
    """Returns a run with these names of folders of images."""
    if not names:
        return run
    known = replace(run.run, record=renamed(run.run.record, names))
    return replace(run, run=known, results=renamed(run.results, names), evaluated=renamed(run.evaluated, names))
