"""Runs on data sets of the library `datasets`: recorded, moved, exported, served; the commands of docs/scale.md."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from PIL import Image

from tests.fftrain.tables import NAMES, SMALL, digits, hf
from tests.helpers import ROOT, one_line


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where the library keeps its tables of parquet files."""
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def beans(cli, tmp_path, monkeypatch):
    """A run on a folder that lies in another."""
    monkeypatch.chdir(tmp_path)
    hf.DatasetDict(train=digits(0, 150)[0], test=digits(150, 50)[0]).save_to_disk("secret/beans")
    words = ["--dataset", "hf:secret/beans", "--recipe", "local-ce", "--view", "plain", *SMALL]
    ended = cli("fftrain", "pretrain", *words)
    assert ended.code == 0, ended.err
    assert "secret" not in ended.err
    return tmp_path / "runs" / "beans-plain-local-ce"


def test_a_run_is_recorded_and_measured_where_its_images_lie_now(cli, beans, tmp_path):
    recorded = json.loads((beans / "config.json").read_text())
    assert recorded["config"]["dataset"] == f"hf:{tmp_path}/secret/beans"
    assert recorded["data"]["class_names"] == NAMES
    (tmp_path / "secret").rename(tmp_path / "moved")
    one_line(cli("fftrain", "evaluate", beans), 1, "is not there: say where they are now with --dataset hf:PATH or")
    ended = cli("fftrain", "evaluate", beans, "linear", "linear.epochs=1", "--data-dir", "moved", "--json")
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_a_run_is_exported_served_and_reported_by_its_classes_and_no_path_is_told(cli, beans, tmp_path):
    assert cli("fftrain", "evaluate", beans, "linear", "linear.epochs=1").code == 0
    ended = cli("ffexport", beans)
    assert ended.code == 0, ended.err
    assert cli("fftrain", "report", beans).code == 0
    for told in (beans / "export" / "card.md", beans / "report.md"):
        assert "hf:beans" in told.read_text()
        assert "secret" not in told.read_text()
    Image.fromarray(digits(0, 1)[1][0]).save("x.png")
    ended = cli("ffserve", "predict", "x.png", "--model", beans, "--json")
    assert ended.code == 0, ended.err
    [predicted] = ended.json["predictions"]
    assert {one["class"] for one in predicted["top"]} <= {*NAMES}


@pytest.mark.slow
def test_the_commands_of_the_page(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").partition("## Hugging Face data sets")[2]
    script, commands = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("python", "sh"))
    exec(script, {})
    for line in commands.replace("\\\n", "").splitlines():
        program, *words = shlex.split(line, comments=True)
        ended = cli(program, *words)
        assert ended.code == 0, (line, ended.err)
