"""What a report calls things: runs by their settings, folders of images by their last part, not where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffcore.places import Place
from fftrain.recipes import label
from fftrain.report.records import FoundRun


def named(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what names a run, of its settings."""
    named = {"dataset": config["dataset"], "view": config["view"]["name"], "method": label(config)}
    return {**named, "seed": config["seed"]}


def varied_name(varied: Mapping[str, Any]) -> str:
    """Names the settings that differ between runs of one kind: {"lr": 0.001} -> 'lr=0.001'."""
    return ", ".join(f"{key.removesuffix('.name')}={value}" for key, value in varied.items())


def short_names(datasets: Iterable[str]) -> dict[str, str]:
    """Returns what each data set of this machine is called: its last part, or as many as tell it from others."""
    places = {dataset: place for dataset in datasets if (place := Place.of(dataset)) is not None}
    paths = {dataset: path for dataset, place in places.items() if (path := place.path) is not None}
    names = {}
    for dataset, path in paths.items():
        tails = (path.parts[-count:] for count in range(1, len(path.parts) + 1))
        alone = (t for t in tails if len({p for p in paths.values() if p.parts[-len(t) :] == t}) == 1)
        names[dataset] = str(places[dataset].at(Path(*next(alone, path.parts)))).replace(os.sep, "/")
    return names


def folders(value: Any) -> set[str]:
    """Returns the data sets that are named by where they lie in values within values."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        return {name for inner in value for name in folders(inner)}
    return {value} if isinstance(value, str) and Place.of(value) else set()


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Returns values within values, with the names that these have."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {renamed(key, names): renamed(inner, names) for key, inner in value.items()}
    return type(value)(renamed(inner, names) for inner in value) if isinstance(value, list | tuple) else value


def in_words(text: str, names: Mapping[str, str]) -> str:
    """Returns a text with the names that are in it, longer ones first: one may begin like another."""
    for dataset in sorted(names, key=len, reverse=True):
        text = text.replace(dataset, names[dataset])
    return text


def shortened(run: FoundRun, names: Mapping[str, str]) -> FoundRun:
    """Returns a run with these names of folders of images."""
    if not names:
        return run
    known = replace(run.run, record=renamed(run.run.record, names))
    evaluated = [
        replace(one, about=renamed(one.about, names), records=renamed(one.records, names)) for one in run.evaluated
    ]
    return replace(run, run=known, evaluated=evaluated)
