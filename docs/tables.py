"""Writes the tables of results.md, local.md and methods/*.md from the figures in docs/results/*.csv.

    python docs/tables.py                    # the tables, from the figures
    python docs/tables.py studies/matrix ... # first takes the figures of studies, as `fftrain report` wrote them

A table stands below a line `<!-- table: NAME -->`. A test holds the documents against the figures.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import checks
import gates
import reached
from figures import (
    BLOCKS,
    CIFAR,
    HERE,
    NONE,
    PRETEXT,
    PROBE,
    RANKS,
    STUDIED,
    Row,
    both,
    by_block,
    called,
    chosen,
    markdown,
    own,
    pick,
    read,
    take,
    told,
)

MARKED = re.compile(r"^(<!-- table: (.+) -->)\n(?:\|.*\n)*", re.MULTILINE)
DOCUMENTS = (HERE / "results.md", HERE / "local.md", *(HERE / "methods" / f"{name}.md" for name in reached.LINES))
PUBLISHED = tomllib.loads((HERE.parent / "fftrain" / "report" / "published.toml").read_text(encoding="utf-8"))


# What the study does not state, and what its own columns are called here.
METHODS = {
    "`ff`, theta 10": {"method": "ff", "varied": "method.threshold=10.0"},
    "`ff`, theta sqrt(D)": {"method": "ff", "varied": "method.threshold=22.360679774997898"},
    "`bp-goodness-all`": {"method": "bp-goodness-all"},
    "`bp-goodness-last`": {"method": "bp-goodness-last"},
    "`bp`": {"method": "bp"},
    "`ff-unsupervised`, theta 10": {"method": "ff-unsupervised", "varied": "method.threshold=10.0"},
    "`ff-unsupervised`, theta sqrt(D)": {"method": "ff-unsupervised", "varied": "method.threshold=22.360679774997898"},
}


def formula(study: str, dataset: str, called: str) -> list[str]:
    """Returns the study by its own formula: pretext accuracy, and the study's and a searched probe.

    Args:
        study: whose figures they are.
        dataset: as they name it.
        called: as the published figures name it.
    """
    rows, lines = pick(read(study), dataset=dataset), []
    for view in ("rotation", "flip-h", "flip-hv", "jigsaw", "plain"):
        of_view = pick(rows, view=view)
        for label, wanted in METHODS.items():
            found = own(of_view, **wanted)
            if not found:
                continue
            quoted = [
                str(PUBLISHED[kind].get(view, {}).get(wanted["method"], {}).get(called, NONE))
                for kind in ("pretext", "transfer")
            ]
            lines.append(
                [
                    view if view != "plain" else "none",
                    label,
                    told(found, PRETEXT),
                    quoted[0],
                    *probed(found),
                    quoted[1],
                ]
            )
    untrained = pick(pick(rows, view="rotation"), method="bp", source="random")
    lines.append(["", "untrained", NONE, NONE, *probed(untrained), NONE])
    heads = ["view", "method", "pretext", "published", *BLOCKS[:4], "last three"]
    return markdown([*heads, "block4, searched", "chosen, searched", "last three, published"], lines)


def probed(rows: Sequence[Row]) -> list[str]:
    """Returns the study's probe of each block and of the last three, and a searched one of the last and the chosen."""
    return [*(told(rows, STUDIED, blocks) for blocks in BLOCKS), told(rows, PROBE, "block4"), chosen(rows)]


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
        lines.append([width, f"`{goodness}`", f"{float(threshold):.3g}", told(found, PRETEXT), *probes, *ranks])
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
# The runs whose baselines stand in it: pixels are the same for all, untrained networks for all but goodness of groups.
BESIDE = {"view": "plain", "method": "local-ce"}
CUTS = {"at each block": "", "never, losses on all": " cut=never", "never, loss on the last": " cut=never at=last"}


def cell(rows: Sequence[Row], dataset: str, view: str, method: str, varied: str, cut: str) -> list[Row]:
    """Returns the figures of a cell of the matrix."""
    view = view if view != "two" else ("two-shifts" if dataset == "mnist" else "two-crops")
    return own(rows, dataset=dataset, view=view, method=called(method, cut), varied=varied)


def matrix(dataset: str) -> list[str]:
    """Returns the last block and the chosen blocks of each cell of the matrix."""
    rows, lines = read("matrix"), []
    for sees, loss, view, method, varied in MATRIX:
        line = [sees, loss]
        for cut in CUTS.values():
            found = cell(rows, dataset, view, method, varied, cut)
            line.append(both(found))
        lines.append(line)
    found = pick(rows, dataset=dataset, source="random", **BESIDE)
    raw = told(pick(rows, dataset=dataset, source="raw"), blocks="pixels")
    lines.append(["", "untrained", both(found), "", ""])
    lines.append(["", "raw pixels", raw, "", ""])
    return markdown(["sees", "loss", *(f"cut {name}" for name in CUTS)], lines)


def layers(dataset: str) -> list[str]:
    """Returns the probe of each block of each cell of the matrix, cut at each block and with the same losses uncut."""
    rows, lines = read("matrix"), []
    for sees, loss, view, method, varied in MATRIX:
        cuts = [cell(rows, dataset, view, method, varied, cut) for cut in ("", " cut=never")]
        lines.append([sees, loss, *(" / ".join(told(found, blocks=b) for found in cuts) for b in BLOCKS)])
    untrained = pick(rows, dataset=dataset, source="random", **BESIDE)
    lines.append(["", "untrained", *(told(untrained, blocks=b) for b in BLOCKS)])
    return markdown(["sees", "loss", *BLOCKS], lines)


# What block4 keeps: the measure, its unit, and the split that it is of.
KEPT = {
    "neighbours": ("knn accuracy", "test", 100.0, 1),
    "decoder": ("explained variance", "test", 100.0, 1),
    "effective rank": ("effective rank", "validation", 1.0, 0),
    "participation ratio": ("participation ratio", "validation", 1.0, 0),
}


def kept(dataset: str) -> list[str]:
    """Returns what else block4 of each cell of the matrix keeps, cut at each block and with the same losses uncut."""
    rows, lines = read("matrix"), []
    for sees, loss, view, method, varied in MATRIX:
        cuts = [cell(rows, dataset, view, method, varied, cut) for cut in ("", " cut=never")]
        lines.append([sees, loss, *(" / ".join(measured(found, of, "block4") for found in cuts) for of in KEPT)])
    untrained = pick(rows, dataset=dataset, source="random", **BESIDE)
    raw = pick(rows, dataset=dataset, source="raw", **BESIDE)
    lines.append(["", "untrained", *(measured(untrained, of, "block4") for of in KEPT)])
    lines.append(["", "raw pixels", *(measured(raw, of, "pixels") for of in KEPT)])
    return markdown(["sees", "loss", *KEPT], lines)


def measured(rows: Sequence[Row], of: str, blocks: str) -> str:
    """Returns one of what is kept, over seeds."""
    measure, split, scale, places = KEPT[of]
    return told(rows, measure, blocks, split, scale, places)


def goodness(study: str, dataset: str) -> list[str]:
    """Returns the last block and the chosen blocks of each goodness, loss of a pair and cut, and pretext accuracy."""
    rows, lines = pick(read(study), dataset=dataset), []
    for varied in dict.fromkeys(row["varied"] for row in rows):
        settings = dict(part.split("=") for part in varied.split(", "))
        line = [f"`{settings.get('method.goodness', 'mean_squares')}`", f"`{settings['method.loss']}`"]
        for method in ("ff", "bp-goodness-all"):
            found = own(rows, varied=varied, method=method)
            line += [told(found, PRETEXT), both(found)]
        lines.append(line)
    found = pick(rows, source="random")
    lines.append(["untrained", "", NONE, both(found), "", ""])
    heads = ["goodness", "loss of a pair", "pretext", "cut at each block", "pretext", "cut never, losses on all"]
    return markdown(heads, lines)


def tables() -> dict[str, list[str]]:
    """Returns every table, by its name."""
    return {
        **gates.tables(),
        **checks.tables(),
        **reached.tables(),
        "formula": formula("study-formula", "mnist", "mnist"),
        "formula: fashion-mnist": formula("study-formula", "fashion-mnist", "fashion-mnist"),
        "formula: cifar10": formula("study-formula-cifar10", CIFAR, "cifar10"),
        "goodness": goodness("goodness", "mnist"),
        "goodness: conv, mnist": goodness("goodness-conv-10k", "mnist"),
        "goodness: conv, cifar10": goodness("goodness-conv-10k", CIFAR),
        "theta": theta(),
        "matrix: mnist": matrix("mnist"),
        "matrix: cifar10": matrix(CIFAR),
        "layers: mnist": layers("mnist"),
        "layers: cifar10": layers(CIFAR),
        "kept: mnist": kept("mnist"),
        "kept: cifar10": kept(CIFAR),
        "full": by_block(
            "study-formula-full",
            {
                "`ff`, theta 10": {"varied": "method.threshold=10.0"},
                "`ff`, theta sqrt(D)": {"varied": "method.threshold=44.721359549995796"},
                "`bp`": {"method": "bp"},
            },
            gates.WIDE,
        ),
    }


def filled(text: str, found: Mapping[str, list[str]]) -> str:
    """Returns a document with these tables in it. Raises KeyError for one that there is not."""
    return MARKED.sub(lambda match: "\n".join([match[1], *found[match[2]], ""]), text)


if __name__ == "__main__":
    for study in sys.argv[1:]:
        take(Path(study))
    made = tables()
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8"), made), encoding="utf-8")
