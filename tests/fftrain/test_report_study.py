"""A study's report: every number is the run folders', and what lacks is said."""

from __future__ import annotations

import csv
import json
import re
import shlex
import statistics
from xml.etree import ElementTree

import pytest
from scipy.stats import ttest_1samp

from ffcore.errors import RunError
from ffcore.files import read_json
from ffcore.settings import assigned
from fftrain import RunConfig, write_report
from fftrain.config import keyed
from fftrain.parts import PARTS, merged
from fftrain.recipes import read_recipe
from fftrain.run import RunFolder
from tests.fftrain.reports import (
    ABLATION,
    BLOCKS,
    LACKING,
    PUBLISHED,
    cell_name,
    change,
    files_of,
    markdown_tables,
    measured,
    number,
    part,
    pretext,
    probes,
    records,
    reported,
    said,
    told,
)


@pytest.mark.parametrize("method", ["ff", "bp"])
def test_means_spreads_and_differences_are_those_of_the_run_folders(study, method):
    root, tables = study
    runs = [measured(root, method, seed) for seed in (0, 1)]
    row = next(r for r in records(tables["Pretext accuracy in %"]) if (r["view"], r["method"]) == ("rotation", method))
    values = [pretext(run) for run in runs]
    assert row["digits"] == said(values, lacking=LACKING[method])
    assert row["digits published"] == str(PUBLISHED["pretext"][method])
    assert row["digits difference"] == f"{100 * statistics.mean(values) - PUBLISHED['pretext'][method]:+.1f}"

    reading = {"ff": "neutral", "bp": "pixels"}[method]
    rows = records(tables["Transfer: test accuracy of linear probes in %"])
    mine = [r for r in rows if (r["view"], r["method"]) == ("rotation", method)]
    for row, blocks in zip(mine, (None, "blocks2-4"), strict=True):
        found = [probes(run, reading, method, blocks) for run in runs]
        values = [value for _, value in found]
        chosen = ["/".join(dict.fromkeys(name for name, _ in found))] if blocks is None else []
        assert row["digits"] == said(values, *chosen, lacking=LACKING[method])
        assert row["digits difference"] == f"{100 * statistics.mean(values) - PUBLISHED['transfer'][method]:+.1f}"
        values = [probes(run, reading, "random", blocks)[1] for run in runs]
        assert row["digits random"] == said(values, lacking=" of 3")
        [raw] = {probes(run, reading, "raw")[1] for run in runs}
        assert row["digits raw"] == f"{100 * raw:.1f}"


def test_the_gap_is_of_pairs_of_one_seed(study):
    root, tables = study
    [row] = records(tables["ff less bp, in points"])
    solved = {m: [pretext(measured(root, m, s)) for s in (0, 1)] for m in ("ff", "bp")}
    transfer = {
        m: [probes(measured(root, m, s), reading, m)[1] for s in (0, 1)]
        for m, reading in (("ff", "neutral"), ("bp", "pixels"))
    }
    assert row["difficulty"] == said([1 - value for value in solved["bp"]], lacking=" of 3")
    for name, values, published in (
        ("pretext gap", solved, 98.9 - 99.2),
        ("transfer gap (chosen blocks)", transfer, 76.3 - 97.5),
    ):
        differences = [ff - bp for ff, bp in zip(values["ff"], values["bp"], strict=True)]
        assert float(row[name].split()[0]) == round(100 * statistics.mean(differences), 1)
        assert f"± {100 * statistics.stdev(differences):.1f} (n=2 of 3" in row[name]
        assert row[f"{name}, published"] == f"{published:+.1f}"


def test_ablation_supervised_readings_and_other_data_sets(study):
    root, tables = study
    found = {row["method"]: row for row in records(tables["Ablation: accuracy in %"])}
    assert [*found] == ["bp", "bp-goodness-all", "ff"]
    for method, (quoted, transfer) in ABLATION.items():
        assert found[method]["pretext published"] == str(quoted)
        assert found[method]["transfer published"] == str(transfer)
    [row] = records(tables["Supervised reference: test accuracy in %"])
    run = measured(root, "bp", 0, "plain")
    own = pretext(run)
    assert row["own accuracy"] == said([own])
    assert row["difference of own"] == f"{100 * own - 98.8:+.1f}"
    assert row["probe (last three)"] == said([probes(run, "pixels", "bp", "blocks2-4")[1]])
    title = "What the label pixels hold when features are read: test accuracy in %"
    for row in [r for r in records(tables[title]) if r["view"] == "rotation"]:
        values = [probes(measured(root, "ff", s), row["reading"], "ff", "blocks2-4")[1] for s in (0, 1)]
        assert row["probe (last three)"] == said(values, lacking=" of 3")
    [row] = records(tables["Transfer to another data set: test accuracy in %"])
    assert (row["pretrained on"], row["probed on"]) == ("digits", "mnist")
    values = [probes(measured(root, "bp", 0), "pixels", "bp", "blocks2-4", dataset="mnist")[1]]
    assert row["probe (last three)"] == said(values, lacking=" of 3")


def test_figures_of_blocks_are_those_of_the_run_folders(study):
    root, tables = study
    rows = {(r["pretrained on"], r["of"]): r for r in records(tables["Linear probes by block, in %"])}
    decoded = {(r["pretrained on"], r["of"]): r for r in records(tables["Explained variance of the pixels, in %"])}
    solved = {(r["pretrained on"], r["of"]): r for r in records(tables["Pretext accuracy by block, in %"])}
    alike = {r["of"]: r for r in records(tables["Similarity to bp, in %"])}
    changed = {(r["pretrained on"], r["of"]): r for r in records(tables["Cka to untrained, validation, in %"])}
    ff = [measured(root, "ff", seed) for seed in (0, 1)]
    pairs = [read_json(root / "pairs" / f"{cell_name('ff', s)}--{cell_name('bp', s)}.json") for s in (0, 1)]
    for i, block in enumerate(BLOCKS):
        values = [probes(run, "neutral", "ff", block)[1] for run in ff]
        assert rows["digits rotation", "ff"][block] == said(values, lacking=" of 3")
        about = {"split": "test", "blocks": block}
        values = [number(run, measure="pretext accuracy by reader", **about) for run in ff]
        assert solved["digits rotation", "ff, readout"][block] == said(values, lacking=" of 3")
        values = [probes(run, "neutral", "ff", block, target="pretext")[1] for run in ff]
        assert solved["digits rotation", "ff"][block] == said(values, lacking=" of 3")
        values = [number(run, measure="explained variance", source="ff", **about) for run in ff]
        assert decoded["digits rotation", "ff"][block] == said(values, lacking=" of 3")
        assert alike["ff and bp"][block] == said([pair["cka"][i][i] for pair in pairs])
        values = [number(run, measure="cka to untrained", blocks=block) for run in ff]
        assert changed["digits rotation", "ff"][block] == said(values, lacking=" of 3")


def test_failed_damaged_and_missing_cells_are_said_and_never_filled(study):
    root, tables = study
    problems = {row["name"]: row for row in records(tables["Unfinished, failed, damaged, missing or incomplete"])}
    assert problems[cell_name("ff", 2)] == {
        "name": cell_name("ff", 2),
        "state": "failed",
        "reason": "pretrain: the loss is <nan> | here",
    }
    assert problems[cell_name("bp", 2)]["state"] == "missing"
    assert problems[cell_name("ff", 0, "jigsaw")]["state"] == "damaged"
    assert re.search(
        r"/evaluations/linear-\w+\.jsonl is damaged \(.+\): delete it, then evaluate the run again",
        problems[cell_name("ff", 0, "jigsaw")]["reason"],
    )
    assert dict(tables["The study"][1:])["cells"] == "7 done, 1 failed, 1 damaged, 1 missing, of 10"
    jigsaw = [r for r in records(tables["Pretext accuracy in %"]) if r["view"] == "jigsaw"]
    assert [r["digits"] for r in jigsaw] == ["damaged"]
    runs = {row["run"]: row for row in records(tables["Commands, machines and times"])}
    assert [runs[cell_name(*name)]["state"] for name in (("ff", 2), ("bp", 2), ("bp", 0))] == [
        "failed",
        "missing",
        "done",
    ]
    absent = {cell_name("ff", 2), cell_name("bp", 2), cell_name("ff", 0, "jigsaw")}
    assert not absent & {record["run"] for record in read_json(root / "results.json")}
    assert "no spread is shown" in (root / "report.html").read_text()


def test_what_was_read_on_validation_says_so_and_that_it_was_trained_on(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("bp", 0))
    run = root / "cells" / cell_name("bp", 0)
    change(run / "config.json", lambda record: record["config"].update(holdout=False))
    files_of(run, "readout", split="test")[0].unlink()
    [row] = records(reported(root)[0]["Pretext accuracy in %"])
    assert row["digits"] == said([pretext(told(run), "validation")], "validation, trained on")
    assert "Runs with --no-holdout were trained on the validation images too" in (root / "report.md").read_text()


def test_a_method_that_tells_nothing_has_no_pretext_accuracy(study):
    root, tables = study
    name = cell_name("ff-unsupervised", 0, "plain")
    assert not files_of(root / "cells" / name, "readout")
    assert all("accuracy" not in r["validation"] for r in RunFolder(root / "cells" / name).read_metrics())
    for title in ("Pretext accuracy in %", "Supervised reference: test accuracy in %", "Ablation: accuracy in %"):
        assert "ff-unsupervised" not in {cell for row in tables[title] for cell in row}
    transfer = records(tables["Transfer: test accuracy of linear probes in %"])
    assert any(row["method"] == "ff-unsupervised" for row in transfer)
    problems = {row["name"] for row in records(tables["Unfinished, failed, damaged, missing or incomplete"])}
    assert name not in problems


def test_csv_and_json_hold_every_number_of_the_folders(study):
    root, _ = study
    tidy = read_json(root / "results.json")
    with (root / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in record.items()} for record in tidy] == lines
    keys = ("measure", "split", "reading", "target", "source", "blocks")
    wanted = set()
    for run in (root / "cells").iterdir():
        if run.name == cell_name("ff", 0, "jigsaw"):
            continue
        for record in told(run):
            about = {**record, "source": record.get("source", record["evaluation"])}  # of seconds
            wanted.add((run.name, record["dataset"], *(about.get(key, "") for key in keys), record["value"]))
    assert len({row[2] for row in wanted}) == 7
    lying = {tuple(record[key] for key in ("run", "probed_on", *keys, "value")) for record in tidy}
    assert wanted == {row for row in lying if row[1]}
    [seconds] = [r["value"] for r in tidy if r["run"] == cell_name("bp", 0) and r["source"] == "pretraining"]
    assert seconds == sum(r["seconds"] for r in RunFolder(root / "cells" / cell_name("bp", 0)).read_metrics())


def test_the_effect_of_a_recipe_is_that_of_the_run_folders(study):
    root, tables = study
    transfer = {
        m: [probes(measured(root, m, s), reading, m)[1] for s in (0, 1)]
        for m, reading in (("ff", "neutral"), ("bp", "pixels"))
    }
    differences = [bp - ff for ff, bp in zip(transfer["ff"], transfer["bp"], strict=True)]
    low, high = ttest_1samp(differences, 0.0).confidence_interval(0.95)
    [row] = [
        r for r in records(next(rows for title, rows in tables.items() if "each level" in title)) if r["level"] == "bp"
    ]
    assert (row["setting"], row["less"], row["pairs"], row["seeds"]) == ("recipe", "ff", "2 of 3", "2")
    effect = f"{100 * statistics.mean(differences):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert row["probe accuracy, chosen (points)"] == effect
    with (root / "effects.csv").open(newline="") as file:
        [line] = [
            line for line in csv.DictReader(file) if (line["level"], line["figure"]) == ("bp", "probe accuracy, chosen")
        ]
    assert [float(line[key]) for key in ("value", "low", "high")] == pytest.approx(
        [statistics.mean(differences), low, high]
    )
    assert (line["pairs"], line["planned"], line["split"], line["unit"]) == ("2", "3", "test", "share")


def test_markdown_says_what_the_page_says(study):
    root, tables = study
    assert markdown_tables((root / "report.md").read_text()) == tables
    text = (root / "report.md").read_text()
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (root / name).is_file()


def test_each_run_can_be_made_again_by_its_command(study):
    root, tables = study
    for row in records(tables["Commands, machines and times"]):
        if row["command"]:
            program, command, *options = shlex.split(row["command"])
            assert (program, command) == ("fftrain", "pretrain")
            given, parts = {}, assigned([word for word in options if "." in word and "=" in word], PARTS)
            options = [word for word in options if not ("." in word and "=" in word)]
            while options:
                name = options.pop(0).removeprefix("--")
                given[name.replace("-", "_")] = options.pop(0) if options[:1] and options[0][:2] != "--" else name
            out = given.pop("out")
            assert out == f"again/{row['run']}"
            RunFolder(root / out).check_new()
            if given.pop("no_holdout", None):
                given["holdout"] = False
            recipe = read_recipe(given.pop("recipe"))
            typed = {k: v if k in ("dataset", "view", "holdout") else json.loads(v) for k, v in given.items()}
            again = RunConfig(**merged(recipe, typed, parts))
            made = RunFolder(root / "cells" / row["run"]).read_config()
            assert {**keyed(again), "mixed_precision": "no"} == keyed(made)


def test_figures_are_valid_svg_that_load_nothing(study):
    root, _ = study
    drawn = sorted((root / "figures").glob("*.svg"))
    names = {path.stem for path in drawn}
    assert names >= {
        "effects-digits-1",
        "gap",
        "probes-digits",
        "decoder-digits",
        "cka-digits",
        "tsne-digits-rotation",
        "curves-digits-1",
    }
    assert names >= {
        f"seen-{name}" for name in ("ff-digits-rotation", "bp-digits-rotation", "ff-unsupervised-digits-plain")
    }
    for path in drawn:
        svg = ElementTree.fromstring(path.read_text())
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert svg.get("role") == "img"
        assert float(svg.get("width").removesuffix("pt")) < 72 * 7.3
        links = [value for part in svg.iter() for key, value in part.attrib.items() if key.endswith("href")]
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_a_study_gives_the_same_bytes_twice(study):
    root, _ = study
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for path in (root / "figures").iterdir():
        path.unlink()
    write_report(root)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"format": 9, "cells": [{}]}', '{"format": 2, "cells": []}', '{"format": 1, "cells": [{}]}']
)
def test_a_damaged_plan_is_named(tmp_path, content):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        write_report(tmp_path)
