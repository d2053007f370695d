"""What exported files say of themselves, and how they are called: `ffexport` writes it, `ffserve` reads it.

A file holds texts `ffstudy.KEY`, each a JSON value; ONNX has them as its metadata, the archives of torch in the extra
file `ffstudy.json`:

    format        1
    version       of ffstudy
    image         channels, height and width of what the model takes
    reading       how files become pixels (`ffcore.images.READING`)
    border, ink   of the images that it was trained on: what transparency is laid over, whether they are drawings
    dataset, view, method, backbone, cut, at      what it was trained on, and how
    features      of which blocks they are, and how the pixels were filled for them
    precision     a name in PRECISIONS
    int8          how it is quantised, where it is
    head          a name in HEADS
    class_names   what the head tells apart
    target        whether these are classes of images (`class`) or the labels that a view makes (`pretext`)
    probe, accuracy, readout      what was measured of the head
    golden        an image, what the file gives for it, and how far another processor may be from that

Version 0.1 had `task` for the view and `layers` for the features, and called the readout `goodness`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1
KEY = "ffstudy."
MANIFEST = "manifest.json"
# Formats and their suffixes, ONNX before torch's; heads and precisions, each with what stands for it in a file's name.
SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}
HEADS = {"probe": "", "readout": "readout", "none": "features"}
PRECISIONS = {"fp32": "", "fp16": "fp16", "int8": "int8"}
# As version 0.1 called it.
GOODNESS = "goodness"


def encode(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns what is said of a file as it holds it: text by key."""
    return {KEY + key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def decode(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns what a file says of itself, of version 0.1 too. Raises ValueError where it is no JSON."""
    values = {
        key.removeprefix(KEY): json.loads(text, parse_constant=_refuse)
        for key, text in metadata.items()
        if key.startswith(KEY)
    }
    if values.get("head") == GOODNESS:
        target = "class" if values.get("task") == "supervised" else "pretext"
        values |= {"head": "readout", "target": target}
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


class Named(NamedTuple):
    """What the name of an exported file tells; the first of each is the default, and comes first in order."""

    head: str
    form: str
    precision: str

    @property
    def order(self) -> tuple[int, ...]:
        """Where it stands among others."""
        places = (([*HEADS], self.head), ([*SUFFIXES], self.form), ([*PRECISIONS], self.precision))
        return tuple(names.index(name) for names, name in places)

    @property
    def file(self) -> str:
        """The file's name: `model.onnx`; head and precision are named where they are not the default."""
        parts = ("model", HEADS[self.head], PRECISIONS[self.precision])
        return ".".join(filter(None, parts)) + SUFFIXES[self.form]

    @classmethod
    def of(cls, path: Path) -> Named:
        """Reads a file's name, whose suffix is one of SUFFIXES."""
        words = ["readout" if word == GOODNESS else word for word in path.name.split(".")]
        head, precision = (
            next((name for name, word in known.items() if word in words), next(iter(known)))
            for known in (HEADS, PRECISIONS)
        )
        return cls(head, next(form for form, suffix in SUFFIXES.items() if suffix == path.suffix), precision)
