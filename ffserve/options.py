"""Options that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ffcore.errors import UsageError

MAX_PIXELS = 64_000_000  # as in images.py, which imports Pillow
BATCH_SIZE = 128
_MODEL = "An .onnx file or a run folder. [env: FFSERVE_MODEL; default: the MNIST model that ships]"


class DeviceName(StrEnum):
    """Where a model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class InvertName(StrEnum):
    """Whether images are turned into their negatives."""

    auto = "auto"
    yes = "yes"
    no = "no"


ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Image files, folders (searched with all below them), patterns ('*.png'), - for standard input.",
        show_default=False,
    ),
]
ModelOption = Annotated[Path | None, typer.Option("--model", help=_MODEL, show_default=False)]
ModelArgument = Annotated[Path | None, typer.Argument(help=_MODEL, show_default=False)]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Images of one run of the model.", min=1, max=65536)]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="CPU threads. [default: all cores]", min=1, max=256, show_default=False),
]
Device = Annotated[
    DeviceName,
    typer.Option("--device", help="auto takes a CUDA GPU where one works; cuda fails where none does."),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option",
        help="KEY=VALUE for the CUDA provider, such as device_id=1; may be given again.",
        show_default=False,
    ),
]
Invert = Annotated[
    InvertName,
    typer.Option(
        "--invert",
        help="Turn images into their negatives: auto does where the border is light and the model's images have a dark "
        "one, or the other way round.",
    ),
]
MaxPixels = Annotated[int, typer.Option("--max-pixels", help="Larger images are refused before they are read.", min=1)]


def provider_options(given: Sequence[str] | None) -> dict[str, str]:
    """Returns KEY=VALUE texts as a mapping.

    Raises:
        UsageError: for a text without `=`, an empty key, or a key given twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--provider-option {text!r} is not KEY=VALUE")
        if key in found:
            raise UsageError(f"--provider-option {key} is given twice")
        found[key] = value
    return found
