"""Figures of the report, as SVG text: vector, legible in print, told apart without colour too.

Letters: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ffmodels.labels import embed_label
from ffserve.images import decode
from fftrain.negatives import wrong_labels
from fftrain.pretext import Task

# Okabe and Ito's palette, safe for colour-blind readers; markers and dashes differ as well.
STYLES: Mapping[str, dict[str, Any]] = {
    "ff": {"color": "#0072B2", "marker": "o"},
    "bp": {"color": "#D55E00", "marker": "s"},
    "random": {"color": "#009E73", "marker": "^", "linestyle": "--"},
    "raw": {"color": "#000000", "linestyle": ":"},
}
OTHER = {"color": "#CC79A7", "marker": "D"}


def svg(figure: Figure) -> str:
    """Returns a figure as SVG text, the same for the same figure."""
    with matplotlib.rc_context({"svg.hashsalt": "ffstudy"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return text.getvalue()[text.getvalue().index("<svg") :]


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def pretext_images(
    task: Task, images: npt.NDArray[np.uint8], class_labels: npt.NDArray[np.int64], *, with_label: bool
) -> Figure:
    """Draws transformed images with their label; for FF positives and negatives, the label slot framed.

    Args:
        task: the pretext task.
        images: uint8 [B, C, H, W], B at least 1.
        class_labels: int64 [B].
        with_label: whether the label is in the pixels (FF).
    """
    count = min(8, len(images))
    labels = np.arange(count) % len(task.class_names) if len(task.class_names) < 24 else np.arange(count) * 3
    if task.reads_class:
        labels = class_labels[:count]
    shown = task.apply(torch.from_numpy(images[:count]), torch.from_numpy(labels)).float() / 255
    wrong = wrong_labels(labels, len(task.class_names), np.random.default_rng(0))
    rows = [("positive", labels), ("negative", wrong)] if with_label else [("image", labels)]
    figure = new_figure(1.15 * count, 1.45 * len(rows) + 0.2)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for (name, row_labels), row in zip(rows, axes, strict=True):
        pixels = shown
        if with_label:
            pixels = embed_label(shown, torch.from_numpy(row_labels), len(task.class_names))
        for i, ax in enumerate(row):
            ax.imshow(
                pixels[i].permute(1, 2, 0).squeeze(-1).numpy(),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(task.class_names[row_labels[i]], fontsize=9)
            if with_label:
                _frame_slot(ax, len(task.class_names), pixels.shape[-1])
        row[0].set_ylabel(name, fontsize=10)
    return figure


def _frame_slot(ax: Axes, classes: int, width: int) -> None:
    """Frames the label pixels: whole rows, then a part of one."""
    for row in range(-(-classes // width)):
        length = min(width, classes - row * width)
        ax.add_patch(matplotlib.patches.Rectangle((-0.5, row - 0.5), length, 1, fill=False, ec=OTHER["color"], lw=1.2))


def curves(runs: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """Draws loss and pretext accuracy of every run over its epochs, on training and validation images."""
    figure = new_figure(3.6 * len(runs) + 1, 4.8)
    axes = figure.subplots(2, len(runs), squeeze=False)
    for column, (name, records) in enumerate(runs.items()):
        epochs = [record["epoch"] for record in records]
        for split, style in (
            ("train", {"linestyle": "--", "color": "#777777"}),
            ("validation", {"color": "#0072B2"}),
        ):
            losses = [sum(record[split]["loss"].values()) for record in records]
            marker = "o" if len(epochs) == 1 else None
            axes[0, column].plot(epochs, losses, label=split, marker=marker, **style)
            axes[1, column].plot(epochs, [r[split]["accuracy"] for r in records], label=split, marker=marker, **style)
        axes[0, column].set_yscale("log")
        axes[0, column].set_title(name, fontsize=10)
        axes[0, column].set_ylabel("loss, summed over layers")
        axes[1, column].set(xlabel="epoch", ylabel="pretext accuracy", ylim=(0, 1.02))
        axes[1, column].legend(fontsize=8, loc="lower right")
        for ax in axes[:, column]:
            ax.grid(alpha=0.3)
            ax.xaxis.get_major_locator().set_params(integer=True)
    return figure


def probes(rows: Mapping[str, Sequence[dict[str, Any]]]) -> Figure:
    """Draws test accuracy of the probes by layer, the baselines beside them.

    Args:
        rows: source -> the rows of its probes, as `fftrain.probe.probe_run` returns them.
    """
    figure = new_figure(6.2, 3.8)
    ax = figure.subplots()
    names = list(dict.fromkeys(row["layers"] for found in rows.values() for row in found if row["layers"] != "pixels"))
    for source, found in rows.items():
        style = {**STYLES.get(source.split()[0], OTHER)}
        values = {row["layers"]: row["test"] for row in found}
        if "pixels" in values:
            ax.axhline(values["pixels"], label="raw pixels", color=style["color"], linestyle=style["linestyle"])
            continue
        at = [i for i, name in enumerate(names) if name in values]
        ax.plot(at, [values[names[i]] for i in at], label=source, **style)
    ax.set_xticks(range(len(names)), names)
    ax.set(xlabel="features of", ylabel="test accuracy of the probe")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def image_file(path: Path) -> Figure:
    """Draws one image file as it is served. Raises ImageError where it cannot be read."""
    figure = new_figure(1.6, 1.6)
    ax = figure.subplots()
    ax.imshow(np.asarray(decode(path).convert("RGB")), interpolation="nearest")
    ax.set_axis_off()
    return figure
