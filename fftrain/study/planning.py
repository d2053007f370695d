"""How a study is planned: a TOML file -> cells, each a run with its evaluations, all checked before any starts.

dataset = ["mnist", "imagefolder:photos"]    # lists are multiplied; a single value may stand without brackets
view = ["rotation", "jigsaw"]
recipe = ["ff", "bp"]                        # or: method = [...], cut = ["block", "never"], at = ["all", "last"]
backbone = ["mlp"]
seed = [0, 1, 2]
evaluation = ["linear", "knn"]               # what is measured of each
reading = ["neutral", "zeros", "pixels"]     # readings of which labels are told, of methods that have them
target = ["class", "pretext"]                # the labels; pretext: of views that make some
transfer = ["fashion-mnist"]                 # told there too, where images have the same shape
[settings]                                   # of every cell: options of fftrain pretrain; a list tries each value
[recipes.bp]                                 # of the cells that are called so; goes before [settings]
[parts.mlp]                                  # settings of a part wherever it is used; a list tries each value
[parts.linear]                               # of an evaluation; a list is its value; [[parts.linear]] tables: with each
[evaluate]                                   # options of fftrain evaluate
search = true                                # train and read the validation split alone: no test, no evaluation
reference = "bp"                             # what cells are called that the others are compared with
[published]                                  # data set -> the column of published figures it stands beside
[[grid]]                                     # several grids in one study: each may override all but the last two
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffcore.places import Place
from ffcore.plugins import is_outside, trust
from ffcore.settings import read_toml, underscored
from ffmodels.conditions import in_words
from fftrain.config import DataSettings, EvaluationConfig
from fftrain.data import Facts, look_at
from fftrain.launcher import precision
from fftrain.parts import DATASETS, PARTS, placed
from fftrain.recipes import recipes
from fftrain.study import PRESETS, STUDY_FILE, read_preset
from fftrain.study.grid import AXES, NAMING, TABLES, Grid
from fftrain.study.spec import Cell, Spec, only_data, step_name

# Of the whole study, not of a grid.
WHOLE = ("grid", "published", "reference")
# Keys of version 0.1, and what is written instead.
WAS = {
    "datasets": "dataset",
    "tasks": "view",
    "methods": "recipe",
    "seeds": "seed",
    "slots": "reading",
    "targets": "target",
    "probe": "[parts.linear]",
    "analysis": "evaluation, a list, and [parts.decoder] or [parts.tsne]",
}


def choose(preset: str | None, path: Path | None, out: Path | None, overrides: Mapping[str, Any]) -> Spec:
    """Returns the study of a preset, of a TOML file, or of the folder that holds one already.

    Code outside the package that a TOML file names may be run: a person gave it.

    Raises:
        SettingError: where not exactly one is named, or what is named is no study.
    """
    if preset is not None and path is not None:
        raise SettingError(f"--preset {preset} and --spec {path} name two studies: leave one of them out")
    if preset is not None:
        return plan(_as_launched(read_preset(preset)), preset, overrides)
    if path is not None:
        content = _as_launched(read_toml(path, "--spec"))
        for name in outside(content):
            trust(name)
        return plan(content, path.stem, overrides, str(path))
    if out is None:
        raise SettingError(
            f"no study is named: give --preset {'|'.join(PRESETS)}, --spec FILE.toml, or --out of one begun"
        )
    if not (out / STUDY_FILE).is_file():
        raise SettingError(f"--out {out} holds no study: begin one with --preset or --spec")
    begun = read_json(out / STUDY_FILE)
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return plan(begun["spec"], begun["name"], {**begun["overrides"], **given})
    except (KeyError, TypeError) as error:
        raise RunError(f"{out / STUDY_FILE} is damaged ({error!r}): name the study with --preset or --spec") from error


def _as_launched(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a spec whose cells have the launcher's precision where it says none: so it goes on by any launcher."""
    settings = content.get("settings", {})
    if precision() == "no" or not isinstance(settings, Mapping):
        return content
    return {**content, "settings": {"mixed_precision": precision(), **settings}}


def outside(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields the code outside the package that a spec names."""
    grids = content.get("grid")
    for table in (content, *(grids if isinstance(grids, list) else ())):
        for axis in ("dataset", "transfer", "evaluation", *PARTS):
            values = table.get(axis, ()) if isinstance(table, Mapping) else ()
            for name in values if isinstance(values, list) else (values,):
                if isinstance(name, str) and is_outside(name) and not Place.of(name):
                    yield name


def plan(
    content: Mapping[str, Any], name: str, overrides: Mapping[str, Any] | None = None, source: str | None = None
) -> Spec:
    """Returns the study that a spec stands for; cells that would be the same run are one.

    Args:
        content: the spec.
        name: the study's name.
        overrides: settings of the command that go before the spec's, of any of a cell's configurations.
        source: what messages call it; None means its name.

    Raises:
        SettingError: for an unknown key, an empty list, a value that is not legal or settings that do not go together;
            it names key and value.
        DataError, ImageError: where an image folder cannot be read.
    """
    what = source or name
    if not isinstance(content, Mapping):
        raise SettingError(f"{what} holds no table of settings")
    content = _placed(underscored(content))
    known = {*AXES, *TABLES, *WHOLE, "search"}
    _check_keys(content, known, what)
    shared = {key: value for key, value in content.items() if key not in WHOLE}
    grids = content.get("grid", [{}])
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, Mapping) for grid in grids):
        raise SettingError(f"{what}: grid is {grids!r}: write each grid as a [[grid]] table")
    own = {key: value for key, value in (overrides or {}).items() if value is not None}
    look = cache(look_at)
    cells: dict[str, Cell] = {}
    made = []
    for number, grid in enumerate(map(underscored, grids), start=1):
        where = what if "grid" not in content else f"{what}, grid {number}"
        _check_keys(grid, known - {*WHOLE}, where)
        made.append(Grid(_laid_over(shared, grid, where), where, own, look))
        for cell in made[-1].cells():
            cells[cell.digest] = _united(cells.get(cell.digest, cell), cell, where)
    found = _with_evaluations_that_fit(cells.values(), look, what)
    reference = content.get("reference", _defaults()["reference"])
    _check_names(content, made, found, what)
    return Spec(name=name, content=dict(content), overrides=own, reference=reference, cells=found)


@cache
def _defaults() -> dict[str, Any]:
    return read_toml(Path(__file__).with_name("defaults.toml"))


def _placed(value: Any) -> Any:
    """Returns a spec whose folders and files are named from the root, so that a study goes on from anywhere."""
    if isinstance(value, Mapping):
        return {_placed(key): _placed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_placed(inner) for inner in value]
    if isinstance(value, str) and value.endswith(".py"):
        return str(Path(value).expanduser().absolute())
    return placed(value) if isinstance(value, str) and Place.of(value) else value


def _check_keys(table: Mapping[str, Any], known: set[str], source: str) -> None:
    for key, value in table.items():
        if key in WAS:
            raise SettingError(f"{source}: {key} is gone: write {WAS[key]}")
        if key == "method" and isinstance(value, Mapping):
            name = next(iter(value), "NAME")
            raise SettingError(f"{source}: [method.{name}] is gone: write [recipes.{name}]")
        if key not in known:
            raise SettingError(
                f"{source}: {key!r} (set to {value!r}) is no key of a study: choose among {', '.join(sorted(known))}"
            )


def _laid_over(shared: Mapping[str, Any], grid: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns a grid with what stands above all of them, and where neither names a method, the default."""
    for level in (shared, grid):
        if "recipe" in level and (both := [key for key in NAMING if key in level]):
            raise SettingError(f"{source}: recipe says {both[0]} too: leave one of them out")
    drop = {"recipe"} if grid.keys() & NAMING else {*NAMING} if "recipe" in grid else set()
    found = {key: value for key, value in shared.items() if key not in drop} | dict(grid)
    if "method" not in found and (alone := [key for key in NAMING if key in found]):
        raise SettingError(f"{source}: {alone[0]} is named without a method: name method too")
    if "method" not in found:
        found.setdefault("recipe", _defaults()["recipe"])
    for table in TABLES:
        found[table] = _merge(shared.get(table, {}), grid.get(table, {}), f"{source}: {table}")
    return found


def _merge(one: Any, other: Any, what: str) -> dict[str, Any]:
    """Returns two tables as one, the second one's values first; tables in them alike, each of several."""
    found: dict[str, Any] = {}
    for table in (one, other):
        if not isinstance(table, Mapping):
            raise SettingError(f"{what} is {table!r}: it must be a table of settings")
        for key, value in table.items():
            name = key if "." in key else key.replace("-", "_")
            under, where = found.get(name), f"{what}.{key}"
            if isinstance(value, Mapping) and _tables(under):
                value = [_merge(each, value, where) for each in under or []]
            elif isinstance(value, Mapping):
                value = _merge(under if isinstance(under, Mapping) else {}, value, where)
            elif _tables(value) and isinstance(under, Mapping):
                value = [_merge(under, each, where) for each in value]
            found[name] = value
    return found


def _tables(value: Any) -> bool:
    """Whether these are several tables: [[parts.linear]]."""
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _united(one: Cell, other: Cell, source: str) -> Cell:
    """Returns a cell that two grids hold, with the evaluations of both.

    Raises:
        SettingError: where they measure the same thing with other settings.
    """
    evaluations = dict.fromkeys((*one.evaluations, *other.evaluations))
    named: dict[tuple[str, str], EvaluationConfig] = {}
    for config in evaluations:
        part: Any = config.evaluation
        name = step_name(config).replace("evaluate", part.called)
        if named.setdefault((name, part.measured), config) != config:
            raise SettingError(
                f"{source}: {name!r} of {one.name} is there with other settings too, as the same {part.measured!r}: "
                "leave one of them out"
            )
    return replace(one, evaluations=tuple(evaluations), search=one.search and other.search)


def _with_evaluations_that_fit(
    cells: Iterable[Cell], look: Callable[[DataSettings], Facts], source: str
) -> tuple[Cell, ...]:
    """Returns the cells without evaluations of images of another shape than theirs, or of classes that are not there.

    Raises:
        SettingError: where a data set for transfer has a shape that no cell's has, or a cell's classes are to be
            told, and no data set has some.
    """
    found: list[Cell] = []
    wanted, used = set(), set()
    for cell in cells:
        alike = [config for config in cell.evaluations if look(only_data(config)).shape == cell.facts.shape]
        fit = tuple(c for c in alike if not _tells_classes(c) or look(only_data(c)).classes)
        if any(map(_tells_classes, cell.evaluations)) and not any(map(_tells_classes, fit)):
            raise SettingError(
                f"{source}: {cell.config.dataset!r} has no classes to tell: name a data set with classes in transfer"
            )
        for config in fit:
            _check_facts(config, cell, look(only_data(config)), source)
        wanted |= {str(config.dataset) for config in cell.evaluations}
        used |= {str(config.dataset) for config in alike}
        found.append(replace(cell, evaluations=fit))
    for name in sorted(wanted - used):
        raise SettingError(
            f"{source}: transfer has {name!r}, whose images have the shape of no other data set: leave it out, or "
            "set image_size and grayscale"
        )
    return tuple(found)


def _check_facts(config: EvaluationConfig, cell: Cell, facts: Facts, source: str) -> None:
    part: Any = config.evaluation
    if part.labels and config.target == "pretext":
        view: Any = cell.config.view
        facts = replace(facts, classes=len(view.class_names(("",) * facts.classes)))
    try:
        part.check_facts(facts, len(cell.sketch.dims))
    except SettingError as error:
        raise SettingError(f"{source}: {error}") from error


def _tells_classes(config: EvaluationConfig) -> bool:
    part: Any = config.evaluation
    return part.labels and config.target == "class"


def _check_names(content: Mapping[str, Any], grids: Iterable[Grid], cells: Iterable[Cell], source: str) -> None:
    """Raises SettingError where something is named that no cell has."""
    cells = list(cells)
    labels = {cell.config.label for cell in cells}
    parts = {getattr(cell.config, kind).part_name for cell in cells for kind in PARTS}
    parts |= {config.evaluation.part_name for cell in cells for config in cell.evaluations}
    readings = list(dict.fromkeys(reading for cell in cells for reading in cell.sketch.readings))
    for grid in grids:
        for name in grid.recipes:
            if name not in labels and name not in recipes():
                known = ", ".join(dict.fromkeys((*recipes(), *sorted(labels))))
                raise SettingError(f"{source}: recipes.{name} is what no cell is called: choose among {known}")
        for name in grid.parts:
            if is_outside(name) and name not in parts:
                raise SettingError(f"{source}: parts.{name} is used by no cell: leave it out, or name it in a list")
        for reading in grid.lists["reading"]:
            if reading not in readings:
                raise SettingError(f"{source}: reading has {reading!r}: choose among {in_words(readings)}")
    if "reference" in content and content["reference"] not in labels:
        named = ", ".join(sorted(labels))
        raise SettingError(f"{source}: reference is {content['reference']!r}, and cells are called {named}")
    published = content.get("published", {})
    datasets = {cell.config.dataset for cell in cells}
    if not isinstance(published, Mapping) or not all(k in datasets and v in DATASETS for k, v in published.items()):
        raise SettingError(f"{source}: published is {published!r}: it must map its data sets to {', '.join(DATASETS)}")
