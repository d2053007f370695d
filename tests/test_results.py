"""The tables of README.md and docs/results.md are those of the figures in docs/results."""

from __future__ import annotations

import importlib.util
import statistics

import pytest

from tests.helpers import ROOT

spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)


@pytest.mark.parametrize("path", tables.DOCUMENTS, ids=lambda path: path.name)
def test_documents_show_the_figures_that_were_measured(path):
    text = path.read_text(encoding="utf-8")
    assert tables.MARKED.search(text)
    assert tables.filled(text) == text, "run python docs/tables.py"


def test_a_figure_is_the_mean_over_seeds_of_the_rows_of_the_csv():
    rows = tables.read("mnist")
    wanted = {"task": "rotation", "method": "ff", "measure": "probe accuracy", "split": "test", "slot": "neutral"}
    wanted |= {"source": "ff", "layers": "layer4", "target": "class"}
    values = [100 * float(r["value"]) for r in rows if all(r[key] == value for key, value in wanted.items())]
    assert len(values) == 3
    line = next(line for line in tables.tables()["mnist: rotation by layer"] if "`ff`" in line)
    assert line.split(" | ")[4] == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def test_a_changed_figure_is_noticed(monkeypatch):
    path = tables.DOCUMENTS[0]
    read = tables.read
    monkeypatch.setattr(tables, "read", lambda name: [{**row, "value": "0.5"} for row in read(name)])
    text = path.read_text(encoding="utf-8")
    assert tables.filled(text) != text
