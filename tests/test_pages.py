"""Every method, network and view has its page: what the code knows stands in it, and its example runs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex

import pytest

from tests.helpers import ROOT

spec = importlib.util.spec_from_file_location("pages_of_parts", ROOT / "docs" / "parts.py")
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
PAGES = [pytest.param(kind, name, page, id=f"{kind}-{name}") for (kind, name), page in parts.pages().items()]
every_page = pytest.mark.parametrize(("kind", "name", "page"), PAGES)


def example(page):
    """The words of the page's command, behind the program's name."""
    [block] = re.findall(r"```sh\n(fftrain pretrain .*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return shlex.split(block.replace("\\\n", ""))[1:]


@every_page
def test_a_page_has_what_the_code_says_of_its_part(kind, name, page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert {found[1] for found in parts.MARKED.findall(text)} == {"what", "settings"}
    assert parts.filled(kind, name, text) == text, "run python docs/parts.py"


def test_no_page_is_of_a_part_that_is_gone():
    folders = {page.parent for page in parts.pages().values()}
    assert {page for folder in folders for page in folder.glob("*.md")} == {*parts.pages().values()}


@every_page
def test_the_example_of_a_page_is_of_its_part(cli, monkeypatch, kind, name, page):
    taken = []
    module = importlib.import_module("fftrain.training")
    monkeypatch.setattr(module, "pretrain", lambda config, *rest, **more: taken.append(config) or {})
    ended = cli("fftrain", *example(page))
    assert ended.code == 0, ended.err
    assert getattr(taken[0], kind).part_name == name


@pytest.mark.parametrize(
    ("kind", "page"),
    [
        pytest.param(kind, page, id=page.stem, marks=[pytest.mark.slow] if kind == "view" else [])
        for (kind, _), page in parts.pages().items()
    ],
)
def test_the_example_of_a_page_runs(cli, tmp_path, kind, page):
    """One epoch of a few digits, whatever it is of."""
    few = [
        "--dataset",
        "digits",
        "--limit",
        150,
        "--epochs",
        1,
        "--batch-size",
        50,
        "--eval-images",
        10,
        "--threads",
        1,
    ]
    ended = cli("fftrain", *example(page), *few, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["epoch"] == 1
