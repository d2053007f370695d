"""What a study is: cells, each a run with what is measured on it, and what study.json records of them.

Nothing here loads torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ffmodels.registry import FOLDER
from fftrain.config import AnalysisConfig, PretrainConfig, ProbeConfig, Settings

STUDY_FILE = "study.json"
# In what compared cells are alike.
ALIKE = (
    *("dataset", "image_size", "grayscale", "limit", "holdout", "task", "seed"),
    *("backbone", "width", "depth", "normalisation"),
)
# What a result does not depend on.
UNKEYED = ("threads", "data_dir", "track", "feature_memory")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study: what is trained, and what is measured on it; of a `search`, nothing but validation is."""

    config: PretrainConfig
    probes: tuple[ProbeConfig, ...]
    analysis: AnalysisConfig | None
    search: bool = False

    @property
    def name(self) -> str:
        """The name of its folder: what it is, and a digest of every setting that its result depends on."""
        config = self.config
        dataset = Path(config.dataset.removeprefix(FOLDER)).name
        readable = "".join(c if c.isalnum() or c in "-_." else "_" for c in dataset)[:40]
        return f"{readable}-{config.task}-{config.method}-s{config.seed}-{digest(keyed(config))[:8]}"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A study: its name, its content, the settings of the command that go before it, and the cells it stands for."""

    name: str
    content: dict[str, Any]
    overrides: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def pairs(self) -> list[tuple[Cell, Cell]]:
        """The cells whose representations are compared: each against `bp` on the same data, task, seed and network."""

        def place(cell: Cell) -> tuple[Any, ...]:
            return tuple(getattr(cell.config, key) for key in ALIKE)

        partners: dict[tuple[Any, ...], Cell] = {}
        for cell in self.cells:
            if cell.config.method == "bp" and cell.analysis is not None:
                partners.setdefault(place(cell), cell)
        return [
            (cell, partners[place(cell)])
            for cell in self.cells
            if cell.config.method != "bp" and cell.analysis is not None and place(cell) in partners
        ]

    def varied(self, cell: Cell) -> dict[str, Any]:
        """Returns the settings in which the cells of one data set, task and method differ, beside the seed."""
        alike = [
            keyed(other.config)
            for other in self.cells
            if (other.config.dataset, other.config.task, other.config.method)
            == (cell.config.dataset, cell.config.task, cell.config.method)
        ]
        own = keyed(cell.config)
        return {key: own[key] for key in own if key != "seed" and any(other[key] != own[key] for other in alike)}

    def to_dict(self) -> dict[str, Any]:
        """Returns what study.json records of the plan."""
        cells = [
            {
                "name": cell.name,
                "dataset": cell.config.dataset,
                "task": cell.config.task,
                "method": cell.config.method,
                "seed": cell.config.seed,
                "settings": keyed(cell.config),
                "varied": self.varied(cell),
                "search": cell.search,
                "probes": [
                    {"dataset": p.dataset, "slot": p.slot, "target": p.target, "settings": keyed(p)}
                    for p in cell.probes
                ],
                "analysis": None if cell.analysis is None else keyed(cell.analysis),
            }
            for cell in self.cells
        ]
        pairs = [[one.name, other.name] for one, other in self.pairs]
        about = {"name": self.name, "spec": self.content, "overrides": self.overrides}
        return {**about, "cells": cells, "pairs": pairs}


def keyed(config: Settings) -> dict[str, Any]:
    """Returns the settings that a result depends on."""
    return {key: value for key, value in asdict(config).items() if key not in UNKEYED}


def step_name(probe: ProbeConfig) -> str:
    """Returns what a probe is called among the steps of a cell."""
    return f"probe {probe.dataset} {probe.slot} {probe.target}"


def digest(values: Mapping[str, Any]) -> str:
    """Returns a digest of settings, hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
