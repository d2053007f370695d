"""Options that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ffcore.errors import UsageError
from ffserve.notes import note

if TYPE_CHECKING:
    from ffserve.session import Model

MAX_PIXELS = 64_000_000  # as in images.py, which imports Pillow
BATCH_SIZE = 128
PART_IMAGES = 8192  # a multiple of usual batches: they are then those of the plain engine
_MODEL = (
    "An .onnx file, a run folder, or hf://OWNER/NAME[@REVISION][/FILE] for one on the Hugging Face Hub. "
    "[env: FFSERVE_MODEL; default: the MNIST model that ships]"
)


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


class PlaceName(StrEnum):
    """Whether ink is placed as a model's own drawings have it."""

    auto = "auto"
    no = "no"


class EngineName(StrEnum):
    """What does the work."""

    plain = "plain"
    ray = "ray"


class OfRay(NamedTuple):
    """What is asked of Ray."""

    address: str | None = None
    engine_cpus: int | None = None
    sessions: int | None = None
    part_images: int | None = None
    image_column: str | None = None


ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Image files, folders (searched with all below them), patterns ('*.png'), - for standard input.",
        show_default=False,
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        help="A file with the names of images, one a line or with a zero byte behind each; - for standard input.",
        show_default=False,
    ),
]
# Texts, not paths: a path would have one slash of hf:// less.
ModelOption = Annotated[str | None, typer.Option("--model", metavar="PATH", help=_MODEL, show_default=False)]
ModelArgument = Annotated[str | None, typer.Argument(help=_MODEL, show_default=False)]
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
        help="Turn images into their negatives. auto: for a model of drawings take ink off its ground, whichever of "
        "them is the lighter; for other models leave images as they are.",
    ),
]
Place = Annotated[
    PlaceName,
    typer.Option(
        "--place",
        help="auto: where a model's own drawings are all placed alike, cut ink out and place it so.",
    ),
]
MaxPixels = Annotated[int, typer.Option("--max-pixels", help="Larger images are refused before they are read.", min=1)]

Engine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="plain: this process. ray: sessions on this machine or a cluster, images by URL and in Parquet files too, "
        "answers into a folder of Parquet files, one for each part; a part that is there is not done again.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="The Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: Ray on this machine]",
        show_default=False,
    ),
]
EngineCpus = Annotated[
    int | None,
    typer.Option("--engine-cpus", help="CPUs of a session of Ray. [default: --threads, else 1]", min=1, max=256),
]
Answers = Annotated[
    str | None,
    typer.Option("--out", help="With --engine ray: the folder, or its URL, of the answers.", show_default=False),
]
Sessions = Annotated[
    int | None, typer.Option("--sessions", help="Sessions of Ray. [default: as many as there is room for]", min=1)
]
PartImages = Annotated[
    int | None, typer.Option("--part-images", help=f"Images of a part under Ray. [default: {PART_IMAGES}]", min=1)
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        "--image-column", help="Column of images in Parquet files. [default: the only one of bytes]", show_default=False
    ),
]


def of_ray(engine: EngineName, *, out: str | None = None, **given: Any) -> OfRay | None:
    """Returns what is asked of Ray; None where it is not asked.

    Args:
        engine: what does the work.
        out: of a command that has it of Ray alone.
        given: the fields of `OfRay`.

    Raises:
        UsageError: where an option is given without its engine, or Ray is not installed.
    """
    if engine == EngineName.ray:
        from ffcore.cluster import need_ray

        need_ray()
        try:
            import ffserve.parts.command  # noqa: F401
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--engine ray needs {error.name}, which is not installed: run pip install 'ffstudy[ray]'"
            ) from error
        return OfRay(**given)
    for name, value in {"out": out, **given}.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} is of Ray: add --engine ray, or leave it out")
    return None


def images_named(images: Sequence[str] | None, files_from: str | None) -> Iterable[str]:
    """Returns the names that a command is given, as arguments and in a file.

    Raises:
        UsageError: where there are none; where the file cannot be read, as it is read.
    """
    from ffcore.folders import listed

    if not images and files_from is None:
        raise UsageError("name images: files, folders, patterns, - for standard input, or --files-from FILE")
    return chain(images or (), listed(files_from))


def model_named(model: str | None, threads: int | None, device: DeviceName, given: list[str] | None) -> Model:
    """Returns the model that a command's options name, and notes where it does not run where one might think."""
    from ffserve.session import Model, find_model

    loaded = Model(
        find_model(model), threads=threads, device=device, provider_options=provider_options(given), spinning=False
    )
    if loaded.notice:
        note(loaded.notice)
    return loaded


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
