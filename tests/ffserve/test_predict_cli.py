"""What `ffserve predict` takes and prints, beside what test_cli.py holds."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffserve import Classifier
from ffserve import stream as stream_module
from ffserve.account import WORDS
from ffserve.table import shown
from tests.helpers import one_line


@pytest.fixture
def made(make_model, tmp_path, monkeypatch):
    """A model whose images have a dark border, in a folder with a tree of images."""
    made = make_model(about=lambda texts: texts.update(border='{"mean": 2, "deviation": 1}'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FFSERVE_MODEL", str(made.path))
    for number, name in enumerate(["in/a.png", "in/b.png", "in/deeper/c.png", "light.png"]):
        pixels = made.drawings(1, seed=number)[0, 0]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels if name == "light.png" else pixels).save(tmp_path / name)
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    return made


def predicted(made, *paths):
    """What the API says of files, as the command rounds it."""
    return [
        [[name, round(value, 6)] for name, value in zip(p.classes, p.probabilities, strict=True)]
        for p in Classifier(made.path).predict(paths)
    ]


def tops(records):
    return [[[entry["class"], entry["probability"]] for entry in record["top"]] for record in records]


def test_folders_patterns_and_files_together(cli, made):
    ended = cli("ffserve", "predict", "in/deeper", "in/[ab]*.png", "light.png", "--json")
    assert ended.code == 1  # for in/bad.png
    found = ended.json["predictions"]
    files = ["in/deeper/c.png", "in/a.png", "in/b.png", "in/bad.png", "light.png"]
    assert [record["file"] for record in found] == files
    good = [record for record in found if "top" in record]
    assert tops(good) == predicted(made, *(record["file"] for record in good))
    assert [record["inverted"] for record in good] == [False, False, False, True]
    errors, notes = ended.err.splitlines()
    assert errors.startswith("ffserve: error: 'in/bad.png' is no image")
    assert notes == "ffserve: note: inverted (--invert no keeps them): 1 ('light.png')"


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_json_lines_and_csv_say_what_json_says(cli, made, batch_size):
    how = ["predict", "in", "light.png", "--batch-size", batch_size, "--top-k", 2]
    whole = cli("ffserve", *how, "--json")
    records = whole.json["predictions"]
    assert whole.json["model"] == str(made.path)
    assert whole.json["device"] == "cpu"
    assert len(records) == 5
    lines = cli("ffserve", *how, "--jsonl")
    assert (lines.code, lines.err) == (whole.code, whole.err) == (1, lines.err)
    assert [json.loads(line) for line in lines.out.splitlines()] == [
        {**record, "model": str(made.path)} for record in records
    ]
    rows = list(csv.DictReader(io.StringIO(cli("ffserve", *how, "--csv").out)))
    for row, record in zip(rows, records, strict=True):
        assert (row["file"], row["model"], row["error"]) == (record["file"], str(made.path), record.get("error", ""))
        for what in WORDS:
            assert row[what] == str(record.get(what, "")).lower()
        for k in range(2):
            entry = record.get("top", [{"class": "", "probability": ""}] * 2)[k]
            assert row[f"class_{k + 1}"] == entry["class"]
            assert row[f"probability_{k + 1}"] == (f"{entry['probability']:.6f}" if "top" in record else "")


def test_csv_holds_any_name(cli, made, tmp_path):
    odd = ["cr\rx.png", "lf\nx.png", "crlf\r\nx.png", 'quote"d.png', "com,ma.png", "plain.png", "\r.png", " x.png"]
    for name in odd:
        os.link(tmp_path / "in" / "a.png", tmp_path / name)
    ended = cli("ffserve", "predict", *odd, "--csv", "--top-k", 1, "--batch-size", 3)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.replace("\r\nx.png", "").count("\r\n") == 0
    rows = list(csv.reader(io.StringIO(ended.out, newline="")))
    assert [row[0] for row in rows] == ["file", *odd]
    assert {len(row) for row in rows} == {5 + len(WORDS)}


def test_what_is_left_out_is_told_once_and_named(cli, made, tmp_path):
    for name in ("in/1.heic", "in/deeper/2.HEIC"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    for name in ("in/notes.txt", "in/deeper/labels.csv", "in/Thumbs.db", "in/.hidden.png", "in/x.json"):
        (tmp_path / name).write_text("x")
    ended = cli("ffserve", "predict", "in", "light.png", "--invert", "no", "--jsonl")
    assert ended.code == 1  # for in/bad.png
    errors, *notes = ended.err.splitlines()
    assert "'in/bad.png'" in errors
    assert notes == [
        "ffserve: note: left out, a HEIC image, which is read after pip install pillow-heif: 2 "
        "('in/1.heic', 'in/deeper/2.HEIC')",
        "ffserve: note: left out, hidden: 1 ('in/.hidden.png')",
        "ffserve: note: left out, no images: 4 ('in/Thumbs.db', 'in/notes.txt', 'in/x.json', ...)",
    ]
    assert len(ended.out.splitlines()) == 5


@pytest.mark.parametrize("name", ["b.jfif", "c.pjpeg", "d.jpg_large", "e.HEIC", "f", "g.txt"])
def test_an_image_is_known_by_its_content(cli, made, tmp_path, name):
    (tmp_path / "odd").mkdir()
    os.link(tmp_path / "in" / "a.png", tmp_path / "odd" / name)
    ended = cli("ffserve", "predict", "odd", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert tops(ended.json["predictions"]) == predicted(made, "in/a.png")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_a_list_of_names(cli, made, tmp_path, monkeypatch, end):
    (tmp_path / "names").write_text(end.join(["in/a.png", "light.png", "gone.png"]) + end, newline="")
    ended = cli("ffserve", "predict", "in/b.png", "--files-from", "names", "--json")
    assert ended.code == 1
    assert "'gone.png' cannot be read" in ended.err
    files = ["in/b.png", "in/a.png", "light.png", "gone.png"]
    assert [record["file"] for record in ended.json["predictions"]] == files
    with open("names", encoding="latin-1") as file:
        monkeypatch.setattr(sys, "stdin", file)
        ended = cli("ffserve", "predict", "--files-from", "-", "--json")
    assert [record["file"] for record in ended.json["predictions"]] == files[1:]
    one_line(cli("ffserve", "predict", "--files-from", "none"), 2, "--files-from none cannot be read")
    one_line(cli("ffserve", "predict"), 2, "name images")


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_images_are_read_at_once_as_threads_were_asked_for(cli, made, monkeypatch, threads):
    workers = []
    inner = stream_module._stream
    monkeypatch.setattr(stream_module, "_stream", lambda *how: workers.append(how[4]) or inner(*how))
    assert cli("ffserve", "predict", "in/a.png", "--threads", threads).code == 0
    assert workers == [threads]


def test_the_table_grows_with_its_batches(cli, made):
    ended = cli("ffserve", "predict", "in", "light.png", "--batch-size", 1, "--top-k", 1)
    lines = ended.out.splitlines()
    assert lines[:2] == [f"model {made.path}", ""]
    assert lines[2].split() == ["file", "class", "probability", "picture"]
    assert [line.split()[0] for line in lines[4:]] == ["in/a.png", "in/b.png", "in/deeper/c.png", "light.png"]
    assert len([line for line in lines if "probability" in line]) == 1


@pytest.mark.parametrize(("invert", "expected"), [("auto", False), ("no", False), ("yes", True)])
def test_invert(cli, made, invert, expected):
    ended = cli("ffserve", "predict", "in/a.png", "--invert", invert, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json["predictions"][0]["inverted"] is expected
    light = cli("ffserve", "predict", "light.png", "--invert", invert, "--json").json["predictions"][0]
    assert light["inverted"] is (invert != "no")
    pixels = np.asarray(Image.open("light.png"))[None]
    (prediction,) = Classifier(made.path).predict([255 - pixels if invert != "no" else pixels], invert="no")
    assert light["top"][0]["class"] == prediction.label


def test_many_inverted_are_counted_and_the_first_named(cli, made, tmp_path):
    for number in range(8):
        os.link(tmp_path / "light.png", tmp_path / "in" / f"light-{number}.png")
    ended = cli("ffserve", "predict", "in/light*", "--json")
    assert ended.code == 0
    names = "'in/light-0.png', 'in/light-1.png', 'in/light-2.png', ..."
    assert ended.err == f"ffserve: note: inverted (--invert no keeps them): 8 ({names})\n"


def test_a_blank_picture_is_said_to_be_blank(cli, make_model, tmp_path):
    for channels in (1, 3):
        made = make_model(shape=(channels, 4, 4))
        path = tmp_path / f"blank-{channels}.png"
        Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(path)
        ended = cli("ffserve", "predict", path, "--model", made.path)
        assert ended.code == 0
        assert ended.err == (
            f"ffserve: note: blank: one colour all over, of which the answer says nothing: 1 ({str(path)!r})\n"
        )
        assert ended.out.splitlines()[4].endswith("  blank")
        assert cli("ffserve", "predict", path, "--model", made.path, "--json").json["predictions"][0]["blank"] is True


def test_a_picture_of_few_bits_is_said_to_be_dim(cli, made, tmp_path):
    Image.fromarray(np.arange(0, 4096, 256, dtype=np.uint16).reshape(4, 4)).save(tmp_path / "deep.png")
    ended = cli("ffserve", "predict", "deep.png", "--json")
    assert "nearly black: 16 bits of which few are used" in ended.err
    assert ended.json["predictions"][0]["dim"] is True


def test_nothing_to_classify(cli, made, tmp_path):
    (tmp_path / "empty").mkdir()
    for given in (["empty"], ["no/*.png"], ["empty", "no.png"]):
        ended = cli("ffserve", "predict", *given)
        assert (ended.code, ended.out) == (1, "")
        assert len(ended.err.splitlines()) == len(given)
        ended = cli("ffserve", "predict", *given, "--json")
        assert [set(record) for record in ended.json["predictions"]] == [{"file", "error"}] * len(given)


def test_an_empty_list_of_names_gives_an_empty_result(cli, made, tmp_path):
    (tmp_path / "list").write_bytes(b"\n")
    note = "ffserve: note: --files-from list holds no names: no image was classified\n"
    whole = cli("ffserve", "predict", "in/a.png", "--csv")
    for form, out in (("--csv", whole.out.splitlines(keepends=True)[0]), ("--jsonl", "")):
        ended = cli("ffserve", "predict", "--files-from", "list", form)
        assert (ended.code, ended.out, ended.err) == (0, out, note)
    ended = cli("ffserve", "predict", "--files-from", "list", "--json")
    assert (ended.code, ended.err, ended.json["predictions"]) == (0, note, [])
    ended = cli("ffserve", "predict", "--files-from", "list")
    assert (ended.code, ended.out, ended.err) == (0, "", note)
    one_line(
        cli("ffserve", "features", "--files-from", "list", "--out", "a.npz"), 1, "no image was named: a.npz is not"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--json", "--csv"], ["--json and --csv exclude each other"]),
        (["--json", "--jsonl", "--csv"], ["--json and --jsonl and --csv"]),
        (["--provider-option", "nonsense"], ["'nonsense' is not KEY=VALUE"]),
        (["--provider-option", "=1"], ["'=1' is not KEY=VALUE"]),
        (["--provider-option", "a=1", "--provider-option", "a=2"], ["a is given twice"]),
        (["--device", "cpu", "--provider-option", "a=1"], ["a is for CUDA"]),
        (["--device", "tpu"], ["tpu"]),
        (["--invert", "maybe"], ["maybe"]),
        (["--batch-size", "0"], ["0"]),
        (["--max-pixels", "0"], ["0"]),
        (["--threads", "0"], ["0"]),
    ],
)
def test_wrong_usage(cli, made, arguments, words):
    ended = cli("ffserve", "predict", "in/a.png", *arguments)
    one_line(ended, 2, *words)
    assert ended.out == ""


def test_max_pixels(cli, made):
    ended = cli("ffserve", "predict", "in/a.png", "--max-pixels", 15)
    one_line(ended, 1, "'in/a.png' has 4x4 pixels: at most 15 are read")
    assert cli("ffserve", "predict", "in/a.png", "--max-pixels", 16).code == 0
    assert cli("ffserve", "predict", "in/a.png", "--max-pixels", 10**12).code == 0


def test_json_is_whole_where_the_model_fails_on_the_way(cli, made, monkeypatch):
    from ffcore.errors import ModelError
    from ffserve.session import Model

    run, calls = Model.run, []

    def fails(self, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise ModelError("it broke")
        return run(self, images)

    monkeypatch.setattr(Model, "run", fails)
    ended = cli("ffserve", "predict", "in/a.png", "in/b.png", "--batch-size", 1, "--json")
    one_line(ended, 1, "it broke")
    assert [record["file"] for record in ended.json["predictions"]] == ["in/a.png"]


def serve(*arguments, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "ffserve", "predict", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how
    )


def test_standard_input(made):
    with serve("-", "-", "--json", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(Path("in/a.png").read_bytes(), timeout=60)
    assert process.returncode == 1
    assert err.decode() == "ffserve: error: '-' is empty (0 bytes)\n"
    first, second = json.loads(out)["predictions"]
    assert tops([first]) == predicted(made, "in/a.png")
    assert (first["file"], second["file"]) == ("-", "-")


def test_a_folder_in_processes_prints_lines_as_they_are_done(made, tmp_path):
    """Bad images among many, and a reader that sees the first lines while others are not there yet."""
    (tmp_path / "many").mkdir()
    for number in range(stream_module.FEW + 200):
        os.link(tmp_path / "in" / ("bad.png" if number % 50 == 7 else "a.png"), tmp_path / "many" / f"{number:04d}.png")
    os.mkfifo(tmp_path / "pipe")
    given = ["in/a.png", "many"]
    with serve(*given, "--jsonl", "--top-k", "1", "--batch-size", "16") as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["file"] for record in records] == [
        "in/a.png",
        *(f"many/{n:04d}.png" for n in range(stream_module.FEW + 200)),
    ]
    bad = [record["file"] for record in records if "error" in record]
    assert bad == [f"many/{n:04d}.png" for n in range(7, stream_module.FEW + 200, 50)]
    assert len(err.splitlines()) == len(bad)
    assert all(record["top"] == records[0]["top"] for record in records if "top" in record)


def test_a_reader_that_leaves_ends_it_quietly(made, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(2000):
        os.link(tmp_path / "in" / "a.png", tmp_path / "many" / f"{number}.png")
    with serve("many", "--jsonl") as process:
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        process.wait(60)
        assert process.returncode == 1
        assert process.stderr.read() == b""


def test_ctrl_c_ends_it_and_its_processes(made, tmp_path):
    import signal

    (tmp_path / "many").mkdir()
    for number in range(4000):
        os.link(tmp_path / "in" / "a.png", tmp_path / "many" / f"{number}.png")
    with serve("many", "--jsonl", start_new_session=True) as process:
        for _ in range(stream_module.FEW + 200):
            process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode() == "ffserve: error: interrupted; nothing half-written is left\n"
    assert not out or out.endswith(b"}\n")
    for _ in range(50):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes are left")


@pytest.mark.parametrize(
    ("text", "seen"),
    [("a b.png", "a b.png"), ("é一", "é一"), ("two\nlines", "two\\nlines"), ("\udcff\x1b[0m", "\\udcff\\x1b[0m")],
)
def test_names_in_a_table_are_one_line(text, seen):
    assert shown(text) == seen
