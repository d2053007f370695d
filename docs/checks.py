"""The tables of Checks 1 and 3 of docs/results.md: convolutional networks, and other tasks than classification."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from figures import CIFAR, DATA, NONE, PROBE, Row, both, markdown, own, pick, read, told
from scipy.stats import spearmanr


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
        ("two views", "contrast (InfoNCE)", "two", "info-nce", "info-nce cut=never at=last"),
    ),
)
ALL = CONV._replace(
    cuts=("cut at each block", "losses on all", "loss on the last"),
    lines=(
        ("class", "cross-entropy", "plain", "local-ce", "cross-entropy cut=never", "bp"),
        ("two views", "contrast (InfoNCE)", "two", "info-nce", "info-nce cut=never", "info-nce cut=never at=last"),
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
    "5 labels a class": ("accuracy with 5 labels a class", "blocks1-3"),
    "10 labels a class": ("accuracy with 10 labels a class", "blocks1-3"),
    "mIoU": ("mIoU", "blocks1-3"),
    "AP50": ("AP50", "blocks1-3"),
    "corruptions": ("accuracy under corruptions", "blocks1-3"),
    "fine-tuned": ("fine-tuned accuracy with 100 labels a class", "block3"),
}
# What an exported classifier is worth, of results/calibration.csv.
EXPORTED = {"accuracy": (100.0, 1), "calibration error": (100.0, 1), "log loss": (1.0, 2)}
TASKED_ON = ("mnist", CIFAR)
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


def calibration() -> list[str]:
    """Returns how well the classifiers that the networks of Check 3 export are calibrated."""
    rows, lines = read("calibration"), []
    convnet = pick(rows, varied="backbone=convnet")
    of = {label: (convnet, *wanted) for label, wanted in TASKED.items()}
    of |= {"untrained": (convnet, "rotation", "untrained")}
    of |= {RAW: (pick(rows, varied="backbone=pixels"), "rotation", "untrained")}
    for label, (among, *wanted) in of.items():
        line = [label]
        for dataset in TASKED_ON:
            found = of_depth(among, dataset, *wanted)
            line += [told(found, name, scale=scale, places=places) for name, (scale, places) in EXPORTED.items()]
        lines.append(line)
    return markdown(["classifier on", *(f"{DATA[d]}, {name}" for d in TASKED_ON for name in EXPORTED)], lines)


def tables() -> dict[str, list[str]]:
    """Returns every table, by its name."""
    return {
        "depth": depth(CONV),
        "depth: all": depth(ALL)[:-2],
        "depth: resnet": depth(RESNET),
        "tasks: mnist": tasks("mnist"),
        "tasks: cifar10": tasks(CIFAR),
        "calibration": calibration(),
    }
