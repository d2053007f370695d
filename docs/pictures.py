"""Draws the pictures of docs/results.md from the figures in docs/results/*.csv, which tables.py takes.

Others there are those of reports: theta.svg is over-method-threshold-mnist-rotation-1.svg of `theta`,
matrix-effects-*.svg and goodness-effects.svg are effects-*-1.svg of `matrix` and `goodness`.

    python docs/pictures.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import checks
import gates
import matplotlib
import tables
from figures import BLOCKS, CIFAR, DATA, HERE, NONE, PRETEXT, STUDIED, Row, chosen, own, pick, read, told

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "ffstudy", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)
from matplotlib import pyplot  # noqa: E402  # after its settings

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#555555", "#000000")
GREY = "#555555"
LAST_OR_CHOSEN = "test accuracy in %: block4 ●, chosen blocks ○"


class Panel(NamedTuple):
    """What one panel shows."""

    title: str
    least: float
    """Where the axis begins; a point below it is told by its number."""
    beside: Mapping[str, float | None]
    """Lines across, by what they are."""


Ends = Callable[[int, int, int], Sequence[float | None]]


def number(text: str) -> float | None:
    """Returns the mean that a cell of a table tells, None where nothing was measured."""
    return float(text.split(" ")[0]) if text != NONE else None


def ends(rows: Sequence[Row], last: str = "block4") -> list[float | None]:
    """Returns the test accuracy of the last block and of those that validation chose, in %."""
    return [number(told(rows, blocks=last)), number(chosen(rows))]


def dots(name: str, labels: Sequence[str], series: Sequence[str], panels: Sequence[Panel], found: Ends, x: str) -> None:
    """Draws a full and an open point for each line of a list and each series, a panel beside another.

    Args:
        name: of the picture.
        labels: of the lines.
        series: what the colours tell.
        panels: from left to right.
        found: panel, line, series -> the full and the open point, None where there is none.
        x: what the points tell.
    """
    size = (2.5 + 3.9 * len(panels), 1.6 + 0.38 * len(labels))
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for of_panel, (axis, panel) in enumerate(zip(axes[0], panels, strict=True)):
        for index in range(len(labels)):
            for offset, colour in enumerate(COLOURS[: len(series)]):
                full, *rest = found(of_panel, index, offset)
                if full is None:
                    continue
                y = index + 0.24 * (offset - (len(series) - 1) / 2)
                if full < panel.least:
                    text = {"xytext": (2, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
                    axis.annotate(f"◂ {full:.0f}", (panel.least, y), color=colour, **text)
                points = [full, *(point for point in rest if point is not None)]
                axis.plot(points, [y] * len(points), color=colour, linewidth=1, alpha=0.5, zorder=1)
                axis.scatter(points[:1], [y], color=colour, s=26, zorder=2)
                axis.scatter(points[1:], [y] * len(points[1:]), facecolor="white", edgecolor=colour, s=26, zorder=2)
        for (label, at), style in zip(panel.beside.items(), ("--", ":"), strict=False):
            if at is not None:
                axis.axvline(at, color=GREY, linestyle=style, linewidth=1, label=label)
        axis.set_title(panel.title)
        axis.set_xlim(left=panel.least)
        axis.set_xlabel(x)
        axis.grid(axis="x", alpha=0.25)
    for label, colour in zip(series, COLOURS, strict=False):
        axes[0][0].scatter([], [], color=colour, s=26, label=label)
    axes[0][0].set_yticks(range(len(labels)), labels)
    axes[0][0].invert_yaxis()
    legend(figure, axes[0])
    save(figure, name)


def legend(figure: Any, axes: Iterable[Any]) -> None:
    """Puts what the panels' points and lines are below the picture, each once."""
    told = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        told |= dict(zip(labels, handles, strict=True))
    figure.legend(told.values(), told.keys(), loc="outside lower center", ncols=3, frameon=False)


def save(figure: Any, name: str) -> None:
    """Writes a picture, the same bytes for the same figures."""
    figure.savefig(HERE / "results" / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def untrained(rows: Iterable[Row], last: str = "block4", **wanted: str) -> dict[str, float | None]:
    """Returns what stands beside the runs: the untrained network."""
    full, other = ends(pick(rows, source="random", **wanted), last)
    return {f"untrained, {last}": full, "untrained, chosen blocks": other}


def matrix() -> None:
    """Draws what the loss sees x which loss it is x where gradients are cut."""
    rows, data = read("matrix"), ("mnist", CIFAR)

    def found(panel: int, line: int, series: int) -> list[float | None]:
        _, _, view, method, varied = tables.MATRIX[line]
        return ends(tables.cell(rows, data[panel], view, method, varied, [*tables.CUTS.values()][series]))

    panels = [
        Panel(name, least, untrained(rows, dataset=dataset, **tables.BESIDE))
        for dataset, name, least in zip(data, ("MNIST", "CIFAR-10 (JPEG)"), (78, 18), strict=True)
    ]
    labels = [f"{sees}: {loss.replace('`', '')}" for sees, loss, *_ in tables.MATRIX]
    dots("matrix", labels, [f"cut {name}" for name in tables.CUTS], panels, found, LAST_OR_CHOSEN)


def formula() -> None:
    """Draws how well the pretext task is solved, and what it leaves of the classes: here, and as published."""
    rows = pick(read("study-formula"), dataset="mnist")
    views = ("rotation", "flip-h", "flip-hv", "jigsaw")
    lines = [(view, label) for view in views for label, of in tables.METHODS.items() if own(rows, view=view, **of)]

    def found(panel: int, line: int, series: int) -> list[float | None]:
        view, label = lines[line]
        wanted = tables.METHODS[label]
        if series:
            kind = tables.PUBLISHED[("pretext", "transfer")[panel]]
            quoted = kind.get(view, {}).get(wanted["method"], {}).get("mnist")
            return [None if quoted is None else float(quoted)]
        of_run = own(rows, view=view, **wanted)
        return [number(told(of_run, STUDIED, "blocks2-4") if panel else told(of_run, PRETEXT))]

    random = pick(rows, view="rotation", method="bp", source="random")
    panels = [
        Panel("pretext task", 86, {}),
        Panel("transfer, last three blocks", 50, {"untrained": number(told(random, STUDIED, "blocks2-4"))}),
    ]
    labels = [f"{view}: {label.replace('`', '')}" for view, label in lines]
    dots(
        "formula",
        labels,
        ["here, 4x500, 10 epochs", "published, 4x2000, 60 epochs"],
        panels,
        found,
        "test accuracy in %",
    )


def goodness() -> None:
    """Draws goodness x loss of a pair, cut or not."""
    rows = read("goodness")
    varied = [*dict.fromkeys(row["varied"] for row in rows)]

    def found(_: int, line: int, series: int) -> list[float | None]:
        return ends(own(rows, varied=varied[line], method=("ff", "bp-goodness-all")[series]))

    labels = [": ".join(part.split("=")[1] for part in text.split(", ")[:2]) for text in varied]
    panel = Panel("rotations of MNIST", 10, untrained(rows))
    dots("goodness", labels, ("cut at each block", "cut never, losses on all"), [panel], found, LAST_OR_CHOSEN)


def depth(of: checks.Depth, name: str, least: Sequence[float]) -> None:
    """Draws a network by data set and cut."""
    rows = read(of.study)

    def found(panel: int, line: int, series: int) -> list[float | None]:
        _, _, view, *methods = of.lines[line]
        return ends(checks.of_depth(rows, of.data[panel], view, methods[series]), of.last)

    panels = [
        Panel(DATA[dataset], at, untrained(rows, of.last, dataset=dataset, view="plain", method="local-ce"))
        for dataset, at in zip(of.data, least, strict=True)
    ]
    labels = [f"{sees}: {loss}" for sees, loss, *_ in of.lines]
    dots(name, labels, of.cuts, panels, found, LAST_OR_CHOSEN.replace("block4", of.last))


def tasks() -> None:
    """Draws the places of the features in each task."""
    rows, colours = (
        read("tasks-10k"),
        dict(zip(checks.TASKED, matplotlib.colormaps["tab20"].colors, strict=False)),
    )
    data = {dataset: name for dataset, name in DATA.items() if pick(rows, dataset=dataset)}
    figure, axes = pyplot.subplots(len(data), 1, figsize=(12, 4.8 * len(data)), layout="constrained", squeeze=False)
    for axis, (dataset, name) in zip(axes[:, 0], data.items(), strict=True):
        of = checks.tasked(rows, dataset)
        columns = [
            {label: value for label, cells in of.items() if (value := number(cells[task])) is not None}
            for task in range(len(checks.TASKS))
        ]
        places = [sorted(column, key=lambda label, of=column: -of[label]) for column in columns]  # type: ignore[misc]
        for label in of:
            known = [(x, place.index(label) + 1) for x, place in enumerate(places) if label in place]
            colour, style = colours.get(label, GREY), "-" if label in colours else "--"
            axis.plot(*zip(*known, strict=True), color=colour, linestyle=style, marker="o", markersize=15, linewidth=2)
            for x, y in known:
                axis.annotate(f"{columns[x][label]:.0f}", (x, y), ha="center", va="center", fontsize=7, color="white")
            axis.annotate(label.replace("`", ""), (known[-1][0] + 0.2, known[-1][1]), va="center", color=colour)
        axis.set_title(name)
        axis.set_xticks(range(len(checks.TASKS)), [task.replace(" a class", "\na class") for task in checks.TASKS])
        axis.set_xlim(-0.3, len(checks.TASKS) + 2.4)
        axis.set_ylabel("place, with the figure in %")
        axis.set_yticks(range(1, len(of) + 1))
        axis.invert_yaxis()
    save(figure, "tasks")


def claim() -> None:
    """Draws the study's network under InfoNCE, block by block."""
    rows = read("claim-mnist")
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for axis, (dataset, name) in zip(axes, DATA.items(), strict=False):
        of_data = pick(rows, dataset=dataset)
        kinds = {label: own(of_data, **wanted) for label, wanted in gates.CLAIMED.items()}
        kinds["untrained"] = pick(of_data, source="random")
        for (label, found), colour in zip(kinds.items(), (*COLOURS[:3], GREY), strict=True):
            values = [number(told(found, blocks=blocks)) for blocks in BLOCKS]
            style = "--" if label == "untrained" else "-"
            axis.plot(range(len(values)), values, color=colour, marker="o", linestyle=style, label=label)
        raw = number(told(pick(of_data, source="raw"), blocks="pixels"))
        axis.axhline(raw, color=GREY, linestyle=":", linewidth=1, label="raw pixels")
        axis.set_title(name)
        axis.set_xticks(range(len(BLOCKS)), BLOCKS)
        axis.grid(axis="y", alpha=0.25)
    axes[0].set_ylabel("test accuracy in %")
    legend(figure, axes)
    save(figure, "claim")


PICTURES = (
    formula,
    matrix,
    goodness,
    partial(depth, checks.CONV, "depth", (75, 65, 18)),
    partial(depth, checks.RESNET, "depth-resnet", (60, 25)),
    tasks,
    claim,
)

if __name__ == "__main__":
    for draw in PICTURES:
        draw()
