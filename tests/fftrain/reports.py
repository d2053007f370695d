"""A small study to report on, and what is read of its pages."""

from __future__ import annotations

import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ffcore.files import read_json, write_json
from fftrain import ProbeConfig, probe_run, write_report
from fftrain.analyse import analyse_run, compare_runs
from fftrain.config import AnalysisConfig, DataSettings, keyed
from fftrain.data import load_data
from fftrain.evaluate import evaluate_run
from fftrain.launcher import make_accelerator
from fftrain.run import RunFolder
from fftrain.study import STUDY_FORMAT
from fftrain.training import pretrain
from tests.fftrain.training import settings

PUBLISHED = {"pretext": {"ff": 98.9, "bp": 99.2}, "transfer": {"ff": 76.3, "bp": 97.5}}  # MNIST, rotation


ABLATION = {"bp": (98.8, 97.5), "bp-goodness-all": (98.7, 85.7), "ff": (98.9, 76.3)}


BLOCKS = ("block1", "block2", "block3", "block4")


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


def cell_name(method, seed, view="rotation"):
    return f"digits-{view}-{method}-s{seed}"


def make_study(root: Path) -> Path:
    """Writes a study of real tiny runs with a failed, a damaged and a missing cell."""
    accelerator, data = make_accelerator(1), load_data(DataSettings(dataset="digits"))
    shared = {"dataset": "digits", "width": 24, "batch_size": 128, "lr": 3e-3, "epochs": 2, "threads": 1}
    made = [("ff", 0, "rotation"), ("ff", 1, "rotation"), ("bp", 0, "rotation"), ("bp", 1, "rotation")]
    made += [("bp-goodness-all", 0, "rotation"), ("ff-unsupervised", 0, "plain"), ("bp", 0, "plain")]
    cells, configs = [], []
    for method, seed, view in [*made, ("ff", 2, "rotation"), ("bp", 2, "rotation"), ("ff", 0, "jigsaw")]:
        readings = ("neutral", "zeros") if method == "ff" else ("pixels",)
        readings = ("neutral",) if method == "bp-goodness-all" else readings
        probes = [{"dataset": "digits", "reading": reading, "target": "class"} for reading in readings]
        plan = {"name": cell_name(method, seed, view), "dataset": "digits", "view": view, "method": method}
        more = {"view": view, "seed": seed, "holdout": method != "ff-unsupervised"}
        configs.append(settings(method, **shared, **more))
        plan |= {"seed": seed, "settings": keyed(configs[-1]), "varied": {}}
        cells.append({**plan, "probes": probes, "analysis": False})
    for (method, seed, view), cell, config in zip(made, cells, configs, strict=False):
        path = root / "cells" / cell["name"]
        pretrain(config, path, accelerator=accelerator, data=data)
        if method != "ff-unsupervised":
            evaluate_run(path, split="test", accelerator=accelerator, data=data)
        for place in cell["probes"]:
            probe_run(path, ProbeConfig(dataset="digits", reading=place["reading"], epochs=2, threads=1), data=data)
        folder = RunFolder(path)
        if method in ("ff", "bp") and view == "rotation":
            cell["analysis"] = True
            reading = cell["probes"][0]["reading"]
            results = folder.read_results()
            rows = results["probes"][f"digits-{reading}"]["rows"]
            pretext_rows = [{**row, "test": row["test"] / 2} for row in rows if row["source"] != "raw"]
            other = {**results["probes"][f"digits-{reading}"], "target": "pretext", "rows": pretext_rows}
            folder.add_result(("probes", f"digits-{reading}-pretext"), other)
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
    config["config"]["view"]["name"] = "jigsaw"
    write_json(damaged / "config.json", config)
    (damaged / "results.json").write_text("{")
    pairs = [[cell_name("ff", seed), cell_name("bp", seed)] for seed in (0, 1, 2)]
    for a, b in pairs[:2]:
        found = compare_runs(root / "cells" / a, root / "cells" / b, images=50, data=data)
        write_json(root / "pairs" / f"{a}--{b}.json", found)
    about = {
        "format": STUDY_FORMAT,
        "name": "tiny",
        "command": "fftrain study --out tiny",
        "version": "0.1.0",
        "git_commit": None,
    }
    write_json(
        root / "study.json", {**about, "spec": {"published": {"digits": "mnist"}}, "cells": cells, "pairs": pairs}
    )
    return root


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


def reported(root, *, drawn=False):
    """Writes the report, its pictures only where they are looked at: its tables, and the problems that it names."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(
                "fftrain.report.figures.svg", lambda figure, alt: f'<svg role="img" aria-label="{alt}"></svg>'
            )
        write_report(root)
    tables = Page((root / "report.html").read_text()).tables
    named = tables.get("Unfinished, failed, damaged, missing or incomplete", [["name", "state", "reason"]])
    return tables, {row["name"]: (row["state"], row["reason"]) for row in records(named)}


def measured(root, method, seed, view="rotation"):
    """A run's results as they lie in its folder."""
    return read_json(root / "cells" / cell_name(method, seed, view) / "results.json")


def said(values, *remarks, lacking=""):
    """What a table should say of the figures of some seeds, computed without the package."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    count = f"n={len(values)}" + lacking
    return f"{100 * sum(values) / len(values):.1f}{spread} ({'; '.join([count, *remarks])})"


def probes(results, place, source, blocks=None):
    """The blocks that validation chooses (or those asked for), and their test accuracy."""
    rows = [row for row in results["probes"][place]["rows"] if row["source"] == source]
    best = max(rows, key=lambda row: row["validation"])
    row = best if blocks is None else next(row for row in rows if row["blocks"] == blocks)
    return row["blocks"], row["test"]


LACKING = {"ff": " of 3: seed 2 failed", "bp": " of 3: seed 2 missing"}


NAMES = ["$_$", "_hidden", "$x", "a_b^c", r"\$5$", "five", "six", "seven", "eight"]
