"""The frame -> tables: means over seeds with their spread, beside what is published and what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from fftrain.report.cells import PLACE, UNFINISHED, Cell
from fftrain.report.curves import Curve
from fftrain.report.frame import Collection, select
from fftrain.report.means import (
    CHOSEN,
    LAST,
    NOT_MEASURED,
    NOT_PUBLISHED,
    PROBE,
    Group,
    Mean,
    Published,
    block_order,
    chosen,
)
from fftrain.report.records import PRETEXT

# What stands where there is no value.
NO_VALUE = ("", NOT_MEASURED, NOT_PUBLISHED)
QUOTED = ("published", "difference")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: what it shows, its columns, and its cells as text; `folded` where few will read it."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    folded: bool = False

    @classmethod
    def of(cls, title: str, records: Sequence[Mapping[str, str]], *, folded: bool = False) -> Table:
        """Returns a table of records that have the same keys."""
        columns = [*records[0]] if records else []
        return cls(title=title, columns=columns, rows=[[*record.values()] for record in records], folded=folded)

    def of_values(self) -> Table:
        """Returns the table without the columns in which no row has a value."""
        kept = [i for i in range(len(self.columns)) if any(row[i] not in NO_VALUE for row in self.rows)]
        columns = [self.columns[i] for i in kept]
        return replace(self, columns=columns, rows=[[row[i] for i in kept] for row in self.rows])


def _beside(title: str, lines: Sequence[dict[str, str]], keys: Sequence[str]) -> Table:
    """Returns a table of data sets side by side, from lines with `data set`, keys and cells."""
    if not lines:
        return Table(title=title, columns=(), rows=[])
    frame = pd.DataFrame(lines, dtype=object)
    names = [name for name in frame if name not in (*keys, "data set")]
    used = [key for key in keys if frame[key].any()]
    wide = frame.set_index([*used, "data set"])[names].unstack("data set", sort=False)
    columns, rows = [*used], [[*key] if len(used) > 1 else [key] for key in wide.index]
    for dataset in dict.fromkeys(frame["data set"]):
        for name in names:
            columns.append(f"{dataset} {name}".strip())
            values = wide[name, dataset].fillna("not planned" if name == names[0] else "")
            rows = [[*row, value] for row, value in zip(rows, values, strict=True)]
    return Table(title=title, columns=columns, rows=rows)


def search_table(found: Collection) -> Table:
    """Returns the runs of a search, the best on validation first: nothing else was read of them."""
    rows = []
    for cell in found.cells:
        if not cell.search:
            continue
        value = _value(found, cell, measure=PRETEXT, split="validation")
        metrics = cell.run.metrics if cell.run else []
        epochs = [100 * e["validation"]["accuracy"] for e in metrics if "accuracy" in e["validation"]]
        falls = [before - after for before, after in itertools.pairwise(epochs)]
        row = {"data set": cell.dataset, "view": cell.view, "method": cell.method, "settings": cell.varied}
        row |= {"seed": str(cell.seed), "validation": cell.reason if value is None else f"{100 * value:.1f}"}
        row["curve, by epoch"] = " ".join(f"{epoch:.1f}" for epoch in epochs)
        row["largest fall"] = f"{max(0.0, *falls):.1f}" if falls else ""
        rows.append((cell.dataset, cell.view, -(value or 0.0), row))
    rows.sort(key=lambda row: row[:3])
    return Table.of("Pretext accuracy on validation in %", [row[3] for row in rows])


def pretext_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the pretext accuracy of every view and method, by data set."""
    lines = [
        _line(group) | dict(zip(("", *QUOTED), (group.pretext_text(), *group.pretext_beside(quoted)), strict=True))
        for group in found
        for quoted in [published.of("pretext", group)]
    ]
    return _beside("Pretext accuracy in %", lines, ("view", "method", "settings"))


def transfer_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the accuracy of the probes of every view and method, by data set, both baselines beside."""
    lines = []
    for group in found:
        quoted = published.of("transfer", group)
        for choice, name in ((CHOSEN, "chosen on validation"), (LAST, "last three")):
            mean = group.probe(choice)
            cells = {"": mean.text(group.blocks() if choice == CHOSEN else "")}
            cells |= {source: group.probe(choice, source).text(short=True) for source in ("random", "raw")}
            cells |= dict(zip(QUOTED, mean.beside(quoted), strict=True))
            lines.append({**_line(group), "blocks": name, **cells})
    return _beside("Transfer: test accuracy of linear probes in %", lines, ("view", "method", "settings", "blocks"))


def _line(group: Group) -> dict[str, str]:
    return {"view": group.view, "method": group.method, "settings": group.varied, "data set": group.dataset}


def curve_table(title: str, curves: Sequence[Curve]) -> Table:
    """Returns the figures of each block that a figure draws."""
    blocks = sorted({block for curve in curves for block in curve.means}, key=block_order)
    rows = [
        [curve.panel, curve.name, *(curve.means[b].text(short=True) if b in curve.means else "" for b in blocks)]
        for curve in curves
    ]
    columns = ("pretrained on", "of", *(block or "value" for block in blocks))
    return Table(title=title, columns=columns, rows=rows, folded=any(blocks))


def _probes(group: Group, probed_on: str = "", reading: str = "") -> dict[str, str]:
    """Returns the probes at both choices of blocks, and the baselines at the first."""
    at = (probed_on, reading)
    return {
        "probe (chosen blocks)": group.probe(CHOSEN, "", *at).text(group.blocks(*at)),
        "probe (last three)": group.probe(LAST, "", *at).text(short=True),
        **{source: group.probe(CHOSEN, source, *at).text(short=True) for source in ("random", "raw")},
    }


def supervised_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the reference: backbones trained on the classes themselves."""
    rows = []
    for group in found:
        quoted = published.of("transfer", group)
        row = {"pretrained on": group.dataset, "method": group.label, "own accuracy": group.pretext_text()}
        row |= _probes(group)
        row["published"], row["difference of own"] = group.pretext_beside(quoted)
        row["difference of probe"] = group.probe(CHOSEN).beside(quoted)[1]
        rows.append(row)
    return Table.of("Supervised reference: test accuracy in %", rows)


def ablation_table(found: Sequence[Group], published: Published) -> Table:
    """Returns what of a method makes the difference: its loss, on which blocks, or that gradients stop."""
    steps: list[str] = published.figures["ablation"]
    asked = list(dict.fromkeys((g.dataset, g.view) for g in found if g.method in published.figures["ablated"]))
    kept = [group for group in found if (group.dataset, group.view) in asked and group.method in steps]
    rows = []
    for group in sorted(kept, key=lambda g: (asked.index((g.dataset, g.view)), steps.index(g.method))):
        row = {"pretrained on": group.dataset, "view": group.view, "method": group.label}
        row["pretext"] = group.pretext_text()
        own = group.pretext_beside(published.of("ablation-pretext", group))
        row |= {f"pretext {name}": text for name, text in zip(QUOTED, own, strict=True)} | _probes(group)
        probe = group.probe(CHOSEN).beside(published.of("ablation-transfer", group))
        rows.append(row | {f"transfer {name}": text for name, text in zip(QUOTED, probe, strict=True)})
    return Table.of("Ablation: accuracy in %", rows)


def places_table(found: Sequence[Group], *, elsewhere: bool) -> Table:
    """Returns the probes on other data sets (`elsewhere`), or with several readings on the same one."""
    rows = []
    for group in found:
        places = dict.fromkeys(place for cell in group.cells for place in _places(cell, group.rows, PROBE))
        kept = [place for place in places if (place[0] != group.dataset) == elsewhere]
        row = {"pretrained on": group.dataset, "view": group.view, "method": group.label}
        for on, reading in kept if elsewhere or len(kept) > 1 else ():
            rows.append({**row, "probed on": on, "reading": reading, **_probes(group, on, reading)})
    title = "Transfer to another data set" if elsewhere else "What the label pixels hold when features are read"
    return Table.of(f"{title}: test accuracy in %", rows)


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


def gaps(found: Sequence[Group], published: Published) -> list[Gap]:
    """Returns the gap that the study is about on every data set and view that both methods were planned for."""
    made = []
    for one, other in itertools.product(found, found):
        alike = (one.dataset, one.view, one.method, other.method) == (other.dataset, other.view, *published.gap)
        if not alike or (one.varied and other.varied and one.varied != other.varied):
            continue
        split = "test" if {one.pretext()[1], other.pretext()[1]} == {"test"} else "validation"
        told, solved = (group.mean(measure=PRETEXT, split=split) for group in (one, other))
        means = {"pretext": told.less(solved)}
        means |= {name: one.probe(at).less(other.probe(at)) for name, at in (("chosen", CHOSEN), ("last", LAST))}
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


def gap_table(found: Sequence[Gap], of: tuple[str, str]) -> Table:
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


def results_table(found: Collection, frame: pd.DataFrame) -> Table:
    """Returns one row for each run and place that was probed: pretext accuracy, and the probes with both baselines.

    Args:
        found: what lies in the folder.
        frame: its frame with what validation chose.
    """
    rows = []
    for cell in found.cells:
        word = _word(cell)
        told = {split: _value(found, cell, measure=PRETEXT, split=split) for split in ("validation", "test")}
        first = UNFINISHED if cell.state == UNFINISHED else word
        shown = [first if told["validation"] is None else _seen(cell, told["validation"])]
        shown.append(word if told["test"] is None else f"{100 * told['test']:.1f}")
        if cell.state == "done" and not cell.tells:
            shown = ["", ""]
        for place in _places(cell, frame, PROBE) or [("", "")]:
            at = _sources(cell, frame, PROBE, place)
            rows.append([cell.name, cell.method, cell.dataset, cell.view, *shown, *place, *at])
    columns = ("run", "method", "pretrained on", "view", "pretext accuracy", "pretext test", "probed on", "reading")
    title = "Results: accuracy in %; pretext on validation, probes on test (blocks chosen on validation)"
    return Table(title=title, columns=(*columns, "probe", "random", "raw"), rows=rows)


def measured_table(found: Collection, frame: pd.DataFrame, measure: str) -> Table:
    """Returns one row for each run and place of which something else was measured of the classes, with both baselines.

    Args:
        found: what lies in the folder.
        frame: its frame with what validation chose.
        measure: what was measured.
    """
    rows = [
        [cell.name, cell.method, cell.dataset, cell.view, *place, *_sources(cell, frame, measure, place)]
        for cell in found.cells
        for place in _places(cell, frame, measure)
    ]
    columns = ("run", "method", "pretrained on", "view", "measured on", "reading", "its features", "random", "raw")
    title = f"{measure[:1].upper()}{measure[1:]}, test in % (blocks chosen on validation)"
    return Table(title=title, columns=columns, rows=rows)


def _word(cell: Cell) -> str:
    """Returns what stands where a run has no value."""
    return NOT_MEASURED if cell.state in ("done", UNFINISHED) else cell.state


def _places(cell: Cell, frame: pd.DataFrame, measure: str) -> list[tuple[str, str]]:
    """Returns where a measure of a run's classes is told, data sets and readings; where it is nowhere, all of them."""
    places = dict.fromkeys((dataset, reading) for dataset, reading, target in cell.probed if target == "class")
    rows = select(frame, run=cell.name, target="class")
    found = {place: {*select(rows, probed_on=place[0], reading=place[1])["measure"]} for place in places}
    return [place for place, measures in found.items() if measure in measures or not measures] or [*places]


def _sources(cell: Cell, frame: pd.DataFrame, measure: str, place: tuple[str, str]) -> list[str]:
    """Returns what was measured of a run's own features and of both baselines, at the blocks that validation chose."""
    mine = select(frame, run=cell.name, measure=chosen(measure), probed_on=place[0], reading=place[1])
    found = []
    for source in (cell.method, "random", "raw"):
        rows = select(mine, source=source).to_dict("records")
        texts = [_figure(row) + (f" ({row['blocks']})" if source != "raw" else "") for row in rows]
        found.append(texts[0] if texts else _word(cell))
    return found


def _figure(row: Mapping[str, Any]) -> str:
    """Returns a number in %, with its interval where it has one."""
    interval = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{100 * row['value']:.1f}{interval}"


def _value(found: Collection, cell: Cell, **wanted: Any) -> float | None:
    """Returns the one figure of a run that has these values, or None."""
    values = select(found.frame, run=cell.name, **wanted)["value"].tolist()
    return float(values[0]) if values else None


def _seen(cell: Cell, value: float) -> str:
    """Returns an accuracy on validation in %, marked where those images were trained on."""
    return f"{100 * value:.1f}" + (" (trained on)" if cell.trained_on_validation else "")


def probes_table(found: Collection) -> Table:
    """Returns every probe of every run."""
    keys = ["run", *PLACE[2:]]
    cells = {cell.name: cell for cell in found.cells}
    probes = select(found.frame, measure=PROBE)
    both = select(probes, split="test").merge(select(probes, split="validation"), on=keys, how="left")
    rows = []
    for probe in both.to_dict("records"):
        cell, known = cells[probe["run"]], probe["value_y"]
        own = _seen(cell, known) if probe["source"] == cell.method else f"{100 * known:.1f}"
        rows.append([*(probe[key] for key in keys), "" if pd.isna(known) else own, f"{100 * probe['value_x']:.1f}"])
    columns = ("run", "probed on", "reading", "target", "features of", "blocks", "validation", "test")
    return Table(title="Every probe (accuracy in %)", columns=columns, rows=rows)
