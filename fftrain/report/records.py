"""A run folder -> records, one for each number that was measured: tables, figures and results.csv are made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ffcore.errors import RunError, SettingError
from ffmodels.evaluated import ABOUT, Evaluated, Record, evaluations
from ffmodels.run import CONFIG_FILE, Run, weights_digest
from fftrain.parts import PARTS
from fftrain.report.names import renamed
from fftrain.run import RunFolder

# What a method tells of the labels that it was trained on.
PRETEXT = "pretext accuracy"
Points = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run folder, read whole.

    Args:
        name: its folder, as seen from the report's.
        run: its settings, weights and samples.
        metrics: of each epoch.
        evaluated: what was measured of it.
        embeddings: EVALUATION -> (BLOCK -> points in the plane float32 [N, 2], class labels int64 [N]).
    """

    name: str
    run: Run
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluated: Sequence[Evaluated] = ()
    embeddings: Mapping[str, tuple[dict[str, Points], npt.NDArray[np.int64]]] = field(default_factory=dict)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The settings, as they are recorded."""
        found: Mapping[str, Any] = self.record["config"]
        return found

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """What config.json holds."""
        return self.run.record

    @cached_property
    def tells(self) -> bool:
        """Whether its method tells the labels that it is trained on."""
        told = any(record["measure"] == PRETEXT for one in self.evaluated for record in one.records)
        return told or any("accuracy" in epoch["validation"] for epoch in self.metrics)

    @cached_property
    def told(self) -> list[tuple[str, str, str]]:
        """The data sets of which labels were told, how they were read, and what the labels are."""
        places = (tuple(one.about[key] for key in ("dataset", "reading", "target")) for one in self.evaluated)
        return [*dict.fromkeys(place for place in places if place[2])]

    @cached_property
    def reading(self) -> str:
        """How the pixels are filled by default; "" where its method is code outside that may not be run here."""
        try:
            return self.run.method.condition(len(self.record["classes"]), self.record["data"]["shape"]).readings[0]
        except (RunError, SettingError):
            return ""

    def records(self) -> list[Record]:
        """Returns every number that was measured. Raises ValueError where one is none."""
        found = [*self._seconds(), *self._evaluated()]
        losses = [sum(epoch[split]["loss"].values()) for epoch in self.metrics for split in ("train", "validation")]
        for what, value in [(r["measure"], r["value"]) for r in found] + [("the loss", loss) for loss in losses]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{what} is {value!r}")
        return found

    def _seconds(self) -> Iterator[Record]:
        if self.metrics:
            seconds = sum(epoch["seconds"] for epoch in self.metrics)
            yield {"measure": "seconds", "source": "pretraining", "value": seconds, "unit": "s"}

    def _evaluated(self) -> Iterator[Record]:
        names = {"block": "blocks", "dataset": "probed_on"}
        for one in self.evaluated:
            place = {names.get(key, key): one.about[key] for key in ABOUT}
            yield {
                **place,
                "measure": "seconds",
                "source": one.about["evaluation"],
                "value": one.about["value"],
                "unit": "s",
            }
            for record in one.records:
                yield {**place, **{names.get(key, key): value for key, value in record.items()}}


def read_run(path: Path, name: str) -> FoundRun:
    """Reads every file of a finished run that a report shows.

    Raises:
        RunError: where one is missing or damaged; the message names it.
    """
    run = Run.load(path)
    config = run.record["config"]
    _ = run.samples
    for kind, plugins in PARTS.items():
        name_of = config[kind]["name"] if isinstance(config[kind], Mapping) else ""
        if "." not in name_of and name_of not in plugins:
            raise RunError(
                f"{path / CONFIG_FILE} describes no {kind} ({name_of!r}): restore it, or train the run again"
            )
    if lacking := {"versions", "hardware", "git_commit"} - run.record.keys():
        raise RunError(f"{path / CONFIG_FILE} lacks {min(lacking)}: restore it, or train the run again")
    found = evaluations(path, weights_digest(path))
    arrays = [one.path.with_suffix(".npz") for one in found]
    embeddings = {path.stem: _embedding(path) for path in arrays if path.is_file()}
    return FoundRun(
        name=name,
        run=run,
        metrics=RunFolder(path).read_metrics(),
        evaluated=found,
        embeddings={place: points for place, points in embeddings.items() if points is not None},
    )


def _embedding(path: Path) -> tuple[dict[str, Points], npt.NDArray[np.int64]] | None:
    """Reads points in the plane of each block and their labels; None where the arrays are something else."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, then evaluate the run again") from error
    labels = arrays.pop("labels", None)
    blocks = sorted((key for key in arrays if key.startswith("block")), key=lambda key: (len(key), key))
    if labels is None or not blocks or any(arrays[key].shape != (len(labels), 2) for key in blocks):
        return None
    if not all(np.isfinite(arrays[key]).all() for key in blocks):
        raise RunError(f"{path} holds points that are no numbers: delete it, then evaluate the run again")
    return {key: arrays[key] for key in blocks}, labels


def shortened(run: FoundRun, names: Mapping[str, str]) -> FoundRun:
    """Returns a run with these names of folders of images."""
    if not names:
        return run
    evaluated = [
        replace(one, about=renamed(one.about, names), records=renamed(one.records, names)) for one in run.evaluated
    ]
    return replace(run, run=replace(run.run, record=renamed(run.record, names)), evaluated=evaluated)


def as_planned(run: FoundRun, evaluations: Sequence[Mapping[str, Any]]) -> tuple[FoundRun, str]:
    """Returns a run without what was measured with other settings than planned, and what it lacks."""

    def place(about: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(about[key] for key in ABOUT)

    wanted = [(place(one), one["settings"]) for one in evaluations]
    kept, said = list[Evaluated](), list[str]()
    for one in run.evaluated:
        asked = [settings for where, settings in wanted if where == place(one.about)]
        if not asked or not all(_differences(one, settings) for settings in asked):
            kept.append(one)
    for where, settings in wanted:
        same = [one for one in run.evaluated if place(one.about) == where]
        if all(_differences(one, settings) for one in same):
            others = [_differences(one, settings) for one in same if one not in kept]
            name, dataset, reading, target = where
            split = settings["evaluation"].get("split")
            said.append(
                f"{name}{f' on {split}' if split else ''} of {dataset}, reading {reading}"
                + (f", {target}" if target else "")
                + (f" (measured with other settings: {others[0]})" if others else "")
            )
    stems = {one.path.stem for one in kept}
    run = replace(run, evaluated=kept, embeddings={k: v for k, v in run.embeddings.items() if k in stems})
    return run, f"not measured: {'; '.join(said)}" if said else ""


def _differences(found: Evaluated, wanted: Mapping[str, Any]) -> str:
    """Says how recorded settings differ from planned ones, as `epochs 3, not 50`."""
    one, other = (
        {**{k: v for k, v in settings.items() if k != "evaluation"}, **settings.get("evaluation", {})}
        for settings in (found.settings, wanted)
    )
    return "; ".join(f"{k} {one.get(k)}, not {v}" for k, v in other.items() if one.get(k) != v)


def pair_records(found: Mapping[str, Any]) -> list[Record]:
    """Returns how alike the blocks of two runs are, trained and untrained.

    Args:
        found: what `fftrain.similar.compare_runs` returns.
    """
    one, other = found["methods"]
    rows, columns = found["blocks"], found["blocks_of_b"]
    compared = [
        (source, a, b, value)
        for source, key in ((f"{one} and {other}", "cka"), (f"untrained {one} and untrained {other}", "cka_floor"))
        for a, line in zip(rows, found[key], strict=True)
        for b, value in zip(columns, line, strict=True)
    ]
    if not all(isinstance(value, int | float) and math.isfinite(value) for *_, value in compared):
        raise ValueError("a similarity is no number")
    about = {"measure": "cka", "method": f"{one} and {other}", "reading": " and ".join(found["readings"])}
    return [{**about, "source": s, "blocks": f"{a} and {b}", "value": value} for s, a, b, value in compared]
