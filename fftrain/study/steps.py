"""What is done for one cell of a study, step by step, and how its run folder says what is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ffmodels.evaluated import Evaluated
from ffmodels.run import BACKBONE_FILE, weights_digest
from fftrain.config import DataSettings, EvaluationConfig, keyed
from fftrain.data import ImageData, data_folder
from fftrain.evaluate import evaluate_run
from fftrain.loading import load_together
from fftrain.progress import Reporter
from fftrain.study.spec import Cell, only_data
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
    """One step of a cell: whether it is done, by a run folder and what was measured of it, and what does it."""

    name: str
    done: Callable[[Path, Sequence[Evaluated]], bool]
    run: Callable[[Path, Work], Any]


def steps(cell: Cell) -> list[Step]:
    """Returns the steps of a cell, in their order."""
    config = cell.config

    def trained(run: Path, found: Sequence[Evaluated]) -> bool:
        return (run / BACKBONE_FILE).exists()

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

    steps = [Step(name="pretrain", done=trained, run=train)]
    for name, configs in cell.places.items():

        def measured(run: Path, found: Sequence[Evaluated], configs: Sequence[EvaluationConfig] = configs) -> bool:
            return all(of(run, found, config) is not None for config in configs)

        def measure(run: Path, work: Work, configs: Sequence[EvaluationConfig] = configs) -> None:
            evaluate_run(
                run,
                *configs,
                accelerator=work.accelerator,
                data=work.load(configs[0]),
                baselines=work.baselines,
                reporter=work.reporter,
            )

        steps.append(Step(name=name, done=measured, run=measure))
    return steps


def of(run: Path, found: Sequence[Evaluated], config: EvaluationConfig) -> Evaluated | None:
    """Returns what there is of an evaluation, whole, and of the weights that the run has."""
    part: Any = config.evaluation
    depends = dict(part.depends(data_folder(config)))
    wanted = {"settings": keyed(config), "weights": weights_digest(run), "depends": depends}
    for one in found:
        if one.whole and {"depends": {}, **one.about}.items() >= wanted.items():
            return one
    return None
