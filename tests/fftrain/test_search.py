"""A search reads the validation split alone, and its report ranks what was tried."""

from __future__ import annotations

from ffmodels.evaluated import evaluations
from fftrain import write_report
from fftrain.report.tables import few
from fftrain.study import Shard, Study, run_study
from tests.fftrain.reports import markdown_tables, records
from tests.fftrain.studies import planned

SEARCH = """
search = true
dataset = "digits"
recipe = "ff"

[parts.mlp]
width = 16

[settings]
epochs = 2
limit = 200
eval_images = 40
threads = 1
lr = [1e-4, 3e-3]
"""


def test_a_search_ranks_what_it_tried_by_validation_and_reads_nothing_else(tmp_path):
    study = Study(tmp_path / "search", planned(SEARCH))
    assert run_study(study, command="test", shard=Shard()) == {}
    found = {}
    for cell in study.spec.cells:
        [readout] = evaluations(study.folder(cell))
        assert readout.name == "readout"
        assert {record["split"] for record in readout.records} == {"validation"}
        assert not (study.folder(cell) / "probes").exists()
        assert study.state(cell).status == "done"
        found[cell.config.lr] = readout.value(measure="pretext accuracy")
    write_report(study.path)
    text = (study.path / "report.md").read_text(encoding="utf-8")
    rows = records(markdown_tables(text)["Pretext accuracy on validation in %"])
    best = sorted(found, key=lambda lr: -found[lr])
    assert [row["settings"] for row in rows] == [f"lr={lr}" for lr in best]
    assert [row["validation"] for row in rows] == [f"{100 * found[lr]:.1f}" for lr in best]
    curves = [[float(value) for value in row["curve, by epoch"].split()] for row in rows]
    assert [row["largest fall"] for row in rows] == [f"{max(0.0, a - b):.1f}" for a, b in curves]
    assert "## Transfer" not in text
    assert "incomplete" not in text


def test_a_long_curve_shows_ten_numbers_evenly_apart_up_to_the_last():
    assert few(range(60)) == range(5, 60, 6)
    assert few([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert few(range(11)) == range(0, 11, 2)
    assert list(few([])) == []
