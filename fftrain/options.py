"""Command-line options made from settings: one dataclass field is an option, its help, its default and its check."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fftrain.config import Settings, option_name
from fftrain.registry import DATASETS

RunArgument = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Processes = Annotated[
    int | None, typer.Option(help="Fail unless so many processes work together.", min=1, show_default=False)
]


def options_of(settings: type[Settings], *, leave_out: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Gives a command one option for each setting, with its help, default and legal values.

    The command takes them as keyword arguments; those that were not given are None.
    """

    def decorate(command: Any) -> Any:
        hints = get_type_hints(settings)
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [_option(f, hints[f.name]) for f in fields(settings) if f.name not in leave_out]
        command.__signature__ = inspect.Signature([*own, *added])
        command.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return command

    return decorate


def _option(f: Any, hint: Any) -> inspect.Parameter:
    """Returns a setting as a Typer option that is None unless given."""
    text = f.metadata["help"]
    kind = next(k for k in (hint.__args__ if isinstance(hint, types.UnionType) else (hint,)) if k is not type(None))
    legal = DATASETS if f.name == "dataset" else f.metadata["legal"]
    text += f" [{'|'.join(legal)}]" if legal else ""
    text += f" [default: {f.default}]" if f.default is not None and kind is not bool else ""
    name = option_name(f.name)
    name += f"/--no-{name[2:]}" if kind is bool else ""
    annotation: Any = Annotated[kind | None, typer.Option(name, help=text, show_default=False)]
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
