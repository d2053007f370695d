"""The report: one self-contained page over the runs of a folder, and the table of results."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ffmodels.checkpoint import CONFIG_FILE, read_config, read_samples
from ffmodels.errors import RunError
from ffmodels.files import read_json, write_text
from ffserve.errors import ImageError
from fftrain import figures
from fftrain.evaluate import make_task
from fftrain.run import RunFolder

PAGE = "report.html"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: what it shows, its columns, and its cells as text."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A run folder, read."""

    name: str
    folder: RunFolder
    config: dict[str, Any]
    results: dict[str, Any]

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.config["config"]["method"])


def find_runs(root: Path) -> list[FoundRun]:
    """Returns the finished runs below a folder, by name. Raises RunError where there is none."""
    paths = sorted(p.parent for p in root.rglob(CONFIG_FILE) if (p.parent / "backbone.safetensors").is_file())
    if not paths:
        raise RunError(f"{root} holds no finished run: `fftrain pretrain --out {root}/NAME` makes one")
    found = []
    for path in paths:
        folder = RunFolder(path)
        name = str(path.relative_to(root)) if path != root else path.name
        found.append(FoundRun(name=name, folder=folder, config=read_config(path), results=folder.read_results()))
    return found


def write_report(root: Path) -> dict[str, Any]:
    """Writes ROOT/report.html over the runs below a folder.

    Args:
        root: a folder with run folders in it. A `prediction.json` in it, as `ffserve predict --json` prints, is shown.

    Returns:
        {"page": its path, "results": the table of results as a list of records}.

    Raises:
        RunError: where there is no finished run, or one is damaged.
    """
    try:
        return _write(root)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RunError(
            f"a file of the runs below {root} is damaged ({what}): measure or train that run again"
        ) from error


def _write(root: Path) -> dict[str, Any]:
    runs = find_runs(root)
    result_table = results_table(runs)
    sections: list[tuple[str, str, str]] = []
    for dataset, rows in _probe_rows(runs).items():
        sections.append((f"Linear probes on {dataset}", PROBES, figures.svg(figures.probes(rows))))
    sections.append(
        ("Training curves", CURVES, figures.svg(figures.curves({r.name: r.folder.read_metrics() for r in runs})))
    )
    seen: set[tuple[str, str, bool]] = set()
    for run in runs:
        reads_label = run.config["task"]["slot"] != "pixels"
        key = (run.config["data"]["name"], run.config["task"]["name"], reads_label)
        if key not in seen:
            seen.add(key)
            title = f"What {run.method} sees: {key[1]} on {key[0]}"
            sections.append((title, LABELLED if reads_label else UNLABELLED, figures.svg(_pretext(run, reads_label))))
    prediction = root / "prediction.json"
    if prediction.is_file():
        sections.append(("A served prediction", "", _served(read_json(prediction))))
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("fftrain").joinpath(PAGE).read_text(encoding="utf-8")
    )
    tables = [result_table, probes_table(runs), exports_table(runs)]
    page = template.render(
        name=root.name,
        version=version("ffstudy"),
        tables=[table for table in tables if table.rows],
        sections=sections,
        runs=[(run.name, _settings(run)) for run in runs],
    )
    write_text(root / PAGE, page + "\n")
    records = [dict(zip(result_table.columns, row, strict=True)) for row in result_table.rows]
    return {"page": str(root / PAGE), "title": result_table.title, "results": records}


PROBES = (
    "Test accuracy of a linear classifier on frozen features. 'random' is the same backbone before training, 'raw' the "
    "pixels: a backbone below them has lost what it was given."
)
CURVES = "Measured after each epoch on the same images of each split; the loss is the sum over the trained layers."
LABELLED = (
    "The label takes the framed pixels of the first row. A positive carries the right label, a negative the same image "
    "with a wrong one; the title is the label that the pixels carry."
)
UNLABELLED = "No label is in the pixels; the title is the label that the head is trained on."


def results_table(runs: Sequence[FoundRun]) -> Table:
    """Returns one row for each run: pretext accuracy, and the probes with both baselines."""
    rows = []
    for run in runs:
        pretext = run.results.get("pretext", {}).get("validation", {}).get("accuracy")
        head = [
            run.name,
            run.method,
            run.config["data"]["name"],
            run.config["task"]["name"],
            _percent(pretext),
        ]
        probed = run.results.get("probes", {}) or {"": {"rows": [], "dataset": "", "slot": ""}}
        for found in probed.values():
            by_source: dict[str, list[dict[str, Any]]] = {}
            for row in found["rows"]:
                by_source.setdefault(row["source"], []).append(row)
            cells = []
            for source in (run.method, "random", "raw"):
                best = max(by_source.get(source, []), key=lambda row: row["validation"], default=None)
                layers = "" if best is None or source == "raw" else f" ({best['layers']})"
                cells.append(_percent(best["test"] if best else None) + layers)
            rows.append([*head, found["dataset"], found["slot"], *cells])
    columns = (
        "run",
        "method",
        "pretrained on",
        "task",
        "pretext accuracy",
        "probed on",
        "slot",
        "probe",
        "random",
        "raw",
    )
    return Table(
        title="Results: accuracy in %; pretext on validation, probes on test (layers chosen on validation)",
        columns=columns,
        rows=rows,
    )


def probes_table(runs: Sequence[FoundRun]) -> Table:
    """Returns every probe of every run."""
    rows = [
        [
            run.name,
            found["dataset"],
            found["slot"],
            row["source"],
            row["layers"],
            _percent(row["validation"]),
            _percent(row["test"]),
        ]
        for run in runs
        for found in run.results.get("probes", {}).values()
        for row in found["rows"]
    ]
    columns = ("run", "probed on", "slot", "features of", "layers", "validation", "test")
    return Table(title="Every probe (accuracy in %)", columns=columns, rows=rows)


def exports_table(runs: Sequence[FoundRun]) -> Table:
    """Returns the exported files of every run, as their manifests describe them."""
    rows = []
    for run in runs:
        manifest = run.folder.path / "export" / "manifest.json"
        for name, found in read_json(manifest)["files"].items() if manifest.is_file() else ():
            difference = f"{found['largest_difference']:.1e}"
            same = "no probe" if found.get("same_class") is None else f"{found['same_class']:.0%}"
            rows.append([run.name, name, f"{found['bytes']:,}", difference, same, found["sha256"][:16]])
    columns = ("run", "file", "bytes", "largest difference from eager", "same class on real images", "SHA-256")
    return Table(title="Exported formats beside the eager model", columns=columns, rows=rows)


def _probe_rows(runs: Sequence[FoundRun]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Returns the probes by data set and source; `raw` and, for each slot, `random` are those of the first run."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for run in runs:
        for result in run.results.get("probes", {}).values():
            sources = found.setdefault(result["dataset"], {})
            names = {"raw": "raw", "random": f"random (slot {result['slot']})"}
            names[run.method] = f"{run.method} ({run.name}, slot {result['slot']})"
            for source, name in names.items():
                sources.setdefault(name, [row for row in result["rows"] if row["source"] == source])
    return found


def _pretext(run: FoundRun, reads_label: bool) -> Any:
    config = run.folder.read_config()
    task = make_task(config, tuple(run.config["task"]["class_names"]))
    images, labels = read_samples(run.folder.path)
    return figures.pretext_images(task, images, labels, with_label=reads_label)


def _served(prediction: dict[str, Any]) -> str:
    """Returns the pictures and classes of served predictions as HTML."""
    parts = [f"<p>Model: <code>{html.escape(prediction['model'])}</code></p>"]
    for found in prediction["predictions"]:
        name = html.escape(found["file"])
        if "top" not in found:
            parts.append(f"<p>{html.escape(found['error'])}</p>")
            continue
        try:
            picture = figures.svg(figures.image_file(Path(found["file"])))
        except ImageError:  # it was read when it was classified
            picture = ""
        classes = "".join(
            f"<li>{html.escape(entry['class'])}: {100 * entry['probability']:.1f} %</li>" for entry in found["top"]
        )
        parts.append(f"<figure>{picture}<figcaption><code>{name}</code><ol>{classes}</ol></figcaption></figure>")
    return "".join(parts)


def _settings(run: FoundRun) -> list[tuple[str, str]]:
    config = {k: v for k, v in run.config["config"].items() if k != "data_dir" and v is not None}
    seconds = sum(record["seconds"] for record in run.folder.read_metrics())
    extra = {
        "training": f"{seconds:.1f} s",
        "images": ", ".join(f"{k} {v:,}" for k, v in run.config["data"]["images"].items()),
        "versions": ", ".join(f"{k} {v}" for k, v in run.config["versions"].items()),
        "hardware": ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in run.config["hardware"].items()),
        "commit": run.config["git_commit"] or "unknown",
    }
    return [(key, str(value)) for key, value in {**config, **extra}.items()]


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{100 * value:.1f}"
