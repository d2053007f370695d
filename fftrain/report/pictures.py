"""Pictures of the runs themselves: training curves, features in the plane, what is seen, what was served.

Letters: B batch, C channels, H W pixels, K classes, N points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from ffcore.errors import ImageError, RunError, SettingError
from ffcore.files import read_json
from ffcore.images import decode
from ffmodels.run import Run
from fftrain.loader import Loader, scaled
from fftrain.loading import view_of
from fftrain.report.figures import (
    BELOW,
    COLUMN,
    MARKERS,
    PAGE_WIDTH,
    PANELS,
    PRINT,
    Picture,
    draw,
    labels,
    legend,
    styles,
)
from fftrain.report.means import Group
from fftrain.report.section import Section, Table
from fftrain.told import with_told

# Images of a run that are shown as its method reads them; points of an embedding that are drawn.
SEEN, POINTS = 8, 300
# Tol's "muted" palette and black: ten classes that colour-blind readers tell apart too.
CLASS_COLOURS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255"),
    *("#DDCC77", "#44AA99", "#AA4499", "#999933", "#000000"),
)


def training(whole: Sequence[Group]) -> Section:
    """Returns the training curves, a few views of one data set in a figure."""
    panels: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for group in whole:
        records = [cell.run.metrics for cell in group.cells if cell.run and cell.run.metrics]
        if records:
            panels.setdefault(group.dataset, {}).setdefault(f"{group.dataset} {group.view}", {})[group.label] = records
    methods, pictures = {group.label: group.method for group in whole}, []
    for dataset, views in panels.items():
        for start in range(0, len(views), PANELS):
            shown = dict([*views.items()][start : start + PANELS])
            alt = f"Line charts: accuracy and loss over the epochs of {', '.join(shown)}"
            name = f"curves {dataset} {start // PANELS + 1}"
            pictures.append(draw(name, alt, training_curves, shown, methods))
    return Section("Training curves", "curves", pictures=pictures)


def embedded(whole: Sequence[Group]) -> Section:
    """Returns the t-SNE points of every data set and view: of each method the first run that has them."""
    pictures = []
    for dataset, view in dict.fromkeys((group.dataset, group.view) for group in whole):
        rows: dict[str, Any] = {}
        for group in whole:
            runs = [(cell.seed, cell.run) for cell in group.cells if cell.run and cell.run.embeddings]
            if (group.dataset, group.view) == (dataset, view) and runs:
                seed, run = min(runs, key=lambda found: found[0])
                rows[f"{group.label}, seed {seed}"] = next(iter(run.embeddings.values()))
                classes = run.record["data"]["class_names"]
        if rows:
            alt = f"t-SNE of {'; '.join(rows)} on {dataset} {view}, block by block"
            pictures.append(draw(f"tsne {dataset} {view}", alt, embeddings, rows, classes))
    return Section("t-SNE of the features", "embeddings", pictures=pictures)


def examples(whole: Sequence[Group]) -> Section:
    """Returns what the methods see of each data set and view, once where several see the same."""
    made: dict[Any, Picture] = {}
    for group in whole:
        run = next((cell.run.run for cell in group.cells if cell.run), None)
        if run is None:
            continue
        with suppress(RunError, SettingError):  # code outside the package that may not be run here
            rows, titles = _seen(run)
            what = (group.dataset, group.view, *titles, *(pixels.numpy().tobytes() for pixels in rows.values()))
            alt = f"{group.label}: {group.view} on {group.dataset}"
            if what not in made:
                name = f"seen {group.label} {group.dataset} {group.view}"
                made[what] = draw(name, alt, image_rows, rows, titles)
    return Section("What the methods see", "examples", pictures=[*made.values()])


def _seen(run: Run) -> tuple[dict[str, Tensor], list[str]]:
    """Returns rows of images float [B, C, H, W] in [0, 1], from some of a run to what its stem reads, and their labels.

    Raises:
        RunError: where its parts cannot be made, such as code outside the package that no person named.
    """
    images, labels = (torch.from_numpy(values[:SEEN]) for values in run.samples)
    needs, view, classes = run.method.needs(), view_of(run), run.classes
    loader = Loader(images=images, labels=labels, view=view, needs=needs, batch_size=SEEN, seed=run.config["seed"])
    batch, _ = next(loader.once(SEEN))
    batch = with_told(batch, run.method, run.readout() if needs.told else None, len(run.classes))
    rows = {"image": scaled(images)}
    if batch.partner is not None:
        rows["partner"] = batch.partner
    for number, read in enumerate(torch.split(run.method.inputs(batch, len(classes)), len(images)), start=1):
        rows[f"read, {number}"] = read
    return rows, [classes[k] for k in batch.labels.tolist()] if needs.labels else []


def served(path: Path) -> Section:
    """Returns the pictures and classes of served predictions, where there are any."""
    if not path.is_file():
        return Section("A served prediction", "")
    found, rows, pictures = read_json(path), [], []
    try:
        for number, served in enumerate(found["predictions"], start=1):
            entries = served.get("top", [{"class": served.get("error", ""), "probability": None}])
            for entry in entries:
                share = "" if entry["probability"] is None else f"{100 * entry['probability']:.1f}"
                rows.append([served["file"], entry["class"], share])
            if "top" in served:
                with suppress(ImageError):  # it was read when it was classified
                    file = Path(served["file"])
                    pictures.append(draw(f"served {number}", file.name, image_file, file, small=True))
        note = f"Model: {found['model']}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error!r}): make it again with `ffserve predict --json`") from error
    table = Table(title="Classes of each file", columns=("file", "class", "probability in %"), rows=rows)
    return Section("A served prediction", "", table, pictures=pictures, note=note)


@matplotlib.rc_context(PRINT)
def training_curves(
    runs: Mapping[str, Mapping[str, Sequence[Sequence[dict[str, Any]]]]], methods: Mapping[str, str]
) -> Figure:
    """Draws accuracy and loss over the epochs, a line for each run, dashed on training images.

    Args:
        runs: panel -> name of a line -> the records of each run.
        methods: name of a line -> its method, of every one of the report.
    """
    names = dict.fromkeys(name for lines in runs.values() for name in lines)
    looks = styles([(name, methods.get(name, name)) for name in names], dict.fromkeys(methods.values()))
    shown = labels(names)
    figure = Figure(
        figsize=(PAGE_WIDTH if len(runs) > 1 else COLUMN * 1.25, 3.6 + 0.16 * len(names)), layout="constrained"
    )
    axes = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, (panel, lines) in enumerate(runs.items()):
        for name, repeats in lines.items():
            for records in repeats:
                epochs = [record["epoch"] for record in records]
                every = max(1, len(epochs) // 8)
                for split in ("train", "validation"):
                    style = {**looks[name], "linestyle": "--" if split == "train" else "-", "lw": 0.9}
                    style |= {"markevery": every, "ms": 3, "alpha": 0.55 if split == "train" else 1.0}
                    accuracy = [100 * record[split].get("accuracy", np.nan) for record in records]
                    losses = [sum(record[split]["loss"].values()) for record in records]
                    said = shown[name] if split == "validation" else None
                    axes[0, column].plot(epochs, accuracy, label=said, **style)
                    axes[1, column].plot(epochs, losses, **style)
        axes[0, column].set_title(fill(panel, 32))
        axes[0, column].set_ylim(0, 102)
        if all(np.isnan(line.get_ydata()).all() for line in axes[0, column].lines):
            middle = {"transform": axes[0, column].transAxes, "ha": "center", "va": "center"}
            axes[0, column].text(0.5, 0.5, "no labels to tell", color="0.4", **middle)
        if all((line.get_ydata() > 0).all() for line in axes[1, column].lines):
            axes[1, column].set_yscale("log")
            low, high = axes[1, column].get_ylim()
            axes[1, column].yaxis.set_major_formatter("{x:g}")
            axes[1, column].yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
        axes[1, column].set_xlabel("epoch")
        axes[1, column].xaxis.get_major_locator().set_params(integer=True)
        for ax in axes[:, column]:
            ax.grid()
    axes[0, 0].set_ylabel("pretext accuracy (%)")
    axes[1, 0].set_ylabel("loss, summed over blocks that learn")
    legend(figure, axes[0])
    return figure


@matplotlib.rc_context(PRINT)
def embeddings(
    rows: Mapping[str, tuple[Mapping[str, npt.NDArray[np.float32]], npt.NDArray[np.int64]]], class_names: Sequence[str]
) -> Figure:
    """Draws t-SNE points of each block, a row for each name; classes differ in colour (ten of them) and marker.

    Args:
        rows: name -> (block -> points [N, 2], class labels [N]); about POINTS are drawn.
        class_names: K names.
    """
    blocks = [*dict.fromkeys(block for points, _ in rows.values() for block in points)]
    figure = Figure(figsize=(PAGE_WIDTH, 1.75 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(blocks), squeeze=False)
    shown = labels(class_names)
    for (name, (points, classes)), row in zip(rows.items(), axes, strict=True):
        some = slice(None, None, -(-len(classes) // POINTS) or None)
        for block, ax in zip(blocks, row, strict=True):
            for k in range(len(class_names)) if block in points else ():
                x, y = points[block][some][classes[some] == k].T
                look: dict[str, Any] = {
                    "color": CLASS_COLOURS[k % len(CLASS_COLOURS)],
                    "marker": MARKERS[k % len(MARKERS)],
                }
                look["ms"] = 4.0 if look["marker"] == "*" else 2.8  # a star covers less than the others
                ax.plot(x, y, linestyle="none", mew=0, label=shown[class_names[k]], **look)
            ax.set(xticks=[], yticks=[])
            ax.set_box_aspect(1)
        row[0].set_ylabel(fill(name, 22))
    for block, ax in zip(blocks, axes[0], strict=True):
        ax.set_title(block)
    if len(class_names) <= 20:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc=BELOW, ncols=10, markerscale=1.6)
    return figure


@matplotlib.rc_context(PRINT)
def image_rows(rows: Mapping[str, torch.Tensor], titles: Sequence[str] = ()) -> Figure:
    """Draws rows of images float [B, C, H, W] in [0, 1], B at least 1, with a title for each column, or none."""
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(PAGE_WIDTH * count / 8, 0.9 * len(rows) + 0.15 * bool(titles)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for (name, pixels_BCHW), row in zip(rows.items(), axes, strict=True):
        for pixels, ax in zip(pixels_BCHW, row, strict=True):
            # Drawn without resampling: every pixel is one of the image's.
            ax.imshow(pixels.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(fill(name, 22))
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, pad=2)
    return figure


def image_file(path: Path) -> Figure:
    """Draws one image file as it is served. Raises ImageError where it cannot be read."""
    pixels = torch.from_numpy(np.array(decode(path).convert("RGB"))).permute(2, 0, 1) / 255
    return image_rows({"": pixels[None]})
