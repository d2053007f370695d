"""Command-line options made from settings: one field is an option, its help, its default and its check."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from ffcore.errors import SettingError
from ffcore.plugins import trust
from ffcore.settings import Settings
from fftrain.parts import DATASETS, PARTS

# Options of version 0.1 -> what is written instead.
GONE = {
    "task": "--view {}",
    "width": "backbone.width={}",
    "depth": "backbone.depth={}",
    "normalisation": "backbone.between={}",
    "goodness": "method.goodness={}",
    "threshold": "method.threshold={}",
    "slot": "--reading {}",
}

RunArgument = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Processes = Annotated[
    int | None, typer.Option(help="Fail unless so many processes work together.", min=1, show_default=False)
]


def _trusted(names: list[str] | None) -> list[str] | None:
    """Lets code outside the package be run that a person named."""
    for name in names or ():
        trust(name)
    return names


Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-plugin",
        metavar="NAME",
        help="Run this code outside the package, as a run names it.",
        callback=_trusted,
        show_default=False,
    ),
]


def options_of(settings: type[Settings], *, leave_out: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Gives a command one option for each setting that is no part, with its help, default and legal values.

    The command takes them as keyword arguments; those that were not given are None. Options of earlier versions are
    taken too, unseen, and refused by `without_gone`.
    """

    def decorate(command: Any) -> Any:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = [name for name in settings.model_fields if name not in (*leave_out, *PARTS, "evaluation")]
        added = [_option(name, settings.model_fields[name]) for name in names]
        taken = {*(p.name for p in own), *names}
        added += [_gone(name) for name in GONE if name not in taken]
        command.__signature__ = inspect.Signature([*own, *added])
        command.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        return command

    return decorate


def without_gone(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that were given. Raises SettingError for one of version 0.1: it names its successor."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name in GONE:
            raise SettingError(f"--{name} is gone: write {GONE[name].format(given[name])}")
    return given


def meanings(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what stands at the end of a command's help: a line for each name of some options, with what it means.

    Args:
        tables: option -> names -> a few words.
    """
    parts = []
    for option, names in tables.items():
        width = max(map(len, names)) + 2
        lines = [f"  {name:<{width}}{about}" for name, about in names.items()]
        parts.append("\n".join(["\b", f"{option}:", *lines]))
    return "\n\n".join(parts)


def _option(name: str, field: Any) -> inspect.Parameter:
    """Returns a setting as a Typer option that is None unless given."""
    text = field.description or ""
    kinds = [k for k in (get_args(field.annotation) or (field.annotation,)) if k is not type(None)]
    if get_origin(kinds[0]) is Literal:
        kinds = [value for kind in kinds for value in get_args(kind)]
    legal = DATASETS if name == "dataset" else [value for value in kinds if isinstance(value, str)]
    many = get_origin(kinds[0]) is tuple
    kind = str if legal or many else kinds[0]
    text, *default_words = text.split(" [default: ")  # names stand before the default
    text += f" [{'|'.join(legal)}]" if legal else ""
    text += "".join(f" [default: {words}" for words in default_words)
    option = "--" + name.replace("_", "-")
    default = field.default
    if kind is bool:
        both = (f"--no-{option[2:]}", option)
        default, option = both[default], f"{option}/{both[0]}"
    text += f" [default: {default}]" if default is not None else ""
    read: dict[str, Any] = {"parser": _numbers, "metavar": "N,N..."} if many else {}
    annotation: Any = Annotated[kind | None, typer.Option(option, help=text, show_default=False, **read)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _numbers(text: str) -> Any:
    """Returns numbers that have commas between them."""
    try:
        return tomllib.loads(f"value = [{text}]")["value"]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: write numbers with commas between them") from error


def _gone(name: str) -> inspect.Parameter:
    annotation: Any = Annotated[str | None, typer.Option(f"--{name}", hidden=True)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
