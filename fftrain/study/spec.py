"""What a study is: cells, each a run with what is measured on it, and what study.json records of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ffcore.places import Place
from fftrain.config import DataSettings, EvaluationConfig, RunConfig, flat, keyed
from fftrain.data import Facts
from fftrain.recipes import POINT
from fftrain.study.sketch import Sketch, sketch

# In what compared cells are alike, beside their data.
ALIKE = ("holdout", "view", "seed", "backbone")
# The evaluation that a study makes of pairs of cells too.
PAIRED = "similarity"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study: what is trained, and what is measured on it.

    Args:
        config: the settings.
        facts: what is known of its data set.
        sketch: what the settings come to on it.
        evaluations: of its features.
        search: whether nothing but validation is read.
    """

    config: RunConfig
    facts: Facts
    sketch: Sketch
    evaluations: tuple[EvaluationConfig, ...] = ()
    search: bool = False

    @cached_property
    def digest(self) -> str:
        """Another where the result may be: of every setting that it depends on, cuts by the units that they come to."""
        values = {**keyed(self.config), "units": self.sketch.units}
        del values["cut"], values["at"]
        values["order"] = values["order"] if len(self.sketch.units) > 1 else POINT["order"]
        if values["shuffle_block"] is None:  # cells that were made before there was one keep their names
            del values["shuffle_block"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The name of its folder: what it is, and the beginning of its digest."""
        config = self.config
        words = map(_short, (config.dataset, config.view.called, config.label))
        return f"{'-'.join(words)}-s{config.seed}-{self.digest[:8]}"

    @property
    def paired(self) -> int:
        """How many images it is compared on with the reference; 0 where it is not."""
        parts: list[Any] = [config.evaluation for config in self.evaluations]
        return next((part.images for part in parts if part.called == PAIRED), 0)

    @property
    def places(self) -> dict[str, list[EvaluationConfig]]:
        """What is measured of the same features, by the step that does it."""
        found: dict[str, list[EvaluationConfig]] = {}
        for config in self.evaluations:
            found.setdefault(step_name(config), []).append(config)
        return found

    def agrees(self, config: RunConfig) -> bool:
        """Whether settings are this cell's. Raises SettingError where they do not go together on its data."""
        other = Cell(config=config, facts=self.facts, sketch=sketch(config, self.facts))
        return other.digest == self.digest


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A study.

    Args:
        name: its name.
        content: what was written.
        overrides: the settings of the command that go before it.
        reference: what cells are called that others are compared with.
        cells: what it stands for.
    """

    name: str
    content: dict[str, Any]
    overrides: dict[str, Any]
    reference: str
    cells: tuple[Cell, ...]

    @property
    def pairs(self) -> list[tuple[Cell, Cell]]:
        """The cells whose features are compared, each with the reference on the same data, view, seed and network."""

        def place(cell: Cell) -> tuple[Any, ...]:
            return only_data(cell.config), *(getattr(cell.config, key) for key in ALIKE)

        partners: dict[tuple[Any, ...], Cell] = {}
        analysed = [cell for cell in self.cells if cell.paired]
        for cell in analysed:
            if cell.config.label == self.reference:
                partners.setdefault(place(cell), cell)
        return [
            (cell, partners[place(cell)])
            for cell in analysed
            if cell.config.label != self.reference and place(cell) in partners
        ]

    def varied(self, cell: Cell) -> dict[str, Any]:
        """Returns the settings in which the cells of one data set, view and method differ, beside the seed.

        Those of a part are named PART.KEY, and differ where cells do that have the same part.
        """

        def kind(cell: Cell) -> tuple[str, str, str]:
            return cell.config.dataset, cell.config.view.part_name, cell.config.label

        own = flat(keyed(cell.config))
        alike = [flat(keyed(other.config)) for other in self.cells if kind(other) == kind(cell)]

        def differs(key: str, value: Any) -> bool:
            name = f"{key.partition('.')[0]}.name"  # of its part, where it is a part's
            return any(other[key] != value for other in alike if key == name or other.get(name) == own.get(name))

        return {key: value for key, value in own.items() if key != "seed" and differs(key, value)}

    def to_dict(self) -> dict[str, Any]:
        """Returns what study.json records of the plan."""
        cells = [
            {
                "name": cell.name,
                "dataset": cell.config.dataset,
                "view": cell.config.view.called,
                "method": cell.config.label,
                "seed": cell.config.seed,
                "settings": keyed(cell.config),
                "varied": self.varied(cell),
                "search": cell.search,
                "evaluations": [
                    {"evaluation": config.evaluation.called, **where(config), "settings": keyed(config)}
                    for config in cell.evaluations
                ],
            }
            for cell in self.cells
        ]
        pairs = [[one.name, other.name] for one, other in self.pairs]
        about = {"name": self.name, "spec": self.content, "overrides": self.overrides}
        return {**about, "cells": cells, "pairs": pairs}


def only_data(config: DataSettings) -> DataSettings:
    """Returns what a data set is known by, of settings that hold more."""
    return DataSettings(**{name: getattr(config, name) for name in DataSettings.model_fields})


def where(config: EvaluationConfig) -> dict[str, Any]:
    """Returns of which features an evaluation is, and which labels it tells: "" where it tells none."""
    part: Any = config.evaluation
    return {"reading": config.reading, **part.place(config.dataset, config.target)}


def step_name(config: EvaluationConfig) -> str:
    """Returns what the evaluations of the same features are called among the steps of a cell."""
    return f"evaluate {config.dataset} {config.reading} {config.target}"


def _short(name: str) -> str:
    """Returns a name as part of a folder's: of a file, and of a data set that lies somewhere, its last part."""
    place = Place.of(name)
    found = Path(name).name if place is None else place.called
    return "".join(c if c.isalnum() or c in "-_.=" else "-" if c == " " else "_" for c in found)[:40]
