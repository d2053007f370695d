"""The command `ffserve http`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ffcore.errors import FFStudyError
from ffserve.console import Debug
from ffserve.options import MAX_PIXELS, Device, DeviceName, MaxPixels, ProviderOption, Threads, provider_options

# Modules of the extra `http`, and the packages that hold them.
NEEDED = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "python_multipart": "python-multipart",
    "orjson": "orjson",
    "prometheus_client": "prometheus-client",
    "grpc": "grpcio",
    "google.protobuf": "protobuf",
}


class LogName(StrEnum):
    """How requests are logged."""

    json = "json"
    text = "text"
    off = "off"


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command()(http)


def http(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME=FILE",
            help="An .onnx file, a run folder or hf://OWNER/NAME, and what it is called; may be given again. "
            "[env: FFSERVE_MODEL; default: the MNIST model that ships]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 or :: for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of HTTP; 0 takes a free one.", min=0, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Of gRPC; 0 takes a free one.", min=0, max=65535)] = 8001,
    grpc: Annotated[bool, typer.Option("--grpc/--no-grpc", help="Whether gRPC is served.")] = True,
    max_batch: Annotated[int, typer.Option(help="Images of a run: requests that wait together.", min=1, max=1024)] = 64,
    max_delay_ms: Annotated[
        float, typer.Option(help="Milliseconds that a request waits for others while nothing runs.", min=0, max=1000)
    ] = 0.0,
    max_body_mib: Annotated[int, typer.Option(help="MiB of a request; larger ones are refused.", min=1, max=1024)] = 32,
    threads: Threads = None,
    device: Device = DeviceName.auto,
    provider_option: ProviderOption = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    watch: Annotated[bool, typer.Option("--watch", help="Take up model files that are renamed into place.")] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the token that clients must show (Authorization: Bearer).", show_default=False),
    ] = None,
    log: Annotated[LogName, typer.Option(help="What is written of each request, on standard error.")] = LogName.json,
    debug: Debug = False,
) -> None:
    """Serve models over HTTP and gRPC, with a page to try them.

    REST and gRPC are the Open Inference Protocol, version 2, as Triton and KServe speak it; POST /v1/predict takes
    image files and answers as `ffserve predict` does; / is a page; /metrics is for Prometheus, /openapi.json for tools.
    SIGTERM and Ctrl-C let requests end that have begun.

    \b
    Examples:
      ffserve http
      ffserve http --model digits=runs/ff-rot --model small=runs/ff-rot/export/model.int8.onnx --watch
      ffserve http --host 0.0.0.0 --token-file token.txt --max-batch 128
      curl -s -F file=@digit.png http://127.0.0.1:8000/v1/predict
    """
    if missing := [package for module, package in NEEDED.items() if not _is_there(module)]:
        raise FFStudyError(f"ffserve http needs {', '.join(missing)}: run pip install {' '.join(missing)}")
    from ffserve.http.server import Place, serve
    from ffserve.http.service import Service, Settings, named

    settings = Settings(
        threads=threads,
        device=device,
        provider_options=provider_options(provider_option),
        most=max_batch,
        delay=max_delay_ms / 1000,
        max_pixels=max_pixels,
    )
    place = Place(
        host=host,
        port=port,
        grpc_port=grpc_port if grpc else None,
        token_file=token_file,
        body=max_body_mib * 2**20,
        watch=watch,
        log=log,
    )
    serve(lambda: Service(named(model or []), settings), place)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what is above it
        return False
