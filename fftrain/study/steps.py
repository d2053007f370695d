"""What is done for one cell of a study, step by step, and how its run folder says what is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ffmodels.run import BACKBONE_FILE
from fftrain.analyse import analyse_run
from fftrain.config import AnalysisConfig, DataSettings, ProbeConfig, keyed
from fftrain.data import ImageData
from fftrain.evaluate import evaluate_run, load_together
from fftrain.probe import probe_run
from fftrain.progress import Reporter
from fftrain.study.spec import Cell, only_data, step_name
from fftrain.training import pretrain

# Data sets kept in memory between the steps of a study.
KEPT_DATA = 2


@dataclass(kw_only=True)
class Work:
    """What the steps of a cell work with."""

    accelerator: Accelerator
    baselines: Path
    reporter: Reporter
    data: dict[DataSettings, ImageData] = field(default_factory=dict)

    def load(self, config: DataSettings) -> ImageData:
        """Returns a data set, from memory where it was among the last ones."""
        key = only_data(config)
        if key not in self.data:
            while len(self.data) >= KEPT_DATA:
                del self.data[next(iter(self.data))]
            self.data[key] = load_together(key, self.accelerator, self.reporter)
        return self.data[key]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a cell: whether a run folder's results hold it, and what does it."""

    name: str
    done: Callable[[Path, Mapping[str, Any]], bool]
    run: Callable[[Path, Work], Any]


def steps(cell: Cell) -> list[Step]:
    """Returns the steps of a cell, in their order."""
    config = cell.config

    def trained(run: Path, results: Mapping[str, Any]) -> bool:
        told = not cell.sketch.tells or "validation" in results.get("pretext", {})
        return (run / BACKBONE_FILE).exists() and told

    def train(run: Path, work: Work) -> None:
        pretrain(
            config,
            run,
            resume=True,
            accelerator=work.accelerator,
            data=work.load(config),
            reporter=work.reporter,
        )
        if work.accelerator.is_main_process:  # what a finished cell does not need: three times its weights
            shutil.rmtree(run / "checkpoint", ignore_errors=True)

    def tested(run: Path, results: Mapping[str, Any]) -> bool:
        return "test" in results.get("pretext", {})

    def test(run: Path, work: Work) -> None:
        data = work.load(config)
        evaluate_run(run, split="test", accelerator=work.accelerator, data=data, reporter=work.reporter)

    found = [Step(name="pretrain", done=trained, run=train)]
    if cell.tested:
        found.append(Step(name="test", done=tested, run=test))
    for probe in cell.probes:

        def probed(run: Path, results: Mapping[str, Any], probe: ProbeConfig = probe) -> bool:
            return any(agrees(result["config"], probe) for result in results.get("probes", {}).values())

        def fit(run: Path, work: Work, probe: ProbeConfig = probe) -> None:
            probe_run(
                run,
                probe,
                accelerator=work.accelerator,
                data=work.load(probe),
                baselines=work.baselines,
                reporter=work.reporter,
            )

        found.append(Step(name=step_name(probe), done=probed, run=fit))
    if (analysis := cell.analysis) is not None:

        def analysed(run: Path, results: Mapping[str, Any]) -> bool:
            embedded = {path.stem for path in (run / "analysis").glob("*.npz")}
            for place, result in results.get("analysis", {}).items():
                if agrees(result["config"], analysis) and (place in embedded or not result["points"]):
                    return True
            return False

        def analyse(run: Path, work: Work) -> None:
            data = work.load(config)
            analyse_run(run, analysis, accelerator=work.accelerator, data=data, reporter=work.reporter)

        found.append(Step(name="analysis", done=analysed, run=analyse))
    return found


def agrees(found: Mapping[str, Any], wanted: ProbeConfig | AnalysisConfig) -> bool:
    """Whether recorded settings are those wanted; a reading that is left open is any."""
    return all(found.get(k) == v for k, v in keyed(wanted).items() if v is not None or k != "reading")
