"""What a report calls data sets of this machine: by their last part, not by where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ffcore.places import PREFIXES, Place

# With what the name of a data set begins that is named by where it lies.
PLACED = tuple(f"{prefix}:" for prefix in PREFIXES)


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
    return {value} if isinstance(value, str) and value.startswith(PLACED) else set()


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
