"""The files of docs/extending.md, as a user writes them: outside the tree, through every command."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, one_line

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(r"```python\n# (\w+\.py): (.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    for name, text in FILES:
        (folder / name).write_text(f"# {text}", encoding="utf-8")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def command():
    """The command of the page that takes all three."""
    [found] = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "--backbone ./narrow.py" in block]
    return shlex.split(found.replace("\\\n", ""))


def test_the_page_has_a_file_of_each_kind():
    assert [name for name, _ in FILES] == ["mine.py", "narrow.py", "noisy.py", "tiles.py"]


def test_a_data_set_of_ones_own_is_trained_on_measured_and_gone_on_with(cli, here):
    small = ["--view", "plain", "--recipe", "bp", "--threads", 1, "backbone.width=8", "backbone.depth=1", "--lr", 0.01]
    ended = cli("fftrain", "pretrain", "--dataset", "./tiles.py", *small, "--epochs", 3, "--json")
    assert ended.code == 0, ended.err
    run = here / ended.json["run"]
    assert run == here / "runs" / "tiles-plain-bp"
    assert ended.json["pretext"]["validation"]["accuracy"] == 1
    assert json.loads((run / "config.json").read_text())["config"]["dataset"] == str(here / "tiles.py")
    trust = ["--trust-plugin", here / "tiles.py"]
    assert cli("fftrain", "evaluate", run, "--split", "test", "--json", *trust).json["images"] == 80
    assert cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 4, *trust).code == 0
    assert cli("fftrain", "probe", run, "--epochs", 2, *trust).code == 0


def test_a_file_of_ones_own_goes_through_every_command(cli, here):
    program, *words = command()
    ended = cli(program, *words, "--limit", 200, "--threads", 1)
    assert ended.code == 0, ended.err
    run = here / "runs" / "mine"
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["method"]["margin"], config["backbone"]["channels"], config["view"]["noise"]) == (0.5, 4, 0.2)
    assert all(len(config[part]["sha256"]) == 16 for part in ("method", "backbone", "view"))
    names = [str(here / name) for name, _ in FILES[:3]]
    assert [config[part]["name"] for part in ("method", "backbone", "view")] == names
    trust = [word for name in names for word in ("--trust-plugin", name)]
    for words in (
        ["pretrain", "--resume", "--out", run, "--epochs", 3],
        ["probe", run, "--epochs", 2],
        ["report", run],
    ):
        ended = cli("fftrain", *words, *trust)
        assert ended.code == 0, ended.err
    ended = cli("fftrain", "evaluate", run, "--split", "test", "--json", *trust)
    assert ended.json["by"].keys() == {"block1", "block2", "block3"}
    ended = cli("ffexport", run, "--format", "all", *trust)
    assert ended.code == 0, ended.err
    Image.fromarray(np.zeros((28, 28), dtype=np.uint8)).save(here / "x.png")
    assert cli("ffserve", "predict", here / "x.png", "--model", run).code == 0


def test_its_settings_are_listed_and_checked(cli, here):
    trust = ["--trust-plugin", "./mine.py"]
    ended = cli("fftrain", "list", "methods", "./mine.py", *trust)
    assert ended.code == 0, ended.err
    assert "How far the right class shall lie above the others." in ended.out
    ended = cli("fftrain", "pretrain", "--method", "./mine.py", "--dataset", "digits", "method.margin=0")
    one_line(ended, 2, "method.margin is 0: it must be above 0")
