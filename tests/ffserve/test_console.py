"""How commands end, what their help says, and tables in terminals of any width."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import typer
from PIL import Image

from ffcore.errors import SettingError
from ffserve import cli as cli_module
from ffserve import console, table

FFSERVE = [sys.executable, "-m", "ffserve"]


@pytest.fixture(autouse=True)
def model(make_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FFSERVE_MODEL", str(make_model().path))
    monkeypatch.chdir(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")


def sh(line, **how):
    """Runs a line of the shell, in which $F is `ffserve`."""
    environment = {**os.environ, "F": f"{sys.executable} -m ffserve"}
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=environment, check=False, **how)


FULL = "standard output cannot be written: no space left on device"
CLOSED = "standard output cannot be written: bad file descriptor"
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("$F predict a.png > /dev/full", FULL, marks=full),
        pytest.param("$F predict a.png --json > /dev/full", FULL, marks=full),
        pytest.param("$F predict a.png a.png --csv --batch-size 1 > /dev/full", FULL, marks=full),
        pytest.param("$F info > /dev/full", FULL, marks=full),
        pytest.param("$F --version > /dev/full", FULL, marks=full),
        ("$F predict a.png --jsonl >&-", CLOSED),
        ("$F predict - <&-", "standard input is closed"),
        ("$F predict no.png >&- <&-", "'no.png' cannot be read: no such file or directory"),
    ],
)
def test_streams_that_are_full_or_closed_are_one_line(line, words):
    ended = sh(line)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"ffserve: error: {words}\n"


def test_standard_error_may_be_closed():
    ended = sh("$F predict a.png no.png --jsonl 2>&-")
    assert ended.returncode == 1
    assert [json.loads(line)["file"] for line in ended.stdout.splitlines()] == ["a.png", "no.png"]
    assert sh("$F features a.png --out a.npz <&- 2>&-").returncode == 0
    assert os.path.getsize("a.npz")


@full
def test_standard_error_may_be_full():
    ended = sh("$F predict no.png 2>/dev/full")
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize("by", [signal.SIGINT, *console.ENDING])
def test_a_command_that_is_asked_to_end_leaves_nothing(tmp_path, by):
    (tmp_path / "many").mkdir()
    for number in range(4000):
        os.link(tmp_path / "a.png", tmp_path / "many" / f"{number}.png")
    (tmp_path / "out").mkdir()
    line = [*FFSERVE, "features", *["many"] * 50, "--out", "out/f.npz"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not os.listdir("out"):
            time.sleep(0.01)
        os.killpg(process.pid, by)
        out, err = process.communicate(timeout=60)
    word = "interrupted" if by == signal.SIGINT else "terminated"
    assert (process.returncode, out) == (128 + by, b"")
    assert err.decode() == f"ffserve: error: {word}; nothing half-written is left\n"
    assert os.listdir("out") == []


def program(error):
    def main():
        raise error

    app = console.app("A program.")
    app.command()(main)
    return app


@pytest.mark.parametrize(
    ("missing", "extra", "wanted"),
    [
        ("sklearn", None, "sklearn is not installed: run pip install scikit-learn"),
        ("sklearn.linear_model", None, "sklearn is not installed: run pip install scikit-learn"),
        ("matplotlib", None, "matplotlib is not installed: run pip install matplotlib"),
        ("torch", "train", "torch is not installed: run pip install 'ffstudy[train]'"),
    ],
)
def test_a_missing_package_is_named(missing, extra, wanted, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ffx"])
    with pytest.raises(SystemExit) as end:
        console.run(program(ModuleNotFoundError(name=missing)), "ffx", extra=extra)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"ffx: error: {wanted}\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.01 GiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 9 MiB"),
        OSError(12, "Cannot allocate memory"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_one_line_with_what_mends_it(error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ffx"])
    with pytest.raises(SystemExit) as end:
        console.run(program(error), "ffx", memory="use less")
    assert end.value.code == 1
    said = f" ({error})" if str(error) else ""
    assert capsys.readouterr().err == f"ffx: error: there is not enough memory{said}: use less\n"


def test_what_says_memory_in_an_error_that_is_expected_is_that_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ffx"])
    with pytest.raises(SystemExit) as end:
        console.run(program(SettingError("--name is 'out of memory'")), "ffx")
    assert (end.value.code, capsys.readouterr().err) == (2, "ffx: error: --name is 'out of memory'\n")


def test_no_command_that_serves_tells_to_install_an_extra_with_a_runtime(monkeypatch):
    given, before = {}, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(console, "run", lambda app, name, **how: given.update(how))
    cli_module.main()
    assert given == {"bare": ("--help",)}
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_help_names_commands_in_order_and_cuts_nothing(cli):
    ended = cli("ffserve", "--help")
    lines = ended.out.partition("Commands:\n")[2].splitlines()
    names = [line.split()[0] for line in lines if line[2] != " "]
    assert names == ["predict", "features", "evaluate", "compare", "http", "info", "doctor"]
    assert "..." not in ended.out.partition("Commands:\n")[2]
    assert "  compare   Measure models side by side" in ended.out
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", ["predict", "features", "evaluate", "compare", "http", "info", "doctor"])
def test_the_help_names_no_type_of_python(cli, command):
    ended = cli("ffserve", command, "--help")
    assert ended.code == 0
    for word in ("list[", "range>", "<int", "<str", "<path", "<Path", "<float", "None"):
        assert word not in ended.out


def test_the_helps_words(cli):
    text = cli("ffserve", "predict", "--help").out
    for words in ("--model PATH ", "--top-k N ", "--invert <auto|yes|no> ", "--provider-option TEXT ", "images...  "):
        assert words in text


TITLE = "what was measured"
COLUMNS = ["model", "size in bytes", "what went wrong"]
ROWS = [
    ["model.int8.onnx", "4,596", ""],
    ["model.onnx", "17,000", "it is damaged: " + "why " * 12 + "that is"],
    ["漢字.onnx", "1", "no"],
]


def printed(monkeypatch, capsys, wide, columns=COLUMNS, rows=ROWS):
    """Returns what a table is in a terminal of a width, or in a pipe (None)."""
    monkeypatch.setenv("COLUMNS", str(wide or 80))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: wide is not None, raising=False)
    console.print_table(TITLE, columns, rows)
    out = capsys.readouterr().out
    assert not any(line.endswith(" ") for line in out.splitlines())
    assert out.startswith(f"{TITLE}\n\n")
    assert out.endswith("\n\n")
    return out.splitlines()[2:-1]


@pytest.mark.parametrize("wide", [None, 120])
def test_a_table_is_as_wide_as_it_needs_to_be(monkeypatch, capsys, wide):
    heading, rule, *rows = printed(monkeypatch, capsys, wide)
    assert heading == "model            size in bytes  what went wrong"
    assert rule.split() == ["─" * 15, "─" * 13, "─" * 60]
    assert rows == [
        "model.int8.onnx  4,596",
        f"model.onnx       17,000         {ROWS[1][2]}",
        "漢字.onnx        1              no",
    ]


def test_in_a_narrow_terminal_a_row_is_a_record(monkeypatch, capsys):
    lines = printed(monkeypatch, capsys, 80)
    assert max(map(table.width, lines)) <= 80
    assert lines[:4] == ["model model.int8.onnx", "  size in bytes    4,596", "", "model model.onnx"]
    assert lines[5].startswith("  what went wrong  it is damaged: why")
    assert lines[6].startswith(" " * 19 + "why")
    assert " ".join(" ".join(lines[5:7]).split()) == f"what went wrong {ROWS[1][2]}"
    assert lines[-3:] == ["model 漢字.onnx", "  size in bytes    1", "  what went wrong  no"]


@pytest.mark.parametrize("wide", [5, 17, 30, 80, 117, 118])
def test_nothing_is_cut_at_any_width(monkeypatch, capsys, wide):
    text = " ".join(" ".join(printed(monkeypatch, capsys, wide)).split())
    for row in ROWS:
        for cell in row:
            assert cell in text


def test_of_two_columns_the_second_is_broken(monkeypatch, capsys):
    value = "word " * 30 + "end"
    heading, rule, *rows = printed(monkeypatch, capsys, 40, ["what", "value"], [["a", value], ["longer", "1"]])
    assert (heading, rule) == ("what    value", "──────  " + "─" * 32)
    assert rows[-1] == "longer  1"
    assert max(map(len, rows)) <= 40
    assert " ".join(" ".join(rows[:-1]).split()) == f"a {value}"


def test_names_cannot_break_a_table_or_reach_the_terminal(capsys):
    console.print_table("t\n\x1b[31m", ["a\nb"], [["\x1b[31mred\r\n"]])
    assert capsys.readouterr().out == "t\\n\\x1b[31m\n\na\\nb\n" + "─" * 15 + "\n\\x1b[31mred\\r\\n\n\n"


def test_a_table_without_rows_is_nothing(capsys):
    console.print_table(TITLE, COLUMNS, [])
    assert capsys.readouterr().out == ""


def test_json_has_no_number_that_json_does_not_have(capsys):
    console.print_result({"a": [1.5, float("nan")], "b": {"c": float("inf")}}, True, print)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"a": [1.5, None], "b": {"c": None}}


def test_the_program_has_one_name_for_each_command():
    group = typer.main.get_command(cli_module.app)
    assert set(group.commands) == set(cli_module._ORDER)
