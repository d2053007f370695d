"""Predictions on standard output as they come: a table, JSON, JSON lines or CSV, each in constant memory."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from ffserve.errors import ImageError, UsageError
from ffserve.inputs import Item
from ffserve.predict import Classifier, Prediction

_ENCODER = json.JSONEncoder(ensure_ascii=False)
Found = tuple[Item, Prediction | ImageError]


class Writer(Protocol):
    """Writes what was found of images."""

    def write(self, found: Sequence[Found]) -> None:
        """Writes some images, in order."""

    def close(self) -> None:
        """Writes what ends the whole; nothing where nothing was written."""


def writer(classifier: Classifier, top_k: int, *, as_json: bool, as_jsonl: bool, as_csv: bool) -> Writer:
    """Returns the writer that was asked for.

    Raises:
        UsageError: where more than one was.
    """
    asked = [name for name, on in (("--json", as_json), ("--jsonl", as_jsonl), ("--csv", as_csv)) if on]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} exclude each other: give one")
    if as_json:
        return JsonWriter(classifier)
    if as_jsonl:
        return JsonLinesWriter(classifier)
    return CsvWriter(classifier, top_k) if as_csv else TableWriter(classifier)


def record(item: Item, found: Prediction | ImageError) -> dict[str, Any]:
    """Returns what JSON says of an image."""
    if isinstance(found, ImageError):
        return {"file": item.name, "error": str(found)}
    top = [
        {"class": name, "probability": round(probability, 6)}
        for name, probability in zip(found.classes, found.probabilities, strict=True)
    ]
    return {"file": item.name, "top": top, "inverted": found.inverted}


class JsonWriter:
    """One object: the model, its device, and an array with an image on each line."""

    def __init__(self, classifier: Classifier) -> None:
        self._head = {"model": str(classifier.model.path), "device": classifier.model.device}
        self._begun = False

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' lines, before the first what stands above them."""
        if not found:
            return
        if not self._begun:
            head = "".join(f"  {json_text(key)}: {json_text(value)},\n" for key, value in self._head.items())
            sys.stdout.write(f'{{\n{head}  "predictions": [\n')
        lines = ",\n".join(f"    {json_text(record(*pair))}" for pair in found)
        sys.stdout.write(f",\n{lines}" if self._begun else lines)
        self._begun = True

    def close(self) -> None:
        """Closes the array and the object."""
        if self._begun:
            sys.stdout.write("\n  ]\n}\n")


class JsonLinesWriter:
    """An object on a line for each image, written when its batch is done."""

    def __init__(self, classifier: Classifier) -> None:
        self._model = str(classifier.model.path)

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' lines."""
        sys.stdout.writelines(f"{json_text({**record(*pair), 'model': self._model})}\n" for pair in found)
        sys.stdout.flush()

    def close(self) -> None:
        """Does nothing: every line is whole."""


class CsvWriter:
    """A row for each image: file, the classes with their probabilities, inverted, error, model."""

    def __init__(self, classifier: Classifier, top_k: int) -> None:
        self._model = str(classifier.model.path)
        self._count = min(top_k, len(classifier.class_names))
        self._begun = False

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' rows, before the first the names of the columns."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if not self._begun:
            self._begun = True
            classes = [f"{name}_{k}" for k in range(1, self._count + 1) for name in ("class", "probability")]
            rows.writerow(["file", *classes, "inverted", "error", "model"])
        for item, prediction in found:
            if isinstance(prediction, ImageError):
                rows.writerow([item.name, *[""] * (2 * self._count), "", str(prediction), self._model])
                continue
            pairs = zip(prediction.classes, prediction.probabilities, strict=True)
            cells = [cell for name, probability in pairs for cell in (name, f"{probability:.6f}")]
            rows.writerow([item.name, *cells, str(prediction.inverted).lower(), "", self._model])
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()

    def close(self) -> None:
        """Does nothing: every row is whole."""


class TableWriter:
    """The model, then a line for each class of each image; columns are as wide as what they have held so far."""

    def __init__(self, classifier: Classifier) -> None:
        self._model = str(classifier.model.path)
        self._widths: list[int] = []

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' lines, before the first the model and the names of the columns."""
        from rich.cells import cell_len

        rows = [
            [shown(item.name) if rank == 0 else "", shown(name), f"{probability:.4f}"]
            for item, prediction in found
            if isinstance(prediction, Prediction)
            for rank, (name, probability) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True))
        ]
        if not rows:
            return
        head = ["file", "class", "probability"]
        begun = bool(self._widths)
        widths = self._widths or [len(cell) for cell in head]
        self._widths = [
            max(width, *map(cell_len, column)) for width, column in zip(widths, zip(*rows, strict=True), strict=True)
        ]
        if not begun:
            rows = [head, ["─" * width for width in self._widths], *rows]
            sys.stdout.write(f"model {shown(self._model)}\n\n")
        for row in rows:
            cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, self._widths, strict=True))
            sys.stdout.write("  ".join(cells).rstrip() + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Ends the table."""


def json_text(value: Any) -> str:
    """Returns JSON on one line, with the characters that standard output can hold and escapes for others."""
    text = _ENCODER.encode(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def shown(text: str) -> str:
    """Returns a text as one line of a terminal may hold it: what cannot be printed as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
