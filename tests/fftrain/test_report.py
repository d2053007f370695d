"""The report shows what lies in the run folders, and nothing else: no figure is filled in, none is lost."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ffmodels.errors import RunError
from ffmodels.files import read_json, write_json
from fftrain import PretrainConfig, ProbeConfig, pretrain, probe_run, write_report
from fftrain.analyse import analyse_run, compare_runs
from fftrain.collect import collect
from fftrain.config import AnalysisConfig, DataConfig
from fftrain.curves import Curve
from fftrain.data import load_data
from fftrain.evaluate import evaluate_run
from fftrain.figures import layer_lines, svg, training_curves
from fftrain.means import Mean
from fftrain.run import RunFolder
from fftrain.trainer import make_accelerator

PUBLISHED = {"pretext": {"ff": 98.9, "bp": 99.2}, "transfer": {"ff": 76.3, "bp": 97.5}}  # MNIST, rotation
ABLATION = {"bp": (98.8, 97.5), "bp-goodness-all": (98.7, 85.7), "ff": (98.9, 76.3)}
LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Page(HTMLParser):
    """The tables of a page by their captions, as rows of cells, and what it loads from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.loads, self.pictures, self.texts = {}, [], 0, {}
        self.inside, self.rows = None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.pictures += tag == "svg"
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag in ("script", "img", "link", "iframe"):
            self.loads.append(attributes.get("src") or attributes.get("href") or tag)
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "caption"):
            self.inside, self.text = tag, ""

    def handle_data(self, data):
        if self.inside is not None:
            self.text += data

    def handle_endtag(self, tag):
        if tag == self.inside:
            if tag == "caption":
                self.tables[self.text] = self.rows
            else:
                self.rows[-1].append(self.text)
            self.inside = None


def markdown_tables(text):
    """The tables of a Markdown file by their titles, as rows of cells."""
    tables, title = {}, None
    for line in text.splitlines():
        if found := re.fullmatch(r"\*\*(.+)\*\*", line):
            title = re.sub(r"\\(.)", r"\1", found[1])
        elif line.startswith("| ") and title:
            cells = re.split(r"(?<!\\) \| ", line[2:].removesuffix(" |"))
            if set(line) <= set("| -"):
                continue
            tables.setdefault(title, []).append([re.sub(r"\\(.)", r"\1", cell) for cell in cells])
    return tables


def records(rows):
    """A table's rows as dicts by column."""
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "study"
    shutil.copytree(trained, root)
    prediction = {"model": "m.onnx", "predictions": [{"file": "<b>.png", "top": [{"class": "3", "probability": 0.5}]}]}
    (root / "prediction.json").write_text(json.dumps(prediction))
    write_report(root)
    return root, (root / "report.html").read_text()


def cell_name(method, seed, task="rotation"):
    return f"digits-{task}-{method}-s{seed}"


def make_study(root: Path) -> Path:
    """Writes a study of real tiny runs with a failed, a damaged and a missing cell."""
    accelerator, data = make_accelerator(1), load_data(DataConfig(dataset="digits"))
    shared = {"dataset": "digits", "width": 24, "batch_size": 128, "lr": 3e-3, "epochs": 2, "threads": 1}
    made = [("ff", 0, "rotation"), ("ff", 1, "rotation"), ("bp", 0, "rotation"), ("bp", 1, "rotation")]
    made += [("bp-goodness-all", 0, "rotation"), ("ff-unsupervised", 0, "hybrid"), ("bp", 0, "supervised")]
    cells = []
    for method, seed, task in [*made, ("ff", 2, "rotation"), ("bp", 2, "rotation"), ("ff", 0, "jigsaw")]:
        slots = ("neutral", "zeros") if method == "ff" else ("pixels",)
        slots = ("neutral",) if method == "bp-goodness-all" else slots
        probes = [{"dataset": "digits", "slot": slot, "target": "class"} for slot in slots]
        plan = {"name": cell_name(method, seed, task), "dataset": "digits", "task": task, "method": method}
        cells.append({**plan, "seed": seed, "settings": {}, "varied": {}, "probes": probes, "analysis": False})
    for (method, seed, task), cell in zip(made, cells, strict=False):
        path = root / "cells" / cell["name"]
        more = {"task": task, "method": method, "seed": seed, "holdout": method != "ff-unsupervised"}
        pretrain(PretrainConfig(**shared, **more), path, accelerator=accelerator, data=data)
        if method != "ff-unsupervised":
            evaluate_run(path, split="test", accelerator=accelerator, data=data)
        for place in cell["probes"]:
            probe_run(path, ProbeConfig(dataset="digits", slot=place["slot"], epochs=2, threads=1), data=data)
        folder = RunFolder(path)
        if method in ("ff", "bp") and task == "rotation":
            cell["analysis"] = True
            slot = cell["probes"][0]["slot"]
            results = folder.read_results()
            rows = results["probes"][f"digits-{slot}"]["rows"]
            pretext_rows = [{**row, "test": row["test"] / 2} for row in rows if row["source"] != "raw"]
            other = {**results["probes"][f"digits-{slot}"], "target": "pretext", "rows": pretext_rows}
            folder.add_result(("probes", f"digits-{slot}-pretext"), other)
            analyse_run(path, AnalysisConfig(images=200, points=0 if seed else 60, threads=1), data=data)
    elsewhere = RunFolder(root / "cells" / cell_name("bp", 0))
    there = elsewhere.read_results()["probes"]["digits-pixels"]
    elsewhere.add_result(("probes", "mnist-pixels"), {**there, "dataset": "mnist"})
    write_json(
        root / "failed" / f"{cell_name('ff', 2)}.json", {"error": "the loss is <nan> | here", "step": "pretrain"}
    )
    damaged = root / "cells" / cell_name("ff", 0, "jigsaw")
    shutil.copytree(root / "cells" / cell_name("ff", 0), damaged)
    config = read_json(damaged / "config.json")
    config["config"]["task"] = "jigsaw"
    write_json(damaged / "config.json", config)
    (damaged / "results.json").write_text("{")
    pairs = [[cell_name("ff", seed), cell_name("bp", seed)] for seed in (0, 1, 2)]
    for a, b in pairs[:2]:
        found = compare_runs(root / "cells" / a, root / "cells" / b, images=50, data=data)
        write_json(root / "pairs" / f"{a}--{b}.json", found)
    about = {"format": 1, "name": "tiny", "command": "fftrain study --out tiny", "version": "0.1.0", "git_commit": None}
    write_json(
        root / "study.json", {**about, "spec": {"published": {"digits": "mnist"}}, "cells": cells, "pairs": pairs}
    )
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = make_study(tmp_path_factory.mktemp("study") / "tiny")
    write_report(root)
    return root, Page((root / "report.html").read_text()).tables


def part(study, root, *cells):
    """A copy of some cells of the study, as a study of its own."""
    names = [cell_name(*cell) for cell in cells]
    for name in names:
        shutil.copytree(
            study[0] / "cells" / name, root / "cells" / name, ignore=shutil.ignore_patterns("checkpoint", "probes")
        )
    plan = read_json(study[0] / "study.json")
    write_json(root / "study.json", {**plan, "cells": [c for c in plan["cells"] if c["name"] in names], "pairs": []})
    return root


def change(path, do):
    """Changes a JSON file."""
    content = read_json(path)
    do(content)
    write_json(path, content)


def reported(root):
    """Writes the report: its tables, and the problems that it names."""
    write_report(root)
    tables = Page((root / "report.html").read_text()).tables
    named = tables.get("Failed, damaged, missing or incomplete", [["name", "state", "reason"]])
    return tables, {row["name"]: (row["state"], row["reason"]) for row in records(named)}


def measured(root, method, seed, task="rotation"):
    """A run's results as they lie in its folder."""
    return read_json(root / "cells" / cell_name(method, seed, task) / "results.json")


def said(values, *remarks, lacking=""):
    """What a table should say of the figures of some seeds, computed without the package."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    count = f"n={len(values)}" + lacking
    return f"{100 * sum(values) / len(values):.1f}{spread} ({'; '.join([count, *remarks])})"


def probes(results, place, source, layers=None):
    """The layers that validation chooses (or those asked for), and their test accuracy."""
    rows = [row for row in results["probes"][place]["rows"] if row["source"] == source]
    best = max(rows, key=lambda row: row["validation"])
    row = best if layers is None else next(row for row in rows if row["layers"] == layers)
    return row["layers"], row["test"]


LACKING = {"ff": " of 3: seed 2 failed", "bp": " of 3: seed 2 missing"}


@pytest.mark.parametrize("method", ["ff", "bp"])
def test_means_spreads_and_differences_are_those_of_the_run_folders(study, method):
    root, tables = study
    runs = [measured(root, method, seed) for seed in (0, 1)]
    row = next(r for r in records(tables["Pretext accuracy in %"]) if (r["task"], r["method"]) == ("rotation", method))
    values = [run["pretext"]["test"]["accuracy"] for run in runs]
    assert row["digits"] == said(values, lacking=LACKING[method])
    assert row["digits published"] == str(PUBLISHED["pretext"][method])
    assert row["digits difference"] == f"{100 * statistics.mean(values) - PUBLISHED['pretext'][method]:+.1f}"

    place = {"ff": "digits-neutral", "bp": "digits-pixels"}[method]
    rows = records(tables["Transfer: test accuracy of linear probes in %"])
    mine = [r for r in rows if (r["task"], r["method"]) == ("rotation", method)]
    for row, layers in zip(mine, (None, "layers2-4"), strict=True):
        found = [probes(run, place, method, layers) for run in runs]
        values = [value for _, value in found]
        chosen = ["/".join(dict.fromkeys(name for name, _ in found))] if layers is None else []
        assert row["digits"] == said(values, *chosen, lacking=LACKING[method])
        assert row["digits difference"] == f"{100 * statistics.mean(values) - PUBLISHED['transfer'][method]:+.1f}"
        values = [probes(run, place, "random", layers)[1] for run in runs]
        assert row["digits random"] == said(values, lacking=" of 3")
        [raw] = {probes(run, place, "raw")[1] for run in runs}
        assert row["digits raw"] == f"{100 * raw:.1f}"


def test_the_gap_is_of_pairs_of_one_seed(study):
    root, tables = study
    [row] = records(tables["FF less BP, in points"])
    pretext = {m: [measured(root, m, s)["pretext"]["test"]["accuracy"] for s in (0, 1)] for m in ("ff", "bp")}
    transfer = {
        m: [probes(measured(root, m, s), f"digits-{slot}", m)[1] for s in (0, 1)]
        for m, slot in (("ff", "neutral"), ("bp", "pixels"))
    }
    assert row["difficulty"] == said([1 - value for value in pretext["bp"]], lacking=" of 3")
    for name, values, published in (
        ("pretext gap", pretext, 98.9 - 99.2),
        ("transfer gap (chosen layers)", transfer, 76.3 - 97.5),
    ):
        differences = [ff - bp for ff, bp in zip(values["ff"], values["bp"], strict=True)]
        assert float(row[name].split()[0]) == round(100 * statistics.mean(differences), 1)
        assert f"± {100 * statistics.stdev(differences):.1f} (n=2 of 3" in row[name]
        assert row[f"{name}, published"] == f"{published:+.1f}"


def test_ablation_supervised_slots_and_other_data_sets(study):
    root, tables = study
    found = {row["method"]: row for row in records(tables["Ablation: accuracy in %"])}
    assert [*found] == ["bp", "bp-goodness-all", "ff"]
    for method, (pretext, transfer) in ABLATION.items():
        assert found[method]["pretext published"] == str(pretext)
        assert found[method]["transfer published"] == str(transfer)
    [row] = records(tables["Supervised reference: test accuracy in %"])
    run = measured(root, "bp", 0, "supervised")
    own = run["pretext"]["test"]["accuracy"]
    assert row["own accuracy"] == said([own])
    assert row["difference of own"] == f"{100 * own - 98.8:+.1f}"
    assert row["probe (last three)"] == said([probes(run, "digits-pixels", "bp", "layers2-4")[1]])
    title = "What the label pixels hold when features are read: test accuracy in %"
    for row in [r for r in records(tables[title]) if r["task"] == "rotation"]:
        values = [probes(measured(root, "ff", s), f"digits-{row['slot']}", "ff", "layers2-4")[1] for s in (0, 1)]
        assert row["probe (last three)"] == said(values, lacking=" of 3")
    [row] = records(tables["Transfer to another data set: test accuracy in %"])
    assert (row["pretrained on"], row["probed on"]) == ("digits", "mnist")
    values = [probes(measured(root, "bp", 0), "mnist-pixels", "bp", "layers2-4")[1]]
    assert row["probe (last three)"] == said(values, lacking=" of 3")


def test_figures_of_layers_are_those_of_the_run_folders(study):
    root, tables = study
    rows = {(r["pretrained on"], r["of"]): r for r in records(tables["Linear probes by layer, in %"])}
    decoded = {(r["pretrained on"], r["of"]): r for r in records(tables["Explained variance of the pixels, in %"])}
    solved = {(r["pretrained on"], r["of"]): r for r in records(tables["Pretext accuracy by layer, in %"])}
    alike = {r["of"]: r for r in records(tables["Similarity to BP, in %"])}
    ff = [measured(root, "ff", seed) for seed in (0, 1)]
    pairs = [read_json(root / "pairs" / f"{cell_name('ff', s)}--{cell_name('bp', s)}.json") for s in (0, 1)]
    for i, layer in enumerate(LAYERS):
        values = [probes(run, "digits-neutral", "ff", layer)[1] for run in ff]
        assert rows["digits rotation", "ff"][layer] == said(values, lacking=" of 3")
        values = [run["pretext"]["test"]["by"][layer] for run in ff]
        assert solved["digits rotation", "ff, goodness"][layer] == said(values, lacking=" of 3")
        values = [probes(run, "digits-neutral-pretext", "ff", layer)[1] for run in ff]
        assert solved["digits rotation", "ff"][layer] == said(values, lacking=" of 3")
        lines = [run["analysis"]["digits-neutral"]["decoder"] for run in ff]
        values = [next(r["test"] for r in run if (r["source"], r["layers"]) == ("ff", layer)) for run in lines]
        assert decoded["digits rotation", "ff"][layer] == said(values, lacking=" of 3")
        assert alike["ff and bp"][layer] == said([pair["cka"][i][i] for pair in pairs])
        assert alike["bp and itself untrained"][layer] == said([pair["cka_untrained"][1][i] for pair in pairs])


def test_failed_damaged_and_missing_cells_are_said_and_never_filled(study):
    root, tables = study
    problems = {row["name"]: row for row in records(tables["Failed, damaged, missing or incomplete"])}
    assert problems[cell_name("ff", 2)] == {
        "name": cell_name("ff", 2),
        "state": "failed",
        "reason": "pretrain: the loss is <nan> | here",
    }
    assert problems[cell_name("bp", 2)]["state"] == "missing"
    assert problems[cell_name("ff", 0, "jigsaw")]["state"] == "damaged"
    assert "results.json is damaged" in problems[cell_name("ff", 0, "jigsaw")]["reason"]
    assert dict(tables["The study"][1:])["cells"] == "7 done, 1 failed, 1 damaged, 1 missing, of 10"
    jigsaw = [r for r in records(tables["Pretext accuracy in %"]) if r["task"] == "jigsaw"]
    assert [r["digits"] for r in jigsaw] == ["damaged"]
    runs = {row["run"]: row for row in records(tables["Every run"])}
    assert [runs[cell_name(*name)]["state"] for name in (("ff", 2), ("bp", 2), ("bp", 0))] == [
        "failed",
        "missing",
        "done",
    ]
    absent = {cell_name("ff", 2), cell_name("bp", 2), cell_name("ff", 0, "jigsaw")}
    assert not absent & {record["run"] for record in read_json(root / "results.json")}
    assert "no spread is shown" in (root / "report.html").read_text()


def test_what_was_read_on_validation_says_so_and_that_it_was_trained_on(study):
    root, tables = study
    value = measured(root, "ff-unsupervised", 0, "hybrid")["pretext"]["validation"]["accuracy"]
    [row] = [row for row in records(tables["Pretext accuracy in %"]) if row["task"] == "hybrid"]
    assert row["digits"] == said([value], "validation, trained on")
    assert "Runs with --no-holdout were trained on the validation images too" in (root / "report.md").read_text()


def test_csv_and_json_hold_every_number_of_the_folders(study):
    root, _ = study
    tidy = read_json(root / "results.json")
    with (root / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in record.items()} for record in tidy] == lines
    wanted = set()
    for path in (root / "cells").glob("*/results.json"):
        if path.parent.name == cell_name("ff", 0, "jigsaw"):
            continue
        results = read_json(path)
        for split, found in results["pretext"].items():
            wanted.add((path.parent.name, "pretext accuracy", split, "", "", "", found["accuracy"]))
        for measure, parts in (("probe accuracy", "probes"), ("explained variance", "analysis")):
            for found in results.get(parts, {}).values():
                for row in found["rows" if parts == "probes" else "decoder"]:
                    place = (found.get("target", "class") if parts == "probes" else "", row["source"], row["layers"])
                    wanted |= {(path.parent.name, measure, s, *place, row[s]) for s in ("validation", "test")}
    keys = ("run", "measure", "split", "target", "source", "layers", "value")
    assert wanted <= {tuple(record[key] for key in keys) for record in tidy}
    [seconds] = [r["value"] for r in tidy if r["run"] == cell_name("bp", 0) and r["source"] == "pretraining"]
    assert seconds == sum(r["seconds"] for r in RunFolder(root / "cells" / cell_name("bp", 0)).read_metrics())


def test_markdown_says_what_the_page_says(study):
    root, tables = study
    assert markdown_tables((root / "report.md").read_text()) == tables
    text = (root / "report.md").read_text()
    for name in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (root / name).is_file()


def test_each_run_can_be_made_again_by_its_command(study):
    root, tables = study
    for row in records(tables["Every run"]):
        if row["command"]:
            program, command, *options = shlex.split(row["command"])
            assert (program, command) == ("fftrain", "pretrain")
            given = {}
            while options:
                name = options.pop(0).removeprefix("--")
                given[name.replace("-", "_")] = options.pop(0) if options[:1] and options[0][:2] != "--" else name
            assert given.pop("out") == f"cells/{row['run']}"
            if given.pop("no_holdout", None):
                given["holdout"] = False
            typed = {k: v if k in ("dataset", "task", "method", "holdout") else json.loads(v) for k, v in given.items()}
            again, made = PretrainConfig(**typed), RunFolder(root / "cells" / row["run"]).read_config()
            assert {**vars(again), "threshold": 24.0} == vars(made)


def test_figures_are_valid_svg_that_load_nothing(study):
    root, _ = study
    drawn = sorted((root / "figures").glob("*.svg"))
    names = {path.stem for path in drawn}
    assert names >= {"gap", "probes-digits", "decoder-digits", "cka-digits", "tsne-digits-rotation", "curves-digits-1"}
    assert names >= {"labelled-digits-rotation", "unlabelled-digits-rotation", "hybrids-digits-hybrid"}
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


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 9, "cells": [{}]}', '{"format": 1, "cells": []}'])
def test_a_damaged_plan_is_named(tmp_path, content):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        write_report(tmp_path)


def test_every_figure_is_the_run_folders(page):
    root, text = page
    tables = Page(text).tables
    found = {tuple(row[:6]): row[6:] for row in tables["Every probe (accuracy in %)"][1:]}
    for method in ("ff", "bp"):
        [(name, result)] = read_json(root / method / "results.json")["probes"].items()
        for row in result["rows"]:
            cells = found[method, "digits", name.removeprefix("digits-"), "class", row["source"], row["layers"]]
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
    rows = records(Page((tmp_path / "report.html").read_text()).tables["Linear probes by layer, in %"])
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


def test_what_was_measured_with_other_settings_is_not_shown(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    recorded = measured(root, "ff", 0)
    probes_of, analysis = recorded["probes"], recorded["analysis"]["digits-neutral"]["config"]

    def plan(epochs, images, slot):
        def do(content):
            for place in content["cells"][0]["probes"]:
                used = probes_of[f"digits-{place['slot']}"]["config"]
                place["settings"] = {**used, "epochs": epochs if place["slot"] == "neutral" else used["epochs"]}
            content["cells"][0]["analysis"] = {**analysis, "images": images, "slot": slot}
            content["cells"][1]["analysis"] = None

        change(root / "study.json", do)

    plan(2, 200, None)
    tables, problems = reported(root)
    assert problems == {}
    assert (root / "figures" / "tsne-digits-rotation.svg").read_text().count("ff, seed 0")
    plan(50, 10_000, None)
    tables, problems = reported(root)
    assert problems == {
        cell_name("ff", 0): (
            "incomplete",
            "not measured: probe of digits, slot neutral, class (measured with other settings: epochs 2, not 50); "
            "analysis (measured with other settings: images 200, not 10000)",
        )
    }
    rows = records(tables["Transfer: test accuracy of linear probes in %"])
    assert {r["digits"] for r in rows if r["method"] == "ff"} == {"not measured"}
    assert {r["digits"] for r in rows if r["method"] == "bp"} != {"not measured"}
    rows = records(tables["Explained variance of the pixels, in %"])
    assert "ff" not in [row["of"] for row in rows]
    assert "ff, seed 0" not in (root / "figures" / "tsne-digits-rotation.svg").read_text()
    kept = [r for r in read_json(root / "results.json") if r["run"] == cell_name("ff", 0)]
    assert {r["slot"] for r in kept if r["measure"] == "probe accuracy" and r["target"] == "class"} == {"zeros"}
    assert "explained variance" not in {r["measure"] for r in kept}
    plan(2, 200, "zeros")
    assert reported(root)[1][cell_name("ff", 0)][1].endswith("(measured with other settings: slot neutral, not zeros)")


def test_raw_is_one_measurement_unless_it_differs(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("ff", 1))

    def shown(tables):
        place = "What the label pixels hold when features are read: test accuracy in %"
        found = [records(tables["Transfer: test accuracy of linear probes in %"])[0]["digits raw"]]
        found += [row["raw"] for row in records(tables[place])[:1]]
        layers = records(tables["Linear probes by layer, in %"])
        return [*found, next(row["pixels"] for row in layers if row["of"] == "raw")]

    [value] = {probes(measured(root, "ff", seed), "digits-neutral", "raw")[1] for seed in (0, 1)}
    assert shown(reported(root)[0]) == [f"{100 * value:.1f}"] * 3

    def other(results):
        for row in results["probes"]["digits-neutral"]["rows"]:
            row["test"] = value + 0.02 if row["source"] == "raw" else row["test"]

    change(root / "cells" / cell_name("ff", 1) / "results.json", other)
    assert shown(reported(root)[0]) == [said([value, value + 0.02])] * 3


def test_seeds_that_are_not_tested_yet_are_lacking(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("ff", 1), ("bp", 0), ("bp", 1))
    values = [measured(root, "ff", seed)["pretext"] for seed in (0, 1)]

    def row():
        return records(tables["Pretext accuracy in %"])[0]

    change(root / "cells" / cell_name("ff", 1) / "results.json", lambda results: results["pretext"].pop("test"))
    tables, problems = reported(root)
    test = values[0]["test"]["accuracy"]
    assert row()["digits"] == said([test], lacking=" of 2: seed 1 not measured")
    assert row()["digits difference"] == f"{100 * test - 98.9:+.1f}"
    assert problems == {cell_name("ff", 1): ("incomplete", "not measured: pretext accuracy on test")}
    [gap] = records(tables["FF less BP, in points"])
    assert "validation" not in gap["pretext gap"]
    change(root / "cells" / cell_name("ff", 0) / "results.json", lambda results: results["pretext"].pop("test"))
    tables, _ = reported(root)
    assert row()["digits"] == said([found["validation"]["accuracy"] for found in values], "validation")
    assert (row()["digits published"], row()["digits difference"]) == ("98.9", "")
    [gap] = records(tables["FF less BP, in points"])
    assert "validation" in gap["pretext gap"]
    assert "validation" in gap["difficulty"]


def test_the_gap_says_that_bp_is_on_both_axes(study):
    text = (study[0] / "report.md").read_text()
    assert "BP stands on both axes" in text
    assert "Supervised training is not in it" in text


NAMES = ["$_$", "_hidden", "$x", "a_b^c", r"\$5$", "five", "six", "seven", "eight"]


@pytest.mark.parametrize("last", ["nine", "\u732b\u5c4b"], ids=["latin", "cjk"])
def test_names_that_matplotlib_reads_in_another_way_are_shown(study, tmp_path, last):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0), ("bp", 0, "supervised"))
    for path in (root / "cells").glob("*/config.json"):
        change(path, lambda config: config["data"].update(class_names=[*NAMES, last]))
    reported(root)
    for name in ("tsne-digits-rotation", "unlabelled-digits-supervised"):
        svg = (root / "figures" / f"{name}.svg").read_text()
        parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
        parts = [p.text.strip() for p in ElementTree.fromstring(svg, parser).iter() if isinstance(p.text, str)]
        assert set(parts) >= ({*NAMES, last} if name.startswith("tsne") else {"$_$", "$x", r"\$5$"})


def test_legends_show_every_name():
    of = {"layer1": Mean(values={0: 0.5}, lacking={})}
    curves = [Curve(dataset="$_$", panel="$_$ \u732b", name=name, style="ff", means=of) for name in ("_a", "$b$", "c")]
    assert svg(layer_lines(curves, "%", 0.0), "").count("</text>") >= 4
    records = [{"epoch": 1, **{s: {"accuracy": 0.5, "loss": {"a": 1.0}} for s in ("train", "validation")}}]
    for figure in (layer_lines(curves, "%", 0.0), training_curves({"$_$": {"_a": [records], "$b$": [records]}})):
        [legend] = figure.legends
        assert [text.get_text().strip() for text in legend.get_texts()][:2] == ["_a", "$b$"]


def test_a_value_error_of_reading_is_a_damaged_file(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    about = {"bytes": 1, "sha256": "0", "largest_difference": "much"}
    write_json(root / "ff" / "export" / "manifest.json", {"files": {"model.onnx": about}})
    with pytest.raises(RunError, match="is damaged"):
        write_report(root)


@pytest.mark.parametrize("content", ['{"error": "e", "step": "test", "damaged": true}', "{", "[]"])
def test_what_failed_once_is_done_where_nothing_lacks(study, tmp_path, content):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    for name in (cell_name("ff", 0), cell_name("bp", 0)):
        (root / "failed").mkdir(exist_ok=True)
        (root / "failed" / f"{name}.json").write_text(content)
        (root / "cells" / name / "failed.json").write_text(content)
    (root / "cells" / cell_name("bp", 0) / "backbone.safetensors").unlink()
    _, problems = reported(root)
    assert [cell.state for cell in collect(root).cells] == ["done", "failed"]
    assert [*problems] == [cell_name("bp", 0)]
    (root / "failed" / f"{cell_name('bp', 0)}.json").unlink()
    assert collect(root).cells[1].state == "missing"


def test_a_comparison_that_failed_says_why(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    pair = [cell_name("ff", 0), cell_name("bp", 0)]
    change(root / "study.json", lambda plan: plan.update(pairs=[pair]))
    failed = root / "failed" / f"pair-{'--'.join(pair)}.json"
    assert reported(root)[1] == {"--".join(pair): ("missing", "not compared")}
    write_json(failed, {"error": "other shapes", "step": "compare", "damaged": False, "traceback": None})
    assert reported(root)[1] == {"--".join(pair): ("failed", "compare: other shapes")}
    write_json(root / "pairs" / f"{'--'.join(pair)}.json", read_json(study[0] / "pairs" / f"{'--'.join(pair)}.json"))
    assert reported(root)[1] == {}


def test_wall_time_is_not_that_of_the_last_attempt(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("bp", 0))
    path = root / "cells" / cell_name("bp", 0)
    epochs = sum(record["seconds"] for record in RunFolder(path).read_metrics())
    for pretrain_seconds, shown in ((epochs / 2, epochs), (epochs + 7, epochs + 7)):
        seconds = {"pretrain": pretrain_seconds, "test": 2.0}
        change(path / "results.json", lambda results, seconds=seconds: results.update(seconds=seconds))
        [cell] = collect(root).cells
        assert cell.seconds["all"] == pytest.approx(shown + 2.0)


def test_each_figure_can_be_measured_again_by_its_command(study, tmp_path, cli, monkeypatch):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    pair = [cell_name("ff", 0), cell_name("bp", 0)]
    change(root / "study.json", lambda plan: plan.update(pairs=[pair]))
    shutil.copytree(study[0] / "pairs", root / "pairs")
    name = cell_name("ff", 0)
    path = root / "cells" / name / "results.json"
    change(path, lambda results: results["probes"].pop("digits-neutral-pretext"))  # doctored
    before = read_json(path)
    rows = records(reported(root)[0]["Commands of every measurement"])
    commands = {row["what"]: shlex.split(row["command"]) for row in rows if row["of"] in (name, "--".join(pair))}
    path.unlink()
    monkeypatch.chdir(root)
    for words in commands.values():
        assert cli(*words).code == 0, words
    after = read_json(path)
    assert after["pretext"] == before["pretext"]
    for kind, figures in (("probes", "rows"), ("analysis", "decoder")):
        assert after[kind].keys() == before[kind].keys()
        for place, result in after[kind].items():
            assert result[figures] == before[kind][place][figures]
            assert {**result["config"], "data_dir": None} == {**before[kind][place]["config"], "data_dir": None}
    assert "--against" in commands["linear CKA"]


def test_figures_of_an_earlier_report_are_deleted_and_no_others(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("bp", 0), ("ff-unsupervised", 0, "hybrid"))
    (root / "figures").mkdir()
    (root / "figures" / "hybrids-digits-hybrid.svg").write_text("mine")
    (root / "report.md").write_text("![mine](figures/mine.svg)\n")
    (root / "figures" / "mine.svg").write_text("mine")
    reported(root)
    before = {path.name for path in (root / "figures").iterdir()}
    change(root / "study.json", lambda plan: plan["cells"].pop(1))
    reported(root)
    after = {path.name for path in (root / "figures").iterdir()}
    assert before - after == {"hybrids-digits-hybrid.svg"}
    assert "mine.svg" in after
