"""A run folder -> records, one for each number that was measured: tables, figures and results.csv are made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ffcore.errors import RunError, SettingError
from ffmodels.run import CONFIG_FILE, Run
from fftrain.parts import PARTS
from fftrain.recipes import label
from fftrain.run import RunFolder

Record = dict[str, Any]
Points = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run folder, read whole.

    Args:
        name: its folder, as seen from the report's.
        run: its settings, weights and samples.
        results: what results.json holds.
        metrics: of each epoch.
        evaluated: the records of evaluations/*.jsonl.
        embeddings: PLACE -> (BLOCK -> t-SNE points float32 [N, 2], class labels int64 [N]).
    """

    name: str
    run: Run
    results: Mapping[str, Any]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluated: list[Record] = field(default_factory=list)
    embeddings: Mapping[str, tuple[dict[str, Points], npt.NDArray[np.int64]]] = field(default_factory=dict)

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings, as they are recorded."""
        return self.run.config

    @property
    def record(self) -> Mapping[str, Any]:
        """What config.json holds."""
        return self.run.record

    @property
    def label(self) -> str:
        """What people call the method, cut so."""
        return label(self.config["method"]["name"], self.config["cut"], self.config["at"])

    @property
    def tells(self) -> bool:
        """Whether its method tells the labels that it is trained on."""
        return "pretext" in self.results or any("accuracy" in epoch["validation"] for epoch in self.metrics)

    @cached_property
    def reading(self) -> str:
        """How the pixels are filled by default; "" where its method is code outside that may not be run here."""
        try:
            return self.run.method.condition(len(self.run.classes), self.run.shape).readings[0]
        except (RunError, SettingError):
            return ""

    def records(self) -> list[Record]:
        """Returns every number that was measured. Raises ValueError where one is none."""
        found = [*self._pretext(), *self._probes(), *self._seconds(), *self._evaluated()]
        losses = [sum(epoch[split]["loss"].values()) for epoch in self.metrics for split in ("train", "validation")]
        for what, value in [(r["measure"], r["value"]) for r in found] + [("the loss", loss) for loss in losses]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{what} is {value!r}")
        return found

    def _pretext(self) -> Iterator[Record]:
        for split, result in self.results.get("pretext", {}).items():
            yield {"measure": "pretext accuracy", "split": split, "value": result["accuracy"]}
            for reader, value in result["by"].items():
                yield {"measure": "pretext accuracy by reader", "split": split, "blocks": reader, "value": value}

    def _probes(self) -> Iterator[Record]:
        for kind, rows, measure in (
            ("probes", "rows", "probe accuracy"),
            ("analysis", "decoder", "explained variance"),
        ):
            for result in self.results.get(kind, {}).values():
                place = {"probed_on": result["dataset"], "reading": result["reading"]}
                place |= {"target": result.get("target", "class")} if kind == "probes" else {}
                for row in result[rows]:
                    at = {**place, "source": row["source"], "blocks": row["blocks"], "measure": measure}
                    yield from ({**at, "split": s, "value": row[s]} for s in ("validation", "test") if s in row)
                if "seconds" in result:
                    source = "probe" if kind == "probes" else kind
                    yield {**place, "measure": "seconds", "source": source, "value": result["seconds"]}

    def _seconds(self) -> Iterator[Record]:
        for step, seconds in self.results.get("seconds", {}).items():
            yield {"measure": "seconds", "source": f"{step} step", "value": seconds}
        if self.metrics:
            seconds = sum(epoch["seconds"] for epoch in self.metrics)
            yield {"measure": "seconds", "source": "pretraining", "value": seconds}

    def _evaluated(self) -> Iterator[Record]:
        here = {"probed_on": self.config["dataset"], "reading": self.reading, "source": self.label, "split": "test"}
        for found in self.evaluated:
            names = {"block": "blocks", "dataset": "probed_on"}
            yield {**here, **{names.get(k, k): v for k, v in found.items()}, "value": found["value"]}


def read_run(path: Path, name: str) -> FoundRun:
    """Reads every file of a finished run that a report shows.

    Raises:
        RunError: where one is missing or damaged; the message names it.
    """
    folder, run = RunFolder(path), Run.load(path)
    _ = run.samples
    for kind, plugins in PARTS.items():
        name_of = run.config[kind]["name"] if isinstance(run.config[kind], Mapping) else ""
        if "." not in name_of and name_of not in plugins:
            raise RunError(
                f"{path / CONFIG_FILE} describes no {kind} ({name_of!r}): restore it, or train the run again"
            )
    if lacking := {"versions", "hardware", "git_commit"} - run.record.keys():
        raise RunError(f"{path / CONFIG_FILE} lacks {min(lacking)}: restore it, or train the run again")
    results = folder.read_results()
    embeddings = {place: _embedding(path / "analysis" / f"{place}.npz") for place in results.get("analysis", {})}
    return FoundRun(
        name=name,
        run=run,
        results=results,
        metrics=folder.read_metrics(),
        evaluated=[found for file in sorted((path / "evaluations").glob("*.jsonl")) for found in _lines(file)],
        embeddings={place: found for place, found in embeddings.items() if found is not None},
    )


def _lines(path: Path) -> list[Record]:
    """Reads the records of an evaluation. Raises RunError where they are damaged."""
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(isinstance(record, dict) and {"measure", "value"} <= record.keys() for record in found):
            raise ValueError("a line is no record")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, then evaluate the run again") from error
    return found


def _embedding(path: Path) -> tuple[dict[str, Points], npt.NDArray[np.int64]] | None:
    """Reads t-SNE points of each block and their labels; None where none were made."""
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
    blocks = (key for key in arrays if key.startswith("block"))
    return {key: arrays[key] for key in sorted(blocks, key=lambda key: (len(key), key))}, labels


def pair_records(found: Mapping[str, Any]) -> list[Record]:
    """Returns how alike the blocks of two runs are, trained and untrained, and each to itself before training.

    Args:
        found: what `fftrain.analyse.compare_runs` returns.
    """
    one, other = found["methods"]
    rows, columns = found["blocks"], found["blocks_of_b"]
    compared = [
        (source, a, b, value)
        for source, key in ((f"{one} and {other}", "cka"), (f"untrained {one} and untrained {other}", "cka_floor"))
        for a, line in zip(rows, found[key], strict=True)
        for b, value in zip(columns, line, strict=True)
    ]
    for method, blocks, line in zip((one, other), (rows, columns), found["cka_untrained"], strict=True):
        compared += [(f"{method} and itself untrained", a, a, v) for a, v in zip(blocks, line, strict=True)]
    if not all(isinstance(value, int | float) and math.isfinite(value) for *_, value in compared):
        raise ValueError("a similarity is no number")
    about = {"measure": "cka", "method": f"{one} and {other}", "reading": " and ".join(found["readings"])}
    return [{**about, "source": s, "blocks": f"{a} and {b}", "value": value} for s, a, b, value in compared]
