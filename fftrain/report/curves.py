"""The frame -> figures by block, as lines and tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fftrain.report.cells import KIND
from fftrain.report.frame import Collection, select
from fftrain.report.means import READER, SEEDLESS, Group, Mean


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of each block: a line of a panel, and a row of a table. `style` is a method, `random` or `raw`."""

    dataset: str
    panel: str
    name: str
    style: str
    means: Mapping[str, Mean]


def block_curves(found: Sequence[Group], measure: str, target: str = "", split: str = "test") -> list[Curve]:
    """Returns the figures of each block of every data set, view and reading, with the baselines.

    Args:
        found: the groups.
        measure: `probe accuracy`, `explained variance` or another.
        target: whose labels are told, `class` or `pretext`; "" where none are.
        split: what they were measured on.
    """
    several = len({group.network for group in found} - {""}) > 1
    parts = []
    for group in found:
        rows = select(group.rows, measure=measure, target=target, split=split)
        words = {"random": "random" + (f" {group.network}" if several else ""), SEEDLESS: SEEDLESS}
        names = [
            words.get(s, group.label) + (f", reading {r}" if s == "random" else "")
            for s, r in zip(rows["source"], rows["reading"], strict=True)
        ]
        panels = [
            f"{group.dataset} {group.view}"
            + (f", probed on {on}" if on != group.dataset else "")
            + ("" if usual else f", reading {reading}")
            for on, usual, reading in zip(rows["probed_on"], rows["usual"], rows["reading"], strict=True)
        ]
        parts.append(rows.assign(line=names, panel=panels))
    curves = []
    frame = pd.concat(parts) if parts else pd.DataFrame()
    for (dataset, panel, name, style), rows in (
        frame.groupby(["dataset", "panel", "line", "source"], sort=False) if len(frame) else ()
    ):
        kinds = {*rows[KIND].itertuples(index=False, name=None)}
        # The baselines of several methods are one where their seeds are.
        cells = {cell.seed: cell for group in found for cell in group.cells if cell.kind in kinds}
        means = {
            blocks: Mean.of(part.drop_duplicates("seed"), cells.values())
            for blocks, part in rows.groupby("blocks", sort=False)
        }
        curves.append(Curve(dataset=dataset, panel=panel, name=name, style=style, means=means))
    order, panels = {"random": 1, SEEDLESS: 2}, [*dict.fromkeys(curve.panel for curve in curves)]
    return sorted(curves, key=lambda curve: (panels.index(curve.panel), order.get(curve.style, 0)))


def readout_curves(found: Sequence[Group]) -> list[Curve]:
    """Returns the pretext accuracy that the methods themselves tell from each block."""
    curves = []
    for group in found:
        rows = select(group.rows, measure=READER, split=group.pretext()[1])
        rows = rows[rows["blocks"].str.startswith("block")]
        means = {
            str(b).removesuffix("-mean"): Mean.of(part, group.cells) for b, part in rows.groupby("blocks", sort=False)
        }
        about = {"panel": f"{group.dataset} {group.view}", "name": f"{group.label}, readout", "style": group.method}
        curves += [Curve(dataset=group.dataset, **about, means=means)] if len(means) > 1 else []  # one is no line
    return curves


def cka_curves(found: Collection) -> list[Curve]:
    """Returns the similarity of like blocks of two methods, and of both before training."""
    rows = select(found.frame, measure="cka")
    ends = rows["blocks"].str.split(" and ", expand=True) if len(rows) else pd.DataFrame({0: [], 1: []})
    rows = rows.assign(blocks=ends[0])[ends[0] == ends[1]]
    return [
        Curve(
            dataset=dataset,
            panel=f"{dataset} {view}" + (f", {varied}" if varied else ""),
            name=source,
            style="random" if source.startswith("untrained ") else source.split(" and ")[0],
            means={blocks: Mean.of(part, ()) for blocks, part in lines.groupby("blocks", sort=False)},
        )
        for (dataset, view, varied, source), lines in rows.groupby(["dataset", "view", "varied", "source"], sort=False)
    ]
