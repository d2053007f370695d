"""Writes the tables of results.md and local.md from the figures in docs/results/*.csv; pictures.py draws from these.

    python docs/tables.py                    # the tables, from the figures
    python docs/tables.py studies/matrix ... # first takes the figures of studies, as `fftrain report` wrote them

A table stands below a line `<!-- table: NAME -->`. A test holds both documents against the figures.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import gates
from figures import (
    CIFAR,
    DATA,
    HERE,
    NONE,
    PROBE,
    RANKS,
    STUDIED,
    Row,
    both,
    by_block,
    chosen,
    markdown,
    own,
    pick,
    read,
    take,
    told,
)
from scipy.stats import spearmanr

DOCUMENTS = (HERE / "results.md", HERE / "local.md")
MARKED = re.compile(r"^(<!-- table: (.+) -->)\n(?:\|.*\n)*", re.MULTILINE)
PUBLISHED = tomllib.loads((HERE.parent / "fftrain" / "report" / "published.toml").read_text(encoding="utf-8"))


# What the study does not state, and what its own columns are called here.
METHODS = {
    "`ff`, theta 10": {"method": "ff", "varied": "method.threshold=10.0"},
    "`ff`, theta sqrt(D)": {"method": "ff", "varied": "method.threshold=22.360679774997898"},
    "`bp-goodness-all`": {"method": "bp-goodness-all"},
    "`bp-goodness-last`": {"method": "bp-goodness-last"},
    "`bp`": {"method": "bp"},
}


def formula(study: str, dataset: str, called: str) -> list[str]:
    """Returns the study by its own formula: pretext, both probes at the last block, the last three, the chosen ones.

    Args:
        study: whose figures they are.
        dataset: as they name it.
        called: as the published figures name it.
    """
    rows, lines = pick(read(study), dataset=dataset), []
    for view in ("rotation", "flip-h", "flip-hv", "jigsaw"):
        of_view = pick(rows, view=view)
        for label, wanted in METHODS.items():
            found = own(of_view, **wanted)
            if not found:
                continue
            quoted = [
                str(PUBLISHED[kind].get(view, {}).get(wanted["method"], {}).get(called, NONE))
                for kind in ("pretext", "transfer")
            ]
            probes = [told(found, STUDIED, "block4"), told(found, STUDIED, "blocks2-4"), told(found, PROBE, "block4")]
            lines.append([view, label, told(found, "pretext accuracy"), quoted[0], *probes, chosen(found), quoted[1]])
    untrained = pick(pick(rows, view="rotation"), method="bp", source="random")
    probes = [told(untrained, *at) for at in ((STUDIED, "block4"), (STUDIED, "blocks2-4"), (PROBE, "block4"))]
    lines.append(["", "untrained", NONE, NONE, *probes, chosen(untrained), NONE])
    heads = ["view", "method", "pretext", "published", "block4, study's probe", "last three, study's probe"]
    return markdown([*heads, "block4", "chosen", "transfer, published"], lines)


def theta() -> list[str]:
    """Returns what the threshold does: pretext accuracy, probes, ranks of the last block."""
    rows, lines = read("theta"), []
    for varied in dict.fromkeys(row["varied"] for row in rows):
        settings = dict(part.split("=") for part in varied.split(", "))
        width, goodness, threshold = (
            settings[key] for key in ("backbone.width", "method.goodness", "method.threshold")
        )
        found = own(rows, varied=varied)
        ranks = [f"{float(pick(found, measure=rank, blocks='block4')[0]['value']):.0f}" for rank in RANKS]
        probes = [told(found, blocks=blocks) for blocks in ("block1", "block4", "blocks2-4")]
        lines.append(
            [width, f"`{goodness}`", f"{float(threshold):.3g}", told(found, "pretext accuracy"), *probes, *ranks]
        )
    lines.sort(key=lambda line: (int(line[0]), line[1], float(line[2])))
    for width in ("500", "2000"):
        found = [row for row in pick(rows, source="random") if f"width={width}" in row["varied"]]
        ranks = [f"{float(pick(found, measure=rank, blocks='block4')[0]['value']):.0f}" for rank in RANKS]
        lines.append(
            [width, "untrained", "", NONE, *(told(found, blocks=b) for b in ("block1", "block4", "blocks2-4")), *ranks]
        )
    heads = ["width", "goodness", "theta", "pretext", "block1", "block4", "blocks2-4", "effective rank"]
    return markdown([*heads, "participation ratio"], lines)


# The matrix: what the loss sees, which loss it is, the method of it, and the settings that vary.
MATRIX = (
    ("class", "goodness, label in the pixels", "plain", "forward-forward", ""),
    ("class", "goodness of groups", "plain", "channelwise", ""),
    ("class", "cross-entropy", "plain", "cross-entropy", ""),
    ("class, two views", "contrast (SupCon)", "two", "info-nce", "method.supervised=True"),
    ("rotation", "goodness, label in the pixels", "rotation", "forward-forward", ""),
    ("rotation", "goodness of groups", "rotation", "channelwise", ""),
    ("rotation", "cross-entropy", "rotation", "cross-entropy", ""),
    ("two views", "goodness of pairs (SCFF)", "two", "self-contrastive", ""),
    ("two views", "contrast (InfoNCE)", "two", "info-nce", "method.supervised=False"),
    ("two views", "redundancy (Barlow Twins)", "two", "barlow", ""),
)
CUTS = {"at each block": "", "never, losses on all": " cut=never", "never, loss on the last": " cut=never at=last"}
RECIPES = {
    "forward-forward": "ff",
    "forward-forward cut=never": "bp-goodness-all",
    "forward-forward cut=never at=last": "bp-goodness-last",
    "cross-entropy": "local-ce",
    "cross-entropy cut=never at=last": "bp",
}


def cell(rows: Sequence[Row], dataset: str, view: str, method: str, varied: str, cut: str) -> list[Row]:
    """Returns the figures of a cell of the matrix."""
    view = view if view != "two" else ("two-shifts" if dataset == "mnist" else "two-crops")
    called = RECIPES.get(method + cut, method + cut)
    return own(rows, dataset=dataset, view=view, method=called, varied=varied)


def matrix(dataset: str) -> list[str]:
    """Returns the last block and the chosen blocks of each cell of the matrix."""
    rows, lines = read("matrix"), []
    for sees, loss, view, method, varied in MATRIX:
        line = [sees, loss]
        for cut in CUTS.values():
            found = cell(rows, dataset, view, method, varied, cut)
            line.append(both(found))
        lines.append(line)
    found = pick(rows, dataset=dataset, source="random", view="plain", method="bp")
    raw = told(pick(rows, dataset=dataset, source="raw"), blocks="pixels")
    lines.append(["", "untrained", both(found), "", ""])
    lines.append(["", "raw pixels", raw, "", ""])
    return markdown(["sees", "loss", *(f"cut {name}" for name in CUTS)], lines)


def goodness(study: str, dataset: str) -> list[str]:
    """Returns the last block and the chosen blocks of each goodness, loss of a pair and cut, and pretext accuracy."""
    rows, lines = pick(read(study), dataset=dataset), []
    for varied in dict.fromkeys(row["varied"] for row in rows):
        settings = dict(part.split("=") for part in varied.split(", "))
        line = [f"`{settings.get('method.goodness', 'mean_squares')}`", f"`{settings['method.loss']}`"]
        for method in ("ff", "bp-goodness-all"):
            found = own(rows, varied=varied, method=method)
            line += [told(found, "pretext accuracy"), both(found)]
        lines.append(line)
    found = pick(rows, source="random")
    lines.append(["untrained", "", NONE, both(found), "", ""])
    heads = ["goodness", "loss of a pair", "pretext", "cut at each block", "pretext", "cut never, losses on all"]
    return markdown(heads, lines)


class Depth(NamedTuple):
    """Check 1 on one network."""

    study: str
    data: tuple[str, ...]
    last: str
    """Its last block."""
    cuts: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    """What the loss sees, which loss it is, the view, and what the method is called at each of the cuts."""


CONV = Depth(
    "depth-10k",
    (*DATA,),
    "block4",
    ("cut at each block", "end to end"),
    (
        ("class", "goodness, label in the pixels", "plain", "ff", "bp-goodness-last"),
        ("class", "goodness of groups", "plain", "channelwise", "channelwise cut=never at=last"),
        ("class", "cross-entropy", "plain", "local-ce", "bp"),
        ("rotation", "goodness, label in the pixels", "rotation", "ff", "bp-goodness-last"),
        ("rotation", "goodness of groups", "rotation", "channelwise", "channelwise cut=never at=last"),
        ("rotation", "cross-entropy", "rotation", "local-ce", "bp"),
        ("two views", "contrast (InfoNCE)", "two", "info-nce", "info-nce cut=never"),
    ),
)
RESNET = Depth(
    "depth-resnet18-10k",
    ("mnist", CIFAR),
    "block8",
    ("cut at each block", "at stages", "end to end"),
    (
        (
            "class",
            "goodness of groups",
            "plain",
            "channelwise",
            "channelwise cut=stage",
            "channelwise cut=never at=last",
        ),
        ("class", "cross-entropy", "plain", "local-ce", "cross-entropy cut=stage", "bp"),
        (
            "rotation",
            "goodness, label in the pixels",
            "rotation",
            "ff",
            "forward-forward cut=stage",
            "bp-goodness-last",
        ),
        ("rotation", "cross-entropy", "rotation", "local-ce", "cross-entropy cut=stage", "bp"),
        ("two views", "contrast (InfoNCE)", "two", "info-nce", "info-nce cut=stage", "info-nce cut=never at=last"),
    ),
)


def of_depth(rows: Iterable[Row], dataset: str, view: str, method: str) -> list[Row]:
    """Returns the figures of a convolutional network under a method."""
    view = view if view != "two" else ("two-crops" if dataset == CIFAR else "two-shifts")
    return own(rows, dataset=dataset, view=view, method=method)


def depth(of: Depth) -> list[str]:
    """Returns the last block and the chosen blocks of a network by data set and cut."""
    rows, lines = read(of.study), []
    for sees, loss, view, *methods in of.lines:
        found = (both(of_depth(rows, dataset, view, method), of.last) for dataset in of.data for method in methods)
        lines.append([sees, loss, *found])
    untrained, raw, empty = ["", "untrained"], ["", "raw pixels"], [""] * (len(of.cuts) - 1)
    for dataset in of.data:
        of_data = pick(rows, dataset=dataset, view="plain", method="local-ce")
        untrained += [both(pick(of_data, source="random"), of.last), *empty]
        raw += [told(pick(of_data, source="raw"), blocks="pixels"), *empty]
    heads = [f"{DATA[dataset]}, {cut}" for dataset in of.data for cut in of.cuts]
    return markdown(["sees", "loss", *heads], [*lines, untrained, raw])


RAW = "raw pixels"
# Tasks, each with the blocks that it is told of: all three, or the last where the network is trained on.
TASKS = {
    "linear probe": (PROBE, "blocks1-3"),
    "neighbours": ("knn accuracy", "blocks1-3"),
    "1 label a class": ("accuracy with 1 label a class", "blocks1-3"),
    "10 labels a class": ("accuracy with 10 labels a class", "blocks1-3"),
    "mIoU": ("mIoU", "blocks1-3"),
    "AP50": ("AP50", "blocks1-3"),
    "corruptions": ("accuracy under corruptions", "blocks1-3"),
    "fine-tuned": ("fine-tuned accuracy with 100 labels a class", "block3"),
}
TASKED = {
    "predsim on classes, cut": ("crop", "predsim"),
    "cross-entropy on classes, cut": ("crop", "local-ce"),
    "cross-entropy on classes, end to end": ("crop", "bp"),
    "InfoNCE, cut": ("two", "info-nce"),
    "InfoNCE, end to end": ("two", "info-nce cut=never"),
    "Barlow Twins, cut": ("two", "barlow"),
    "Barlow Twins, end to end": ("two", "barlow cut=never"),
    "cross-entropy on rotations, end to end (`bp`)": ("rotation", "bp"),
    "cross-entropy on rotations, cut": ("rotation", "local-ce"),
    "FF on rotations, end to end, loss on the last": ("rotation", "bp-goodness-last"),
    "FF on rotations, cut": ("rotation", "ff"),
}


def tasked(rows: Iterable[Row], dataset: str) -> dict[str, list[str]]:
    """Returns what features are worth in each task, by whose they are: where all of them were done."""
    rows = pick(rows, dataset=dataset)
    of = {label: of_depth(rows, dataset, *wanted) for label, wanted in TASKED.items()}
    of["untrained"] = pick(rows, view="crop", method="bp", source="random")
    cells = {label: [told(found, *task) for task in TASKS.values()] for label, found in of.items()}
    cells = {label: figures for label, figures in cells.items() if NONE not in figures}
    raw = pick(rows, view="rotation", method="bp", source="raw")
    return cells | {RAW: [told(raw, measure, "pixels") for measure, _ in TASKS.values()]}


def tasks(dataset: str) -> list[str]:
    """Returns what the conv net's features are worth in each task, and how alike tasks and the probe order networks."""
    cells = tasked(read("tasks-10k"), dataset)
    probe, *others = ([*map(float, column)] for column in zip(*(cells[of] for of in cells if of != RAW), strict=True))
    alike = [
        "rank correlation with the probe, networks",
        "1",
        *(f"{spearmanr(probe, o).statistic:.2f}" for o in others),
    ]
    return markdown(["features of", *TASKS], [*([label, *found] for label, found in cells.items()), alike])


def tables() -> dict[str, list[str]]:
    """Returns every table, by its name."""
    return {
        **gates.tables(),
        "formula": formula("study-formula", "mnist", "mnist"),
        "formula: fashion-mnist": formula("study-formula", "fashion-mnist", "fashion-mnist"),
        "formula: cifar10": formula("study-formula-cifar10", CIFAR, "cifar10"),
        "goodness": goodness("goodness", "mnist"),
        "goodness: conv, mnist": goodness("goodness-conv-10k", "mnist"),
        "goodness: conv, cifar10": goodness("goodness-conv-10k", CIFAR),
        "theta": theta(),
        "matrix: mnist": matrix("mnist"),
        "matrix: cifar10": matrix(CIFAR),
        "depth": depth(CONV),
        "depth: resnet": depth(RESNET),
        "tasks: mnist": tasks("mnist"),
        "tasks: cifar10": tasks(CIFAR),
        "full": by_block(
            "study-formula-full",
            {
                "`ff`, theta 10": {"varied": "method.threshold=10.0"},
                "`ff`, theta sqrt(D)": {"varied": "method.threshold=44.721359549995796"},
                "`bp`": {"method": "bp"},
            },
        ),
    }


def filled(text: str) -> str:
    """Returns a document with its tables as the figures have them. Raises KeyError for a table that there is not."""
    found = tables()
    return MARKED.sub(lambda match: "\n".join([match[1], *found[match[2]], ""]), text)


if __name__ == "__main__":
    for study in sys.argv[1:]:
        take(Path(study))
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
