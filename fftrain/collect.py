"""Folders -> records: what lies below a study's folder, or below any folder with runs, one record for each number.

A cell is one run of a study: done, failed, damaged or missing. What cannot be read is named, never filled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ffmodels.backbone import last_layers, layers_name
from ffmodels.checkpoint import BACKBONE_FILE, CONFIG_FILE, read_config, read_samples
from ffmodels.errors import RunError
from ffmodels.files import read_json
from fftrain.config import PretrainConfig
from fftrain.run import RunFolder

STUDY_FILE = "study.json"
FORMAT = 1
# The columns of results.csv; `value` is a share of 1, or seconds.
CELL = ("run", "dataset", "task", "method", "seed", "varied")
FIELDS = (*CELL, "measure", "split", "probed_on", "slot", "target", "source", "layers", "value")
STATES = ("done", "failed", "damaged", "missing")
# What may differ between runs without being a setting of the experiment.
ALIKE = ("dataset", "task", "method", "seed", "threshold", *PretrainConfig.FREE)

Record = dict[str, Any]
Points = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run folder, read whole.

    `embeddings` are PLACE -> (LAYER -> t-SNE points float32 [N, 2], class labels int64 [N]).
    """

    name: str
    folder: RunFolder
    config: dict[str, Any]
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    embeddings: dict[str, tuple[dict[str, Points], npt.NDArray[np.int64]]]

    @property
    def last(self) -> str:
        """The name of the last three layers together."""
        return layers_name(last_layers(self.config["model"]["depth"]))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run that a report is about: what it should be, and what was found of it.

    `planned` are the data set, slot and target of each probe that a study asks for.
    """

    name: str
    dataset: str
    task: str
    method: str
    seed: int
    varied: str = ""
    planned: tuple[tuple[str, str, str], ...] = ()
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
        steps = sum(value for source, value in found.items() if source.endswith(" step"))
        return {**found, "all": steps or sum(found.values())} if found else {}

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
    """Everything below a folder. `study` is its study.json, None for a plain folder."""

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
    told = [(name, state, reason.replace(f"{root}/", "")) for name, state, reason in [*lacking, *problems]]
    return Collection(root=root, study=study, cells=cells, pairs=pairs, problems=told)


def read_run(path: Path, name: str) -> FoundRun:
    """Reads every file of a finished run that a report shows.

    Raises:
        RunError: where one is missing or damaged; the message names it.
    """
    folder = RunFolder(path)
    config = read_config(path)
    folder.read_config()
    read_samples(path)
    lacking = {"versions", "hardware", "git_commit"} - config.keys()
    if lacking:
        raise RunError(f"{path / CONFIG_FILE} lacks {min(lacking)}: restore it, or train the run again")
    results, metrics = folder.read_results(), folder.read_metrics()
    embeddings = {place: _embedding(path / "analysis" / f"{place}.npz") for place in results.get("analysis", {})}
    kept = {place: found for place, found in embeddings.items() if found is not None}
    return FoundRun(name=name, folder=folder, config=config, results=results, metrics=metrics, embeddings=kept)


def _embedding(path: Path) -> tuple[dict[str, Points], npt.NDArray[np.int64]] | None:
    """Reads t-SNE points of each layer and their labels; None where none were made."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        labels = arrays.pop("labels")
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, then run `fftrain analyse` again") from error
    if any(points.shape != (len(labels), 2) or not np.isfinite(points).all() for points in arrays.values()):
        raise RunError(f"{path} holds no points of {len(labels)} images: delete it, then run `fftrain analyse` again")
    return {key: arrays[key] for key in sorted(arrays) if key.startswith("layer")}, labels


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
        plan["planned"] = tuple((p["dataset"], p["slot"], p["target"]) for p in planned["probes"])
        failed = next((p for p in (path / "failed.json", root / "failed" / f"{path.name}.json") if p.is_file()), None)
        if not (path / BACKBONE_FILE).is_file():
            started = (path / CONFIG_FILE).exists()
            cell = Cell(**plan, state="missing", reason="not finished" if started else "not run")
        else:
            cell = _read_cell(path, plan)
        if failed is not None and cell.state != "damaged":
            reason = f"{planned['name']} failed"
            try:
                told = read_json(failed)
                reason = f"{told['step']}: {told['error']}"
            except (RunError, KeyError, TypeError) as error:
                reason = f"failed.json is damaged ({error})"
            cell = Cell(**plan, state="failed", reason=reason, run=cell.run, records=cell.records)
        elif cell.state == "done":
            cell = replace(cell, reason=_lacking(cell, planned["analysis"]))
        cells.append(cell)
    return cells


def _lacking(cell: Cell, analysis: bool) -> str:
    """Returns what was planned to be measured on a trained cell and was not; "" where nothing lacks."""
    found = {(r["probed_on"], r["slot"], r["target"]) for r in cell.find(measure="probe accuracy")}
    lacking = [f"probe of {place[0]}, slot {place[1]}, {place[2]}" for place in cell.planned if place not in found]
    if analysis and not cell.find(measure="explained variance"):
        lacking.append("analysis")
    return f"not measured: {'; '.join(lacking)}" if lacking else ""


def _read_cell(path: Path, plan: dict[str, Any]) -> Cell:
    """Returns the cell of a finished run; "damaged" where a file is, or the run is another than planned."""
    try:
        run = read_run(path, plan["name"])
        for key in ("dataset", "task", "method", "seed"):
            found = run.config["config"].get(key)
            if found != plan[key]:
                raise RunError(f"{path / CONFIG_FILE} has {key} {found!r}, not {plan[key]!r}: restore or delete {path}")
        return Cell(**plan, run=run, records=_records(run, plan))
    except RunError as error:
        return Cell(**plan, state="damaged", reason=str(error))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        reason = f"a file of {path} is damaged ({_what(error)}): measure or train that run again"
        return Cell(**plan, state="damaged", reason=reason)


def _found(root: Path) -> list[Cell]:
    """Returns the finished runs below a plain folder, by name, told apart by the settings that differ."""
    paths = sorted(p.parent for p in root.rglob(CONFIG_FILE) if (p.parent / BACKBONE_FILE).is_file())
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
    cells = [_read_cell(path, plan) for path, plan in zip(paths, plans, strict=True)]
    if all(cell.state == "damaged" for cell in cells):
        raise RunError(cells[0].reason)
    return cells


def varied_name(varied: Mapping[str, Any]) -> str:
    """Names the settings that differ between runs of one kind: {"lr": 0.001} -> 'lr=0.001'."""
    return ", ".join(f"{key}={value}" for key, value in varied.items())


def _records(run: FoundRun, plan: Mapping[str, Any]) -> list[Record]:
    """Returns every number that was measured on a run."""
    head = {key: plan[key] for key in CELL if key != "run"}

    def record(measure: str, value: Any, **more: Any) -> Record:
        return _record({"run": plan["name"], **head, "measure": measure, **more}, value)

    found = []
    for split, result in run.results.get("pretext", {}).items():
        found.append(record("pretext accuracy", result["accuracy"], split=split))
        found += [record("pretext accuracy by reader", v, split=split, layers=k) for k, v in result["by"].items()]
    for result in run.results.get("probes", {}).values():
        target = result.get("target", "class")
        place = {"probed_on": result["dataset"], "slot": result["slot"], "target": target}
        found += _split_records(record, "probe accuracy", result["rows"], place)
        if "seconds" in result:
            found.append(record("seconds", result["seconds"], source="probe", **place))
    for result in run.results.get("analysis", {}).values():
        place = {"probed_on": result["dataset"], "slot": result["slot"]}
        found += _split_records(record, "explained variance", result.get("decoder", ()), place)
        if "seconds" in result:
            found.append(record("seconds", result["seconds"], source="analysis", **place))
    steps = run.results.get("seconds", {})
    found += [record("seconds", seconds, source=f"{step} step") for step, seconds in steps.items()]
    for epoch in run.metrics:  # the curves read these
        for split in ("train", "validation"):
            record("curve", epoch[split]["accuracy"])
            record("curve", sum(epoch[split]["loss"].values()))
    if run.metrics:
        found.append(record("seconds", sum(epoch["seconds"] for epoch in run.metrics), source="pretraining"))
    return found


def _split_records(record: Any, measure: str, rows: Iterable[Mapping[str, Any]], place: dict[str, str]) -> list[Record]:
    """Returns the validation and the test figure of each row."""
    return [
        record(measure, row[split], split=split, source=row["source"], layers=row["layers"], **place)
        for row in rows
        for split in ("validation", "test")
        if split in row
    ]


def _record(values: Mapping[str, Any], value: Any) -> Record:
    """Returns a record with all fields. Raises ValueError unless the value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{values['measure']} is {value!r}")
    return {**{key: values.get(key, "") for key in FIELDS}, "value": value}


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
            problems.append((name, "missing", "not compared"))
            continue
        try:
            found = read_json(path)
            pairs.append(Pair(name=name, first=first, second=second, found=found, records=_cka(name, first, found)))
        except (RunError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            problems.append((name, "damaged", f"{path} is damaged ({_what(error)}): delete it, then compare again"))
    return pairs, problems


def _cka(name: str, first: Cell, found: Mapping[str, Any]) -> list[Record]:
    """Returns how alike the layers of two runs are, trained and untrained, and each to itself before training."""
    one, other = found["methods"]
    rows, columns = found["layers"], found["layers_of_b"]
    compared = [
        (source, a, b, value)
        for source, key in ((f"{one} and {other}", "cka"), (f"untrained {one} and untrained {other}", "cka_floor"))
        for a, line in zip(rows, found[key], strict=True)
        for b, value in zip(columns, line, strict=True)
    ]
    for method, layers, line in zip((one, other), (rows, columns), found["cka_untrained"], strict=True):
        compared += [(f"{method} and itself untrained", a, a, v) for a, v in zip(layers, line, strict=True)]
    head = {"run": name, "dataset": first.dataset, "task": first.task, "seed": first.seed, "measure": "cka"}
    head |= {"method": f"{one} and {other}", "slot": " and ".join(found["slots"])}
    return [_record({**head, "source": s, "layers": f"{a} and {b}"}, value) for s, a, b, value in compared]


def _what(error: Exception) -> str:
    """Returns an error of reading as words of one line."""
    return str(error) if isinstance(error, RunError | ValueError) else f"{type(error).__name__}: {error}"
