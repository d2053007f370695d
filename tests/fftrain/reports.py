"""A small study to report on, and what is read of its pages."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ffcore.files import read_json, write_json
from fftrain import EvaluationConfig, evaluate_run, write_report
from fftrain.config import DataSettings, keyed
from fftrain.data import load_data
from fftrain.launcher import make_accelerator
from fftrain.similar import compare_runs
from fftrain.study import STUDY_FORMAT
from fftrain.study.spec import where
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


def evaluations_of(method, seed, readings, *, whole):
    """What is measured of a cell, in the order of study.json; `whole` ones have pictures and a decoder too."""
    parts = [("linear", {"epochs": 2}, reading) for reading in readings]
    if whole:
        parts += [("decoder", {"images": 200}, readings[0]), ("similarity", {"images": 200}, readings[0])]
        parts += [] if seed else [("tsne", {"points": 60}, readings[0])]
    if method != "ff-unsupervised":
        parts += [("readout", {"split": split}, readings[0]) for split in ("validation", "test")]
    return [
        EvaluationConfig(dataset="digits", reading=reading, threads=1, evaluation={"name": name, **given})
        for name, given, reading in parts
    ]


def make_study(root: Path) -> Path:
    """Writes a study of real tiny runs with a failed, a damaged and a missing cell."""
    accelerator, data = make_accelerator(1), load_data(DataSettings(dataset="digits"))
    shared = {"dataset": "digits", "width": 24, "batch_size": 128, "lr": 3e-3, "epochs": 2, "threads": 1}
    made = [("ff", 0, "rotation"), ("ff", 1, "rotation"), ("bp", 0, "rotation"), ("bp", 1, "rotation")]
    made += [("bp-goodness-all", 0, "rotation"), ("ff-unsupervised", 0, "plain"), ("bp", 0, "plain")]
    cells = []
    for method, seed, view in [*made, ("ff", 2, "rotation"), ("bp", 2, "rotation"), ("ff", 0, "jigsaw")]:
        readings = ("neutral", "zeros") if method == "ff" else ("pixels",)
        readings = ("neutral",) if method == "bp-goodness-all" else readings
        there = (method, seed, view) in made
        whole = there and view == "rotation" and method in ("ff", "bp")
        asked = evaluations_of(method, seed, readings, whole=whole)
        config = settings(method, **shared, view=view, seed=seed, holdout=method != "ff-unsupervised")
        plan = {"name": cell_name(method, seed, view), "dataset": "digits", "view": view, "method": method}
        plan |= {"seed": seed, "settings": keyed(config), "varied": {}}
        plan["evaluations"] = [
            {"evaluation": one.evaluation.called, **where(one), "settings": keyed(one)} for one in asked
        ]
        cells.append(plan)
        if there:
            path = root / "cells" / plan["name"]
            pretrain(config, path, accelerator=accelerator, data=data)
            evaluate_run(path, *asked, accelerator=accelerator, data=data)
        if whole:
            copied(path, readings[0], target="pretext")
    copied(root / "cells" / cell_name("bp", 0), "pixels", dataset="mnist")
    write_json(
        root / "failed" / f"{cell_name('ff', 2)}.json", {"error": "the loss is <nan> | here", "step": "pretrain"}
    )
    damaged = root / "cells" / cell_name("ff", 0, "jigsaw")
    shutil.copytree(root / "cells" / cell_name("ff", 0), damaged)
    config = read_json(damaged / "config.json")
    config["config"]["view"]["name"] = "jigsaw"
    write_json(damaged / "config.json", config)
    files_of(damaged, "linear")[0].write_text("{")
    pairs = [[cell_name("ff", seed), cell_name("bp", seed)] for seed in (0, 1, 2)]
    for a, b in pairs[:2]:
        found = compare_runs(root / "cells" / a, root / "cells" / b, data=data)
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


def lines_of(path):
    """The records of an evaluation's file, as they lie there: the first one is about it."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def files_of(run, name, **about):
    """The files of an evaluation whose first line has these values, or its settings."""
    found = {path: lines_of(path)[0] for path in sorted((run / "evaluations").glob(f"{name}-*.jsonl"))}
    return [p for p, head in found.items() if about.items() <= {**head, **head["settings"]["evaluation"]}.items()]


def copied(run, reading, **about):
    """Copies a run's probes of a reading as if they were of another place, with lower numbers and without pixels."""
    head, *found = lines_of(files_of(run, "linear", reading=reading, target="class")[0])
    head = {**head, **about, "settings": {**head["settings"], **about}}
    kept = [{**r, **about, "value": r["value"] / 2} for r in found if r["source"] != "raw"]
    write_lines(run / "evaluations" / f"linear-{'-'.join(about.values())}.jsonl", [head, *kept])


def remeasured(run, do):
    """Changes every record of a run but those of what was measured; one for which `do` says False is left out."""
    for path in (run / "evaluations").glob("*.jsonl"):
        head, *found = lines_of(path)
        write_lines(path, [head, *(record for record in found if do(record) is not False)])


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
    """Every number of a run, as it lies in its folder."""
    return told(root / "cells" / cell_name(method, seed, view))


def told(run):
    """Every number that lies in a run's folder."""
    return [record for path in sorted((run / "evaluations").glob("*.jsonl")) for record in lines_of(path)]


def number(found, **wanted):
    """The one number that has these values."""
    [value] = [record["value"] for record in found if wanted.items() <= record.items()]
    return value


def pretext(found, split="test"):
    return number(found, measure="pretext accuracy", split=split)


def said(values, *remarks, lacking=""):
    """What a table should say of the figures of some seeds, computed without the package."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    count = f"n={len(values)}" + lacking
    return f"{100 * sum(values) / len(values):.1f}{spread} ({'; '.join([count, *remarks])})"


def probes(found, reading, source, blocks=None, *, dataset="digits", target="class"):
    """The blocks that validation chooses (or those asked for), and their test accuracy."""
    about = {"measure": "probe accuracy", "dataset": dataset, "reading": reading, "target": target, "source": source}
    mine = [record for record in found if about.items() <= record.items()]
    best = max((record for record in mine if record["split"] == "validation"), key=lambda record: record["value"])
    blocks = best["blocks"] if blocks is None else blocks
    return blocks, number(mine, split="test", blocks=blocks)


LACKING = {"ff": " of 3: seed 2 failed", "bp": " of 3: seed 2 missing"}


NAMES = ["$_$", "_hidden", "$x", "a_b^c", r"\$5$", "five", "six", "seven", "eight"]
