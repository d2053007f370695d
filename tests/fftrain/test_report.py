"""The report shows what lies in the run folders, and nothing else: no figure is filled in, none is lost."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from ffcore.errors import RunError
from ffcore.files import read_json, sha256, write_json
from fftrain import write_report
from fftrain.report.frame import collect
from tests.fftrain.reports import (
    Page,
    cell_name,
    change,
    files_of,
    lines_of,
    number,
    part,
    pretext,
    records,
    told,
    write_lines,
)
from tests.helpers import one_line

SPLITS = {"validation": 0.75, "test": 0.25}


def test_every_figure_is_the_run_folders(page):
    root, text = page
    tables = Page(text).tables
    shown = {tuple(row[:6]): row[6:] for row in tables["Every probe (accuracy in %)"][1:]}
    lying = set()
    for method in ("ff", "bp"):
        found = [r for r in told(root / method) if r["measure"] == "probe accuracy"]
        for record in found:
            place = {key: record[key] for key in ("dataset", "reading", "target", "source", "blocks")}
            splits = [number(found, split=split, **place) for split in ("validation", "test")]
            assert shown[method, *place.values()] == [f"{100 * value:.1f}" for value in splits]
            lying.add((method, *place.values()))
    assert lying == {*shown}
    [results] = [rows for title, rows in tables.items() if title.startswith("Results")]
    for row in results[1:]:
        assert row[4] == f"{100 * pretext(told(root / row[0]), 'validation'):.1f}"


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
    shutil.rmtree(tmp_path / "study" / "ff" / "evaluations")
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
    [path] = files_of(root / "ff", "readout")
    head, *found = lines_of(path)
    write_lines(path.with_name("readout-test.jsonl"), [head, *({**record, "split": "test"} for record in found)])
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
        ("readout", lambda records: records[1].update(value=float("nan"))),
        ("linear", lambda records: records[2].pop("measure")),
        ("linear", lambda records: records[0].pop("settings")),
        ("tsne", lambda records: records[0].update(settings=[])),
    ],
)
def test_a_study_goes_on_beside_any_damage(study, tmp_path, file, change):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    run = root / "cells" / cell_name("ff", 0)
    path = run / file if "." in file else files_of(run, file)[0]
    content = read_json(path) if "." in file else lines_of(path)
    change(content)
    (write_json if "." in file else write_lines)(path, content)
    [ff, bp] = collect(root).cells
    assert (ff.state, bp.state) == ("damaged", "done")
    assert str(run) in ff.reason


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


def test_a_runs_own_files_are_not_written_over(run_copy):
    (run_copy / "results.json").write_text("of version 0.1")
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    found = write_report(run_copy)
    assert before.items() <= {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}.items()
    assert Path(found["json"]).name == "report-results.json"
    assert len(read_json(Path(found["json"]))) > 10


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(RunError, match="holds no finished run"):
        write_report(tmp_path)


def evaluated(run, name, *records, target="", reading="pixels"):
    """Lays records into a run folder as those of an evaluation of somebody's own."""
    place = {"evaluation": name, "dataset": "digits", "reading": reading, "target": target}
    about = {"measure": "seconds", **place, "settings": {"evaluation": {"name": name}, "dataset": "digits"}}
    source = "ff" if run.name == "ff" else "bp"
    lines = [{**about, "data": "", "weights": sha256(run / "backbone.safetensors"), "value": 1.0}]
    lines += [{**place, "source": source, **record} for record in records]
    write_lines(run / "evaluations" / f"{name}-1a2b.jsonl", lines)


def test_an_evaluation_that_nobody_foresaw_is_shown(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    values = {"ff": (0.25, 0.5), "bp": (0.75, 1.0)}
    for run, found in values.items():
        blocks = [{"measure": "votes", "blocks": f"block{i}", "value": v} for i, v in enumerate(found, start=1)]
        evaluated(root / run, "votes", *({**b, "split": "test"} for b in blocks), {"measure": "width", "value": 2})
        evaluated(root / run, "noise", {"measure": "robustness", "split": "validation", "value": found[0]})
        (root / run / "evaluations" / "votes-1a2b.npz").write_bytes((root / run / "samples.npz").read_bytes())
    write_report(root)
    tables = Page((root / "report.html").read_text()).tables
    rows = {row["of"]: row for row in records(tables["Votes, in %"])}
    assert (root / "figures" / "votes-digits.svg").is_file()
    for run, (first, second) in values.items():
        assert (rows[run]["block1"], rows[run]["block2"]) == (f"{100 * first} (n=1)", f"{100 * second} (n=1)")
    shown = {row["of"]: row["value"] for row in records(tables["Robustness, validation, in %"])}
    assert shown == {"ff": "25.0 (n=1)", "bp": "75.0 (n=1)"}
    assert '<h2 id="robustness-validation">Robustness, validation</h2>' in (root / "report.html").read_text()
    assert "Robustness, in %" not in tables
    assert "Width, in %" in tables
    kept = [record for record in read_json(root / "results.json") if record["measure"] == "votes"]
    assert [record["value"] for record in kept] == [*values["bp"], *values["ff"]]
    rows = [row for row in records(tables["Commands of every measurement"]) if row["of"] == "ff"]
    assert [row["what"] for row in rows if "noise" in row["what"]] == ["noise of digits, reading pixels"]
    (root / "bp" / "evaluations" / "votes-1a2b.jsonl").write_text("{}")
    assert {record["run"]: record["probe"] for record in write_report(root)["results"]}["bp"] == "damaged"


def test_the_test_split_goes_before_validation_in_what_nobody_foresaw(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    both = [{"measure": "votes", "blocks": "block1", "split": s, "value": v} for s, v in SPLITS.items()]
    evaluated(root / "ff", "votes", *both)
    write_report(root)
    tables = Page((root / "report.html").read_text()).tables
    assert "Votes, validation, in %" not in tables
    [row] = records(tables["Votes, in %"])
    assert row["block1"] == "25.0 (n=1)"
    told = {r["split"]: r["value"] for r in read_json(root / "results.json") if r["measure"] == "votes"}
    assert told == SPLITS


def test_one_measure_of_two_labels_has_a_figure_for_each(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    about = {"measure": "votes", "split": "test"}
    for name, target, value in (("votes", "class", 0.25), ("others", "pretext", 0.75)):
        blocks = [{**about, "blocks": f"block{i}", "value": value} for i in (1, 2)]
        evaluated(root / "ff", name, *blocks, target=target)
    write_report(root)
    text = (root / "report.md").read_text()
    drawn = [line.rpartition("(")[2] for line in text.splitlines() if "votes" in line and line.startswith("![")]
    assert len(drawn) == len({*drawn}) == 2
    assert len({(root / name.removesuffix(")")).read_bytes() for name in drawn}) == 2


def test_an_interval_is_shown_where_there_is_one_seed(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    about = {"measure": "accuracy with 3 labels a class", "split": "test", "blocks": "block1"}
    evaluated(root / "ff", "few-labels", {**about, "value": 0.5, "low": 0.45678, "high": 0.5432}, target="class")
    evaluated(root / "bp", "few-labels", {**about, "value": 0.25}, target="class")
    write_report(root)
    tables = Page((root / "report.html").read_text()).tables
    rows = {row["of"]: row["block1"] for row in records(tables["Accuracy with 3 labels a class, in %"])}
    assert rows == {"ff": "50.0 [45.7, 54.3] (n=1)", "bp": "25.0 (n=1)"}
    with (root / "results.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["measure"] == about["measure"]]
    ends = {line["run"]: (line["value"], line["low"], line["high"]) for line in lines}
    assert ends == {"ff": ("0.5", "0.45678", "0.5432"), "bp": ("0.25", "", "")}
    kept = [r for r in read_json(root / "results.json") if r["measure"] == about["measure"] and r["run"] == "ff"]
    assert [(r["low"], r["high"]) for r in kept] == [(0.45678, 0.5432)]


def test_a_number_that_is_no_share_is_shown_in_its_unit(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    about = {"measure": "effective rank", "split": "validation"}
    evaluated(root / "ff", "rank", *({**about, "blocks": f"block{i}", "value": 12.5, "unit": "axes"} for i in (1, 2)))
    write_report(root)
    text = (root / "report.html").read_text()
    [row] = records(Page(text).tables["Effective rank, validation, in axes"])
    assert (row["block1"], row["block2"]) == ("12.5 (n=1)", "12.5 (n=1)")
    assert "Line chart: effective rank (axes) by block on digits" in text
    units = {r["measure"]: r["unit"] for r in read_json(root / "results.json")}
    assert (units["effective rank"], units["probe accuracy"], units["seconds"]) == ("axes", "share", "s")


def test_what_else_tells_the_classes_stands_beside_the_probes(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    found = []
    for source, blocks, known, value, low in (
        ("ff", "block1", 0.9, 0.5, 0.45),
        ("ff", "block2", 0.8, 0.7, 0.65),
        ("random", "block2", 0.4, 0.3, 0.25),
        ("random", "block3", 0.3, 0.9, 0.8),
        ("raw", "pixels", 0.2, 0.2, 0.1),
    ):
        about = {"measure": "votes", "source": source, "blocks": blocks}
        found.append({**about, "split": "validation", "value": known})
        found.append({**about, "split": "test", "value": value, "low": low, "high": 2 * value - low})
    evaluated(root / "ff", "votes", *found, target="class", reading="neutral")
    write_report(root)
    text = (root / "report.html").read_text()
    rows = records(Page(text).tables["Votes, test in % (blocks chosen on validation)"])
    [mine, other] = sorted(rows, key=lambda row: row["run"] != "ff")
    assert (mine["measured on"], mine["reading"]) == ("digits", "neutral")
    assert mine["its features"] == "50.0 [45.0, 55.0] (block1)"
    assert mine["random"] == "30.0 [25.0, 35.0] (block2)"
    assert mine["raw"] == "20.0 [10.0, 30.0]"
    assert (other["run"], other["its features"], other["raw"]) == ("bp", "not measured", "not measured")
    begun = "<li>Votes: rotation on digits: the class is read best from ff (50.0 [45.0, 55.0]), 20.0 points"
    assert begun in text
    assert "The intervals of the first two do not overlap. Of one seed" in text
    path = root / "ff" / "evaluations" / "votes-1a2b.jsonl"
    path.write_text(path.read_text().replace('"low": 0.45,', '"low": 0.3,'))
    write_report(root)
    assert "The intervals of the first two overlap. Of one seed" in (root / "report.html").read_text()


def test_a_run_of_code_outside_that_may_not_be_run_is_shown(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    change(root / "bp" / "config.json", lambda record: record["config"].update(method={"name": "mylab.mine", "k": 2}))
    name = "mine cut=never at=last"
    for path in (root / "bp" / "evaluations").glob("*.jsonl"):
        path.write_text(path.read_text().replace('"source": "bp"', f'"source": "{name}"'))
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


def test_figures_of_other_weights_are_not_shown(trained, tmp_path):
    root = tmp_path / "runs"
    shutil.copytree(trained / "ff", root / "ff")
    before = write_report(root)["results"][0]
    assert before["probe"] != "not measured"
    shutil.copy(trained / "bp" / "backbone.safetensors", root / "ff" / "backbone.safetensors")
    after = write_report(root)["results"][0]
    assert after["probe"] == after["pretext accuracy"] == "not measured"


def test_what_is_no_share_is_no_accuracy_of_the_classes(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    losses = [{"measure": "log loss", "unit": "nats", "split": s, "blocks": "block1", "value": 2.5} for s in SPLITS]
    evaluated(root / "ff", "loss", *losses, target="class")
    write_report(root)
    text = (root / "report.md").read_text()
    assert "log loss, in nats" in text.lower()
    assert "250.0" not in text
    assert "Log loss: " not in text
