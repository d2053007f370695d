"""The tables and pictures of the documentation are those of the figures in docs/results."""

from __future__ import annotations

import importlib
import json
import re
import statistics

import pytest

from ffmodels.parts import METHODS
from tests.helpers import ROOT

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "docs")
    names = ("calibration", "checks", "figures", "gates", "reached", "tables")
    calibration, checks, figures, gates, reached, tables = map(importlib.import_module, names)
each_document = pytest.mark.parametrize("document", tables.DOCUMENTS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def measured():
    """Every table, as the figures have it."""
    return tables.tables()


@each_document
def test_the_document_shows_the_figures_that_were_measured(document, measured):
    text = document.read_text(encoding="utf-8")
    assert {match[1] for match in tables.MARKED.findall(text)} <= set(measured)
    assert tables.filled(text, measured) == text, "run python docs/tables.py"


@pytest.mark.parametrize("method", reached.LINES)
def test_a_methods_page_says_what_it_reaches_and_what_was_published(method, measured):
    """Once a spec has measured it: some line has a figure, and others may wait for theirs."""
    assert method in METHODS
    page = (ROOT / "docs" / "methods" / f"{method}.md").read_text(encoding="utf-8")
    figures = page.partition("\n## Figures\n")[2]
    assert f"<!-- table: reached: {method} -->" in figures
    assert re.search("Published|Nothing is published", figures)
    lines = [line.split(" | ") for line in measured[f"reached: {method}"][2:]]
    assert any(re.match(r"\d", line[3]) for line in lines)


def test_a_figure_is_the_mean_over_seeds_of_the_rows_of_the_csv():
    wanted = {"measure": "probe accuracy", "split": "test", "blocks": "blocks1-2"}
    rows = [r for r in tables.read("scff-mnist") if r["source"].startswith("self")]
    values = [100 * float(r["value"]) for r in rows if all(r[key] == value for key, value in wanted.items())]
    assert len(values) == 3
    line = next(line for line in tables.tables()["scff: mnist"] if "| SCFF, greedy |" in line)
    assert line.split(" | ")[3].rstrip(" |") == f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


@pytest.mark.slow
def test_each_picture_is_drawn_from_the_figures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    pictures = importlib.import_module("pictures")
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda figure, name: drawn.append(name) or pictures.pyplot.close(figure))
    for draw in pictures.PICTURES:
        draw()
    assert {f"results/{name}.svg" for name in drawn} <= {
        *re.findall(r"\((results/.+\.svg)\)", tables.DOCUMENTS[0].read_text())
    }


def test_blocks_are_chosen_on_validation():
    rows = [
        {"measure": "probe accuracy", "split": split, "blocks": blocks, "seed": "0", "value": value}
        for split, blocks, value in (
            ("validation", "block1", "0.9"),
            ("validation", "block2", "0.8"),
            ("test", "block1", "0.7"),
            ("test", "block2", "0.95"),
        )
    ]
    assert tables.chosen(rows) == "70.0"
    other = [
        row | {"seed": "1", "value": str(1.8 - float(row["value"]))} for row in rows
    ]  # the other block is the best
    assert tables.chosen([*rows, *other]) == "77.5 ± 10.6"


def test_a_changed_figure_is_noticed(monkeypatch):
    read = tables.read
    for module in (checks, figures, gates, reached, tables):
        monkeypatch.setattr(module, "read", lambda n: [{**r, "value": str(1 - float(r["value"]))} for r in read(n)])
    changed = tables.tables()
    for document in tables.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert tables.filled(text, changed) != text, document


def rows_of(study, rows):
    study.mkdir(parents=True, exist_ok=True)
    heads = ["run", *figures.COLUMNS, "target", "unit"]
    lines = [",".join({**dict.fromkeys(heads, ""), "target": "class", **row}.values()) for row in rows]
    (study / "results.csv").write_text("\n".join([",".join(heads), *lines, ""]), encoding="utf-8")


def test_what_a_study_measured_is_taken(tmp_path, monkeypatch):
    study = tmp_path / "studies" / "mine"
    row = {"measure": "probe accuracy", "split": "test", "value": "0.5"}
    others = {"target": "pretext"}, {"measure": "seconds", "split": ""}, {"measure": "knn accuracy"}
    rows_of(study, [row, *(row | other for other in others)])
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(figures, "HERE", tmp_path)
    figures.take(study)
    assert [row["measure"] for row in figures.read("mine")] == ["probe accuracy", "knn accuracy"]


def test_figures_of_other_seeds_stay_and_those_of_the_same_are_replaced(tmp_path, monkeypatch):
    study = tmp_path / "studies" / "mine"
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(figures, "HERE", tmp_path)
    row = {"measure": "probe accuracy", "split": "test"}
    rows_of(study, [row | {"seed": seed, "value": "0.5"} for seed in "01"])
    figures.take(study)
    rows_of(study, [row | {"seed": seed, "value": "0.75"} for seed in "12"])
    figures.take(study)
    assert [(row["seed"], row["value"]) for row in figures.read("mine")] == [("0", "0.5"), ("1", "0.75"), ("2", "0.75")]


def test_an_exported_classifier_is_measured_through_the_commands_and_other_figures_stay(
    trained, tmp_path, monkeypatch, cli
):
    assert cli("fftrain", "dump-images", "digits", tmp_path / "images").code == 0
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(figures, "HERE", tmp_path)
    before = (f"digits,rotation,{of},0,backbone=mlp,accuracy,test,,,,0.25" for of in ("bp", "ff"))
    (tmp_path / "results" / "calibration.csv").write_text(
        "\n".join([",".join(figures.COLUMNS), *before, ""]), encoding="utf-8"
    )
    calibration.main(tmp_path / "images", [trained / "bp"])
    rows = figures.read("calibration")
    found = {(row["method"], row["measure"]): float(row["value"]) for row in rows}
    assert (len(rows), len(found), found["ff", "accuracy"]) == (4, 4, 0.25)
    probes = [json.loads(path.read_text()) for path in (trained / "bp" / "probes").glob("*/*.json")]
    best = max(probes, key=lambda probe: probe["validation"])
    assert found["bp", "accuracy"] == pytest.approx(best["test"], abs=0.005)
    assert 0 < found["bp", "calibration error"] < 0.5
