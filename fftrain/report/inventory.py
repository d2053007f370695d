"""What was run: the headline, every run, its settings, times and files, and the commands that do it again."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffcore.plugins import short
from ffcore.settings import Settings
from ffmodels.evaluated import ABOUT
from fftrain.config import EvaluationConfig, RunConfig, flat
from fftrain.parts import EVALUATIONS, PARTS
from fftrain.recipes import POINT, default, label, read_recipe, recipes
from fftrain.report.cells import STATES
from fftrain.report.frame import Collection
from fftrain.report.records import FoundRun
from fftrain.report.section import NOT_MEASURED, Table

PROBLEMS = "Unfinished, failed, damaged, missing or incomplete"
# The folder, new, in which the commands of the report make runs again.
AGAIN = "again"


def headline_table(found: Collection) -> Table:
    """Returns how much of a study is there, and what it was made with."""
    states = Counter(cell.state for cell in found.cells)
    records = [run.record for run in found.runs]
    assert found.study is not None
    facts = {
        "cells": ", ".join(f"{states[state]} {state}" for state in STATES) + f", of {len(found.cells)}",
        "wall time": _duration(sum(seconds(found).get(cell.name, {}).get("all", 0.0) for cell in found.cells)),
        "hardware": "; ".join(dict.fromkeys(_words(record["hardware"]) for record in records)),
        "versions": "; ".join(dict.fromkeys(_words(record["versions"]) for record in records)),
        "command": found.study["command"],
        "commit": found.study["git_commit"] or "unknown",
    }
    return Table(title="The study", columns=("what", "value"), rows=[[key, str(value)] for key, value in facts.items()])


def problems_table(found: Collection) -> Table:
    """Returns what is not there, or not whole, and why."""
    rows = [[name, state, reason.replace(f"{found.root}/", "")] for name, state, reason in found.problems]
    return Table(title=PROBLEMS, columns=("name", "state", "reason"), rows=rows)


def seconds(found: Collection) -> dict[str, dict[str, float]]:
    """Returns wall time of each run by part: `pretraining` (epochs alone), `evaluations`, and `all` of it."""
    rows = found.frame[found.frame["measure"] == "seconds"]
    whole = rows.groupby("run")["value"].sum()
    trained = rows[rows["source"] == "pretraining"].groupby("run")["value"].sum().reindex(whole.index, fill_value=0.0)
    took: dict[str, dict[str, float]] = pd.DataFrame(
        {"pretraining": trained, "evaluations": whole - trained, "all": whole}
    ).to_dict("index")
    return took


def settings_tables(runs: Sequence[FoundRun]) -> list[Table]:
    """Returns the settings of each run, what it was trained on and with."""
    tables = []
    for run in runs:
        facts = {k: v for k, v in flat(run.config).items() if k not in ("data_dir", "data_cache") and v is not None}
        facts |= {
            "images": ", ".join(f"{k} {v:,}" for k, v in run.record["data"]["images"].items()),
            "versions": _words(run.record["versions"]),
            "hardware": _words(run.record["hardware"]),
            "commit": run.record["git_commit"] or "unknown",
        }
        rows = [[key, str(value)] for key, value in facts.items()]
        tables.append(Table(title=f"Settings of {run.name}", columns=("setting", "value"), rows=rows, folded=True))
    return tables


def exports_table(runs: Sequence[FoundRun]) -> Table:
    """Returns the exported files of every run, as their manifests describe them."""
    rows = []
    for run in runs:
        manifest = run.run.path / "export" / "manifest.json"
        for name, found in read_json(manifest)["files"].items() if manifest.is_file() else ():
            row = {"run": run.name, "file": name, "bytes": f"{found['bytes']:,}"}
            row["largest difference"] = f"{found['largest_difference']:.1e}"
            same = found.get("same_class")
            row["same class on real images"] = "no probe" if same is None else f"{same:.0%}"
            rows.append({**row, "SHA-256": found["sha256"][:16]})
    return Table.of("Exported formats beside the trained model", rows)


def runs_table(found: Collection) -> Table:
    """Returns every run: how to make it again, where and how long it ran."""
    parts = ("pretraining", "evaluations", "all")
    rows, times = [], seconds(found)
    for cell in found.cells:
        took, record = times.get(cell.name, {}), cell.run.record if cell.run else {}
        row = {"run": cell.name, "state": cell.state, "command": "", "seed": str(cell.seed)}
        if cell.run is not None:
            row["command"] = command(cell.run.config, f"{AGAIN}/{cell.name}")  # its own folder is in use
        row["hardware"] = _words(record.get("hardware", {}))
        row |= {part: _duration(took.get(part)) if cell.run else "" for part in parts}
        rows.append({**row, "commit": (record["git_commit"] or "unknown")[:12] if cell.run else ""})
    return Table.of("Commands, machines and times", rows)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())


def _duration(seconds: float | None) -> str:
    """Returns seconds as people read them."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def commands_table(found: Collection) -> Table:
    """Returns the command of everything that was measured on a run, by which to measure it again."""
    rows = []
    runs = {cell.name: cell.run for cell in found.cells if cell.run}
    places = {name: run.run.path.relative_to(found.root).as_posix() for name, run in runs.items()}
    for name, run in runs.items():
        for one in run.evaluated:
            kind, *place = (one.about[key] for key in ABOUT)
            what = "{} of {}, reading {}".format(kind, *place) + (f", {place[-1]}" if place[-1] else "")
            rows.append([name, what, _evaluation(places[name], one.about["settings"], run.config)])
    for name, other in found.pairs:
        if name in runs and other in runs:
            found_of = {
                one.about["evaluation"]: one.about["settings"]["evaluation"] for one in reversed(runs[name].evaluated)
            }
            part = {**found_of.get("similarity", {}), "name": "similarity", "against": places[other]}
            words = ["fftrain", "evaluate", places[name], "similarity", *_given("evaluation", part)]
            rows.append([f"{name}--{other}", "linear CKA", shlex.join(words)])
    return Table(title="Commands of every measurement", columns=("of", "what", "command"), rows=rows, folded=True)


def command(config: Mapping[str, Any], out: str) -> str:
    """Returns the command that trains a run again: what differs from the defaults, and always what names it."""
    name = label(config)
    recipe = read_recipe(name) if name in recipes() else {}
    words = ["--recipe", name] if recipe else ["--method", config["method"]["name"]]
    words += ["--view", config["view"]["name"]]
    if config["backbone"]["name"] != default()["backbone"]:
        words += ["--backbone", config["backbone"]["name"]]
    known = {**POINT, "mixed_precision": "no", **recipe}
    if config["cut"] == "block":
        known["at"] = config["at"]  # units of one block
    words += _options(RunConfig, config, known, ("dataset", "seed"))
    for part in PARTS:
        words += _given(part, config[part])
    return shlex.join(["fftrain", "pretrain", *words, "--out", out])


def _given(kind: str, part: Mapping[str, Any]) -> list[str]:
    """Returns what of a part is not its default, as PART.KEY=VALUE; all of code that may not be run here."""
    given = {key: value for key, value in part.items() if key not in ("name", "sha256") and value is not None}
    with suppress(RunError, SettingError):
        fields = {**PARTS, "evaluation": EVALUATIONS}[kind].load(part["name"]).model_fields
        # As records have them: JSON knows no tuples.
        defaults = {k: [*f.default] if isinstance(f.default, tuple) else f.default for k, f in fields.items()}
        given = {key: value for key, value in given.items() if key not in defaults or defaults[key] != value}
    called = kind if kind in PARTS else short(part["name"])
    return [f"{called}.{k}={value if isinstance(value, str) else json.dumps(value)}" for k, value in given.items()]


def _evaluation(run: str, settings: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Returns the command that measures a run again; `trained` are the settings of its training."""
    same = settings["dataset"] == trained["dataset"]  # the images are read as they were then
    known = {key: trained.get(key) for key in ("image_size", "grayscale", "skip_bad")} if same else {}
    part = settings["evaluation"]
    options = _options(EvaluationConfig, settings, known, ("dataset", "reading", "target"))
    return shlex.join(["fftrain", "evaluate", run, part["name"], *_given("evaluation", part), *options])


def _options(
    kind: type[Settings], config: Mapping[str, Any], known: Mapping[str, Any], named: Sequence[str]
) -> list[str]:
    """Returns settings as options: those that differ from the defaults (or what is `known`), and always the `named`.

    Where the data lie is left to whoever runs the command.
    """
    defaults = {name: field.default for name, field in kind.model_fields.items()} | dict(known)
    parts: list[str] = []
    for key, value in config.items():
        name = "--" + key.replace("_", "-")
        skipped = value is None or key in (*PARTS, "evaluation", "data_dir", "data_cache") or key not in defaults
        if skipped or (value == defaults[key] and key not in named):
            continue
        words = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        parts += ([name] if value else [f"--no-{name[2:]}"]) if isinstance(value, bool) else [name, words]
    return parts
