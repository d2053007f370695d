"""The rules of the tree: what may name what, and who imports whom within it."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from ffmodels.parts import METHODS
from fftrain.recipes import recipes
from tests.helpers import ROOT

PLACES = ("ffcore", "models", "fftrain", "export", "ffserve")
SOURCES = sorted(file for place in PLACES for file in (ROOT / place).rglob("*.py"))
PARTS = {
    "models/ffmodels/backbones": "ffmodels.backbones",
    "models/ffmodels/methods": "ffmodels.methods",
    "fftrain/views": "fftrain.views",
    "fftrain/datasets": "fftrain.datasets",
    "fftrain/evaluations": "fftrain.evaluations",
}
# Where the label slot may be spoken of: where it is made, and what serves files that say where it lay in them.
SLOT = {"models/ffmodels/conditions.py", "models/ffmodels/methods/forward_forward.py"}


# What documents take from the history: `git show COMMIT:PATH`.
PAGES = (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
SHOWN = re.compile(r"git show (\S+:[\w./]+)")


def git(*words):
    """What git says in the repository, or nothing where it fails or is not there."""
    try:
        told = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return told.stdout.strip()


def name_of(file):
    return file.relative_to(ROOT).as_posix()


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize("folder", PARTS)
def test_a_part_imports_its_base_and_shared_pieces_and_never_a_sibling(folder):
    files = [file for file in (ROOT / folder).glob("*.py") if file.name not in ("base.py", "__init__.py")]
    assert files
    for file in files:
        siblings = {name for name in imported(file) if name.startswith(PARTS[folder] + ".")}
        assert siblings <= {f"{PARTS[folder]}.base"}, name_of(file)


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_file_names_a_method_or_a_recipe(file):
    """Beside the methods' own: what is trained is chosen by data."""
    if "models/ffmodels/methods/" in name_of(file):
        return
    named = {name for method in METHODS for name in (method, method.replace("-", "_"))} | {*recipes()}
    classes = {METHODS.load(method).__name__ for method in METHODS}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in named, f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.Name | ast.Attribute):
            assert getattr(node, "id", getattr(node, "attr", "")) not in classes, f"line {node.lineno}"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_file_but_the_conditions_and_forward_forward_speaks_of_the_slot(file):
    if name_of(file) not in SLOT:
        # A dataclass may have slots, and an option that is gone says what is written instead.
        text = re.sub(r"slots=True|\"slots?\": \"", "", file.read_text(encoding="utf-8"))
        assert not re.search(r"\bslots?\b", text, re.IGNORECASE)


def test_the_loop_knows_no_file_no_setting_and_no_method():
    file = ROOT / "fftrain" / "loop.py"
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    own = {name for name in imported(file) if name.startswith(("ff", "accelerate"))}
    assert own == {"ffmodels.batch", "ffmodels.methods.base"}
    assert not re.search(r"\b(open|Path|config|json)\b", text)


def test_readme_prints_the_loop_as_it_is():
    shown = re.search(r"`fftrain/loop\.py` has it:\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    indented = "".join(f"    {line}\n" if line else "\n" for line in shown.group(1).splitlines())
    assert indented in (ROOT / "fftrain" / "loop.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("named", sorted({found for page in PAGES for found in SHOWN.findall(page.read_text())}))
def test_what_a_document_takes_from_the_history_is_there(named):
    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("needs the repository with its history")
    assert git("cat-file", "-t", named) == "blob"
