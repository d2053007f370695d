"""How a command ends: results on standard output, one line for an error on standard error, and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage. The commands of training and export end through here too.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

_debug = False
INTERRUPTED = 130


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = _debug or value
    return value


Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug, is_eager=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def app(help: str) -> typer.Typer:
    """Returns an empty Typer app, as all of the project's commands are made."""
    return typer.Typer(help=help, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def show_version(value: bool) -> None:
    """Prints the version and ends."""
    if value:
        from importlib.metadata import version

        typer.echo(f"ffstudy {version('ffstudy')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and end.", callback=show_version, is_eager=True)
]


def run(command: typer.Typer, name: str, extra: str | None = None, bare: tuple[str, ...] = ()) -> NoReturn:
    """Runs a Typer app and exits.

    Args:
        command: the app.
        name: the program's name in messages.
        extra: the optional dependencies that the program needs beside the base ones.
        bare: the arguments of a call without any.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    warnings.filterwarnings("ignore", module="PIL")
    try:
        code = command(sys.argv[1:] or list(bare), standalone_mode=False, prog_name=name)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except ModuleNotFoundError as error:
        if _debug:
            traceback.print_exc()
        wanted = f"'ffstudy[{extra}]'" if extra else error.name
        code = _fail(name, f"{error.name} is not installed: run pip install {wanted}", 1)
    except Exception as error:
        if _debug:
            traceback.print_exc()
        expected = getattr(error, "exit_code", None)
        if expected is None:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            code = _fail(name, f"internal error, {what} (--debug shows where)", 1)
        else:
            text = error.format_message() + _given(error) if hasattr(error, "format_message") else str(error)
            code = _fail(name, text, expected)
    code = code if isinstance(code, int) else 0
    if code == INTERRUPTED:  # Typer turns Ctrl-C into this code
        _fail(name, "interrupted; nothing half-written is left", INTERRUPTED)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the results has left; nothing is to be flushed when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # gloo's threads may outlive the interpreter and abort a process that has done its work (pytorch #190489).
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _given(error: Any) -> str:
    """Returns the value of the option that a usage error is about, as it was typed."""
    names = (*getattr(getattr(error, "param", None), "opts", ()),)
    for option, value in itertools.pairwise(sys.argv):
        if option in names and value not in str(error):
            return f", it is {value!r}"
    return ""


def _fail(name: str, text: str, code: int) -> int:
    """Prints one line. Of several processes of one program, which fail alike, the first speaks."""
    if os.environ.get("RANK", "0") == "0" or text.startswith("internal"):
        print(f"{name}: error: {' '.join(text.split())}", file=sys.stderr)
    return code


def print_result(result: Any, as_json: bool, draw: Callable[[Any], None]) -> None:
    """Prints a result on standard output: as JSON, or as `draw` does."""
    if as_json:
        text = json.dumps(result, indent=2, ensure_ascii=False)
        try:
            text.encode(sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps(result, indent=2)
        print(text)
    else:
        draw(result)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table on standard output, as wide as it needs to be; nothing where it has no rows."""
    if not rows:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out = Console(width=None if sys.stdout.isatty() else 500, highlight=False, soft_wrap=True)
    out.print(Text(title))
    out.print(table)
