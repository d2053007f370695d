"""The report: one self-contained page over a study or the runs of a folder, with its tables and figures as files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from ffcore.errors import FFStudyError, ImageError, RunError
from ffcore.files import AnyPath, read_json, write_json, write_text
from ffmodels.checkpoint import CONFIG_FILE, read_samples
from fftrain import figures, tables
from fftrain.collect import Collection, collect
from fftrain.curves import Curve, cka_curves, goodness_curves, layer_curves
from fftrain.evaluate import make_task
from fftrain.findings import findings
from fftrain.inventory import (
    commands_table,
    exports_table,
    headline_table,
    problems_table,
    runs_table,
    settings_table,
)
from fftrain.means import Group, Published, groups
from fftrain.names import shortened
from fftrain.probe import place_name
from fftrain.records import FIELDS
from fftrain.tables import Table

PAGE, MARKDOWN = "report.html", "report.md"
# Panels of one figure of training curves; where figures of layers are cut off, in %.
PANELS, FLOOR = 3, -20.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as an SVG file, and what it shows in words."""

    name: str
    alt: str
    svg: str
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page. `text` names its caption in report.md; `note` and `points` are what else there is to say."""

    title: str
    text: str
    note: str = ""
    points: list[str]
    tables: list[Table]
    pictures: list[Picture]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.tables or self.pictures or self.points)

    @property
    def anchor(self) -> str:
        """The name that links lead to."""
        return _slug(self.title)


def write_report(root: AnyPath) -> dict[str, Any]:
    """Writes the report over a study's folder, or over the runs below any other.

    Leaves report.html, report.md, results.csv, results.json and figures/NAME.svg in the folder; where that is a run's
    own, whose results.json is its results, report-results.csv and report-results.json.

    Args:
        root: a study's folder, or one with run folders in it. A `prediction.json` in it, as `ffserve predict --json`
            prints, is shown.

    Returns:
        {"page", "markdown", "csv", "json": paths, "figures": their paths, "problems": what is unfinished, failed,
        damaged, missing or incomplete, "title", "results": the table of results as a list of records}.

    Raises:
        RunError: where there is no readable run in a plain folder, study.json is damaged, or the folder cannot be
            written. A damaged run beside others is named on the page.
    """
    root = Path(root)
    try:
        return _write(root)
    except FFStudyError:  # some are ValueErrors, and say what is wrong themselves
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise RunError(f"a file below {root} is damaged ({error!r}): restore it, or make it again") from error


def _write(root: Path) -> dict[str, Any]:
    """Does the work of `write_report`."""
    found = shortened(collect(root))
    published = Published(found.study["spec"].get("published", {}) if found.study else {})
    results = tables.results_table(found)
    sections = _study(found, published) if found.study else _plain(found, results)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fftrain", ""),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = markdown_escape
    quoted = any("published" in column for section in sections for t in section.tables for column in t.columns)
    prefix = "report-" if (root / CONFIG_FILE).exists() else ""
    content = {
        "name": found.study["name"] if found.study else root.resolve().name,
        "version": version("ffstudy"),
        "sections": [section for section in sections if not section.empty],
        "absent": [section.title for section in sections if section.empty] if found.study else [],
        "seeds": [len({cell.seed for cell in group.cells if cell.run}) for group in groups(found.cells)],
        "seen": any(cell.trained_on_validation for cell in found.cells),
        "published": published.remark if quoted else "",
        "data": [f"{prefix}results.csv", f"{prefix}results.json"],
    }
    paths, before = {}, _pictures_of(root / MARKDOWN)
    for kind, name in (("page", PAGE), ("markdown", MARKDOWN)):
        write_text(root / name, environment.get_template(name).render(**content).rstrip() + "\n")
        paths[kind] = str(root / name)
    drawn = [picture for section in sections for picture in section.pictures]
    for picture in drawn:
        write_text(root / "figures" / f"{picture.name}.svg", f'<?xml version="1.0" encoding="UTF-8"?>\n{picture.svg}')
    for name in before - {picture.name for picture in drawn}:
        with suppress(OSError):
            (root / "figures" / f"{name}.svg").unlink()
    write_text(root / f"{prefix}results.csv", _csv(found))
    write_json(root / f"{prefix}results.json", found.records)
    return {
        **paths,
        "csv": str(root / f"{prefix}results.csv"),
        "json": str(root / f"{prefix}results.json"),
        "figures": [str(root / "figures" / f"{picture.name}.svg") for picture in drawn],
        "problems": [dict(zip(("name", "state", "reason"), problem, strict=True)) for problem in found.problems],
        "title": results.title,
        "results": [dict(zip(results.columns, row, strict=True)) for row in results.rows],
    }


def _study(found: Collection, published: Published) -> list[Section]:
    """Returns the parts of a study's report."""
    searched = [cell for cell in found.cells if cell.search]
    whole = groups([cell for cell in found.cells if not cell.search])
    searching = [_section("Search", "search", tables.search_table(searched))] if searched else []
    if not whole:
        return [
            _section("What was run", "", headline_table(found), problems_table(found)),
            *searching,
            _section("Every run", "runs", runs_table(found), commands_table(found)),
        ]
    own = [group for group in whole if group.task != "supervised"]
    supervised = [group for group in whole if group.task == "supervised"]
    met = tables.gaps(own, published)
    scatter = [_draw("gap", "Scatter plot: FF less BP over the difficulty of the task", figures.gap_points, met)]
    return [
        _section("What was run", "", headline_table(found), problems_table(found)),
        *searching,
        _section("In short", "found", points=findings(whole)),
        _section("Pretext accuracy", "pretext", tables.pretext_table(own, published)),
        _section("Transfer", "transfer", tables.transfer_table(own, published)),
        _section("Supervised reference", "supervised", tables.supervised_table(supervised, published)),
        _section("Ablation", "ablation", tables.ablation_table(own, published)),
        _section("Label slot", "slots", tables.places_table(whole, elsewhere=False)),
        _section("Transfer across data sets", "across", tables.places_table(whole, elsewhere=True)),
        *_by_layer(whole),
        _section("FF and BP by difficulty", "gap", tables.gap_table(met), pictures=scatter if met else []),
        *_representations(found, whole),
        _section("Every run", "runs", runs_table(found), commands_table(found)),
    ]


def _plain(found: Collection, results: Table) -> list[Section]:
    """Returns the parts of the report over a plain folder."""
    whole = groups(found.cells)
    return [
        _section("Results", "results", results, problems_table(found)),
        _section("In short", "found", points=findings(whole)),
        *_by_layer(whole),
        *_representations(found, whole),
        _served(found.root / "prediction.json"),
        _section("All numbers", "", tables.probes_table(found.cells), exports_table(found.runs)),
        _section("Every run", "runs", runs_table(found), commands_table(found), *map(settings_table, found.runs)),
    ]


def _section(
    title: str,
    text: str,
    *shown: Table,
    pictures: Sequence[Picture] = (),
    note: str = "",
    points: Sequence[str] = (),
) -> Section:
    """Returns a part of the page with the tables that have rows, and of these the columns that have a value."""
    kept = [table.of_values() for table in shown if table.rows]
    return Section(title=title, text=text, note=note, points=list(points), tables=kept, pictures=list(pictures))


def _draw(name: str, alt: str, draw: Callable[..., Figure], *given: Any, small: bool = False, **more: Any) -> Picture:
    """Draws a picture, and returns it under a file's name."""
    return Picture(name=_slug(name), alt=alt, svg=figures.svg(draw(*given, **more), alt), small=small)


def _slug(text: str) -> str:
    """Returns a text as a file's name and a link's target."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _curves(title: str, text: str, name: str, curves: Sequence[Curve], ylabel: str) -> Section:
    """Returns a part with a figure for each data set, and the table of what they draw."""
    pictures = []
    for dataset in dict.fromkeys(curve.dataset for curve in curves):
        mine = [curve for curve in curves if curve.dataset == dataset]
        lines = "; ".join(dict.fromkeys(curve.name for curve in mine))
        alt = f"Line chart: {ylabel} by layer on {dataset}; lines {lines}"
        pictures.append(_draw(f"{name} {place_name(dataset)}", alt, figures.layer_lines, mine, ylabel, FLOOR))
    return _section(title, text, tables.curve_table(f"{title}, in %", curves), pictures=pictures)


def _by_layer(whole: Sequence[Group]) -> list[Section]:
    """Returns what each layer knows of the pretext task and of the classes."""
    pretext = [*goodness_curves(whole), *layer_curves(whole, "probe accuracy", "pretext")]
    probes = layer_curves(whole, "probe accuracy", "class")
    return [
        _curves("Pretext accuracy by layer", "by_layer", "pretext", pretext, "pretext accuracy (%)"),
        _curves("Linear probes by layer", "probes", "probes", probes, "test accuracy (%)"),
    ]


def _representations(found: Collection, whole: Sequence[Group]) -> list[Section]:
    """Returns what is known of the features, how they came about, and what was trained on."""
    decoder, alike = layer_curves(whole, "explained variance"), cka_curves(found.pairs)
    return [
        _curves("Explained variance of the pixels", "decoder", "decoder", decoder, "explained variance (%)"),
        _curves("Similarity to BP", "cka", "cka", alike, "linear CKA (%)"),
        _section("Training curves", "curves", pictures=_training(whole)),
        _section("t-SNE of the features", "embeddings", pictures=_embeddings(whole)),
        _section("What the methods see", "examples", pictures=_examples(whole)),
    ]


def _training(whole: Sequence[Group]) -> list[Picture]:
    """Returns the training curves, a few tasks of one data set in a figure."""
    panels: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for group in whole:
        records = [cell.run.metrics for cell in group.cells if cell.run and cell.run.metrics]
        if records:
            panels.setdefault(group.dataset, {}).setdefault(f"{group.dataset} {group.task}", {})[group.label] = records
    pictures = []
    for dataset, tasks in panels.items():
        for start in range(0, len(tasks), PANELS):
            shown = dict([*tasks.items()][start : start + PANELS])
            alt = f"Line charts: accuracy and loss over the epochs of {', '.join(shown)}"
            name = f"curves {place_name(dataset)} {start // PANELS + 1}"
            pictures.append(_draw(name, alt, figures.training_curves, shown))
    return pictures


def _embeddings(whole: Sequence[Group]) -> list[Picture]:
    """Returns the t-SNE points of every data set and task: of each method the first run that has them."""
    pictures = []
    for dataset, task in dict.fromkeys((group.dataset, group.task) for group in whole):
        rows: dict[str, Any] = {}
        for group in whole:
            runs = [(cell.seed, cell.run) for cell in group.cells if cell.run and cell.run.embeddings]
            if (group.dataset, group.task) == (dataset, task) and runs:
                seed, run = min(runs, key=lambda found: found[0])
                rows[f"{group.label}, seed {seed}"] = next(iter(run.embeddings.values()))
                classes = run.config["data"]["class_names"]
        if rows:
            alt = f"t-SNE of {'; '.join(rows)} on {dataset} {task}, layer by layer"
            name = f"tsne {place_name(dataset)} {task}"
            pictures.append(_draw(name, alt, figures.embeddings, rows, classes))
    return pictures


def _examples(whole: Sequence[Group]) -> list[Picture]:
    """Returns what the methods see, once for each data set and task, with and without labels in the pixels."""
    made: dict[str, Picture] = {}
    for group in whole:
        run = next((cell.run for cell in group.cells if cell.run), None)
        if run is None:
            continue
        images, labels = read_samples(run.folder.path)
        task = make_task(run.folder.read_config(), tuple(run.config["data"]["class_names"]))
        labelled = run.config["task"]["slot"] != "pixels"
        kind = "labelled" if labelled else "hybrids" if group.task == "hybrid" else "unlabelled"
        name, alt = (
            f"{kind} {place_name(group.dataset)} {group.task}",
            f"{group.method}: {group.task} on {group.dataset}",
        )
        if name in made:
            continue
        if kind == "hybrids":
            made[name] = _draw(name, alt, figures.hybrid_images, images)
        else:
            made[name] = _draw(name, alt, figures.pretext_images, task, images, labels, with_label=labelled)
    return [*made.values()]


def _served(path: Path) -> Section:
    """Returns the pictures and classes of served predictions, where there are any."""
    if not path.is_file():
        return _section("A served prediction", "")
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
                    pictures.append(_draw(f"served {number}", file.name, figures.image_file, file, small=True))
        note = f"Model: {found['model']}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error!r}): make it again with `ffserve predict --json`") from error
    table = Table(title="Classes of each file", columns=("file", "class", "probability in %"), rows=rows)
    return _section("A served prediction", "", table, pictures=pictures, note=note)


def _pictures_of(earlier: Path) -> set[str]:
    """Returns the names of the figures that an earlier report.md shows; none where it is not a report's."""
    try:
        text = earlier.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    made = text.rstrip().rpartition("\n")[2].startswith("Made by ffstudy ")
    return set(re.findall(r"^!\[.*\]\(figures/([a-z0-9-]+)\.svg\)$", text, re.MULTILINE)) if made else set()


def markdown_escape(text: str) -> str:
    """Returns a text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_|<>\[\]~#$])", r"\\\1", text).replace("\n", " ")


def _csv(found: Collection) -> str:
    """Returns the records as CSV, one line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.records)
    return text.getvalue()
