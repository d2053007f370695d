"""Records -> tables: means over seeds with their spread, beside what is published and what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fftrain.collect import UNFINISHED, Cell, Collection
from fftrain.curves import Curve, layer_order
from fftrain.means import (
    CHOSEN,
    LAST,
    NOT_MEASURED,
    NOT_PUBLISHED,
    Group,
    Mean,
    Published,
    Reader,
    pretext,
    pretext_beside,
    pretext_mean,
    pretext_text,
    probe_at,
)

# What stands where there is no value.
NO_VALUE = ("", NOT_MEASURED, NOT_PUBLISHED)
QUOTED = ("published", "difference")
PROBES = ("probe (chosen layers)", "probe (last three)", "random", "raw")
ABLATION = ("bp", "bp-goodness-last", "bp-goodness-all", "ff")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: what it shows, its columns, and its cells as text; `folded` where few will read it."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    folded: bool = False

    def of_values(self) -> Table:
        """Returns the table without the columns in which no row has a value."""
        kept = [i for i in range(len(self.columns)) if any(row[i] not in NO_VALUE for row in self.rows)]
        columns = tuple(self.columns[i] for i in kept)
        return replace(self, columns=columns, rows=[[row[i] for i in kept] for row in self.rows])


Line = tuple[tuple[str, str, str, str], str, list[str]]


def _pivot(title: str, names: Sequence[str], lines: Sequence[Line]) -> Table:
    """Returns a table of data sets side by side, from lines of (task, method, settings, layers), data set, cells."""
    datasets = list(dict.fromkeys(dataset for _, dataset, _ in lines))
    found: dict[tuple[str, str, str, str], dict[str, list[str]]] = {}
    for key, dataset, cells in lines:
        found.setdefault(key, {})[dataset] = cells
    absent = ["not planned", *[""] * (len(names) - 1)]
    used = [i for i in range(4) if any(key[i] for key in found)]
    rows = [
        [*(key[i] for i in used), *(cell for dataset in datasets for cell in by_dataset.get(dataset, absent))]
        for key, by_dataset in found.items()
    ]
    heads = [("task", "method", "settings", "layers")[i] for i in used]
    columns = (*heads, *(f"{dataset} {name}".strip() for dataset in datasets for name in names))
    return Table(title=title, columns=columns, rows=rows)


def search_table(cells: Sequence[Cell]) -> Table:
    """Returns the runs of a search, the best on validation first: nothing else was read of them."""
    rows = []
    for cell in sorted(cells, key=lambda cell: (cell.dataset, cell.task, -(pretext(cell, "validation") or 0.0))):
        value, epochs = pretext(cell, "validation"), []
        if cell.run is not None:
            epochs = [100 * epoch["validation"]["accuracy"] for epoch in cell.run.metrics]
        falls = [before - after for before, after in itertools.pairwise(epochs)]
        word = cell.reason if value is None else f"{100 * value:.1f}"
        shown = [" ".join(f"{epoch:.1f}" for epoch in epochs), f"{max(0.0, *falls):.1f}" if falls else ""]
        rows.append([cell.dataset, cell.task, cell.method, cell.varied, str(cell.seed), word, *shown])
    columns = ("data set", "task", "method", "settings", "seed", "validation", "curve, by epoch", "largest fall")
    return Table(title="Pretext accuracy on validation in %", columns=columns, rows=rows)


def pretext_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the pretext accuracy of every task and method, by data set."""
    lines: list[Line] = []
    for group in found:
        quoted = published.of("pretext", group.task, group.method, group.dataset)
        cells = [pretext_text(group), *pretext_beside(group, quoted)]
        lines.append(((group.task, group.method, group.varied, ""), group.dataset, cells))
    return _pivot("Pretext accuracy in %", ("", *QUOTED), lines)


def transfer_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the accuracy of the probes of every task and method, by data set, both baselines beside."""
    lines: list[Line] = []
    for group in found:
        quoted = published.of("transfer", group.task, group.method, group.dataset)
        for reading, name in ((CHOSEN, "chosen on validation"), (LAST, "last three")):
            mean = group.read_at("own", reading)
            cells = [mean.text(group.layers() if reading == CHOSEN else "")]
            cells += [group.read_at(source, reading).text(short=True) for source in ("random", "raw")]
            key = (group.task, group.method, group.varied, name)
            lines.append((key, group.dataset, [*cells, *mean.beside(quoted)]))
    return _pivot("Transfer: test accuracy of linear probes in %", ("", "random", "raw", *QUOTED), lines)


def curve_table(title: str, curves: Sequence[Curve]) -> Table:
    """Returns the figures of each layer that a figure draws."""
    layers = sorted({layer for curve in curves for layer in curve.means}, key=layer_order)
    rows = [
        [
            curve.panel,
            curve.name,
            *(curve.means[layer].text(short=True) if layer in curve.means else "" for layer in layers),
        ]
        for curve in curves
    ]
    return Table(title=title, columns=("pretrained on", "of", *layers), rows=rows, folded=True)


def _probes(group: Group, probed_on: str = "", slot: str = "") -> list[str]:
    """Returns the probes at both readings, and the baselines at the first."""
    return [
        group.read_at("own", CHOSEN, probed_on, slot).text(group.layers(probed_on, slot)),
        group.read_at("own", LAST, probed_on, slot).text(short=True),
        *(group.read_at(source, CHOSEN, probed_on, slot).text(short=True) for source in ("random", "raw")),
    ]


def supervised_table(found: Sequence[Group], published: Published) -> Table:
    """Returns the reference: backbones trained on the classes themselves."""
    rows = []
    for group in found:
        quoted = published.of("transfer", group.task, group.method, group.dataset)
        own, probe = pretext_beside(group, quoted), group.read_at("own", CHOSEN).beside(quoted)
        rows.append([group.dataset, group.label, pretext_text(group), *_probes(group), *own, probe[1]])
    columns = ("pretrained on", "method", "own accuracy", *PROBES, "published", "difference of own")
    title = "Supervised reference: test accuracy in %"
    return Table(title=title, columns=(*columns, "difference of probe"), rows=rows)


def ablation_table(found: Sequence[Group], published: Published) -> Table:
    """Returns what of FF makes the difference: its loss, on which layers, or that gradients stop."""
    asked = list(dict.fromkeys((g.dataset, g.task) for g in found if g.method.startswith("bp-goodness")))
    kept = [group for group in found if (group.dataset, group.task) in asked and group.method in ABLATION]
    rows = []
    for group in sorted(kept, key=lambda g: (asked.index((g.dataset, g.task)), ABLATION.index(g.method))):
        place = (group.task, group.method, group.dataset)
        own = pretext_beside(group, published.of("ablation-pretext", *place))
        probe = group.read_at("own", CHOSEN).beside(published.of("ablation-transfer", *place))
        rows.append([group.dataset, group.task, group.label, pretext_text(group), *own, *_probes(group), *probe])
    own, probe = ([f"{what} {name}" for name in QUOTED] for what in ("pretext", "transfer"))
    columns = ("pretrained on", "task", "method", "pretext", *own, *PROBES, *probe)
    return Table(title="Ablation: accuracy in %", columns=columns, rows=rows)


def places_table(found: Sequence[Group], *, elsewhere: bool) -> Table:
    """Returns the probes on other data sets (`elsewhere`), or with several label slots on the same one."""
    rows = []
    for group in found:
        places = dict.fromkeys((d, s) for cell in group.cells for d, s, target in cell.places if target == "class")
        kept = [place for place in places if (place[0] != group.dataset) == elsewhere]
        if elsewhere or len(kept) > 1:
            rows += [[group.dataset, group.task, group.label, *place, *_probes(group, *place)] for place in kept]
    title = "Transfer to another data set" if elsewhere else "What the label pixels hold when features are read"
    columns = ("pretrained on", "task", "method", "probed on", "slot", *PROBES)
    return Table(title=f"{title}: test accuracy in %", columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """FF's figures less BP's on one data set and task, by pairs of one seed; `published` are the study's, in %.

    `split` is what pretext accuracies are read on.
    Both hold `difficulty` (what BP misses of the task: 1 - its pretext accuracy), `pretext`, and the probes at the
    layers `chosen` and at the `last` three.
    """

    dataset: str
    task: str
    split: str
    means: Mapping[str, Mean]
    published: Mapping[str, float]


def gaps(found: Sequence[Group], published: Published) -> list[Gap]:
    """Returns FF's gap to BP on every data set and pretext task that both were planned for."""
    made = []
    for one, other in itertools.product(found, found):
        alike = (one.dataset, one.task, one.method, other.method) == (other.dataset, other.task, "ff", "bp")
        if not alike or (one.varied and other.varied and one.varied != other.varied):
            continue
        split = "test" if {pretext_mean(one)[1], pretext_mean(other)[1]} == {"test"} else "validation"
        readers: dict[str, Reader] = {
            "pretext": lambda cell, on=split: pretext(cell, on),  # type: ignore[misc]
            CHOSEN: lambda cell: probe_at(cell, "own", CHOSEN)[1],
            LAST: lambda cell: probe_at(cell, "own", LAST)[1],
        }
        means = {name: one.mean(read).less(other.mean(read)) for name, read in readers.items()}
        solved = other.mean(readers["pretext"])
        means["difficulty"] = Mean(values={s: 1 - v for s, v in solved.values.items()}, lacking=solved.lacking)
        quoted = {}
        for name, measure in (("pretext", "pretext"), (CHOSEN, "transfer")):
            ff, bp = (published.of(measure, one.task, method, one.dataset) for method in ("ff", "bp"))
            if ff is not None and bp is not None:
                quoted[name] = ff - bp
                quoted |= {"difficulty": 100 - bp} if name == "pretext" else {}
        settings = "".join(f" ({group.label})" for group in (one, other) if group.varied)
        place = {"dataset": one.dataset, "task": one.task + settings, "split": split}
        made.append(Gap(**place, means=means, published=quoted))
    return sorted(made, key=lambda gap: gap.means["difficulty"].value or 0.0)


def gap_table(found: Sequence[Gap]) -> Table:
    """Returns FF's gap to BP in points, the easiest task for BP first."""
    shown = {"difficulty": "difficulty", "pretext": "pretext gap", CHOSEN: "transfer gap (chosen layers)"}
    rows = []
    for gap in found:
        row = [gap.dataset, gap.task]
        for name in shown:
            sign = "" if name == "difficulty" else "+"
            quoted = f"{gap.published[name]:{sign}.1f}" if name in gap.published else NOT_PUBLISHED
            remark = gap.split if name != CHOSEN and gap.split != "test" else ""
            row += [gap.means[name].text(remark, sign=sign, short=name != "pretext"), quoted]
        rows.append([*row, gap.means[LAST].text(sign="+", short=True)])
    columns = [column for name in shown.values() for column in (name, f"{name}, published")]
    last = "transfer gap (last three)"
    return Table(title="FF less BP, in points", columns=("pretrained on", "task", *columns, last), rows=rows)


def results_table(found: Collection) -> Table:
    """Returns one row for each run and place that was probed: pretext accuracy, and the probes with both baselines."""
    rows = []
    for cell in found.cells:
        word = NOT_MEASURED if cell.state in ("done", UNFINISHED) else cell.state
        first = cell.state if cell.state == UNFINISHED else word
        shown = [first if value is None else _seen(cell, value) for value in [pretext(cell, "validation")]]
        shown += [word if value is None else f"{100 * value:.1f}" for value in [pretext(cell, "test")]]
        places = [(dataset, slot) for dataset, slot, target in cell.places if target == "class"]
        for probed_on, slot in dict.fromkeys(places or [("", "")]):
            row = [cell.name, cell.method, cell.dataset, cell.task, *shown, probed_on, slot]
            for source in ("own", "random", "raw"):
                layers, value = probe_at(cell, source, CHOSEN, probed_on, slot)
                remark = "" if source == "raw" else f" ({layers})"
                row.append(word if value is None else f"{100 * value:.1f}{remark}")
            rows.append(row)
    columns = ("run", "method", "pretrained on", "task", "pretext accuracy", "pretext test", "probed on", "slot")
    title = "Results: accuracy in %; pretext on validation, probes on test (layers chosen on validation)"
    return Table(title=title, columns=(*columns, "probe", "random", "raw"), rows=rows)


def _seen(cell: Cell, value: float) -> str:
    """Returns an accuracy on validation in %, marked where those images were trained on."""
    return f"{100 * value:.1f}" + (" (trained on)" if cell.trained_on_validation else "")


def probes_table(cells: Sequence[Cell]) -> Table:
    """Returns every probe of every run."""
    rows = []
    for cell in cells:
        for test in cell.find(measure="probe accuracy", split="test"):
            key = {name: test[name] for name in ("measure", "probed_on", "slot", "target", "source", "layers")}
            value = cell.value(split="validation", **key)
            own = test["source"] == cell.method
            known = "" if value is None else _seen(cell, value) if own else f"{100 * value:.1f}"
            rows.append(
                [cell.name, *[test[name] for name in key if name != "measure"], known, f"{100 * test['value']:.1f}"]
            )
    columns = ("run", "probed on", "slot", "target", "features of", "layers", "validation", "test")
    return Table(title="Every probe (accuracy in %)", columns=columns, rows=rows)
