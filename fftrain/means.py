"""Records -> means over seeds, with their spread, what is missing, and what is published beside them."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from fftrain.collect import Cell

NOT_MEASURED, NOT_PUBLISHED = "not measured", "not published"
CHOSEN, LAST = "chosen", "last"
# The source whose figures no seed has a part in.
SEEDLESS = "raw"
Reader = Callable[[Cell], "float | None"]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells that differ in their seed alone."""

    dataset: str
    task: str
    method: str
    varied: str
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """The method, with the settings that vary."""
        return f"{self.method} ({self.varied})" if self.varied else self.method

    def mean(self, read: Reader, *, seedless: bool = False) -> Mean:
        """Returns the mean of a figure over the seeds that have it; `seedless` as in `Mean`."""
        found = [(cell, read(cell)) for cell in self.cells]
        lacking = [cell for cell, value in found if value is None]
        words = {cell.seed: NOT_MEASURED if cell.state == "done" else cell.state for cell in lacking}
        values = {cell.seed: value for cell, value in found if value is not None}
        return Mean(values=values, lacking=words, seedless=seedless)

    def read_at(self, source: str, reading: str, probed_on: str = "", slot: str = "") -> Mean:
        """Returns the test accuracy of a source's probes ("own": the method's), as `probe_at` reads it."""
        return self.mean(lambda cell: probe_at(cell, source, reading, probed_on, slot)[1], seedless=source == SEEDLESS)

    def layers(self, probed_on: str = "", slot: str = "") -> str:
        """Returns the layers that validation chose for the method's own features, of each seed where they differ."""
        found = [probe_at(cell, "own", CHOSEN, probed_on, slot)[0] for cell in self.cells]
        return "/".join(dict.fromkeys(name for name in found if name))


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A figure of each seed (share of 1), and why other seeds have none.

    `seedless` says that it depends on no seed (`raw`): one measurement, unless the seeds' figures differ all the same.
    """

    values: Mapping[int, float]
    lacking: Mapping[int, str]
    seedless: bool = False

    @property
    def once(self) -> bool:
        """Whether there is one measurement alone, whatever the seeds."""
        return self.seedless and len({*self.values.values()}) == 1

    @property
    def value(self) -> float | None:
        """The mean over the seeds that are there."""
        if self.once:
            return next(iter(self.values.values()))
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def spread(self) -> float | None:
        """The sample standard deviation; None below two seeds, and of one measurement."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 and not self.once else None

    def text(self, *remarks: str, sign: str = "", short: bool = False) -> str:
        """Returns `mean ± spread (n=...)` in %, one measurement alone, or words where there is no figure.

        `short` leaves out which seeds lack.
        """
        lacking = ", ".join(f"seed {seed} {word}" for seed, word in self.lacking.items())
        if self.value is None:
            words = {*self.lacking.values()}
            return words.pop() if len(words) == 1 else lacking
        if self.once:
            return f"{100 * self.value:{sign}.1f}"
        spread = "" if self.spread is None else f" ± {100 * self.spread:.1f}"
        count = f"n={len(self.values)}"
        if self.lacking:
            count += f" of {len(self.values) + len(self.lacking)}" + ("" if short else f": {lacking}")
        notes = "; ".join([count, *(remark for remark in remarks if remark)])
        return f"{100 * self.value:{sign}.1f}{spread} ({notes})"

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


class Published:
    """The study's own figures, in %.

    Args:
        columns: data set -> the published column that it stands beside, where its name is another.
    """

    def __init__(self, columns: Mapping[str, str] | None = None) -> None:
        self.figures = tomllib.loads(files("fftrain").joinpath("published.toml").read_text(encoding="utf-8"))
        self.columns = columns or {}

    @property
    def remark(self) -> str:
        """Where the figures come from."""
        return f"{self.figures['study']}, {self.figures['source']}"

    def of(self, measure: str, task: str, method: str, dataset: str) -> float | None:
        """Returns a figure, or None where the study gives none."""
        found = self.figures.get(measure, {}).get(task, {}).get(method, {})
        value = found.get(self.columns.get(dataset, dataset))
        return None if value is None else float(value)


def groups(cells: Sequence[Cell]) -> list[Group]:
    """Returns the groups of cells that differ in their seed alone, in the order of the cells."""
    found: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.dataset, cell.task, cell.method, cell.varied), []).append(cell)
    return [Group(dataset=d, task=t, method=m, varied=v, cells=tuple(of)) for (d, t, m, v), of in found.items()]


def pretext(cell: Cell, split: str) -> float | None:
    """Returns the pretext accuracy on a split."""
    return cell.value(measure="pretext accuracy", split=split)


def pretext_mean(group: Group) -> tuple[Mean, str]:
    """Returns the mean pretext accuracy and its split: test where any seed has it, so that the others lack."""
    split = "test" if any(pretext(cell, "test") is not None for cell in group.cells) else "validation"
    return group.mean(lambda cell: pretext(cell, split)), split


def pretext_text(group: Group) -> str:
    """Returns the mean pretext accuracy, with the split where that is not test."""
    mean, split = pretext_mean(group)
    seen = any(cell.trained_on_validation for cell in group.cells)
    return mean.text("" if split == "test" or not mean.values else split + (", trained on" if seen else ""))


def pretext_beside(group: Group, published: float | None) -> list[str]:
    """Returns a published figure, and how far the mean pretext accuracy lies above it where that is of test too."""
    mean, split = pretext_mean(group)
    beside = mean.beside(published)
    return beside if split == "test" else [beside[0], ""]


def probe_at(cell: Cell, source: str, reading: str, probed_on: str = "", slot: str = "") -> tuple[str, float | None]:
    """Returns the layers and the test accuracy of a probe of the classes.

    Args:
        cell: a run.
        source: `own` (the method's features), `random` or `raw`.
        reading: CHOSEN (by the source's own validation accuracy), LAST (the last three), or the name of layers.
        probed_on: the data set; "" means the one it was pretrained on.
        slot: what the label pixels held; "" means the run's default.
    """
    if cell.run is None:
        return "", None
    probed_on = probed_on or cell.dataset
    slot = slot or cell.slot(probed_on)
    source = cell.method if source == "own" else source
    layers = cell.run.last if reading == LAST else reading
    if reading == CHOSEN or source == "raw":
        layers = cell.chosen(source, probed_on, slot)
    place = {"target": "class", "probed_on": probed_on, "slot": slot, "source": source, "layers": layers}
    return layers, cell.value(measure="probe accuracy", split="test", **place)
