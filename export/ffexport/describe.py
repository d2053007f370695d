"""What an exported file says of itself (`ffserve.metadata`), and the image by which it is known again."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffcore.images import READING
from ffcore.ink import ring_of
from ffcore.places import Place, public_name
from ffexport.formats import Runner
from ffexport.parity import FACTOR
from ffexport.reference import Case
from ffmodels.linear import blocks_name
from ffserve.metadata import FORMAT

if TYPE_CHECKING:
    from ffexport.subject import Subject

# What golden outputs are allowed at least; and where what is rounded to 8 bits may be rounded the other way on another
# processor (docs/benchmarks.md: 0.003 was seen, and 0.13 of another image).
LEAST = 1e-2
STEP = 5e-2
# Settings that a result does not depend on.
OF_THE_MACHINE = ("data_cache", "data_dir", "threads", "track")


def public(name: str) -> str:
    """Returns the name of a data set or a part as others are told it: of a path its end, not where it lies here."""
    return public_name(name) if Place.of(name) else Path(name).name


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's settings as others are told them: of a path its end, and nothing of this machine."""

    def told(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: told(inner) for key, inner in value.items()}
        return public(value) if isinstance(value, str) and {"/", "\\"} & {*value} else value

    return {key: told(value) for key, value in settings.items() if key not in OF_THE_MACHINE}


def describe(subject: Subject, precision: str, scheme: str | None) -> dict[str, Any]:
    """Returns what is known of a file before it is written: key -> value.

    Args:
        subject: what is exported.
        precision: a name in `ffexport.registry.PRECISIONS`.
        scheme: how it is quantised, or None.
    """
    run, config, model = subject.run, subject.run.config, subject.model
    channels, height, width = run.shape
    borders_NCR = run.samples[0][:, :, ring_of(height, width)].astype(np.float64)
    about: dict[str, Any] = {
        "format": FORMAT,
        "version": version("ffstudy"),
        "image": {"channels": channels, "height": height, "width": width},
        "reading": READING,
        "dataset": public(run.data["name"]),
        **{part: public(config[part]["name"]) for part in ("view", "method", "backbone")},
        **{key: config[key] for key in ("cut", "at")},
        "features": {"blocks": blocks_name(model.blocks), "reading": model.encoder.reading},
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
        about |= {"class_names": list(subject.class_names), "target": subject.target}
    return about


def golden(names: list[str], run: Runner, real: Case, scheme: str | None) -> dict[str, Any]:
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
