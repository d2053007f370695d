"""The report shows what lies in the run folders, and nothing else: no figure is filled in, none is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ffcore.errors import RunError
from ffcore.files import read_json, write_json
from fftrain import write_report
from fftrain.report.frame import collect
from tests.fftrain.reports import (
    Page,
    cell_name,
    change,
    part,
    records,
)
from tests.helpers import one_line


def test_every_figure_is_the_run_folders(page):
    root, text = page
    tables = Page(text).tables
    found = {tuple(row[:6]): row[6:] for row in tables["Every probe (accuracy in %)"][1:]}
    for method in ("ff", "bp"):
        [(name, result)] = read_json(root / method / "results.json")["probes"].items()
        for row in result["rows"]:
            cells = found[method, "digits", name.removeprefix("digits-"), "class", row["source"], row["blocks"]]
            assert cells == [f"{100 * row['validation']:.1f}", f"{100 * row['test']:.1f}"]
    [results] = [rows for title, rows in tables.items() if title.startswith("Results")]
    for row in results[1:]:
        pretext = read_json(root / row[0] / "results.json")["pretext"]["validation"]["accuracy"]
        assert row[4] == f"{100 * pretext:.1f}"


def test_the_page_is_self_contained_and_escapes_what_it_shows(page, study):
    for text in (page[1], (study[0] / "report.html").read_text()):
        parsed = Page(text)
        assert parsed.loads == []
        assert parsed.pictures >= 5
        assert "<nan>" not in text
        assert "<b>.png" not in text
        for known in ("www.w3.org", "purl.org", "creativecommons.org", "matplotlib.org", "arxiv.org"):
            text = text.replace(f"http://{known}", "").replace(f"https://{known}", "")
        assert "http" not in text
    assert "&lt;b&gt;.png" in page[1]


def test_the_same_runs_give_the_same_page(page):
    root, text = page
    write_report(root)
    assert (root / "report.html").read_text() == text


def test_what_was_not_measured_is_said_so(page, tmp_path):
    root, _ = page
    shutil.copytree(root / "ff", tmp_path / "study" / "ff")
    (tmp_path / "study" / "ff" / "results.json").unlink()
    [record] = write_report(tmp_path / "study")["results"]
    assert record["pretext accuracy"] == record["probe"] == record["raw"] == "not measured"


def test_an_unfinished_run_is_named_with_what_goes_on(cli, page, run_copy, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "some runs")
    run = Path(shutil.move(run_copy, root / "begun"))
    (run / "backbone.safetensors").unlink()
    (root / "other").mkdir()
    (root / "other" / "config.json").write_text("{}")  # of something else
    ended = cli("fftrain", "report", root)
    assert ended.code == 0, ended.err
    goes_on = "3 of 3 epochs are done; where it was stopped, `fftrain pretrain --resume --out"
    assert f"begun: unfinished: {goes_on} '{run}'` goes on" in ended.err
    assert "other" not in ended.err
    tables = Page((root / "report.html").read_text()).tables
    [results] = [rows for title, rows in tables.items() if title.startswith("Results")]
    [row] = [row for row in records(results) if row["run"] == "begun"]
    assert (row["method"], row["view"], row["pretext accuracy"]) == ("ff", "rotation", "unfinished")
    [named] = records(tables["Unfinished, failed, damaged, missing or incomplete"])
    assert named == {"name": "begun", "state": "unfinished", "reason": f"{goes_on} 'begun'` goes on"}
    assert "begun" not in {record["run"] for record in read_json(root / "results.json")}
    one_line(cli("fftrain", "report", run), 1, "holds no finished run", "fftrain pretrain --resume --out")
    (run / "config.json").write_text("{")
    assert "begun: damaged: " in cli("fftrain", "report", root).err


def test_an_unfinished_cell_says_how_far_it_is_and_what_goes_on(cli, study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    name = cell_name("bp", 0)
    (root / "cells" / name / "backbone.safetensors").unlink()
    (root / "cells" / name / "checkpoint" / "epoch-00001").mkdir(parents=True)
    err = cli("fftrain", "report", root).err
    assert f"{name}: missing: not finished: 1 of 2 epochs are done" in err
    assert f"the study goes on with fftrain study --out {root}" in err


def test_columns_without_a_value_are_left_out(page, tmp_path, cli):
    tables = Page(page[1]).tables
    [results] = [rows for title, rows in tables.items() if title.startswith("Results")]
    assert "pretext test" not in results[0]
    assert "probe" in results[0]
    root = shutil.copytree(page[0], tmp_path / "runs")
    ended = cli("fftrain", "report", root)
    assert "pretext test" not in ended.out
    assert "not measured" not in ended.out
    change(
        root / "ff" / "results.json", lambda results: results["pretext"].update(test=results["pretext"]["validation"])
    )
    ended = cli("fftrain", "report", root)
    assert "pretext test" in ended.out
    assert "not measured" in ended.out


def test_a_damaged_run_beside_others_is_named(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    (root / "ff" / "metrics.jsonl").write_text("{}\n")
    results = {record["run"]: record for record in write_report(root)["results"]}
    assert results["ff"]["probe"] == "damaged"
    assert results["bp"]["probe"] != "damaged"
    assert "metrics.jsonl is damaged" in (root / "report.html").read_text()
    (root / "bp" / "samples.npz").unlink()
    with pytest.raises(RunError, match=r"samples\.npz is missing or damaged"):
        write_report(root)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", lambda config: config.pop("hardware")),
        ("config.json", lambda config: config["config"].update(method="bp")),
        ("results.json", lambda results: results["pretext"]["test"].update(accuracy=float("nan"))),
        ("results.json", lambda results: results["probes"]["digits-neutral"].pop("rows")),
    ],
)
def test_a_study_goes_on_beside_any_damage(study, tmp_path, file, change):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    path = root / "cells" / cell_name("ff", 0) / file
    content = read_json(path)
    change(content)
    write_json(path, content)
    [ff, bp] = collect(root).cells
    assert (ff.state, bp.state) == ("damaged", "done")
    assert str(path.parent) in ff.reason


def test_a_study_without_any_run_yet(study, tmp_path):
    shutil.copy(study[0] / "study.json", tmp_path)
    found = write_report(tmp_path)
    tables = Page((tmp_path / "report.html").read_text()).tables
    assert dict(tables["The study"][1:])["cells"] == "0 done, 0 failed, 0 damaged, 10 missing, of 10"
    assert {row["probe"] for row in found["results"]} == {"missing"}
    assert read_json(tmp_path / "results.json") == []


def test_runs_of_one_kind_are_told_apart(page, tmp_path):
    shutil.copytree(page[0] / "ff", tmp_path / "one")
    shutil.copytree(page[0] / "ff", tmp_path / "two")
    write_report(tmp_path)
    rows = records(Page((tmp_path / "report.html").read_text()).tables["Linear probes by block, in %"])
    assert [row["of"] for row in rows][:2] == ["ff (run=one)", "ff (run=two)"]


def test_a_runs_own_results_are_not_written_over(run_copy):
    before = (run_copy / "results.json").read_bytes()
    found = write_report(run_copy)
    assert (run_copy / "results.json").read_bytes() == before
    assert Path(found["json"]).name == "report-results.json"
    assert len(read_json(Path(found["json"]))) > 10


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(RunError, match="holds no finished run"):
        write_report(tmp_path)


def test_an_evaluation_that_nobody_foresaw_is_shown(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    values = {"ff": (0.25, 0.5), "bp": (0.75, 1.0)}
    for run, found in values.items():
        (root / run / "evaluations").mkdir()
        told = [{"measure": "knn", "block": f"block{i}", "value": value} for i, value in enumerate(found, start=1)]
        lines = [*told, {"measure": "robustness", "target": "noise", "value": found[0]}]
        (root / run / "evaluations" / "knn-1a2b.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    write_report(root)
    tables = Page((root / "report.html").read_text()).tables
    rows = {row["of"]: row for row in records(tables["knn, in %"])}
    assert (root / "figures" / "knn-digits.svg").is_file()
    for run, (first, second) in values.items():
        assert (rows[run]["block1"], rows[run]["block2"]) == (f"{100 * first} (n=1)", f"{100 * second} (n=1)")
    assert {row["of"]: row["value"] for row in records(tables["robustness noise, in %"])} == {
        "ff": "25.0 (n=1)",
        "bp": "75.0 (n=1)",
    }
    kept = [record for record in read_json(root / "results.json") if record["measure"] == "knn"]
    assert [record["value"] for record in kept] == [*values["bp"], *values["ff"]]
    (root / "bp" / "evaluations" / "knn-1a2b.jsonl").write_text("{}")
    assert {record["run"]: record["probe"] for record in write_report(root)["results"]}["bp"] == "damaged"


def test_a_run_of_code_outside_that_may_not_be_run_is_shown(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    change(root / "bp" / "config.json", lambda record: record["config"].update(method={"name": "mylab.mine", "k": 2}))
    name = "mine cut=never at=last"
    results = (root / "bp" / "results.json").read_text()
    (root / "bp" / "results.json").write_text(results.replace('"source": "bp"', f'"source": "{name}"'))
    [mine, _] = write_report(root)["results"]
    assert mine["method"] == name
    assert float(mine["probe"].split()[0]) > 0
    tables = Page((root / "report.html").read_text()).tables
    [words] = [row["command"] for row in records(tables["Commands, machines and times"]) if row["run"] == "bp"]
    assert "--method mylab.mine --view rotation" in words
    assert "--cut never --at last" in words
    assert "method.k=2" in words


def test_settings_that_differ_are_columns_of_the_records(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    for run, lr in (("ff", 0.5), ("bp", 0.25)):
        change(root / run / "config.json", lambda record, lr=lr: record["config"].update(lr=lr))
    write_report(root)
    found = read_json(root / "results.json")
    assert {(record["run"], record["lr"]) for record in found} == {("ff", 0.5), ("bp", 0.25)}
    assert "backbone.width" not in found[0]
