"""The frame -> tables: means over seeds with their spread, beside what is published and what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fftrain.parts import RANDOM, RAW
from fftrain.report.cells import PLACE, UNFINISHED, Cell
from fftrain.report.frame import AT_CHOSEN, CHOSEN, LAST, PROBE, Collection
from fftrain.report.means import Group, Published
from fftrain.report.records import PRETEXT
from fftrain.report.section import NOT_MEASURED, Table

QUOTED = ("published", "difference")
SHOWN = 10  # numbers of a curve, in a table


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
    rows, values = [], _pretext(found)
    for cell in (cell for cell in found.cells if cell.search):
        value, metrics = values.get((cell.name, "validation")), cell.run.metrics if cell.run else []
        epochs = [100 * e["validation"]["accuracy"] for e in metrics if "accuracy" in e["validation"]]
        falls = [before - after for before, after in itertools.pairwise(epochs)]
        row = {"data set": cell.dataset, "view": cell.view, "method": cell.method, "settings": cell.varied}
        row |= {"seed": str(cell.seed), "validation": cell.reason if value is None else f"{100 * value:.1f}"}
        row["curve, by epoch"] = " ".join(f"{epoch:.1f}" for epoch in few(epochs))
        row["largest fall"] = f"{max(0.0, *falls):.1f}" if falls else ""
        rows.append((cell.dataset, cell.view, -(value or 0.0), row))
    rows.sort(key=lambda row: row[:3])
    return Table.of("Pretext accuracy on validation in %", [row[3] for row in rows])


def few(epochs: Sequence[float]) -> Sequence[float]:
    """Returns at most ten of the numbers, evenly apart up to the last."""
    return epochs[:: -max(1, -(-len(epochs) // SHOWN))][::-1]


def pretext_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the pretext accuracy of every view and method, by data set."""
    lines = []
    for group in found:
        beside = group.pretext_beside(published.of("pretext", group))
        lines.append({**_line(group), "": group.pretext_text(), **dict(zip(QUOTED, beside, strict=True))})
    return _beside("Pretext accuracy in %", lines, ("view", "method", "settings"))


def transfer_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the accuracy of the probes of every view and method, by data set, both baselines beside."""
    lines = []
    for group in found:
        quoted = published.of("transfer", group)
        for choice, name in ((CHOSEN, "chosen on validation"), (LAST, "last three")):
            own, random, raw = group.probes(choice)
            cells = {"": own.text(own.blocks if choice == CHOSEN else ""), RANDOM: random.short, RAW: raw.short}
            beside = dict(zip(QUOTED, own.beside(quoted), strict=True))
            lines.append({**_line(group), "blocks": name, **cells, **beside})
    return _beside("Transfer: test accuracy of linear probes in %", lines, ("view", "method", "settings", "blocks"))


def _line(group: Group) -> dict[str, str]:
    return {"view": group.view, "method": group.method, "settings": group.varied, "data set": group.dataset}


def _probes(group: Group, probed_on: str = "", reading: str = "") -> dict[str, str]:
    """Returns the probes at both choices of blocks, and the baselines at the first."""
    own, random, raw = group.probes(CHOSEN, probed_on, reading)
    last, *_ = group.probes(LAST, probed_on, reading)
    texts = {"probe (chosen blocks)": own.text(own.blocks), "probe (last three)": last.short}
    return {**texts, RANDOM: random.short, RAW: raw.short}


def supervised_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the reference: backbones trained on the classes themselves."""
    rows = []
    for group in found:
        quoted = published.of("transfer", group)
        row = {"pretrained on": group.dataset, "method": group.label, "own accuracy": group.pretext_text()}
        row |= _probes(group)
        row["published"], row["difference of own"] = group.pretext_beside(quoted)
        row["difference of probe"] = group.probes(CHOSEN)[0].beside(quoted)[1]
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
        probe = group.probes(CHOSEN)[0].beside(published.of("ablation-transfer", group))
        rows.append(row | {f"transfer {name}": text for name, text in zip(QUOTED, probe, strict=True)})
    return Table.of("Ablation: accuracy in %", rows)


def places_table(found: Sequence[Group], *, elsewhere: bool) -> Table:
    """Returns the probes on other data sets (`elsewhere`), or with several readings on the same one."""
    rows = []
    for group in found:
        places = dict.fromkeys(place for of in _places(group.cells, group.rows, PROBE).values() for place in of)
        kept = [place for place in places if (place[0] != group.dataset) == elsewhere]
        row = {"pretrained on": group.dataset, "view": group.view, "method": group.label}
        for on, reading in kept if elsewhere or len(kept) > 1 else ():
            rows.append({**row, "probed on": on, "reading": reading, **_probes(group, on, reading)})
    title = "Transfer to another data set" if elsewhere else "What the label pixels hold when features are read"
    return Table.of(f"{title}: test accuracy in %", rows)


def results_table(found: Collection, frame: pd.DataFrame) -> Table:
    """Returns one row for each run and place that was probed: pretext accuracy, and the probes with both baselines.

    Args:
        found: what lies in the folder.
        frame: its frame with what validation chose.
    """
    rows, pretext, probes = [], _pretext(found), _at_chosen(found, frame, PROBE)
    for cell in found.cells:
        validation, test = (pretext.get((cell.name, split)) for split in ("validation", "test"))
        shown = [
            (UNFINISHED if cell.state == UNFINISHED else _word(cell))
            if validation is None
            else _seen(cell, validation),
            _word(cell) if test is None else f"{100 * test:.1f}",
        ]
        if cell.state == "done" and not cell.tells:
            shown = ["", ""]
        about = [cell.name, cell.method, cell.dataset, cell.view, *shown]
        rows += [[*about, *line] for line in probes[cell.name] or [["", "", *[_word(cell)] * 3]]]
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
    lines = _at_chosen(found, frame, measure)
    rows = [[c.name, c.method, c.dataset, c.view, *line] for c in found.cells for line in lines[c.name]]
    columns = ("run", "method", "pretrained on", "view", "measured on", "reading", "its features", "random", "raw")
    title = f"{measure[:1].upper()}{measure[1:]}, test in % (blocks chosen on validation)"
    return Table(title=title, columns=columns, rows=rows)


def _word(cell: Cell) -> str:
    """Returns what stands where a run has no value."""
    return NOT_MEASURED if cell.state in ("done", UNFINISHED) else cell.state


def _places(cells: Iterable[Cell], frame: pd.DataFrame, measure: str) -> dict[str, list[tuple[str, str]]]:
    """Returns where a measure of each run's classes is told, data sets and readings; all where it is nowhere."""
    of_classes = frame[frame["target"] == "class"]
    measures = of_classes.groupby(["run", "probed_on", "reading"])["measure"].agg(set).to_dict()
    found = {}
    for cell in cells:
        places = dict.fromkeys((dataset, reading) for dataset, reading, target in cell.probed if target == "class")
        there = [place for place in places if measure in measures.get((cell.name, *place), {measure})]
        found[cell.name] = there or [*places]
    return found


def _at_chosen(found: Collection, frame: pd.DataFrame, measure: str) -> dict[str, list[list[str]]]:
    """Returns lines of each run: a place, and what was measured there of its own features and of both baselines.

    They are those of the blocks that validation chose, in %, with an interval where there is one.
    """
    texts = dict[tuple[str, ...], str]()
    for row in frame[frame["measure"] == measure + AT_CHOSEN].to_dict("records"):
        interval = "" if pd.isna(row["low"]) else f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        blocks = "" if row["source"] == RAW else f" ({row['blocks']})"
        at = (row["run"], row["probed_on"], row["reading"], row["source"])
        texts.setdefault(at, f"{100 * row['value']:.1f}{interval}{blocks}")
    places = _places(found.cells, frame, measure)
    return {
        cell.name: [
            [*place, *(texts.get((cell.name, *place, s), _word(cell)) for s in (cell.method, RANDOM, RAW))]
            for place in places[cell.name]
        ]
        for cell in found.cells
    }


def _pretext(found: Collection) -> Mapping[tuple[str, str], float]:
    """Returns the pretext accuracy of runs by split."""
    rows = found.frame[found.frame["measure"] == PRETEXT]
    values: dict[tuple[str, str], Any] = rows.groupby(["run", "split"])["value"].first().to_dict()
    return values


def _seen(cell: Cell, value: float) -> str:
    """Returns an accuracy on validation in %, marked where those images were trained on."""
    return f"{100 * value:.1f}" + (" (trained on)" if cell.trained_on_validation else "")


def probes_table(found: Collection) -> Table:
    """Returns every probe of every run."""
    keys = ["run", *PLACE[2:]]
    cells = {cell.name: cell for cell in found.cells}
    probes = found.frame[found.frame["measure"] == PROBE]
    test, validation = (probes[probes["split"] == split] for split in ("test", "validation"))
    rows = []
    for probe in test.merge(validation, on=keys, how="left").to_dict("records"):
        cell, known = cells[probe["run"]], probe["value_y"]
        own = _seen(cell, known) if probe["source"] == cell.method else f"{100 * known:.1f}"
        rows.append([*(probe[key] for key in keys), "" if pd.isna(known) else own, f"{100 * probe['value_x']:.1f}"])
    columns = ("run", "probed on", "reading", "target", "features of", "blocks", "validation", "test")
    return Table(title="Every probe (accuracy in %)", columns=columns, rows=rows)
