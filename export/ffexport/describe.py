"""What an exported file says of itself: `ffstudy.` keys, JSON values."""

from __future__ import annotations

import base64
import json
from importlib.metadata import version
from typing import Any

import numpy as np

from ffcore.images import READING
from ffcore.ink import ring_of
from ffexport.formats import Images, Run
from ffexport.parity import FACTOR
from ffexport.reference import Case
from ffexport.subject import Subject
from ffmodels.backbone import layers_name
from ffmodels.checkpoint import read_config
from ffmodels.registry import public_name

# What golden outputs are allowed at least; and where what is rounded to 8 bits may be rounded the other way on another
# processor (docs/benchmarks.md: 0.003 was seen, and 0.13 of another image).
LEAST = 1e-2
STEP = 5e-2


def describe(subject: Subject, precision: str, scheme: str | None, samples: Images) -> dict[str, Any]:
    """Returns what is known of a file before it is written: key -> value.

    Args:
        subject: what is exported.
        precision: a name in `ffexport.registry.PRECISIONS`.
        scheme: how it is quantised, or None.
        samples: the run's, uint8 [N, C, H, W]; N at least 1.
    """
    config = read_config(subject.run)
    channels, height, width = config["data"]["shape"]
    borders_NCR = samples[:, :, ring_of(height, width)].astype(np.float64)
    about: dict[str, Any] = {
        "format": 1,
        "version": version("ffstudy"),
        "image": {"channels": channels, "height": height, "width": width},
        "reading": READING,
        "dataset": public_name(config["data"]["name"]),
        "task": config["task"]["name"],
        "method": config["config"]["method"],
        "layers": layers_name(subject.model.layers),
        "slot": subject.model.slot,
        "precision": precision,
        "head": subject.head,
        # Of the outermost pixels, and of their means over images: what transparency is laid over.
        "border": {
            "mean": round(float(borders_NCR.mean()), 3),
            "deviation": round(float(borders_NCR.mean((1, 2)).std()), 3),
            "means": [round(float(mean), 3) for mean in borders_NCR.mean((0, 2))],
        },
        # Whether they are drawings, whose ink may stand on any ground; and where they have it.
        "ink": subject.ink and subject.ink.to_dict(),
        **subject.about,
    }
    if scheme is not None:
        about["int8"] = scheme
    if subject.class_names is not None:
        about["class_names"] = list(subject.class_names)
    return about


def golden(names: list[str], run: Run, real: Case, scheme: str | None) -> dict[str, Any]:
    """Returns the golden image and what a file gives for it, so that a reader can tell whether it still does.

    It is the image that float32 knows best. "tolerance" is how far a right file may be on another processor.

    Args:
        names: of the outputs, in order.
        run: the file as a function.
        real: the images to choose from.
        scheme: how it is quantised, or None.
    """
    chosen = real.best_known
    image = real.images[chosen : chosen + 1]
    outputs = dict(zip(names, run(image), strict=True))
    spread = dict(zip(names, real.spread, strict=True))
    kept = {"features": outputs["features"][0, :16]}
    if "probabilities" in outputs:
        kept["probabilities"] = outputs["probabilities"][0]
    needed = max(FACTOR * float(spread[name][chosen]) for name in kept)
    return {
        "image": base64.b64encode(image.tobytes()).decode(),
        **{name: [round(v, 6) for v in values.tolist()] for name, values in kept.items()},
        "tolerance": float(f"{max(LEAST, needed, 0.0 if scheme is None else STEP):.2g}"),
    }


def encode(about: dict[str, Any]) -> dict[str, str]:
    """Returns the metadata as a file holds them: `ffstudy.` keys, JSON values."""
    return {f"ffstudy.{key}": json.dumps(value, ensure_ascii=False) for key, value in about.items()}
