"""The command `ffserve doctor`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ffserve import console
from ffserve.console import Debug, Json


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command()(doctor)


def doctor(
    *,
    time_limit: Annotated[float, typer.Option(help="Seconds that each provider may take.", min=0.1)] = 60.0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is installed, what works on this machine, and what mends what does not.

    Each execution provider of ONNX Runtime runs a small model in a process of its own. The exit code is 1 where
    something is broken; what is merely not there, such as a GPU or an extra, is a note.

    \b
    Examples:
      ffserve doctor
      ffserve doctor --json
    """
    from ffserve.doctor import examine

    result = examine(limit=time_limit)
    console.print_result(result, json, _print)
    if not result["ok"]:
        raise typer.Exit(1)


def _lacking(lacks: list[str]) -> str:
    """Returns what an extra lacks, with what is not installed at all named once."""
    absent = [text.removesuffix(" is not installed") for text in lacks if text.endswith(" is not installed")]
    others = [text for text in lacks if not text.endswith(" is not installed")]
    return "; ".join([*([f"not installed: {', '.join(absent)}"] if absent else []), *others]) or "installed"


def _print(result: dict[str, Any]) -> None:
    machine, cuda, model = result["machine"], result["cuda"], result["model"]
    flags = [*(machine["int8_instructions"] or []), *(machine["other_instructions"] or [])]
    quota = "" if machine["cpu_quota"] is None else f", of which {machine['cpu_quota']:g} may be busy"
    console.print_table(
        "this machine",
        ["what", "found"],
        [
            ["CPU", f"{machine['cpu']}: {machine['cores']} cores{quota}, {machine['system']}"],
            ["instructions", ", ".join(flags) or "not known"],
            *([name, text or "not installed"] for name, text in result["versions"].items()),
            *([f"ffstudy[{name}]", _lacking(lacks)] for name, lacks in result["extras"].items()),
        ],
    )
    rows = [
        [name, "works" if found["works"] else "does not", "" if found["works"] else found["error"]]
        for name, found in result["providers"].items()
    ]
    console.print_table("execution providers", ["provider", "a session on it", "why"], rows)
    if cuda:
        rows = [[name, why or "loads"] for name, why in cuda["libraries"].items()]
        console.print_table(
            f"CUDA {result['onnxruntime']['cuda']}",
            ["library", "found"],
            [*rows, ["GPUs", ", ".join(cuda["gpus"]) or "none"]],
        )
    if model:
        rows = [[model["path"] or "none", model["error"] or "computes what it did when it was exported"]]
        console.print_table("model that answers", ["file", "found"], rows)
    if result["ok"]:
        print("ok: models run here")
    for kind in ("problems", "notes"):
        for text in result[kind]:
            print(f"{kind.removesuffix('s')}: {text}")
