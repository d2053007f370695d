"""The commands as they are typed: what they print where, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ffserve import predict as predict_module
from ffserve import reading
from ffserve import session as session_module
from ffserve.session import Model


@pytest.fixture
def images(tmp_path):
    """Three readable files, and one that is not."""
    paths = [tmp_path / name for name in ("a.png", "b c.png", "dé.png")]
    for seed, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7), dtype=np.uint8)).save(path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    return [*map(str, paths), str(tmp_path / "bad.png")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Runs each test in an empty folder, with no model named."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("FFSERVE_MODEL", raising=False)
    monkeypatch.setattr(session_module, "BUNDLED", tmp_path / "none.onnx")


def failed(ended, code, *words):
    """Checks that a command printed one line on standard error and nothing on standard output."""
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.startswith("ffserve: error: ")
    assert ended.err.endswith("\n")
    assert len(ended.err.splitlines()) == 1
    assert "internal error" not in ended.err
    for word in words:
        assert word in ended.err


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ffserve", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_predict_json(cli, make_model, images):
    made = make_model()
    ended = cli("ffserve", "predict", "--model", made.path, "--json", *images[:3])
    assert (ended.code, ended.err) == (0, "")
    result = json.loads(ended.out)
    assert result["model"] == str(made.path)
    assert [found["file"] for found in result["predictions"]] == images[:3]
    classifier = predict_module.Classifier(made.path)
    for found, expected in zip(result["predictions"], classifier.predict(images[:3]), strict=True):
        assert [entry["class"] for entry in found["top"]] == list(expected.classes)
        np.testing.assert_allclose([entry["probability"] for entry in found["top"]], expected.probabilities, atol=1e-6)


def test_predict_table(cli, make_model, images):
    made = make_model()
    ended = cli("ffserve", "predict", "--model", made.path, "--top-k", 2, *images[:3])
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == f"model {made.path}"
    rows = [line for line in lines if any(name in line for name in made.classes)]
    assert len(rows) == 6
    for i, prediction in enumerate(predict_module.Classifier(made.path).predict(images[:3])):
        assert rows[2 * i].split() == [*images[i].split(), prediction.label, f"{prediction.probabilities[0]:.4f}"]
        assert rows[2 * i + 1].split()[0] == prediction.classes[1]


def test_a_bad_file_is_named_and_the_others_are_done(cli, make_model, images, tmp_path):
    made = make_model()
    missing = str(tmp_path / "missing.png")
    given = [images[3], images[0], missing, images[1]]
    ended = cli("ffserve", "predict", "--model", made.path, "--json", *given)
    assert ended.code == 1
    found = json.loads(ended.out)["predictions"]
    assert [entry["file"] for entry in found] == given
    assert ["error" in entry for entry in found] == [True, False, True, False]
    bad, gone = ended.err.splitlines()
    assert bad.startswith(f"ffserve: error: {images[3]!r} is no image but a text file")
    assert gone == f"ffserve: error: {missing!r} cannot be read: no such file or directory"
    table = cli("ffserve", "predict", "--model", made.path, *given)
    assert (table.code, table.err) == (1, ended.err)
    assert images[0] in table.out
    assert images[3] not in table.out


def test_the_model_is_named_by_option_then_environment_else_it_is_the_one_that_ships(
    cli, make_model, images, tmp_path, monkeypatch
):
    for name in ("environment", "option"):
        make_model(f"work/runs/{name}/export/model.onnx")
    shipped = make_model("shipped.onnx").path
    monkeypatch.setattr(session_module, "BUNDLED", shipped)

    def used(*arguments):
        return json.loads(cli("ffserve", "predict", "--json", images[0], *arguments).out)["model"]

    assert used() == str(shipped)
    monkeypatch.setenv("FFSERVE_MODEL", "runs/environment")
    assert used() == "runs/environment/export/model.onnx"
    assert used("--model", "runs/option") == "runs/option/export/model.onnx"
    assert json.loads(cli("ffserve", "info", "--json").out)["model"] == "runs/environment/export/model.onnx"


def test_info(cli, make_model):
    made = make_model(shape=(3, 5, 2))
    ended = cli("ffserve", "info", made.path, "--json")
    assert (ended.code, ended.err) == (0, "")
    result = json.loads(ended.out)
    shown = {key: value for key, value in Model(made.path).about.values.items() if key != "golden"}
    ends = {
        "inputs": ["images uint8 [batch, 3, 5, 2]"],
        "outputs": ["features float32 [batch, 30]", "logits float32 [batch, 3]", "probabilities float32 [batch, 3]"],
    }
    assert result == {"model": str(made.path), "bytes": made.path.stat().st_size, **ends, **shown}
    ended = cli("ffserve", "info", made.path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[0] == str(made.path)
    for words in ("zero, one, two", "channels 3, height 5, width 2", "validation 0.5000", "handmade"):
        assert words in ended.out
    assert "golden" not in ended.out


def test_info_shows_a_model_without_a_probe_and_predict_says_what_mends_it(cli, make_model, images):
    made = make_model(classes=None)
    assert "class_names" not in json.loads(cli("ffserve", "info", made.path, "--json").out)
    failed(cli("ffserve", "predict", "--model", made.path, images[0]), 1, str(made.path), "ffexport RUN")


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_what_the_user_can_mend_is_one_line(cli, make_model, images, tmp_path, json_option):
    damaged = make_model("damaged.onnx", about=lambda texts: texts.update(format="2")).path

    def predict(*arguments):
        return cli("ffserve", "predict", images[0], *arguments, *json_option)

    failed(predict(), 1, "the model that ships is missing from this installation", "--model", "FFSERVE_MODEL")
    failed(predict("--model", "no.onnx"), 1, "--model no.onnx does not exist")
    failed(predict("--model", "no\nsuch\nmodel.onnx"), 1, "--model no such model.onnx does not exist")
    failed(predict("--model", "."), 1, "--model . is a folder without", "ffexport")
    failed(predict("--model", images[3]), 1, images[3], "no ONNX model")
    failed(predict("--model", damaged), 1, str(damaged), "format 2")
    failed(cli("ffserve", "info", "no.onnx", *json_option), 1, "no.onnx does not exist")
    failed(cli("ffserve", "info", damaged, *json_option), 1, str(damaged), "format 2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["predict"], "images"),
        (["predict", "a.png", "--nonsense"], "--nonsense"),
        (["predict", "a.png", "--top-k", "0"], "'0'"),
        (["predict", "a.png", "--top-k", "many"], "--top-k"),
        (["predict", "a.png", "--top-k", "many"], "'many'"),
        (["predict", "a.png", "--threads", "0"], "--threads"),
        (["predict", "a.png", "--threads", "100000"], "--threads"),
        (["info", "a", "b"], "b"),
    ],
)
def test_wrong_usage_is_one_line_and_ends_with_code_2(cli, arguments, words):
    failed(cli("ffserve", *arguments), 2, words)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_no_arguments_print_the_help(cli, arguments):
    ended = cli("ffserve", *arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Usage: ffserve")
    assert "predict" in ended.out
    assert "info" in ended.out


def test_version(cli):
    from importlib.metadata import version

    assert cli("ffserve", "--version").out == f"ffstudy {version('ffstudy')}\n"


def test_an_unexpected_error_is_one_line_that_says_where_to_look(cli, make_model, images, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(reading, "read_picture", broken)
    ended = cli("ffserve", "predict", "--model", make_model().path, images[0])
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "ffserve: error: internal error, ZeroDivisionError: two lines (--debug shows where)\n"


def test_ctrl_c_ends_with_code_130_and_no_traceback(cli, make_model, images, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "read_picture", interrupted)
    ended = cli("ffserve", "predict", "--model", make_model().path, images[0])
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["predict", "a.png", "--model", "no.onnx"], 1, "ModelNotFound"),
        (["predict", "a.png", "--top-k", "0"], 2, "BadParameter"),
        (["info", "no.onnx"], 1, "ModelNotFound"),
    ],
)
def test_debug_shows_the_traceback_and_keeps_the_code(arguments, code, kind):
    ended = shell(*arguments, "--debug")
    assert ended.returncode == code
    assert ended.stdout == b""
    assert b"Traceback (most recent call last)" in ended.stderr
    assert kind.encode() in ended.stderr


def test_debug_shows_the_traceback_of_a_bad_image(make_model, images):
    ended = shell("predict", "--model", make_model().path, images[3], "--debug")
    assert ended.returncode == 1
    assert b"UnidentifiedImageError" in ended.stderr


def test_the_command_as_a_program(make_model, images):
    made = make_model()
    ended = shell("predict", "--model", made.path, "--json", *images)
    assert ended.returncode == 1
    assert [len(found.get("top", [])) for found in json.loads(ended.stdout)["predictions"]] == [3, 3, 3, 0]
    assert len(ended.stderr.splitlines()) == 1
    ended = shell("info", FFSERVE_MODEL=str(made.path))
    assert (ended.returncode, ended.stderr) == (0, b"")
    ended = shell("predict", images[0], FFSERVE_MODEL="nowhere.onnx")
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape", "ascii", "latin-1"])
def test_names_that_the_terminal_cannot_show(make_model, images, tmp_path, encoding):
    made = make_model(classes=("zéro", "一", "two"))
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.png")
    os.link(images[0], odd)
    ended = shell("predict", "--model", made.path, "--json", odd, PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")
    result = json.loads(ended.stdout.decode(encoding.split(":")[0]))["predictions"][0]
    assert result["file"] == odd
    assert {entry["class"] for entry in result["top"]} == set(made.classes)
    ended = shell("predict", "--model", made.path, odd, PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_reader_that_leaves_is_no_error(make_model):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "ffserve", "info", "--json", make_model().path],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == b""
