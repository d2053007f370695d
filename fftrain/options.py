"""Command-line options made from settings: one dataclass field is an option, its help, its default and its check."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
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
Moved = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="The run's data set, where it is now, as imagefolder:PATH. [default: where it was]",
        show_default=False,
    ),
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


def meanings(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what stands at the end of a command's help: a line for each name of some options, with what it means.

    Args:
        tables: option -> names -> a few words, or a registry's entry.
    """
    parts = []
    for option, names in tables.items():
        width = max(map(len, names)) + 2
        lines = [f"  {name:<{width}}{getattr(about, 'about', about)}" for name, about in names.items()]
        parts.append("\n".join(["\b", f"{option}:", *lines]))
    return "\n\n".join(parts)


def _option(f: Any, hint: Any) -> inspect.Parameter:
    """Returns a setting as a Typer option that is None unless given."""
    text = f.metadata["help"]
    kind = next(k for k in (hint.__args__ if isinstance(hint, types.UnionType) else (hint,)) if k is not type(None))
    legal = DATASETS if f.name == "dataset" else f.metadata["legal"]
    text, *default_words = text.split(" [default: ")  # names stand before the default
    text += f" [{'|'.join(legal)}]" if legal else ""
    text += "".join(f" [default: {words}" for words in default_words)
    name = option_name(f.name)
    default = f.default
    if kind is bool:
        both = (f"--no-{name[2:]}", name)
        default, name = both[f.default], f"{name}/{both[0]}"
    text += f" [default: {default}]" if default is not None else ""
    annotation: Any = Annotated[kind | None, typer.Option(name, help=text, show_default=False)]
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
