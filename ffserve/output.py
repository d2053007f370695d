"""Predictions on standard output as they come: a table, JSON, JSON lines or CSV, each in constant memory."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from ffcore.errors import ImageError, UsageError
from ffcore.folders import Item
from ffserve.account import WORDS
from ffserve.console import put
from ffserve.predict import Classifier, Prediction
from ffserve.table import Growing

_ENCODER = json.JSONEncoder(ensure_ascii=False)
Found = tuple[Item, Prediction | ImageError]


class Writer(Protocol):
    """Writes what was found of images."""

    def write(self, found: Sequence[Found]) -> None:
        """Writes some images, in order; none where there are none at all, of which the whole consists then."""

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
    return {"file": item.name, "top": top, **{what: what in found.did for what in WORDS}}


class JsonWriter:
    """One object: the model, its device, and an array with an image on each line."""

    def __init__(self, classifier: Classifier) -> None:
        self._head = {"model": str(classifier.model.path), "device": classifier.model.device}
        self._begun = False

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' lines, before the first what stands above them."""
        if not self._begun:
            head = "".join(f"  {json_text(key)}: {json_text(value)},\n" for key, value in self._head.items())
            put(f'{{\n{head}  "predictions": [\n')
        lines = ",\n".join(f"    {json_text(record(*pair))}" for pair in found)
        put(f",\n{lines}" if self._begun else lines)
        self._begun = True

    def close(self) -> None:
        """Closes the array and the object."""
        if self._begun:
            put("\n  ]\n}\n")


class JsonLinesWriter:
    """An object on a line for each image, written when its batch is done."""

    def __init__(self, classifier: Classifier) -> None:
        self._model = str(classifier.model.path)

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' lines."""
        put("".join(f"{json_text({**record(*pair), 'model': self._model})}\n" for pair in found))

    def close(self) -> None:
        """Does nothing: every line is whole."""


class CsvWriter:
    """A row for each image: file, the classes with their probabilities, what was done first, error, model."""

    def __init__(self, classifier: Classifier, top_k: int) -> None:
        self._model = str(classifier.model.path)
        self._count = min(top_k, len(classifier.class_names))
        self._begun = False

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' rows, before the first the names of the columns."""
        lines = _Lines()
        rows = csv.writer(lines, lineterminator="\r\n")
        if not self._begun:
            self._begun = True
            classes = [f"{name}_{k}" for k in range(1, self._count + 1) for name in ("class", "probability")]
            rows.writerow(["file", *classes, *WORDS, "error", "model"])
        for item, prediction in found:
            if isinstance(prediction, ImageError):
                nothing = [""] * (2 * self._count + len(WORDS))
                rows.writerow([item.name, *nothing, str(prediction), self._model])
                continue
            pairs = zip(prediction.classes, prediction.probabilities, strict=True)
            cells = [cell for name, probability in pairs for cell in (name, f"{probability:.6f}")]
            did = [str(what in prediction.did).lower() for what in WORDS]
            rows.writerow([item.name, *cells, *did, "", self._model])
        put("".join(lines))

    def close(self) -> None:
        """Does nothing: every row is whole."""


class _Lines(list[str]):
    """Rows as the csv module writes them: it quotes a carriage return only where one ends its lines, as none here."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


class TableWriter:
    """The model, then a line for each class of each image, and what was done for it."""

    def __init__(self, classifier: Classifier) -> None:
        self._table = Growing(f"model {classifier.model.path}", ["file", "class", "probability", "picture"])

    def write(self, found: Sequence[Found]) -> None:
        """Writes the images' lines, before the first the model and the names of the columns."""
        rows = [
            [
                item.name if rank == 0 else "",
                name,
                f"{probability:.4f}",
                ", ".join(what for what in WORDS if what in prediction.did) if rank == 0 else "",
            ]
            for item, prediction in found
            if isinstance(prediction, Prediction)
            for rank, (name, probability) in enumerate(zip(prediction.classes, prediction.probabilities, strict=True))
        ]
        if rows:
            put(self._table.text(rows))

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
