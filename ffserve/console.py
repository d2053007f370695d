"""How a command ends: results on standard output, one line for an error on standard error, and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage. The commands of training and export end through here too.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ffcore.errors import FFStudyError, is_out_of_memory
from ffserve.table import lines, shown

_debug = False
INTERRUPTED = 130
# What asks a command to end: batch systems send TERM, USR1 or USR2 before they take the machine away, and a terminal
# that is closed sends HUP. Windows has TERM alone.
_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
ENDING = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
# What mends a lack of memory in every program.
SAVE_MEMORY = "free some, or use fewer or smaller images"
# Seconds that another of several processes leaves the first to say why they fail.
SPEAKING = 5.0
# Packages whose name is not that of their module.
_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn"}
# What help calls Python's types.
_KINDS = {"int": "N", "float": "X", "str": "TEXT", "path": "PATH", "Path": "PATH", "file": "PATH", "directory": "PATH"}


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = _debug or value
    return value


Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_set_debug, is_eager=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class _Commands(TyperGroup):
    """A program whose help says the whole of each command's first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = {name: self.commands[name] for name in self.list_commands(ctx) if not self.commands[name].hidden}
        rows = [(name, command.get_short_help_str(1000)) for name, command in shown.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def app(help: str) -> typer.Typer:
    """Returns an empty Typer app, as all of the project's commands are made."""
    return typer.Typer(
        cls=_Commands,
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"max_content_width": 120},
    )


def show_version(value: bool) -> None:
    """Prints the version and ends."""
    if value:
        from importlib.metadata import version

        put(f"ffstudy {version('ffstudy')}\n")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and end.", callback=show_version, is_eager=True)
]


class Stopped(SystemExit):
    """A signal asks the command to end: exit code 128 + its number."""


@contextmanager
def unwinding() -> Iterator[None]:
    """Lets the signals that ask a command to end unwind the block, so that what is half written is cleared up.

    One that is ignored stays so (nohup), and while the block unwinds all are. Of several processes each ends at once:
    one that waits for the others could not answer.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    taken = [number for number in ENDING if alone and signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(128 + number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def run(
    command: typer.Typer, name: str, extra: str | None = None, bare: tuple[str, ...] = (), memory: str = SAVE_MEMORY
) -> NoReturn:
    """Runs a Typer app, `unwinding`, and exits.

    Args:
        command: the app.
        name: the program's name in messages.
        extra: the optional dependencies that hold every package that the program may lack; without one, what is
            missing is named itself: pip would bring a second ONNX Runtime along with an extra.
        bare: the arguments of a call without any.
        memory: what mends a lack of memory.
    """
    with unwinding():
        _end(name, _code(command, name, extra, bare, memory))


def _code(command: typer.Typer, name: str, extra: str | None, bare: tuple[str, ...], memory: str) -> int:
    """Runs a Typer app, says what went wrong, and returns the exit code."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    warnings.filterwarnings("ignore", module="PIL")
    try:
        code = _program(command)(sys.argv[1:] or list(bare), standalone_mode=False, prog_name=name)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code
    except ModuleNotFoundError as error:
        if _debug:
            traceback.print_exc()
        module = (error.name or "").partition(".")[0]
        wanted = f"'ffstudy[{extra}]'" if extra else _PACKAGES.get(module, module)
        code = _fail(name, f"{module} is not installed: run pip install {wanted}", 1)
    except Exception as error:
        if _debug:
            traceback.print_exc()
        expected = getattr(error, "exit_code", None)
        if is_out_of_memory(error):
            code = _fail(name, f"there is not enough memory{f' ({error})' if str(error) else ''}: {memory}", 1)
        elif expected is None:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            code = _fail(name, f"internal error, {what} (--debug shows where)", 1)
        else:
            text = error.format_message() + _given(error) if hasattr(error, "format_message") else str(error)
            code = _fail(name, text, expected)
    return code if isinstance(code, int) else 0


def _end(name: str, code: int) -> NoReturn:
    """Says what stopped a program, if anything did, writes what its streams hold, and exits."""
    if code == INTERRUPTED:  # Typer turns Ctrl-C into this code
        _fail(name, "interrupted; nothing half-written is left", code)
    elif code in [128 + number for number in ENDING]:
        _fail(name, "terminated; nothing half-written is left", code)
    try:
        sys.stdout.flush()
    except OSError as error:
        if not code and not isinstance(error, BrokenPipeError):  # where whoever read the results has left
            _fail(name, _unwritten(error), 1)
        _give_up(sys.stdout)
        code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        if code and not _speaks():  # the launcher ends all as soon as one has ended, and the first has to speak
            time.sleep(SPEAKING)
        # gloo's threads may outlive the interpreter and abort a process that has done its work (pytorch #190489).
        os._exit(code)
    sys.exit(code)


def _give_up(stream: Any) -> None:
    """Lets what a stream still holds go nowhere, so that the interpreter's end does not fail on it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_what_is_closed() -> None:
    """Takes the places of standard streams that are closed, which the next file would get.

    What is read or written there fails, but for standard error: nobody looks at it.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_WRONLY)
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def _program(command: typer.Typer) -> Any:
    """Returns an app as a program whose help says what an option takes, and not Python's types."""
    program: Any = typer.main.get_command(command)
    for each in (program, *getattr(program, "commands", {}).values()):
        for parameter in each.params:
            if hasattr(parameter, "display_type"):  # older releases of Typer say TEXT and PATH themselves
                parameter.display_type = _display_type(parameter)
    return program


def _display_type(parameter: Any) -> Callable[[Any], str]:
    by_typer: Callable[[Any], str] = parameter.display_type

    def display_type(ctx: Any) -> str:
        text = by_typer(ctx)
        kind = text.strip("<>").removeprefix("list[").removesuffix("]").removesuffix(" range")
        if parameter.param_type_name == "argument":
            return text if "|" in kind else ""
        return _KINDS.get(kind, text)

    return display_type


def _given(error: Any) -> str:
    """Returns the value of the option that a usage error is about, as it was typed."""
    names = (*getattr(getattr(error, "param", None), "opts", ()),)
    for option, value in itertools.pairwise(sys.argv):
        if option in names and value not in str(error):
            return f", it is {value!r}"
    return ""


def _speaks() -> bool:
    """Whether this is the first of several processes, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _fail(name: str, text: str, code: int) -> int:
    """Prints one line. Of several processes of one program, which fail alike, the first speaks."""
    if _speaks() or text.startswith("internal"):
        with suppress(OSError):  # there is nowhere else to say it
            print(f"{name}: error: {' '.join(text.split())}", file=sys.stderr)
    return code


def put(text: str) -> None:
    """Writes results on standard output, and hands them over at once.

    Raises:
        FFStudyError: where it cannot be written.
        BrokenPipeError: where whoever read it has left.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FFStudyError(_unwritten(error)) from error


def _unwritten(error: OSError) -> str:
    return f"standard output cannot be written: {(error.strerror or str(error)).lower()}"


def print_result(result: Any, as_json: bool, draw: Callable[[Any], None]) -> None:
    """Prints a result on standard output: as JSON, or as `draw` does."""
    if not as_json:
        draw(result)
        return
    try:
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        result = _finite(result)
        text = json.dumps(result, indent=2, ensure_ascii=False)
    put((text if _can_show(text) else json.dumps(result, indent=2)) + "\n")


def _finite(value: Any) -> Any:
    """Returns a value with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def print_records(title: str, records: Sequence[Mapping[str, str]], nothing: Collection[str] = ("",)) -> None:
    """Prints records of the same keys as a table, without the columns in which none has more than `nothing`."""
    columns = [name for name in (records[0] if records else ()) if any(row[name] not in nothing for row in records)]
    print_table(title, columns, [[row[name] for name in columns] for row in records])


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table on standard output, as wide as it needs to be; nothing where it has no rows.

    In a terminal that is narrower nothing is cut, see `ffserve.table.lines`.
    """
    if rows:
        room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
        text = "\n".join((shown(title), "", *lines(columns, rows, room, line="─" if _can_show("─") else "-"), "\n"))
        put(text)
