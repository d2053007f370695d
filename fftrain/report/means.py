"""The frame -> means over seeds, with their spread, what is missing, and what is published beside them."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import pandas as pd

from fftrain.report.cells import KIND, SHARE, Cell
from fftrain.report.frame import Collection, select
from fftrain.report.records import PRETEXT

NOT_MEASURED, NOT_PUBLISHED = "not measured", "not published"
READER, PROBE = "pretext accuracy by reader", "probe accuracy"
# The source whose figures no seed has a part in.
SEEDLESS = "raw"


def chosen(measure: str) -> str:
    """Returns what a measure of the classes is called at the blocks that are best on validation."""
    return f"{measure}, chosen"


def last(measure: str) -> str:
    """Returns what it is called at the last blocks together."""
    return f"{measure}, last"


CHOSEN, LAST = chosen(PROBE), last(PROBE)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A figure of each seed, and why other seeds have none.

    `once` says that it depends on no seed: there is one measurement alone. Of one, `interval` is what was said of it.
    `scale` is by what figures are multiplied where they are shown: shares of 1 are shown in %.
    """

    values: Mapping[int, float]
    lacking: Mapping[int, str]
    once: bool = False
    interval: tuple[float, float] | None = None
    scale: float = 100.0

    @classmethod
    def of(cls, rows: pd.DataFrame, cells: Iterable[Cell]) -> Mean:
        """Returns the mean of some rows, of which each seed has one, over the seeds of these cells."""
        values = dict(zip(rows["seed"].tolist(), rows["value"].tolist(), strict=True))
        lacking = {c.seed: NOT_MEASURED if c.state == "done" else c.state for c in cells if c.seed not in values}
        once = len({*values.values()}) == 1 and set(rows["source"]) == {SEEDLESS}
        told = (once or len(values) == 1) and rows[["low", "high"]].notna().all(axis=None)
        interval = (rows["low"].iloc[0], rows["high"].iloc[0]) if told else None
        scale = 100.0 if {*rows["unit"]} <= {SHARE} else 1.0
        return cls(values=values, lacking=lacking, once=once, interval=interval, scale=scale)

    @cached_property
    def value(self) -> float | None:
        """The mean over the seeds that are there."""
        if self.once:
            return next(iter(self.values.values()))
        return statistics.fmean(self.values.values()) if self.values else None

    @cached_property
    def spread(self) -> float | None:
        """The sample standard deviation; None below two seeds, and of one measurement."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 and not self.once else None

    @cached_property
    def reach(self) -> float:
        """How far it may be off: the deviation over seeds, or half of its interval; 0 where neither is known."""
        if self.interval is not None:
            return (self.interval[1] - self.interval[0]) / 2
        return self.spread or 0.0

    def text(self, *remarks: str, sign: str = "", short: bool = False) -> str:
        """Returns `mean ± spread (n=...)` in %, one measurement alone, or words where there is no figure.

        `short` leaves out which seeds lack.
        """
        lacking = ", ".join(f"seed {seed} {word}" for seed, word in self.lacking.items())
        if self.value is None:
            words = {*self.lacking.values()}
            return words.pop() if len(words) == 1 else lacking
        if self.once:
            return self.brief(sign)
        count = f"n={len(self.values)}"
        if self.lacking:
            count += f" of {len(self.values) + len(self.lacking)}" + ("" if short else f": {lacking}")
        return f"{self.brief(sign)} ({'; '.join([count, *filter(None, remarks)])})"

    def brief(self, sign: str = "") -> str:
        """Returns a mean that is there in %, with its spread where it has one."""
        spread = "" if self.spread is None else f" ± {self.scale * self.spread:.1f}"
        if self.interval is not None:
            spread = " [{:.1f}, {:.1f}]".format(*(self.scale * end for end in self.interval))
        return f"{self.scale * (self.value or 0.0):{sign}.1f}{spread}"

    def less(self, other: Mean) -> Mean:
        """Returns the differences of the seeds that both have."""
        alone = dict.fromkeys(self.values.keys() ^ other.values.keys(), "without a partner")
        values = {seed: value - other.values[seed] for seed, value in self.values.items() if seed in other.values}
        return Mean(values=values, lacking={**alone, **other.lacking, **self.lacking})

    def beside(self, published: float | None) -> list[str]:
        """Returns a published figure (in %), and how far the mean lies above it."""
        if published is None:
            return [NOT_PUBLISHED, ""]
        return [f"{published:.1f}", "" if self.value is None else f"{100 * self.value - published:+.1f}"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells that differ in their seed alone, and their rows."""

    dataset: str
    view: str
    method: str
    varied: str
    cells: tuple[Cell, ...]
    rows: pd.DataFrame

    @cached_property
    def label(self) -> str:
        """The method, with the settings that vary."""
        return labelled(self.method, self.varied)

    @cached_property
    def tells(self) -> bool:
        """Whether its method tells the labels that it is trained on."""
        trained = [cell for cell in self.cells if cell.run]
        return any(cell.tells for cell in trained or self.cells)

    @cached_property
    def supervised(self) -> bool:
        """Whether it is trained on the classes themselves."""
        return self.tells and any(cell.supervised for cell in self.cells)

    @cached_property
    def network(self) -> str:
        """What tells untrained networks apart; "" where none is known."""
        return next((network_of(cell) for cell in self.cells if cell.settings), "")

    @cached_property
    def reading(self) -> str:
        """How the pixels are filled on its own data by default."""
        return next((cell.reading(self.dataset) for cell in self.cells if cell.run), "")

    def mean(self, **wanted: Any) -> Mean:
        """Returns the mean of a figure over the seeds that have it."""
        return Mean.of(select(self.rows, **wanted), self.cells)

    def pretext(self) -> tuple[Mean, str]:
        """Returns the mean pretext accuracy and its split: test where any seed has it, so that the others lack."""
        split = "test" if len(select(self.rows, measure=PRETEXT, split="test")) else "validation"
        return self.mean(measure=PRETEXT, split=split), split

    def pretext_text(self) -> str:
        """Returns the mean pretext accuracy, with the split where that is not test."""
        mean, split = self.pretext()
        seen = any(cell.trained_on_validation for cell in self.cells)
        return mean.text("" if split == "test" or not mean.values else split + (", trained on" if seen else ""))

    def pretext_beside(self, published: float | None) -> list[str]:
        """Returns a published figure, and how far the mean pretext accuracy lies above it where that is of test too."""
        mean, split = self.pretext()
        beside = mean.beside(published)
        return beside if split == "test" else [beside[0], ""]

    def probe(self, choice: str, source: str = "", probed_on: str = "", reading: str = "") -> Mean:
        """Returns the test accuracy of probes of the classes.

        Args:
            choice: CHOSEN (by the source's own validation accuracy) or LAST.
            source: of the features, `random` or `raw`; "" means the method's own.
            probed_on: the data set; "" means the one it was pretrained on.
            reading: how the pixels were filled; "" means the default.
        """
        return Mean.of(self._probes(choice, source, probed_on, reading), self.cells)

    def blocks(self, probed_on: str = "", reading: str = "") -> str:
        """Returns the blocks that validation chose for its own features, of each seed where they differ."""
        return "/".join(dict.fromkeys(self._probes(CHOSEN, "", probed_on, reading)["blocks"]))

    def _probes(self, choice: str, source: str, probed_on: str, reading: str) -> pd.DataFrame:
        rows = select(self.rows, measure=choice, source=source or self.method, probed_on=probed_on or self.dataset)
        return select(rows, reading=reading) if reading else rows[rows["usual"]]


class Published:
    """The study's own figures, in %, and what it compares.

    Args:
        columns: data set -> the published column that it stands beside, where its name is another.
    """

    def __init__(self, columns: Mapping[str, str] | None = None) -> None:
        self.figures = tomllib.loads(files("fftrain.report").joinpath("published.toml").read_text(encoding="utf-8"))
        self.columns = columns or {}
        self.gap: tuple[str, str] = (*self.figures["gap"],)

    @property
    def remark(self) -> str:
        """Where the figures come from."""
        return f"{self.figures['study']}, {self.figures['source']}"

    def of(self, measure: str, group: Group, method: str = "") -> float | None:
        """Returns a figure of a group, or of another method in its place; None where the study gives none."""
        found = self.figures.get(measure, {}).get(group.view, {}).get(method or group.method, {})
        value = found.get(self.columns.get(group.dataset, group.dataset))
        return None if value is None else float(value)


def labelled(method: str, varied: str) -> str:
    """Returns a method with the settings that vary."""
    return f"{method} ({varied})" if varied else method


def network_of(cell: Cell) -> str:
    """Returns a cell's network and its settings in words."""
    backbone = cell.settings.get("backbone", {})
    return " ".join(str(value) if key == "name" else f"{key}={value}" for key, value in backbone.items())


def groups(found: Collection, frame: pd.DataFrame | None = None) -> list[Group]:
    """Returns the groups of cells that differ in their seed alone, in the order of the cells; those of a search not.

    Args:
        found: what lies in a folder.
        frame: its frame `with_choices`, where it is there already.
    """
    cells: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found.cells:
        if not cell.search:
            cells.setdefault(cell.kind, []).append(cell)
    frame = with_choices(found) if frame is None else frame
    return [
        Group(
            **dict(zip(KIND, kind, strict=True)),
            cells=tuple(of),
            rows=select(frame, **dict(zip(KIND, kind, strict=True))),
        )
        for kind, of in cells.items()
    ]


def with_choices(found: Collection) -> pd.DataFrame:
    """Returns the frame with what `chosen` and `last` name, and whether a reading is the `usual` one of its run."""
    cells = {cell.name: cell for cell in found.cells}
    frame = found.frame
    places = [*zip(frame["run"], frame["probed_on"], strict=True)]
    readings = {(run, on): cells[run].reading(on) for run, on in {*places} if run in cells}
    usual = [readings.get(place) == reading for place, reading in zip(places, frame["reading"], strict=True)]
    frame = frame.assign(usual=pd.Series(usual, index=frame.index, dtype=bool))
    of_classes = select(frame, target="class", unit=SHARE)
    place = ["run", "measure", "probed_on", "reading", "source"]
    best = select(of_classes, split="validation").sort_values("value", ascending=False, kind="stable")
    test = select(of_classes, split="test")
    at_best = test.merge(best.drop_duplicates(place)[[*place, "blocks"]], on=[*place, "blocks"])
    # Several blocks together, and below two of them the last.
    order = test.assign(order=[block_order(name) for name in test["blocks"]]).sort_values("order", kind="stable")
    at_last = order.drop_duplicates(place, keep="last").drop(columns="order")
    made = [rows.assign(measure=rows["measure"].map(of)) for rows, of in ((at_best, chosen), (at_last, last))]
    return pd.concat([frame, *made], ignore_index=True)


def of_classes(found: Collection) -> list[str]:
    """Returns what else was measured of the classes, on validation and test, beside probes."""
    rows = select(found.frame, target="class", unit=SHARE)
    splits = rows.groupby("measure", sort=False)["split"].agg(set).to_dict()
    return [measure for measure, of in splits.items() if of >= {"validation", "test"} and measure != PROBE]


def block_order(name: str) -> tuple[bool, int, str]:
    """Returns what sorts names of blocks: single ones by number, then several together, then what is none."""
    number = "".join(c if c.isdigit() else " " for c in name).split()
    return name.startswith("blocks") or not number, int(number[0]) if number else 0, name
