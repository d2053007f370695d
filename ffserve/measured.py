"""What `ffserve evaluate` found, as JSON and as tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ffcore.files import AnyPath
from ffcore.layout import some
from ffserve import console
from ffserve.confusion import Confusion
from ffserve.evaluate import Evaluation
from ffserve.table import shown
from ffserve.transfer import Transfer

# Classes up to which the confusion matrix is printed; of more, its largest entries.
PRINTED, MISTAKES = 12, 10


def evaluation(found: Evaluation, folder: AnyPath) -> dict[str, Any]:
    """Returns an evaluation as JSON has it."""
    return {
        "folder": os.fspath(folder),
        **found.confusion.summary(),
        "calibration": found.calibration.summary(),
        "classes": found.confusion.classes(),
        "confusion": found.confusion.counts_KK.tolist(),
        "missing_classes": list(found.missing),
        "unknown_folders": list(found.unknown),
    }


def transfer(found: Transfer, train: Path, test: Path, seed: int) -> dict[str, Any]:
    """Returns a transfer evaluation as JSON has it, the classifier on features first."""
    return {
        "train": {"folder": str(train), "images": found.train, "held_out": found.validation},
        "test": {"folder": str(test), "images": found.rows[0].test.images},
        "seed": seed,
        "class_names": list(found.class_names),
        "rows": [
            {
                "source": row.source,
                "width": row.width,
                "C": row.C,
                "validation": row.validation,
                **{key: value for key, value in row.test.summary().items() if key != "images"},
                "converged": row.converged,
                "grid": [{"C": C, "validation": validation} for C, validation in row.grid],
                "classes": row.test.classes(),
                "confusion": row.test.counts_KK.tolist(),
            }
            for row in found.rows
        ],
    }


def notes(found: Evaluation, model: Path) -> Iterator[str]:
    """Yields what a person has to know to read an evaluation."""
    if found.unknown:
        yield f"left out, no class of {model}: {some(map(shown, found.unknown))}"
    if found.missing:
        yield f"no folder for the class {some(map(shown, found.missing))}"


def title(confusion: Confusion, folder: Path | None) -> str:
    """Returns what stands above the picture of a confusion matrix."""
    name = f"{shown(folder.absolute().name)}: " if folder else ""
    return f"{name}{confusion.accuracy:.2%} of {confusion.images:,} images"


def draw(result: dict[str, Any], confusion: Confusion) -> None:
    """Prints tables: accuracy and calibration, or both classifiers, each class, and what was taken for what."""
    if "rows" in result:
        _draw_transfer(result)
    else:
        row = [_share(result["accuracy"]), _interval(result), f"{result['right']:,}", f"{result['images']:,}"]
        console.print_table(f"model {shown(result['model'])}", ["accuracy", "95% interval", "right", "images"], [row])
        found = result["calibration"]
        columns = ["calibration error", "confidence", "log loss", "Brier score"]
        row = [_share(found[name]) for name in ("error", "confidence", "negative_log_likelihood", "brier")]
        console.print_table(f"probabilities, {len(found['bins'])} bins of confidence", columns, [row])
    _draw_classes(confusion)


def _draw_transfer(result: dict[str, Any]) -> None:
    rows = [
        [
            "raw pixels" if row["source"] == "raw" else row["source"],
            f"{row['width']:,}",
            f"{row['C']:g}" + ("" if row["converged"] else " (not converged)"),
            _share(row["validation"]),
            _share(row["accuracy"]),
            _interval(row),
        ]
        for row in result["rows"]
    ]
    train, test = result["train"], result["test"]
    heading = (
        f"model {shown(result['model'])}; linear classifiers of {len(result['class_names'])} classes, fitted on "
        f"{train['images']:,} images, settings chosen on {train['held_out']:,}, tested on {test['images']:,}"
    )
    console.print_table(heading, ["of", "width", "C", "validation", "test", "95% interval"], rows)


def _draw_classes(confusion: Confusion) -> None:
    names = [shown(name) for name in confusion.class_names]
    rows = [
        [name, f"{found['images']:,}", _share(found["recall"]), _share(found["precision"])]
        for name, found in zip(names, confusion.classes(), strict=True)
    ]
    console.print_table("classes", ["class", "images", "recall", "precision"], rows)
    if len(names) <= PRINTED:
        matrix = [[name, *map(str, row)] for name, row in zip(names, confusion.counts_KK.tolist(), strict=True)]
        console.print_table("confusion: rows are classes, columns what they were taken for", ["", *names], matrix)
    else:
        mistakes = [[shown(name), shown(taken), str(count)] for name, taken, count in confusion.mistakes()[:MISTAKES]]
        console.print_table("most frequent mistakes", ["class", "taken for", "images"], mistakes)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{low:.4f} to {high:.4f}"
