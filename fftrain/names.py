"""What reports call data sets: of a folder of images its last part, not where it lies on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ffmodels.registry import FOLDER
from fftrain.collect import Cell, Collection


def shortened(found: Collection) -> Collection:
    """Returns what was found, each folder of images by its short name wherever it is named."""
    read = [(cell.dataset, cell.planned, cell.records) for cell in found.cells]
    names = short_names({*_folders([found.study, read, [(run.config, run.results) for run in found.runs]])})
    cells = {cell.name: _shortened(cell, names) for cell in found.cells}
    pairs = [
        replace(
            pair,
            first=cells[pair.first.name],
            second=cells[pair.second.name],
            records=_renamed(pair.records, names),
        )
        for pair in found.pairs
    ]
    problems = [(name, state, _in_words(reason, names)) for name, state, reason in found.problems]
    return replace(found, study=_renamed(found.study, names), cells=[*cells.values()], pairs=pairs, problems=problems)


def short_names(datasets: Iterable[str]) -> dict[str, str]:
    """Returns what each folder of images is called: its last part, or as many as tell it from others of one name."""
    paths = {dataset: Path(dataset.removeprefix(FOLDER)) for dataset in datasets}
    names = {}
    for dataset, path in paths.items():
        tails = (path.parts[-count:] for count in range(1, len(path.parts) + 1))
        alone = (t for t in tails if sum(other.parts[-len(t) :] == t for other in paths.values()) == 1)
        names[dataset] = FOLDER + Path(*next(alone, path.parts)).as_posix()
    return names


def _folders(value: Any) -> Iterator[str]:
    """Yields the folders of images that are named in values within values."""
    if isinstance(value, str) and value.startswith(FOLDER):
        yield value
    elif isinstance(value, Mapping):
        yield from _folders([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _folders(inner)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Returns values within values, with the names that these have."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {_renamed(key, names): _renamed(inner, names) for key, inner in value.items()}
    return type(value)(_renamed(inner, names) for inner in value) if isinstance(value, list | tuple) else value


def _in_words(text: str, names: Mapping[str, str]) -> str:
    """Returns a text with the names that are in it, longer ones first: one may begin like another."""
    for dataset in sorted(names, key=len, reverse=True):
        text = text.replace(dataset, names[dataset])
    return text


def _shortened(cell: Cell, names: Mapping[str, str]) -> Cell:
    run = cell.run and replace(
        cell.run, config=_renamed(cell.run.config, names), results=_renamed(cell.run.results, names)
    )
    return replace(
        cell,
        dataset=names.get(cell.dataset, cell.dataset),
        planned=_renamed(cell.planned, names),
        reason=_in_words(cell.reason, names),
        run=run,
        records=_renamed(cell.records, names),
    )
