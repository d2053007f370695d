"""The command `fftrain study`; nothing heavy is imported before it runs."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ffcore.errors import SettingError
from ffserve import console
from ffserve.console import Debug, Json
from fftrain.config import PRECISIONS, TRACKERS
from fftrain.options import Processes, Trust
from fftrain.progress import duration
from fftrain.stopping import stopping
from fftrain.study import PRESETS

PLAIN, RAY = ENGINES = ("plain", "ray")


def study(
    named: Annotated[
        str | None,
        typer.Argument(metavar="STUDY", help="A study: its TOML file, or a preset's name.", show_default=False),
    ] = None,
    *,
    preset: Annotated[
        str | None,
        typer.Option(help=f"A study that comes along. [{'|'.join(PRESETS)}]", show_default=False),
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="A study of your own, as TOML.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder. [default: studies/NAME]", show_default=False)
    ] = None,
    shard: Annotated[str, typer.Option(help="Do the I-th of N parts of the cells, as I/N.")] = "1/1",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Do this cell alone, or those that a pattern such as '*-ff-s0-*' names; may be given again.",
            metavar="CELL",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and their estimated cost.")] = False,
    redo_damaged: Annotated[
        bool, typer.Option("--redo-damaged", help="Move damaged cells to discarded/ and do them over.")
    ] = False,
    replace_plan: Annotated[
        bool, typer.Option("--replace-plan", help="Let this plan leave out cells of the one in --out.")
    ] = False,
    mixed_precision: Annotated[
        str | None,
        typer.Option(
            help=f"Precision of every cell, before the spec's. [{'|'.join(PRECISIONS)}] "
            "[default: the spec's, else the launcher's, else no]",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Where data sets are kept, before the spec's. [env: FFSTUDY_DATA; default: ~/.cache/ffstudy]",
            show_default=False,
        ),
    ] = None,
    data_cache: Annotated[
        str | None,
        typer.Option(help="Where decoded images are kept, of all cells, before the spec's.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads of a process, before the spec's. [env: OMP_NUM_THREADS]", min=1, max=256),
    ] = None,
    track: Annotated[
        str | None, typer.Option(help=f"Tracker of every cell. [{'|'.join(TRACKERS)}]", show_default=False)
    ] = None,
    engine: Annotated[
        str, typer.Option(help=f"What does the cells: one after the other, or Ray. [{'|'.join(ENGINES)}]")
    ] = PLAIN,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster: auto, HOST:PORT or ray://HOST:PORT. [default: Ray on this machine]",
            show_default=False,
        ),
    ] = None,
    cell_cpus: Annotated[
        int | None, typer.Option(help="CPUs of a cell under Ray. [default: its threads, else 1]", min=1, max=256)
    ] = None,
    cell_gpus: Annotated[
        float | None,
        typer.Option(help="Share of a GPU of a cell under Ray. [default: 1 where there are some]", min=0, max=1),
    ] = None,
    trust_plugin: Trust = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train, measure and compare every cell of a grid.

    Run again, it goes on where it was. Each cell is a run folder under OUT/cells. Nothing finished is done again; a
    cell that fails is reported and the others go on; exit code 1 says that some failed. Without STUDY, --preset and
    --spec, the study in --out goes on.

    \b
    Examples:
      fftrain study --preset smoke
      fftrain study my.toml
      fftrain study --preset quick --dry-run
      fftrain study --spec my.toml --out studies/mine
      fftrain study --spec my.toml --out studies/mine --shard 2/4
      fftrain study --spec my.toml --out studies/mine --only 'mnist-rotation-ff-s0-*'
      fftrain study --out studies/mine
      fftrain study --out studies/mine --engine ray --threads 1
      accelerate launch -m fftrain study --preset paper
    """
    _check_engine(engine, processes, {"--address": address, "--cell-cpus": cell_cpus, "--cell-gpus": cell_gpus})
    from fftrain.launcher import start
    from fftrain.study import Shard, Study, choose, run_study

    overrides: dict[str, Any] = {"data_dir": data_dir, "data_cache": data_cache, "threads": threads, "track": track}
    overrides["mixed_precision"] = mixed_precision
    planned = choose(*_named(named, preset, spec), out, overrides)
    begun = Shard.of(shard)
    used = {str(cell.config.mixed_precision) for cell in planned.cells}
    accelerator, reporter = start(threads, processes=processes, used=used)
    found = Study(out or Path("studies") / planned.name, planned)
    part = replace(begun, only=found.named(only or ()))
    failed: dict[str, str] = {}
    doing = None
    if engine == RAY:
        from fftrain.study.cluster import Cluster

        doing = Cluster(address, cell_cpus, cell_gpus)
    if dry_run:
        found.check_plan(replace_plan=replace_plan)
    else:
        with stopping(reporter, lambda: found.resuming if doing is None else "stopped: the same command goes on"):
            failed = run_study(
                found,
                command=shlex.join(["fftrain", *sys.argv[1:]]),
                processes=processes,
                shard=part,
                redo_damaged=redo_damaged,
                replace_plan=replace_plan,
                reporter=reporter,
                engine=doing,
            )
    if accelerator.is_main_process:
        cells = found.listing(part)
        result = {"study": str(found.path), "cells": cells, "seconds_left": sum(cell["seconds_left"] for cell in cells)}
        counts = Counter(cell["status"] for cell in cells)
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        title = f"{found.path}: {len(cells)} cells ({said or 'none in this shard'})"
        title += f", about {duration(result['seconds_left'])} left"
        rows = [
            [
                cell["name"],
                ", ".join(f"{key} {value}" for key, value in cell["varied"].items()),
                cell["status"],
                duration(cell["seconds_left"]) if cell["left"] else "",
                cell["reason"] or (", ".join(cell["left"]) if cell["status"] == "started" else ""),
            ]
            for cell in cells
        ]
        columns = ["cell", "settings", "status", "left, about", "reason, or what is left"]
        console.print_result(result, json, lambda _: console.print_table(title, columns, rows))
        if not dry_run:
            reporter.note(f"tables and pictures: {shlex.join(['fftrain', 'report', str(found.path)])}")
    if failed:
        raise typer.Exit(1)


def _named(named: str | None, preset: str | None, spec: Path | None) -> tuple[str | None, Path | None]:
    """Returns the preset and the TOML file that are named, by an option or without one."""
    if named is None:
        return preset, spec
    if preset is not None or spec is not None:
        other = f"--spec {spec}" if preset is None else f"--preset {preset}"
        raise SettingError(f"{named} and {other} name two studies: leave one of them out")
    if named in PRESETS:
        return named, None
    if not Path(named).is_file():
        raise SettingError(f"{named} is neither a preset ({', '.join(PRESETS)}) nor a TOML file: name one")
    return None, Path(named)


def _check_engine(engine: str, processes: int | None, of_ray: Mapping[str, object]) -> None:
    """Raises SettingError where what was asked for does not go with an engine."""
    if engine not in ENGINES:
        raise SettingError(f"--engine is {engine!r}: choose one of {', '.join(ENGINES)}")
    given = [name for name, value in of_ray.items() if value is not None]
    if engine != RAY and given:
        raise SettingError(f"{given[0]} is of Ray: add --engine ray, or leave it out")
    launched = os.environ.get("WORLD_SIZE", "1")
    if engine == RAY and (processes not in (None, 1) or launched != "1"):
        raise SettingError(
            f"--engine ray does each cell in one process, and {processes or launched} were asked for: "
            "leave --processes and the launcher out"
        )
