"""Folders -> cells: what lies below a study's folder, or below any folder with runs, beside what was planned.

A cell is one run of a study: done, failed, damaged or missing; or one below any other folder, which may be unfinished
too. What cannot be read is named, never filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ffcore.errors import RunError
from ffcore.files import read_json
from ffmodels.checkpoint import BACKBONE_FILE, CONFIG_FILE, read_config
from fftrain.config import PretrainConfig
from fftrain.evaluate import default_slot
from fftrain.records import FoundRun, Record, pair_records, read_run, run_records
from fftrain.run import SAMPLES_FILE, RunFolder
from fftrain.spec import STUDY_FILE

FORMAT = 1
STATES = ("done", "failed", "damaged", "missing")
# How far a run of a plain folder is that was never finished.
UNFINISHED = "unfinished"
# What may differ between runs without being a setting of the experiment.
ALIKE = ("dataset", "task", "method", "seed", "threshold", *PretrainConfig.FREE)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run that a report is about: what it should be, and what was found of it.

    `planned` are the data set, slot and target of each probe that a study asks for; of a `search` there are none, and
    the test split is not read.
    """

    name: str
    dataset: str
    task: str
    method: str
    seed: int
    varied: str = ""
    planned: tuple[tuple[str, str, str], ...] = ()
    search: bool = False
    state: str = "done"
    reason: str = ""
    run: FoundRun | None = None
    records: list[Record] = field(default_factory=list)

    def find(self, **wanted: Any) -> list[Record]:
        """Returns the records that have these values."""
        return [record for record in self.records if all(record[key] == value for key, value in wanted.items())]

    def value(self, **wanted: Any) -> float | None:
        """Returns the value of the one record that has these values, or None."""
        found = self.find(**wanted)
        return float(found[0]["value"]) if found else None

    @property
    def places(self) -> list[tuple[str, str, str]]:
        """The data set, slot and target of every probe that was planned or measured."""
        found = [(r["probed_on"], r["slot"], r["target"]) for r in self.find(measure="probe accuracy")]
        return list(dict.fromkeys([*self.planned, *found]))

    def slot(self, probed_on: str) -> str:
        """Returns what the label pixels hold by default; where that was not probed, the first slot that was."""
        slots = [slot for dataset, slot, target in self.places if (dataset, target) == (probed_on, "class")]
        default = str(self.run.config["task"]["slot"]) if self.run else ""
        return default if default in slots or not slots else slots[0]

    def chosen(self, source: str, probed_on: str, slot: str) -> str:
        """Returns the layers whose probe of the classes is best on validation, the first among equals; "" for none."""
        place = {"measure": "probe accuracy", "target": "class", "probed_on": probed_on, "slot": slot}
        found = self.find(split="validation", source=source, **place)
        return str(max(found, key=lambda record: record["value"])["layers"]) if found else ""

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time in seconds by part: `pretraining` (epochs alone), `probe`, `analysis`, and `all` of the run."""
        found: dict[str, float] = {}
        for record in self.find(measure="seconds"):
            found[record["source"]] = found.get(record["source"], 0.0) + record["value"]
        steps = {source: value for source, value in found.items() if source.endswith(" step")}
        if steps:  # that of pretraining may be its last attempt's alone
            steps["pretrain step"] = max(steps.get("pretrain step", 0.0), found.get("pretraining", 0.0))
        return {**found, **steps, "all": sum((steps or found).values())} if found else {}

    @property
    def trained_on_validation(self) -> bool:
        """Whether the validation images were trained on too (`--no-holdout`)."""
        return self.run is not None and not self.run.config["config"].get("holdout", True)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two runs compared, as `fftrain.analyse.compare_runs` returns it."""

    name: str
    first: Cell
    second: Cell
    found: dict[str, Any]
    records: list[Record]


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything below a folder. `study` is its study.json, None for a plain folder.

    `problems` are the name, state and reason of what is not there, or not whole.
    """

    root: Path
    study: dict[str, Any] | None
    cells: list[Cell]
    pairs: list[Pair]
    problems: list[tuple[str, str, str]]

    @property
    def runs(self) -> list[FoundRun]:
        """The runs that were read."""
        return [cell.run for cell in self.cells if cell.run is not None]

    @property
    def records(self) -> list[Record]:
        """Every measured number."""
        return [r for cell in self.cells for r in cell.records] + [r for pair in self.pairs for r in pair.records]


def collect(root: Path) -> Collection:
    """Reads a study's folder, or the runs below any other.

    Raises:
        RunError: where there is no run at all, or study.json is damaged; a damaged run is named in `problems`.
    """
    study = None
    if (root / STUDY_FILE).is_file():
        study = read_json(root / STUDY_FILE)
        try:
            cells = _planned(root, study)
            pairs, problems = _pairs(root, study, cells)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise RunError(f"{root / STUDY_FILE} is damaged ({_what(error)}): run `fftrain study` again") from error
    else:
        cells, pairs, problems = _found(root), [], []
    lacking = [(c.name, "incomplete" if c.state == "done" else c.state, c.reason) for c in cells if c.reason]
    return Collection(root=root, study=study, cells=cells, pairs=pairs, problems=[*lacking, *problems])


def _planned(root: Path, study: Mapping[str, Any]) -> list[Cell]:
    """Returns the cells of a study in its order, each with its state."""
    if study["format"] != FORMAT:
        raise ValueError(f"its format is {study['format']!r}, not {FORMAT}")
    if not study["cells"]:
        raise ValueError("it has no cells")
    cells = []
    for planned in study["cells"]:
        path = root / "cells" / planned["name"]
        if path.parent != root / "cells":
            raise ValueError(f"{planned['name']!r} is no folder's name")
        plan = {key: planned[key] for key in ("name", "dataset", "task", "method", "seed")}
        plan["varied"] = varied_name(planned["varied"])
        plan["search"] = planned.get("search", False)
        asked = {key: planned[key] for key in ("method", "probes", "analysis")}
        plan["planned"] = tuple(place for place, _ in _probes(asked))
        trained = (path / BACKBONE_FILE).is_file()
        cell = _read_cell(path, plan, asked) if trained else _absent(path, plan)
        failure = _failure(root / "failed" / f"{path.name}.json")
        if failure and cell.state != "damaged" and cell.reason:  # a cell that lacks nothing was mended
            reason = failure if cell.run is None else f"{failure}; {cell.reason}"
            cell = replace(cell, state="failed", reason=reason)
        cells.append(cell)
    return cells


def _probes(planned: Mapping[str, Any]) -> list[tuple[tuple[str, str, str], Mapping[str, Any]]]:
    """Returns the data set, slot and target of each probe of a planned cell, and its settings where they are known."""
    return [
        ((p["dataset"], p["slot"] or default_slot(planned["method"]), p["target"]), dict(p.get("settings", {})))
        for p in planned["probes"]
    ]


def _failure(path: Path) -> str:
    """Returns the step and the error that a study recorded; "" where there is no such file."""
    if not path.is_file():
        return ""
    try:
        told = read_json(path)
        return f"{told['step']}: {told['error']}"
    except (RunError, KeyError, TypeError) as error:
        return f"failed, but {path} is damaged ({_what(error)})"


def _read_cell(path: Path, plan: dict[str, Any], planned: Mapping[str, Any] | None = None) -> Cell:
    """Returns the cell of a finished run; "damaged" where a file is, or the run is another than planned."""
    try:
        run = read_run(path, plan["name"])
        for key in ("dataset", "task", "method", "seed"):
            found = run.config["config"].get(key)
            if found != plan[key]:
                raise RunError(f"{path / CONFIG_FILE} has {key} {found!r}, not {plan[key]!r}: restore or delete {path}")
        if planned is None:
            return Cell(**plan, run=run, records=run_records(run, plan))
        run, others = _as_planned(run, planned)
        cell = Cell(**plan, run=run, records=run_records(run, plan))
        return replace(cell, reason=_lacking(cell, planned, others))
    except RunError as error:
        return Cell(**plan, state="damaged", reason=str(error))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        reason = f"a file of {path} is damaged ({_what(error)}): measure or train that run again"
        return Cell(**plan, state="damaged", reason=reason)


def _as_planned(run: FoundRun, planned: Mapping[str, Any]) -> tuple[FoundRun, dict[Any, str]]:
    """Returns a run without what was measured with other settings than planned, and how those differ.

    The differences are by the data set, slot and target of a probe, and by "analysis".
    """
    wanted, others = dict(_probes(planned)), dict[Any, str]()
    kept: dict[str, dict[str, Any]] = {"probes": {}, "analysis": {}}
    for place, result in run.results.get("probes", {}).items():
        probe = (result["dataset"], result["slot"], result.get("target", "class"))
        if differ := _differences(result, wanted.get(probe, {})):
            others[probe] = differ
        else:
            kept["probes"][place] = result
    settings = planned["analysis"] if isinstance(planned["analysis"], Mapping) else {}
    for place, result in run.results.get("analysis", {}).items():
        if differ := _differences(result, settings):
            others["analysis"] = differ
        else:
            kept["analysis"][place] = result
    embeddings = {place: found for place, found in run.embeddings.items() if place in kept["analysis"]}
    return replace(run, results={**run.results, **kept}, embeddings=embeddings), others


def _differences(result: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Says how recorded settings differ from planned ones, as `epochs 3, not 50`; a slot may be left open."""
    found = result.get("config", {})
    asked = {key: value for key, value in wanted.items() if key != "slot" or value is not None}
    return "; ".join(f"{k} {found.get(k)}, not {v}" for k, v in asked.items() if found.get(k) != v)


def _lacking(cell: Cell, planned: Mapping[str, Any], others: Mapping[Any, str]) -> str:
    """Returns what was planned to be measured on a trained cell and was not; "" where nothing lacks."""
    found = {(r["probed_on"], r["slot"], r["target"]) for r in cell.find(measure="probe accuracy")}
    lacking: dict[Any, str] = {}
    splits = ("validation",) if cell.search else ("validation", "test")
    if pretext := [s for s in splits if not cell.find(measure="pretext accuracy", split=s)]:
        lacking["pretext"] = f"pretext accuracy on {' and '.join(pretext)}"
    lacking |= {p: f"probe of {p[0]}, slot {p[1]}, {p[2]}" for p in cell.planned if p not in found}
    if planned["analysis"] not in (None, False) and not cell.find(measure="explained variance"):
        lacking["analysis"] = "analysis"
    remarks = {key: f" (measured with other settings: {differ})" for key, differ in others.items()}
    said = "; ".join(what + remarks.get(key, "") for key, what in lacking.items())
    return f"not measured: {said}" if lacking else ""


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
    finished = {p.parent for p in root.rglob(CONFIG_FILE) if (p.parent / BACKBONE_FILE).is_file()}
    paths = sorted(finished | {p.parent for p in root.rglob(CONFIG_FILE) if (p.parent / SAMPLES_FILE).is_file()})
    if not paths:
        raise RunError(f"{root} holds no finished run: `fftrain pretrain --out {root}/NAME` makes one")
    plans: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    unknown = {"dataset": "unknown", "task": "unknown", "method": "unknown", "seed": -1}
    for path in paths:
        try:
            config = read_config(path)["config"]
        except RunError:
            config = unknown
        settings.append(config)
        name = str(path.relative_to(root)) if path != root else path.name
        plans.append({"name": name, **{key: config.get(key, unknown[key]) for key in unknown}})
    kinds = [(plan["dataset"], plan["task"], plan["method"]) for plan in plans]
    for plan, kind, own in zip(plans, kinds, settings, strict=True):
        alike = [other for other, its in zip(settings, kinds, strict=True) if its == kind]
        differ = [key for key in own if key not in ALIKE and any(other.get(key) != own[key] for other in alike)]
        plan["varied"] = varied_name({key: own[key] for key in differ})
    seen = Counter((*kind, plan["varied"], plan["seed"]) for kind, plan in zip(kinds, plans, strict=True))
    for kind, plan in zip(kinds, plans, strict=True):
        if seen[*kind, plan["varied"], plan["seed"]] > 1:
            plan["varied"] = varied_name({"run": plan["name"]})
    pairs = zip(paths, plans, strict=True)
    cells = [_read_cell(path, plan) if path in finished else _unfinished(path, plan) for path, plan in pairs]
    if all(cell.state == "damaged" for cell in cells):
        raise RunError(cells[0].reason)
    if not finished:
        raise RunError(f"{root} holds no finished run; of {paths[0]}, {cells[0].reason}")
    return cells


def varied_name(varied: Mapping[str, Any]) -> str:
    """Names the settings that differ between runs of one kind: {"lr": 0.001} -> 'lr=0.001'."""
    return ", ".join(f"{key}={value}" for key, value in varied.items())


def _pairs(
    root: Path, study: Mapping[str, Any], cells: Sequence[Cell]
) -> tuple[list[Pair], list[tuple[str, str, str]]]:
    """Reads the comparisons of two runs, and names those that are missing or damaged."""
    by_name = {cell.name: cell for cell in cells}
    pairs, problems = [], []
    for a, b in study.get("pairs", ()):
        name, first, second = f"{a}--{b}", by_name[a], by_name[b]
        path = root / "pairs" / f"{name}.json"
        if not path.is_file():
            failure = _failure(root / "failed" / f"pair-{name}.json")
            problems.append((name, "failed", failure) if failure else (name, "missing", "not compared"))
            continue
        try:
            found = read_json(path)
            head = {"run": name, "dataset": first.dataset, "task": first.task, "seed": first.seed}
            records = pair_records(head, found)
            pairs.append(Pair(name=name, first=first, second=second, found=found, records=records))
        except (RunError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            problems.append((name, "damaged", f"{path} is damaged ({_what(error)}): delete it, then compare again"))
    return pairs, problems


def _what(error: Exception) -> str:
    """Returns an error of reading as words of one line."""
    return str(error) if isinstance(error, RunError | ValueError) else f"{type(error).__name__}: {error}"
