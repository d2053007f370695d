"""The gap that the study is about: one method's figures less another's, over the difficulty of the task."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fftrain.report.figures import BELOW, COLOURS, MARKERS, PAGE_WIDTH, PRINT, draw, labels
from fftrain.report.frame import CHOSEN, LAST
from fftrain.report.means import Group, Mean, Published
from fftrain.report.section import NOT_PUBLISHED, Section, Table


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One method's figures less another's on one data set and view, by pairs of one seed; `published` are in %.

    `split` is what pretext accuracies are read on.
    Both hold `difficulty` (what the other misses of the task: 1 - its pretext accuracy), `pretext`, and the probes at
    the blocks `chosen` and at the `last` three.
    """

    dataset: str
    view: str
    split: str
    means: Mapping[str, Mean]
    published: Mapping[str, float]


def of_gap(found: Sequence[Group], published: Published) -> Section:
    """Returns the table and the figure of the gap."""
    met, (one, other) = _gaps(found, published), published.gap
    alt = f"Scatter plot: {one} less {other} over the difficulty of the task"
    scatter = [draw("gap", alt, _points, met, published.gap)] if met else []
    return Section(f"{one} and {other} by difficulty", "gap", _table(met, published.gap), pictures=scatter)


def _gaps(found: Sequence[Group], published: Published) -> list[Gap]:
    """Returns the gaps on every data set and view that both methods were planned for, the easiest task first."""
    made = []
    for one, other in itertools.product(found, found):
        alike = (one.dataset, one.view, one.method, other.method) == (other.dataset, other.view, *published.gap)
        if not alike or (one.varied and other.varied and one.varied != other.varied):
            continue
        split = "test" if {one.split, other.split} == {"test"} else "validation"
        told, solved = one.pretext[split], other.pretext[split]
        means = {"pretext": told.less(solved)}
        means |= {n: one.probes(at)[0].less(other.probes(at)[0]) for n, at in (("chosen", CHOSEN), ("last", LAST))}
        means["difficulty"] = Mean(values={s: 1 - v for s, v in solved.values.items()}, lacking=solved.lacking)
        quoted = {}
        for name, measure in (("pretext", "pretext"), ("chosen", "transfer")):
            its, others = (published.of(measure, one, method) for method in published.gap)
            if its is not None and others is not None:
                quoted[name] = its - others
                quoted |= {"difficulty": 100 - others} if name == "pretext" else {}
        settings = "".join(f" ({group.label})" for group in (one, other) if group.varied)
        place = {"dataset": one.dataset, "view": one.view + settings, "split": split}
        made.append(Gap(**place, means=means, published=quoted))
    return sorted(made, key=lambda gap: gap.means["difficulty"].value or 0.0)


def _table(found: Sequence[Gap], of: tuple[str, str]) -> Table:
    """Returns one method's gap to another in points, the easiest task for the other first."""
    shown = {"difficulty": "difficulty", "pretext": "pretext gap", "chosen": "transfer gap (chosen blocks)"}
    rows = []
    for gap in found:
        row = {"pretrained on": gap.dataset, "view": gap.view}
        for name, title in shown.items():
            sign = "" if name == "difficulty" else "+"
            remark = gap.split if name != "chosen" and gap.split != "test" else ""
            row[title] = gap.means[name].text(remark, sign=sign, short=name != "pretext")
            quoted = gap.published.get(name)
            row[f"{title}, published"] = NOT_PUBLISHED if quoted is None else f"{quoted:{sign}.1f}"
        rows.append({**row, "transfer gap (last three)": gap.means["last"].text(sign="+", short=True)})
    return Table.of(f"{of[0]} less {of[1]}, in points", rows)


@matplotlib.rc_context(PRINT)
def _points(gaps: Sequence[Gap], of: tuple[str, str]) -> Figure:
    """Draws one method's gap to another over the difficulty of the task; hollow points are published."""
    figure = Figure(figsize=(PAGE_WIDTH, 3.0), layout="constrained")
    axes = figure.subplots(1, 2)
    colours = dict(zip(dict.fromkeys(gap.dataset for gap in gaps), cycle(COLOURS), strict=False))
    markers = dict(zip(dict.fromkeys(gap.view for gap in gaps), cycle(MARKERS), strict=False))
    for ax, name in zip(axes, ("pretext", "chosen"), strict=True):
        for gap in gaps:
            look = {"color": colours[gap.dataset], "marker": markers[gap.view], "linestyle": "none"}
            x, y = gap.means["difficulty"], gap.means[name]
            if x.value is not None and y.value is not None:
                errors = {"xerr": 100 * (x.spread or 0), "yerr": 100 * (y.spread or 0)}
                ax.errorbar(100 * x.value, 100 * y.value, **errors, elinewidth=0.7, capsize=2, ms=5, **look)
            if "difficulty" in gap.published and name in gap.published:
                ax.plot(gap.published["difficulty"], gap.published[name], mfc="white", ms=5, **look)
        ax.axhline(0, color="#888888", lw=0.6)
        ax.grid()
        ax.set_xlabel(f"difficulty: 100 - pretext accuracy of {of[1]} (%)")
    axes[0].set_ylabel(f"pretext accuracy: {of[0]} less {of[1]} (points)")
    axes[1].set_ylabel(f"transfer: {of[0]} less {of[1]} (points)")
    keys: list[tuple[str, dict[str, Any]]] = [
        (dataset, {"color": colour, "marker": "s"}) for dataset, colour in colours.items()
    ]
    keys += [(view, {"color": "#666666", "marker": marker}) for view, marker in markers.items()]
    if any("difficulty" in gap.published for gap in gaps):
        keys.append(("published", {"color": "#666666", "marker": "o", "mfc": "white"}))
    shown = labels([name for name, _ in keys])
    handles = [Line2D([], [], linestyle="none", label=shown[name], **look) for name, look in keys]
    figure.legend(handles=handles, loc=BELOW, ncols=6)
    return figure
