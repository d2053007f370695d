"""The figures of docs/results.md: how those of a study are taken into docs/results/*.csv, and read there."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).parent
PROBE = "probe accuracy"
PRETEXT = "pretext accuracy"
STUDIED = "probe accuracy, lr 0.0001, weight decay 0, constant, not standardised"
RANKS = ("effective rank", "participation ratio")
COLUMNS = ("dataset", "view", "method", "seed", "varied", "measure", "split", "reading", "source", "blocks", "value")
BLOCKS = ("block1", "block2", "block3", "block4", "blocks2-4")
CIFAR = "imagefolder:cifar10-jpeg"
DATA = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", CIFAR: "CIFAR-10"}
PIXELS = {"mnist": 784, "fashion-mnist": 784, CIFAR: 3072}
NONE = "-"
# What a study calls the methods and cuts that have a name of their own.
RECIPES = {
    "forward-forward": "ff",
    "forward-forward cut=never": "bp-goodness-all",
    "forward-forward cut=never at=last": "bp-goodness-last",
    "cross-entropy": "local-ce",
    "cross-entropy cut=never at=last": "bp",
}
Row = dict[str, str]


def take(study: Path) -> None:
    """Takes what the tables tell of a study's results.csv: no seconds, no single readers.

    Figures of cells that the study does not hold stay as they are: other seeds, which may be another machine's.
    """
    with (study / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [{key: row[key] for key in COLUMNS} for row in csv.DictReader(file) if kept(row)]
    write(study.name, rows)


def write(name: str, rows: Sequence[Row]) -> None:
    """Writes figures into results/NAME.csv, behind those of other cells that are there."""
    taken = {cell_of(row) for row in rows}
    path = HERE / "results" / f"{name}.csv"
    others = [row for row in read(name) if cell_of(row) not in taken] if path.exists() else []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*others, *rows])


def cell_of(row: Row) -> tuple[str, ...]:
    """Returns what cell of a study a figure is of."""
    return tuple(row[key] for key in ("dataset", "view", "method", "seed", "varied"))


def kept(row: Row) -> bool:
    """Whether a figure is of the test split, of a probe or own classifiers on validation, or of ranks."""
    measure, split = row["measure"], row["split"]
    probed = measure in (PROBE, STUDIED) and row["target"] == "class"
    others = split == "test" and "reader" not in measure and PROBE not in measure
    return probed or measure in (*RANKS, PRETEXT) or others


def read(name: str) -> list[Row]:
    """Reads the figures of a study: one row for each number that was measured."""
    path = HERE / "results" / f"{name}.csv"
    return _rows(path, path.stat().st_mtime_ns)


@lru_cache
def _rows(path: Path, modified: int) -> list[Row]:
    """Reads a file of figures, once as long as it is not written to."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pick(rows: Iterable[Row], **wanted: str) -> list[Row]:
    """Returns the rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def said(values: Sequence[float], scale: float = 100.0, places: int = 1) -> str:
    """Returns a mean, of shares in %, with the sample standard deviation where several differ."""
    if not values:
        return NONE
    mean = f"{scale * statistics.mean(values):.{places}f}"
    return mean if len({*values}) == 1 else f"{mean} ± {scale * statistics.stdev(values):.{places}f}"


def told(
    rows: Iterable[Row],
    measure: str = PROBE,
    blocks: str = "",
    split: str = "test",
    scale: float = 100.0,
    places: int = 1,
) -> str:
    """Returns a figure at some blocks, over seeds; baselines that stand beside several runs of a seed count once."""
    found = {row["seed"]: float(row["value"]) for row in pick(rows, measure=measure, blocks=blocks, split=split)}
    return said([*found.values()], scale, places)


def chosen(rows: Sequence[Row], measure: str = PROBE) -> str:
    """Returns the test figure at the blocks that are best on validation, of each seed by itself."""
    best: dict[str, Row] = {}
    for row in pick(rows, measure=measure, split="validation"):
        best[row["seed"]] = max(best.get(row["seed"], row), row, key=lambda row: float(row["value"]))
    found = [pick(rows, measure=measure, split="test", seed=s, blocks=row["blocks"]) for s, row in best.items()]
    return said([float(of_seed[0]["value"]) for of_seed in found])


def both(rows: Sequence[Row], last: str = "block4") -> str:
    """Returns the test figures at the last block and at the blocks that are best on validation."""
    return f"{told(rows, blocks=last)} / {chosen(rows)}" if rows else NONE


def called(method: str, cut: str) -> str:
    """Returns what a study calls a method cut at each block (""), " cut=never" or " cut=never at=last"."""
    return RECIPES.get(method + cut, method + cut)


def own(rows: Iterable[Row], **wanted: str) -> list[Row]:
    """Returns the figures of runs themselves, without what stands beside them."""
    return [row for row in pick(rows, **wanted) if row["source"] not in ("raw", "random")]


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Returns a Markdown table, line by line."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def by_block(
    name: str,
    kinds: Mapping[str, Mapping[str, str]],
    dims: Sequence[int],
    blocks: Sequence[str] = BLOCKS,
    dataset: str = "mnist",
) -> list[str]:
    """Returns probes of each block, test split: of the kinds that have runs, untrained, of the pixels.

    `dims` are the numbers that each probe reads.
    """
    rows = pick(read(name), dataset=dataset)
    there = {label: found for label, wanted in kinds.items() if (found := own(rows, **wanted))}
    lines = [[label, *(told(found, blocks=b) for b in blocks)] for label, found in there.items()]
    wanted = next(iter(kinds.values()))
    lines.append(["untrained", *(told(pick(rows, **wanted, source="random"), blocks=b) for b in blocks)])
    raw = f"raw pixels ({PIXELS[dataset]})"
    lines.append([raw, told(pick(rows, source="raw"), blocks="pixels"), *[""] * (len(blocks) - 1)])
    return markdown(["features of", *sized(blocks, dims)], lines)


def sized(blocks: Sequence[str], dims: Sequence[int]) -> list[str]:
    """Returns what columns of probes are called: the blocks, and how many numbers each reads."""
    return [f"{block} ({dim})" for block, dim in zip(blocks, dims, strict=True)]
