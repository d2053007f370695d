"""Writes the tables of README.md and docs/results.md from the figures in docs/results/*.csv: python docs/tables.py

A table stands below a line `<!-- table: NAME -->`. `fftrain report STUDY` writes STUDY/results.csv; those in
docs/results are of the studies in docs/specs. A test holds the documents against the figures.
"""

from __future__ import annotations

import csv
import re
import statistics
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENTS = (HERE.parent / "README.md", HERE / "results.md")
MARKED = re.compile(r"^(<!-- table: (.+) -->)\n(?:\|.*\n)*", re.MULTILINE)
PUBLISHED = tomllib.loads((HERE.parent / "fftrain" / "report" / "published.toml").read_text(encoding="utf-8"))
TASKS = ("rotation", "flip-h", "flip-hv", "jigsaw", "hybrid", "supervised")
LAYERS = ("layer1", "layer2", "layer3", "layer4", "layers2-4")
NAMES = ("layer 1", "layer 2", "layer 3", "layer 4", "layers 2-4")
NONE = "-"
# What the figures of version 0.1 call a task that is trained on the images as they are.
VIEWS = {"supervised": "plain", "hybrid": "plain"}
Row = dict[str, str]
Reader = Callable[[Sequence[Row]], "float | None"]


def read(name: str) -> list[Row]:
    """Reads the figures of a study: one row for each number that was measured."""
    with (HERE / "results" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def pick(rows: Iterable[Row], **wanted: str) -> list[Row]:
    """Returns the rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def said(values: Sequence[float]) -> str:
    """Returns shares of 1 as a mean in %, with the sample standard deviation where there are several."""
    if not values:
        return NONE
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def at(layers: str) -> Reader:
    """Returns a reader of the test figure at these layers."""

    def read_one(rows: Sequence[Row]) -> float | None:
        found = pick(rows, split="test", layers=layers)
        return float(found[0]["value"]) if found else None

    return read_one


def chosen(rows: Sequence[Row]) -> float | None:
    """Returns the test figure at the layers that are best on validation."""
    best = max(pick(rows, split="validation"), key=lambda row: float(row["value"]), default=None)
    return None if best is None else at(best["layers"])(rows)


def mean(rows: Sequence[Row], reader: Reader) -> str:
    """Returns the mean over seeds of what a reader finds."""
    by_seed = [pick(rows, seed=seed) for seed in sorted({row["seed"] for row in rows})]
    return said([value for value in map(reader, by_seed) if value is not None])


def pretext(rows: Iterable[Row], task: str, method: str, varied: str = "") -> str:
    """Returns a method's accuracy on its own task, on the test split."""
    found = pick(rows, measure="pretext accuracy", split="test", task=task, method=method, varied=varied)
    return said([float(row["value"]) for row in found])


def layered(
    rows: Iterable[Row],
    task: str,
    method: str,
    source: str = "",
    *,
    measure: str = "probe accuracy",
    slot: str = "",
    varied: str = "",
) -> list[Row]:
    """Returns the figures by layer of a method's features ("") or of a baseline beside it, of the images' classes."""
    slot = slot or ("pixels" if method in ("bp", "ff-unsupervised") else "neutral")
    target = "class" if measure == "probe accuracy" else ""
    asked = {"measure": measure, "task": task, "method": method, "target": target, "varied": varied}
    return pick(rows, **asked, slot=slot, source=source or method)


def overview(rows: Sequence[Row]) -> list[str]:
    """Returns every task of a data set: FF, BP and both baselines."""
    lines = []
    for task in dict.fromkeys(task for task in TASKS if pick(rows, task=task)):
        ff = "ff-unsupervised" if task == "hybrid" else "ff"
        kinds = ((ff, ""), ("bp", ""), (ff, "random"))
        line = ["hybrid (`ff-unsupervised`)" if task == "hybrid" else task]
        line += [pretext(rows, task, method) for method in (ff, "bp")]
        for reader in (chosen, at("layers2-4")):
            line += [mean(layered(rows, task, *kind), reader) for kind in kinds]
        raw = layered(rows, task, ff, "raw")
        lines.append([*line, mean(pick(raw, seed=raw[0]["seed"]) if raw else [], at("pixels"))])
    parts = {"pretext": ["ff", "bp"], "transfer": ["ff", "bp", "random"], "layers 2-4": ["ff", "bp", "random"]}
    heads = [f"{part} `{source}`" for part, sources in parts.items() for source in sources]
    return markdown(["task", *heads, "`raw`"], lines)


def beside_the_study(rows: Sequence[Row], dataset: str) -> list[str]:
    """Returns what the study publishes beside what was measured: probes at the chosen layers, layer 4, the last 3."""
    lines = []
    for task in TASKS:
        for method in ("ff", "bp", "ff-unsupervised"):
            quoted = [
                str(PUBLISHED[measure].get(VIEWS.get(task, task), {}).get(method, {}).get(dataset, NONE))
                for measure in ("pretext", "transfer")
            ]
            if quoted == [NONE, NONE] or not pick(rows, task=task, method=method):
                continue
            found = layered(rows, task, method)
            measured = [mean(found, reader) for reader in (chosen, at("layer4"), at("layers2-4"))]
            lines.append([task, f"`{method}`", pretext(rows, task, method), quoted[0], *measured, quoted[1]])
    heads = ["task", "method", "pretext", "published", "transfer, chosen", "layer 4", "layers 2-4", "published"]
    return markdown(heads, lines)


def by_layer(
    rows: Sequence[Row], kinds: Iterable[tuple[str, str, str, str]], *, measure: str = "probe accuracy", slot: str = ""
) -> list[str]:
    """Returns the figures by layer of (what it is called, task, method, source), test split."""
    layers = LAYERS if measure == "probe accuracy" else LAYERS[:4]
    lines = []
    for name, task, method, source in kinds:
        method, _, varied = method.partition(" ")
        found = layered(rows, task, method, source, measure=measure, slot=slot, varied=varied)
        lines.append([name, *(mean(found, at(where)) for where in layers)])
    return markdown(["", *NAMES[: len(layers)]], lines)


def slots(rows: Sequence[Row]) -> list[str]:
    """Returns what fills the label pixels when features are read, for FF and the untrained backbone, by layer."""
    lines = []
    for source in ("ff", "random"):
        for slot in ("neutral", "zeros", "pixels"):
            found = pick(layered(rows, "rotation", "ff", source, slot=slot), seed="0")
            lines.append([f"`{source}`", slot, *(mean(found, at(where)) for where in LAYERS)])
    return markdown(["features of", "slot", *NAMES], lines)


def ablation(rows: Sequence[Row]) -> list[str]:
    """Returns the way from BP to FF on rotation: pretext accuracy, and probes by layer."""
    lines = []
    for method in ("bp", "bp-goodness-last", "bp-goodness-all", "ff"):
        found = layered(rows, "rotation", method)
        lines.append([f"`{method}`", pretext(rows, "rotation", method), *(mean(found, at(where)) for where in LAYERS)])
    return markdown(["method", "pretext", *NAMES], lines)


# What differs from the cells of the table of MNIST, the study, the method, and what it calls the settings that vary.
GAP = (
    ("`ff`, as above", "mnist", "ff", ""),
    ("`bp`, as above", "mnist", "bp", ""),
    ("`ff`, 30 epochs", "gap", "ff", ""),
    ("`bp`, 30 epochs", "gap", "bp", "normalisation=rms, epochs=30"),
    ("`bp`, LayerNorm", "gap", "bp", "normalisation=layer, epochs=10"),
    ("`bp`, no normalisation", "gap", "bp", "normalisation=none, epochs=10"),
    ("`ff`, features not standardised", "gap-plain-probe", "ff", ""),
    ("`bp`, features not standardised", "gap-plain-probe", "bp", "normalisation=rms"),
    ("`bp`, no normalisation, not standardised", "gap-plain-probe", "bp", "normalisation=none"),
)


def gap() -> list[str]:
    """Returns the experiments on rotation, seed 0: pretext accuracy, probes by layer, the untrained ones beside."""
    lines = []
    for name, study, method, varied in GAP:
        rows = pick(read(study), seed="0")
        own = layered(rows, "rotation", method, varied=varied)
        start = layered(rows, "rotation", method, "random", varied=varied)
        line = [name, pretext(rows, "rotation", method, varied), *(mean(own, at(where)) for where in LAYERS)]
        lines.append([*line, " / ".join(mean(start, at(where)) for where in LAYERS[:4])])
    return markdown(["", "pretext", *NAMES, "before training, layers 1 to 4"], lines)


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Returns a Markdown table, line by line."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def tables() -> dict[str, list[str]]:
    """Returns every table, by its name."""
    rows = {name: read(name) for name in ("mnist", "fashion-mnist", "cifar10-jpeg")}
    found = {f"{name}: overview": overview(figures) for name, figures in rows.items()}
    for name, column in (("mnist", "mnist"), ("fashion-mnist", "fashion-mnist"), ("cifar10-jpeg", "cifar10")):
        found[f"{name}: beside the study"] = beside_the_study(rows[name], column)
    kinds = [("`ff`", "rotation", "ff", ""), ("`bp`", "rotation", "bp", ""), ("`random`", "rotation", "bp", "random")]
    for name, figures in rows.items():
        found[f"{name}: rotation by layer"] = by_layer(figures, kinds)
        found[f"{name}: what is kept"] = by_layer(figures, kinds, measure="explained variance")
    found["gap"] = gap()
    return {**found, "mnist: ablation": ablation(rows["mnist"]), "mnist: slots": slots(rows["mnist"])}


def filled(text: str) -> str:
    """Returns a document with its tables as the figures have them. Raises KeyError for a table that there is not."""
    found = tables()
    return MARKED.sub(lambda match: "\n".join([match[1], *found[match[2]], ""]), text)


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
