"""The frame -> the parts of the page: which tables and figures stand where."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ffcore.errors import ImageError, RunError, SettingError
from ffcore.files import read_json
from ffmodels.run import Run
from fftrain.loader import Loader, scaled
from fftrain.loading import view_of
from fftrain.report import figures, inventory, tables
from fftrain.report.cells import SHARE
from fftrain.report.curves import Curve, block_curves, cka_curves, readout_curves
from fftrain.report.findings import findings
from fftrain.report.frame import Collection
from fftrain.report.means import PROBE, READER, Group, Published, of_classes
from fftrain.report.records import PRETEXT
from fftrain.report.section import Picture, Section, draw, section
from fftrain.report.tables import Table
from fftrain.told import with_told

# Panels side by side in one figure; where figures of blocks are cut off, in %.
PANELS, FLOOR = 3, -20.0
# Images of a run that are shown as its method reads them.
SEEN = 8
DECODED = "explained variance"
# Measures that have a part of their own; any other gets one by its name.
KNOWN = (PRETEXT, READER, PROBE, DECODED, "cka", "seconds", "points")


def of_study(
    found: Collection, whole: Sequence[Group], published: Published, factors: Sequence[Section]
) -> list[Section]:
    """Returns the parts of a study's report; `factors` are those about its settings."""
    own = [group for group in whole if not group.supervised]
    supervised = [group for group in whole if group.supervised]
    told = [group for group in own if group.tells]
    met = tables.gaps(own, published)
    one, other = published.gap
    alt = f"Scatter plot: {one} less {other} over the difficulty of the task"
    scatter = [draw("gap", alt, figures.gap_points, met, published.gap)] if met else []
    search = section("Search", "search", tables.search_table(found))
    about = section("What was run", "", inventory.headline_table(found), inventory.problems_table(found))
    measured = [
        section("In short", "found", points=_findings(found, whole)),
        *factors,
        section("Pretext accuracy", "pretext", tables.pretext_table(told, published)),
        section("Transfer", "transfer", tables.transfer_table(own, published)),
        section("Supervised reference", "supervised", tables.supervised_table(supervised, published)),
        section("Ablation", "ablation", tables.ablation_table(own, published)),
        section("Readings", "readings", tables.places_table(whole, elsewhere=False)),
        section("Transfer across data sets", "across", tables.places_table(whole, elsewhere=True)),
        *_by_block(whole),
        section(f"{one} and {other} by difficulty", "gap", tables.gap_table(met, published.gap), pictures=scatter),
        *_representations(found, whole),
    ]
    return [about, *([] if search.empty else [search]), *(measured if whole else []), _every(found)]


def of_runs(
    found: Collection, whole: Sequence[Group], results: Table, frame: pd.DataFrame, factors: Sequence[Section]
) -> list[Section]:
    """Returns the parts of the report over a plain folder; `frame` is its own with what validation chose.

    `factors` are the parts about the settings of its runs.
    """
    others = [tables.measured_table(found, frame, measure) for measure in of_classes(found)]
    settings = map(inventory.settings_table, found.runs)
    return [
        section("Results", "results", results, *others, inventory.problems_table(found)),
        section("In short", "found", points=_findings(found, whole)),
        *factors,
        *_by_block(whole),
        *_representations(found, whole),
        _served(found.root / "prediction.json"),
        section("All numbers", "", tables.probes_table(found), inventory.exports_table(found.runs)),
        _every(found, *settings),
    ]


def _findings(found: Collection, whole: Sequence[Group]) -> list[str]:
    """Returns sentences on the probes, then on what else was measured of the classes."""
    return [sentence for measure in (PROBE, *of_classes(found)) for sentence in findings(whole, measure)]


def _every(found: Collection, *settings: Table) -> Section:
    """Returns every run, and the commands that make it again."""
    return section("Every run", "runs", inventory.runs_table(found), inventory.commands_table(found), *settings)


def _curves(
    title: str, text: str, name: str, what: str, curves: Sequence[Curve], whole: Sequence[Group], unit: str = SHARE
) -> Section:
    """Returns a part with a figure for each data set, and the table of what they draw."""
    unit = "%" if unit == SHARE else unit
    ylabel = f"{what} ({unit})"
    methods, pictures = list(dict.fromkeys(group.method for group in whole)), []
    drawn = [curve for curve in curves if any(curve.means)]
    for dataset in dict.fromkeys(curve.dataset for curve in drawn):
        mine = [curve for curve in drawn if curve.dataset == dataset]
        lines = "; ".join(dict.fromkeys(curve.name for curve in mine))
        alt = f"Line chart: {ylabel} by block on {dataset}; lines {lines}"
        pictures.append(draw(f"{name} {dataset}", alt, figures.block_lines, mine, ylabel, FLOOR, methods))
    return section(title, text, tables.curve_table(f"{title}, in {unit}", curves), pictures=pictures)


def _by_block(whole: Sequence[Group]) -> list[Section]:
    """Returns what each block knows of the pretext task and of the classes."""
    pretext = [*readout_curves(whole), *block_curves(whole, PROBE, "pretext")]
    probes = block_curves(whole, PROBE, "class")
    return [
        _curves("Pretext accuracy by block", "by_block", "pretext", "pretext accuracy", pretext, whole),
        _curves("Linear probes by block", "probes", "probes", "test accuracy", probes, whole),
    ]


def _representations(found: Collection, whole: Sequence[Group]) -> list[Section]:
    """Returns what else is known of the features, how they came about, and what was trained on."""
    by_name = {cell.name: cell.method for cell in found.cells}
    to = " and ".join(dict.fromkeys(by_name[other] for _, other in found.pairs)) or "the reference"
    decoder, alike = block_curves(whole, DECODED), cka_curves(found)
    others = found.frame[~found.frame["measure"].isin(KNOWN)][["measure", "unit", "target", "split"]]
    others = others.sort_values("split", kind="stable").drop_duplicates(["measure", "target"])  # test before validation
    return [
        _curves("Explained variance of the pixels", "decoder", "decoder", "explained variance", decoder, whole),
        _curves(f"Similarity to {to}", "cka", "cka", "linear CKA", alike, whole),
        *(
            _curves(title, "other", title, measure, block_curves(whole, measure, target, split), whole, unit=unit)
            for measure, unit, target, split in others.itertuples(index=False, name=None)
            for title in [_title(measure, target, split)]
        ),
        section("Training curves", "curves", pictures=_training(whole)),
        section("t-SNE of the features", "embeddings", pictures=_embeddings(whole)),
        section("What the methods see", "examples", pictures=_examples(whole)),
    ]


def _title(measure: str, target: str, split: str) -> str:
    """Returns what the part about a measure is called that has no part of its own."""
    of = f" of the {target} label" if target not in ("", "class") else ""
    return measure[:1].upper() + measure[1:] + of + ("" if split in ("", "test") else f", {split}")


def _training(whole: Sequence[Group]) -> list[Picture]:
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
            pictures.append(draw(name, alt, figures.training_curves, shown, methods))
    return pictures


def _embeddings(whole: Sequence[Group]) -> list[Picture]:
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
            pictures.append(draw(f"tsne {dataset} {view}", alt, figures.embeddings, rows, classes))
    return pictures


def _examples(whole: Sequence[Group]) -> list[Picture]:
    """Returns what the methods see of each data set and view, once where several see the same."""
    made: dict[Any, Picture] = {}
    for group in whole:
        run = next((cell.run.run for cell in group.cells if cell.run), None)
        if run is None:
            continue
        with suppress(RunError, SettingError):  # code outside the package that may not be run here
            rows, titles = seen(run)
            what = (group.dataset, group.view, *titles, *(pixels.numpy().tobytes() for pixels in rows.values()))
            alt = f"{group.label}: {group.view} on {group.dataset}"
            if what not in made:
                name = f"seen {group.label} {group.dataset} {group.view}"
                made[what] = draw(name, alt, figures.image_rows, rows, titles)
    return [*made.values()]


def seen(run: Run) -> tuple[dict[str, Tensor], list[str]]:
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


def _served(path: Path) -> Section:
    """Returns the pictures and classes of served predictions, where there are any."""
    if not path.is_file():
        return section("A served prediction", "")
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
                    pictures.append(draw(f"served {number}", file.name, figures.image_file, file, small=True))
        note = f"Model: {found['model']}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error!r}): make it again with `ffserve predict --json`") from error
    table = Table(title="Classes of each file", columns=("file", "class", "probability in %"), rows=rows)
    return section("A served prediction", "", table, pictures=pictures, note=note)
