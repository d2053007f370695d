"""The frame -> means over seeds, with their spread, what is missing, and what is published beside them."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files

import pandas as pd

from fftrain.parts import RANDOM, RAW
from fftrain.report.cells import KIND, SHARE, Cell
from fftrain.report.frame import Collection, with_choices
from fftrain.report.records import PRETEXT
from fftrain.report.section import NOT_MEASURED, NOT_PUBLISHED


@dataclass(kw_only=True)
class Mean:
    """A figure of each seed, why other seeds have none, and what is shown of it.

    `once` says that it depends on no seed: there is one measurement alone. Of one, `interval` is what was said of it.
    `scale` is by what figures are multiplied where they are shown: shares of 1 are shown in %. `blocks` are those that
    it is of, of each seed where they differ.

    `value` is the mean over the seeds that are there, `spread` the sample standard deviation (None below two seeds, and
    of one measurement), `reach` how far it may be off: the spread, or half of its interval; 0 where neither is known.
    `brief` is a mean that is there with its spread, `short` its text without saying which seeds lack.
    """

    values: Mapping[int, float]
    lacking: Mapping[int, str]
    once: bool = False
    interval: tuple[float, float] | None = None
    scale: float = 100.0
    blocks: str = ""
    value: float | None = field(init=False)
    spread: float | None = field(init=False)
    reach: float = field(init=False)
    brief: str = field(init=False)
    short: str = field(init=False)

    @classmethod
    def of(cls, rows: pd.DataFrame, cells: Iterable[Cell]) -> Mean:
        """Returns the mean of some rows, of which each seed has one, over the seeds of these cells."""
        values = dict(zip(rows["seed"].tolist(), rows["value"].tolist(), strict=True))
        lacking = {c.seed: NOT_MEASURED if c.state == "done" else c.state for c in cells if c.seed not in values}
        once = len({*values.values()}) == 1 and set(rows["source"]) == {RAW}
        told = (once or len(values) == 1) and rows[["low", "high"]].notna().all(axis=None)
        interval = (rows["low"].iloc[0], rows["high"].iloc[0]) if told else None
        scale = 100.0 if {*rows["unit"]} <= {SHARE} else 1.0
        blocks = "/".join(dict.fromkeys(rows["blocks"]))
        return cls(values=values, lacking=lacking, once=once, interval=interval, scale=scale, blocks=blocks)

    def __post_init__(self) -> None:
        numbers = [*self.values.values()]
        self.value = statistics.fmean(numbers[:1] if self.once else numbers) if numbers else None
        self.spread = statistics.stdev(numbers) if len(numbers) > 1 and not self.once else None
        self.reach = (self.interval[1] - self.interval[0]) / 2 if self.interval else self.spread or 0.0
        self.brief = self.signed("")
        self.short = self.text(short=True)

    def text(self, *remarks: str, sign: str = "", short: bool = False) -> str:
        """Returns `mean ± spread (n=...)` in %, one measurement alone, or words where there is no figure.

        `short` leaves out which seeds lack.
        """
        lacking = ", ".join(f"seed {seed} {word}" for seed, word in self.lacking.items())
        if self.value is None:
            words = {*self.lacking.values()}
            return words.pop() if len(words) == 1 else lacking
        if self.once:
            return self.signed(sign)
        count = f"n={len(self.values)}"
        if self.lacking:
            count += f" of {len(self.values) + len(self.lacking)}" + ("" if short else f": {lacking}")
        return f"{self.signed(sign)} ({'; '.join([count, *filter(None, remarks)])})"

    def signed(self, sign: str) -> str:
        """Returns a mean that is there in %, with its spread or interval where it has one."""
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
    """The cells that differ in their seed alone, and their rows.

    Args:
        label: the method, with the settings that vary.
        rows: of the frame with what validation chose.
        tells: whether its method tells the labels that it is trained on.
        network: what tells untrained networks apart; "" where none is known.
        reading: how the pixels are filled on its own data by default.
        pretext: the mean pretext accuracy by split.
        split: that which it is told of: test where any seed has it, so that the others lack.
    """

    dataset: str
    view: str
    method: str
    varied: str
    label: str
    cells: tuple[Cell, ...]
    rows: pd.DataFrame
    tells: bool
    network: str
    reading: str
    pretext: Mapping[str, Mean]
    split: str

    @cached_property
    def supervised(self) -> bool:
        """Whether it is trained on the classes themselves."""
        return self.tells and any(cell.supervised for cell in self.cells)

    def pretext_text(self) -> str:
        """Returns the mean pretext accuracy, with the split where that is not test."""
        mean, seen = self.pretext[self.split], any(cell.trained_on_validation for cell in self.cells)
        unusual = self.split != "test" and bool(mean.values)
        return mean.text(self.split + (", trained on" if seen else "") if unusual else "")

    def pretext_beside(self, published: float | None) -> list[str]:
        """Returns a published figure, and how far the mean pretext accuracy lies above it where that is of test too."""
        beside = self.pretext[self.split].beside(published)
        return beside if self.split == "test" else [beside[0], ""]

    def probes(self, choice: str, probed_on: str = "", reading: str = "") -> tuple[Mean, Mean, Mean]:
        """Returns the test accuracy of probes of the classes: on its own features, on `random` and on `raw` ones.

        Args:
            choice: CHOSEN (by the source's own validation accuracy) or LAST; or another measure at these.
            probed_on: the data set; "" means the one it was pretrained on.
            reading: how the pixels were filled; "" means the default.
        """
        rows = self.rows[(self.rows["measure"] == choice) & (self.rows["probed_on"] == (probed_on or self.dataset))]
        rows = rows[rows["reading"] == reading] if reading else rows[rows["usual"]]
        own, random, raw = (
            Mean.of(rows[rows["source"] == source], self.cells) for source in (self.method, RANDOM, RAW)
        )
        return own, random, raw


class Published:
    """The study's own figures, in %, and what it compares.

    Args:
        columns: data set -> the published column that it stands beside, where its name is another.
    """

    def __init__(self, columns: Mapping[str, str] | None = None) -> None:
        self.figures = tomllib.loads(files("fftrain.report").joinpath("published.toml").read_text(encoding="utf-8"))
        self.columns = columns or {}
        self.gap: tuple[str, str] = (*self.figures["gap"],)
        # Where the figures come from.
        self.remark = f"{self.figures['study']}, {self.figures['source']}"

    def of(self, measure: str, group: Group, method: str = "") -> float | None:
        """Returns a figure of a group, or of another method in its place; None where the study gives none."""
        found = self.figures.get(measure, {}).get(group.view, {}).get(method or group.method, {})
        value = found.get(self.columns.get(group.dataset, group.dataset))
        return None if value is None else float(value)


def groups(found: Collection, frame: pd.DataFrame | None = None) -> list[Group]:
    """Returns the groups of cells that differ in their seed alone, in the order of the cells; those of a search not.

    Args:
        found: what lies in a folder.
        frame: its frame `with_choices`, where it is there already.
    """
    by_kind: dict[tuple[str, ...], list[Cell]] = {}
    for cell in found.cells:
        if not cell.search:
            by_kind.setdefault(cell.kind, []).append(cell)
    frame = with_choices(found) if frame is None else frame
    rows = dict([*frame.groupby(KIND, sort=False)])
    return [_group(kind, cells, rows.get(kind, frame.iloc[:0])) for kind, cells in by_kind.items()]


def _group(kind: tuple[str, ...], cells: list[Cell], rows: pd.DataFrame) -> Group:
    """Returns a group of the cells and rows of a kind."""
    dataset, view, method, varied = kind
    trained = [cell for cell in cells if cell.run]
    tells = any(cell.tells for cell in trained or cells)
    told = rows[rows["measure"] == PRETEXT]
    backbone: Mapping[str, object] = next((cell.settings.get("backbone", {}) for cell in cells if cell.settings), {})
    return Group(
        dataset=dataset,
        view=view,
        method=method,
        varied=varied,
        label=f"{method} ({varied})" if varied else method,
        cells=tuple(cells),
        rows=rows,
        tells=tells,
        network=" ".join(str(value) if key == "name" else f"{key}={value}" for key, value in backbone.items()),
        reading=trained[0].reading(dataset) if trained else "",
        pretext={split: Mean.of(told[told["split"] == split], cells) for split in ("validation", "test")},
        split="test" if (told["split"] == "test").any() else "validation",
    )
