"""What was run: the headline, every run with its command, settings and times, and what was exported."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ffcore.files import read_json
from ffmodels.registry import GOODNESS
from fftrain.collect import STATES, Collection
from fftrain.config import AnalysisConfig, PretrainConfig, ProbeConfig, Settings, option_name
from fftrain.means import NOT_MEASURED
from fftrain.records import FoundRun
from fftrain.registry import task_of
from fftrain.tables import Table

# The folder, new, in which the commands of the report make runs again.
AGAIN = "again"
RUNS = "Commands, machines and times"
PROBLEMS = "Unfinished, failed, damaged, missing or incomplete"


def headline_table(found: Collection) -> Table:
    """Returns how much of a study is there, and what it was made with."""
    states = Counter(cell.state for cell in found.cells)
    configs = [run.config for run in found.runs]
    assert found.study is not None
    facts = {
        "cells": ", ".join(f"{states[state]} {state}" for state in STATES) + f", of {len(found.cells)}",
        "wall time": _duration(sum(cell.seconds.get("all", 0.0) for cell in found.cells)),
        "hardware": "; ".join(dict.fromkeys(_words(config["hardware"]) for config in configs)),
        "versions": "; ".join(dict.fromkeys(_words(config["versions"]) for config in configs)),
        "command": found.study["command"],
        "commit": found.study["git_commit"] or "unknown",
    }
    return Table(title="The study", columns=("what", "value"), rows=[[key, str(value)] for key, value in facts.items()])


def problems_table(found: Collection) -> Table:
    """Returns what is not there, or not whole, and why."""
    columns = ("name", "state", "reason")
    rows = [[name, state, reason.replace(f"{found.root}/", "")] for name, state, reason in found.problems]
    return Table(title=PROBLEMS, columns=columns, rows=rows)


def runs_table(found: Collection) -> Table:
    """Returns every run: how to make it again, where and how long it ran."""
    rows = []
    for cell in found.cells:
        if cell.run is None:
            rows.append([cell.name, cell.state, "", str(cell.seed), "", "", "", "", "", ""])
            continue
        times = [_duration(cell.seconds.get(part)) for part in ("pretraining", "probe", "analysis", "all")]
        config = cell.run.config
        commit = (config["git_commit"] or "unknown")[:12]
        hardware = _words(config["hardware"])
        out = f"{AGAIN}/{cell.name}"  # the run's own folder is in use
        rows.append([cell.name, cell.state, command(config["config"], out), str(cell.seed), hardware, *times, commit])
    columns = ("run", "state", "command", "seed", "hardware", "pretraining", "probes", "analysis", "all", "commit")
    return Table(title=RUNS, columns=columns, rows=rows)


def commands_table(found: Collection) -> Table:
    """Returns the command of everything that was measured on a run, by which to measure it again."""
    rows = []
    for cell in found.cells:
        if cell.run is None:
            continue
        out, results, trained = _place(found, cell.run), cell.run.results, cell.run.config["config"]
        rows += [
            [cell.name, f"pretext accuracy on {split}", shlex.join(["fftrain", "evaluate", out, "--split", split])]
            for split in results.get("pretext", {})
        ]
        for result in results.get("probes", {}).values():
            place = {"dataset": result["dataset"], "slot": result["slot"], "target": result.get("target", "class")}
            what = f"probes of {place['dataset']}, slot {place['slot']}, {place['target']}"
            rows.append([cell.name, what, probe_command(out, {**place, **result.get("config", {})}, trained)])
        for result in results.get("analysis", {}).values():
            settings = {"slot": result["slot"], **result.get("config", {})}
            rows.append([cell.name, "analysis", analysis_command(out, settings)])
    for pair in found.pairs:
        if (run := pair.first.run) is not None and (other := pair.second.run) is not None:
            known = [result.get("config", {}) for result in run.results.get("analysis", {}).values()]
            words = analysis_command(_place(found, run), known[0] if known else {}, _place(found, other))
            rows.append([pair.name, "linear CKA", words])
    return Table(title="Commands of every measurement", columns=("of", "what", "command"), rows=rows, folded=True)


def command(config: dict[str, Any], out: str) -> str:
    """Returns the command that trains a run again: what differs from the defaults, and always what names it."""
    threshold = GOODNESS.load(config.get("goodness", "sum_squares")).threshold(config.get("width", 2000))
    known = {"task": task_of(config["method"]), "threshold": threshold, "mixed_precision": "no"}
    named = ("dataset", "task", "method", "seed")
    return shlex.join(["fftrain", "pretrain", *_options(PretrainConfig, config, known, named), "--out", out])


def probe_command(run: str, config: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Returns the command that probes a run again; `trained` are the settings of its pretraining."""
    same = config["dataset"] == trained["dataset"]  # the images are read as they were then
    known = {key: trained.get(key) for key in ("image_size", "grayscale")} if same else {}
    named = ("dataset", "slot", "target", "epochs")
    return shlex.join(["fftrain", "probe", run, *_options(ProbeConfig, config, known, named)])


def analysis_command(run: str, config: Mapping[str, Any], against: str | None = None) -> str:
    """Returns the command that analyses a run again, and compares it with another."""
    options = _options(AnalysisConfig, config, {}, ("slot", "images"))
    return shlex.join(["fftrain", "analyse", run, *options, *(["--against", against] if against else [])])


def _options(
    kind: type[Settings], config: Mapping[str, Any], known: Mapping[str, Any], named: Sequence[str]
) -> list[str]:
    """Returns settings as options: those that differ from the defaults (or what is `known`), and always the `named`.

    Where the data lie is left to whoever runs the command.
    """
    defaults = {f.name: f.default for f in fields(kind)} | dict(known)
    parts: list[str] = []
    for key, value in config.items():
        name = option_name(key)
        if value is None or key == "data_dir" or key not in defaults or (value == defaults[key] and key not in named):
            continue
        parts += ([name] if value else [f"--no-{name[2:]}"]) if isinstance(value, bool) else [name, str(value)]
    return parts


def _place(found: Collection, run: FoundRun) -> str:
    """Returns a run's folder as seen from the report's."""
    return run.folder.path.relative_to(found.root).as_posix()


def settings_table(run: FoundRun) -> Table:
    """Returns the settings of a run, what it was trained on and with."""
    config = {k: v for k, v in run.config["config"].items() if k != "data_dir" and v is not None}
    extra = {
        "images": ", ".join(f"{k} {v:,}" for k, v in run.config["data"]["images"].items()),
        "versions": _words(run.config["versions"]),
        "hardware": _words(run.config["hardware"]),
        "commit": run.config["git_commit"] or "unknown",
    }
    rows = [[key, str(value)] for key, value in {**config, **extra}.items()]
    return Table(title=f"Settings of {run.name}", columns=("setting", "value"), rows=rows, folded=True)


def exports_table(runs: Sequence[FoundRun]) -> Table:
    """Returns the exported files of every run, as their manifests describe them."""
    rows = []
    for run in runs:
        manifest = run.folder.path / "export" / "manifest.json"
        for name, found in read_json(manifest)["files"].items() if manifest.is_file() else ():
            difference = f"{found['largest_difference']:.1e}"
            same = "no probe" if found.get("same_class") is None else f"{found['same_class']:.0%}"
            rows.append([run.name, name, f"{found['bytes']:,}", difference, same, found["sha256"][:16]])
    columns = ("run", "file", "bytes", "largest difference", "same class on real images", "SHA-256")
    return Table(title="Exported formats beside the trained model", columns=columns, rows=rows)


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())


def _duration(seconds: float | None) -> str:
    """Returns seconds as people read them."""
    if seconds is None:
        return NOT_MEASURED
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
