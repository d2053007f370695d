"""Every method, network, view and evaluation has its page: what the code knows stands in it, and its example runs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex

import pytest

from tests.helpers import ROOT
from tests.parts import DEEP, small

spec = importlib.util.spec_from_file_location("pages_of_parts", ROOT / "docs" / "parts.py")
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
PAGES = {of: page for of, page in parts.pages().items() if of[0] != "evaluation"}
OF_EVALUATIONS = {of: page for of, page in parts.pages().items() if of[0] == "evaluation"}


def each(pages):
    found = [pytest.param(*of, page, id="-".join(of)) for of, page in pages.items()]
    return pytest.mark.parametrize(("kind", "name", "page"), found)


def example(page):
    """The words of the page's command, behind the program's name."""
    [block] = re.findall(r"```sh\n(fftrain (?:pretrain|evaluate) .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return shlex.split(block.replace("\\\n", ""))[1:]


@each(parts.pages())
def test_a_page_has_what_the_code_says_of_its_part(kind, name, page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert {found[1] for found in parts.MARKED.findall(text)} == {"what", "settings"}
    assert parts.filled(kind, name, text) == text, "run python docs/parts.py"


def test_no_page_is_of_a_part_that_is_gone():
    folders = {page.parent for page in parts.pages().values()}
    assert {page for folder in folders for page in folder.glob("*.md")} == {*parts.pages().values()}


@each(PAGES)
def test_the_example_of_a_page_is_of_its_part(cli, monkeypatch, kind, name, page):
    taken = []
    module = importlib.import_module("fftrain.training")
    monkeypatch.setattr(module, "pretrain", lambda config, *rest, **more: taken.append(config) or [])
    ended = cli("fftrain", *example(page))
    assert ended.code == 0, ended.err
    assert getattr(taken[0], kind).part_name == name


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        pytest.param(kind, page, id=page.stem, marks=[pytest.mark.slow] if kind == "view" or name in DEEP else [])
        for (kind, name), page in PAGES.items()
    ],
)
def test_the_example_of_a_page_runs(cli, tmp_path, kind, page):
    """Two epochs of a few digits, whatever it is of: one for each block in greedy order."""
    few = [
        "--dataset",
        "digits",
        "--limit",
        150,
        "--epochs",
        2,
        "--batch-size",
        50,
        "--eval-images",
        10,
        "--threads",
        1,
    ]
    ended = cli("fftrain", *example(page), *few, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    if json.loads((tmp_path / "run" / "config.json").read_text())["config"]["epochs"]:
        assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 2


@each(OF_EVALUATIONS)
def test_the_example_of_an_evaluations_page_runs(cli, run_copy, kind, name, page):
    """Of a small run, on a few digits."""
    command, run, *words = example(page)
    assert (command, run, words[0]) == ("evaluate", "runs/digits", name)
    few = {
        "linear": "epochs",
        "few-labels": "draws",
        "robustness": "epochs",
        "segmentation": "scenes",
        "detection": "scenes",
    }
    quick = [f"{name}.{few[name]}={small(kind, name)[few[name]]}"] if name in few else []
    ended = cli("fftrain", "evaluate", run_copy, *words, *quick, "--threads", 1, "--json")
    assert ended.code == 0, ended.err
    [found] = ended.json["evaluations"]
    assert found["evaluation"] == name
    assert found["records"]
    for measure in {record["measure"] for record in found["records"]}:
        assert re.sub(r"with \d+ labels?", "with N labels", measure) in page.read_text(encoding="utf-8")
