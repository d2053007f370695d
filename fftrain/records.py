"""A run folder -> records, one for each number that was measured: tables, figures and results.csv are made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ffcore.errors import RunError
from ffmodels.backbone import last_layers, layers_name
from ffmodels.checkpoint import CONFIG_FILE, read_config, read_samples
from fftrain.run import RunFolder

# The columns of results.csv; `value` is a share of 1, or seconds.
CELL = ("run", "dataset", "task", "method", "seed", "varied")
FIELDS = (*CELL, "measure", "split", "probed_on", "slot", "target", "source", "layers", "value")

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


def run_records(run: FoundRun, plan: Mapping[str, Any]) -> list[Record]:
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


def pair_records(head: Mapping[str, Any], found: Mapping[str, Any]) -> list[Record]:
    """Returns how alike the layers of two runs are, trained and untrained, and each to itself before training.

    Args:
        head: the fields that are alike: run, dataset, task and seed.
        found: what `fftrain.analyse.compare_runs` returns.
    """
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
    about = {**head, "measure": "cka", "method": f"{one} and {other}", "slot": " and ".join(found["slots"])}
    return [_record({**about, "source": s, "layers": f"{a} and {b}"}, value) for s, a, b, value in compared]
