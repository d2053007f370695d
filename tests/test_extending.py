"""The files of docs/extending.md, as a user writes them: outside the tree, through every command."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from ffmodels.run import Run, load_encoder
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
    assert [name for name, _ in FILES] == ["mine.py", "narrow.py", "noisy.py", "tiles.py", "rank.py"]


def test_a_data_set_of_ones_own_is_trained_on_measured_and_gone_on_with(cli, here):
    small = ["--view", "plain", "--recipe", "bp", "--threads", 1, "backbone.width=8", "backbone.depth=1", "--lr", 0.01]
    ended = cli("fftrain", "pretrain", "--dataset", "./tiles.py", *small, "--epochs", 3, "--json")
    assert ended.code == 0, ended.err
    run = here / ended.json["run"]
    assert run == here / "runs" / "tiles-plain-bp"
    assert ended.json["evaluations"][0]["records"][0]["value"] == 1
    assert json.loads((run / "config.json").read_text())["config"]["dataset"] == str(here / "tiles.py")
    trust = ["--trust-plugin", here / "tiles.py"]
    [told] = cli("fftrain", "evaluate", run, "readout.split=test", "--json", *trust).json["evaluations"]
    assert told["records"][0]["images"] == 80
    assert cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 4, *trust).code == 0
    assert cli("fftrain", "evaluate", run, "linear", "linear.epochs=2", *trust).code == 0


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
        ["evaluate", run, "linear", "linear.epochs=2"],
        ["report", run],
    ):
        ended = cli("fftrain", *words, *trust)
        assert ended.code == 0, ended.err
    ended = cli("fftrain", "evaluate", run, "readout.split=test", "--json", *trust)
    [told] = ended.json["evaluations"]
    assert [record["blocks"] for record in told["records"][1:]] == ["block1", "block2", "block3"]
    _measured_by_ones_own(cli, here, run, trust)
    ended = cli("ffexport", run, "--format", "all", *trust)
    assert ended.code == 0, ended.err
    Image.fromarray(np.zeros((28, 28), dtype=np.uint8)).save(here / "x.png")
    assert cli("ffserve", "predict", here / "x.png", "--model", run).code == 0


def _measured_by_ones_own(cli, here, run, trust):
    """The page's evaluation, its records, and what a report makes of them."""
    [words] = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "./rank.py" in block]
    program, *words = shlex.split(words)
    ended = cli(program, *words, "--threads", 1, "--json", *trust)
    assert ended.code == 0, ended.err
    linear, found = ended.json["evaluations"]
    assert (linear["evaluation"], found["evaluation"]) == ("linear", "rank")
    part = found["settings"]["evaluation"]
    assert (part["name"], part["images"], len(part["sha256"])) == (str(here / "rank.py"), 200, 16)
    ranks = {(record["source"], record["blocks"]): record["value"] for record in found["records"]}
    assert {source for source, _ in ranks} == {"raw", "random", "mine"}
    features = load_encoder(run)(torch.from_numpy(Run.load(run).samples[0]).float() / 255)
    for block, x in enumerate(features, start=1):
        assert 1 < ranks["mine", f"block{block}"] <= x.shape[1]
    assert cli("fftrain", "report", run).code == 0  # it takes none of the run's own code
    page = (run / "report.md").read_text()
    assert "## Effective rank, validation" in page
    assert f"{ranks['mine', 'block1']:.1f}" in page


def test_its_settings_are_listed_and_checked(cli, here):
    trust = ["--trust-plugin", "./mine.py"]
    ended = cli("fftrain", "list", "methods", "./mine.py", *trust)
    assert ended.code == 0, ended.err
    assert "How far the right class shall lie above the others." in ended.out
    ended = cli("fftrain", "pretrain", "--method", "./mine.py", "--dataset", "digits", "method.margin=0")
    one_line(ended, 2, "method.margin is 0: it must be above 0")
