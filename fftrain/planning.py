"""What a study is planned to be: a TOML file -> cells, each a run with its probes, all checked before any starts.

    datasets = ["mnist", "imagefolder:photos"]   # these lists are multiplied
    tasks = ["rotation", "jigsaw"]
    methods = ["ff", "bp"]
    seeds = [0, 1, 2]
    slots = ["neutral", "zeros", "pixels"]       # label slots probed, of methods that read labels
    targets = ["class", "pretext"]               # what the probes tell
    transfer = ["fashion-mnist"]                 # probed too, where images have the same shape
    [settings]                                   # of every cell: options of fftrain pretrain; a list tries each value
    [method.bp]                                  # of one method; wins over [settings]
    [probe]                                      # options of fftrain probe
    [analysis]                                   # options of fftrain analyse; analysis = false leaves it out
    search = true                                # train and read the validation split alone: no test, probe, analysis
    [published]                                  # data set -> the column of published figures it stands beside
    [[grid]]                                     # several grids in one study: each may override all of the above

Nothing here loads torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffmodels.registry import FOLDER, SLOTS
from fftrain.config import AnalysisConfig, PretrainConfig, ProbeConfig, Settings, placed, read_toml, underscored
from fftrain.launcher import precision
from fftrain.registry import DATASETS, METHODS, TASKS, fits, task_of
from fftrain.spec import STUDY_FILE, Cell, Spec, step_name

S = TypeVar("S", bound=Settings)

PRESETS = {
    "smoke": "every method on embedded digits; under 2 minutes on 2 cores",
    "quick": "MNIST, Fashion-MNIST and CIFAR-10; a few hours on 2 cores",
    "paper": "the study's protocol: 4 data sets, 5 tasks, 3 seeds, 60 epochs of 4x2000",
}
LISTS: Mapping[str, tuple[Any, ...]] = {
    "datasets": (),
    "tasks": ("rotation",),
    "methods": ("ff", "bp"),
    "seeds": (0,),
    "slots": ("neutral",),
    "targets": ("class",),
    "transfer": (),
}
TABLES = ("settings", "method", "probe", "analysis")


def read_preset(name: str) -> dict[str, Any]:
    """Reads a preset. Raises SettingError for an unknown name."""
    if name not in PRESETS:
        raise SettingError(f"--preset is {name!r}: choose one of {', '.join(PRESETS)}")
    return read_toml(Path(str(files("fftrain").joinpath("presets", f"{name}.toml"))), "--preset")


def choose(preset: str | None, path: Path | None, out: Path | None, overrides: Mapping[str, Any]) -> Spec:
    """Returns the study of a preset, of a TOML file, or of the folder that holds one already.

    Raises:
        SettingError: where not exactly one is named, or what is named is no study.
    """
    if preset is not None and path is not None:
        raise SettingError(f"--preset {preset} and --spec {path} name two studies: leave one of them out")
    if preset is not None:
        return plan(_as_launched(read_preset(preset)), preset, overrides)
    if path is not None:
        return plan(_as_launched(read_toml(path, "--spec")), path.stem, overrides, str(path))
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


def plan(
    content: Mapping[str, Any], name: str, overrides: Mapping[str, Any] | None = None, source: str | None = None
) -> Spec:
    """Returns the study that a spec stands for; cells that occur twice are there once.

    Args:
        content: the spec.
        name: the study's name.
        overrides: settings of the command that go before the spec's, of any of a cell's configurations.
        source: what messages call it; None means its name.

    Raises:
        SettingError: for an unknown key, an empty list or a value that is not legal; it names key and value.
    """
    what = source or name
    if not isinstance(content, Mapping):
        raise SettingError(f"{what} holds no table of settings")
    content = _placed(content)
    known = {*LISTS, *TABLES, "search", "grid", "published"}
    _check_keys(content, known, what)
    shared = {key: value for key, value in content.items() if key not in ("grid", "published")}
    grids = content.get("grid", [{}])
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, Mapping) for grid in grids):
        raise SettingError(f"{what}: grid is {grids!r}: write each grid as a [[grid]] table")
    cells: dict[str, Cell] = {}
    for number, grid in enumerate(grids, start=1):
        where = what if "grid" not in content else f"{what}, grid {number}"
        _check_keys(grid, known - {"grid", "published"}, where)
        merged = {**shared, **grid}
        tables = [key for key in TABLES if key != "analysis" or isinstance(grid.get(key), Mapping)]
        for table in tables:
            merged[table] = _merge(shared.get(table, {}), grid.get(table, {}), f"{where}: {table}")
        for cell in _cells(merged, where, overrides or {}):
            cells[cell.name] = _united(cells[cell.name], cell, where) if cell.name in cells else cell
    published = content.get("published", {})
    datasets = {cell.config.dataset for cell in cells.values()}
    names = [*DATASETS]
    if not isinstance(published, Mapping) or not all(k in datasets and v in names for k, v in published.items()):
        raise SettingError(f"{what}: published is {published!r}: it must map its data sets to {', '.join(names)}")
    kept = {key: value for key, value in (overrides or {}).items() if value is not None}
    return Spec(name=name, content=dict(content), overrides=kept, cells=tuple(cells.values()))


def _united(one: Cell, other: Cell, source: str) -> Cell:
    """Returns a cell that two grids hold, with the probes of both.

    Raises:
        SettingError: where they measure the same thing with other settings.
    """
    probes = {step_name(probe): probe for probe in one.probes}
    for probe in other.probes:
        if probes.setdefault(step_name(probe), probe) != probe:
            raise SettingError(f"{source}: {step_name(probe)!r} of {one.name} is in another grid with other settings")
    if None not in (one.analysis, other.analysis) and one.analysis != other.analysis:
        raise SettingError(f"{source}: the analysis of {one.name} is in another grid with other settings")
    search, analysis = one.search and other.search, one.analysis or other.analysis
    return replace(one, probes=tuple(probes.values()), search=search, analysis=analysis)


def _merge(one: Any, other: Any, what: str) -> dict[str, Any]:
    """Returns two tables as one, the second one's values first; tables in them alike."""
    for table in (one, other):
        if not isinstance(table, Mapping):
            raise SettingError(f"{what} is {table!r}: it must be a table of settings")
    merged = dict(one)
    for key, value in other.items():
        inner = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if inner else value
    return merged


def _check_keys(table: Mapping[str, Any], known: set[str], source: str) -> None:
    for key in table:
        if key not in known:
            raise SettingError(
                f"{source}: {key!r} (set to {table[key]!r}) is no key of a study: "
                f"choose among {', '.join(sorted(known))}"
            )


def _list(grid: Mapping[str, Any], key: str, source: str) -> tuple[Any, ...]:
    """Returns a list of the spec, checked."""
    values = grid.get(key, LISTS[key])
    legal: Mapping[str, tuple[Any, ...]] = {
        "tasks": (*TASKS,),
        "methods": (*METHODS,),
        "slots": (*SLOTS,),
        "targets": ("class", "pretext"),
    }
    kind, word = (int, "whole numbers") if key == "seeds" else (str, "names")
    if not isinstance(values, list | tuple) or any(type(value) is not kind for value in values):
        raise SettingError(f"{source}: {key} is {values!r}: it must be a list of {word}")
    if key == "datasets" and key not in grid:
        raise SettingError(f"{source}: datasets is missing: name at least one")
    if not values and key != "transfer":
        raise SettingError(f"{source}: {key} is an empty list: name at least one, or leave the key out")
    for value in values:
        if key in legal and value not in legal[key]:
            hint = "random and raw stand beside every method; " if value in ("random", "raw") else ""
            raise SettingError(f"{source}: {key} has {value!r}: {hint}choose among {', '.join(legal[key])}")
        if key in ("datasets", "transfer") and not value.startswith(FOLDER) and value not in DATASETS:
            names = ", ".join(DATASETS)
            raise SettingError(f"{source}: {key} has {value!r}: choose among {names}, or {FOLDER}PATH")
        if value == FOLDER:
            raise SettingError(f"{source}: {key} has {value!r}: write the folder behind the colon")
    return tuple(dict.fromkeys(values))


def _placed(value: Any) -> Any:
    """Returns a spec whose image folders are named from the root, so that a study goes on from anywhere."""
    if isinstance(value, Mapping):
        return {_placed(key): _placed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_placed(inner) for inner in value]
    return placed(value) if isinstance(value, str) else value


def _cells(grid: Mapping[str, Any], source: str, overrides: Mapping[str, Any]) -> Iterator[Cell]:
    """Yields the cells of one grid."""
    lists = {key: _list(grid, key, source) for key in LISTS}
    search = grid.get("search", False)
    if type(search) is not bool:
        raise SettingError(f"{source}: search is {search!r}: it must be true or false")
    if search and (grid["probe"] or lists["transfer"] or grid.get("analysis")):
        raise SettingError(f"{source}: search = true measures no probe, transfer or analysis: leave them out")
    own = grid["method"]
    for method in own:
        if method not in METHODS:
            raise SettingError(f"{source}: method.{method} is no method: choose among {', '.join(METHODS)}")
        for key in underscored(_merge(own[method], {}, f"{source}: method.{method}")):
            if key not in {field.name for field in fields(PretrainConfig)}:
                raise SettingError(f"{source}: method.{method} has {key!r}, which is no setting of fftrain pretrain")
    # A method with a task of its own is trained on that, whatever tasks are named.
    for method in lists["methods"]:
        if "task" not in METHODS[method].facts and not any(fits(method, task) for task in lists["tasks"]):
            names = ", ".join(lists["tasks"])
            raise SettingError(f"{source}: methods has {method!r}, which can be trained on none of the tasks {names}")
    bound = [method for method in lists["methods"] if "task" in METHODS[method].facts]
    tasks = dict.fromkeys((*lists["tasks"], *map(task_of, bound)))
    for task in tasks:
        if len(bound) < len(lists["methods"]) and not any(fits(method, task) for method in lists["methods"]):
            names = ", ".join(lists["methods"])
            raise SettingError(f"{source}: tasks has {task!r}, which none of the methods {names} can be trained on")
    given = {method: underscored({**grid["settings"], **own.get(method, {})}) for method in lists["methods"]}
    for key in {"dataset", "task", "method", "seed"} & {key for values in given.values() for key in values}:
        raise SettingError(f"{source}: settings has {key!r}: the list {key}s says that")
    for dataset, task, method in itertools.product(lists["datasets"], tasks, lists["methods"]):
        if not fits(method, task):
            continue
        for settings, seed in itertools.product(_product(given[method], source), lists["seeds"]):
            cell = {"dataset": dataset, "task": task, "method": method, "seed": seed}
            config = _make(PretrainConfig, {"mixed_precision": "no", **settings, **cell}, overrides, source)
            if search:
                yield Cell(config=config, probes=(), analysis=None, search=True)
                continue
            yield Cell(
                config=config,
                probes=tuple(_probes(config, lists, grid["probe"], overrides, source)),
                analysis=_analysis(grid.get("analysis", {}), overrides, source),
            )


def _product(values: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """Returns every choice of one value for each setting."""
    for key, value in values.items():
        if value == []:
            raise SettingError(f"{source}: settings.{key} is an empty list: name at least one value")
    lists = [value if isinstance(value, list) else [value] for value in values.values()]
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*lists)]


def _probes(
    config: PretrainConfig, lists: Mapping[str, Any], values: Any, overrides: Mapping[str, Any], source: str
) -> Iterator[ProbeConfig]:
    """Yields the probes of a cell: of each slot where the method reads labels, and of each data set."""
    given = underscored(values)
    for key in {"dataset", "slot", "target", "image_size", "grayscale"} & given.keys():
        raise SettingError(f"{source}: probe has {key!r}: the lists datasets, slots, targets and transfer say that")
    same = {key: getattr(config, key) for key in ("image_size", "grayscale", "data_dir")}
    slots = lists["slots"] if METHODS[config.method].facts["reads_label"] else ("pixels",)
    for target in lists["targets"]:
        if target == "pretext" and config.task in ("supervised", "hybrid"):
            continue  # no pretext label is drawn
        others = [name for name in lists["transfer"] if name != config.dataset] if target == "class" else []
        for dataset, slot in itertools.product((config.dataset, *others), slots):
            chosen = {**given, **same, "dataset": dataset, "slot": slot, "target": target}
            yield _make(ProbeConfig, chosen, overrides, f"{source}: probe")


def _analysis(values: Any, overrides: Mapping[str, Any], source: str) -> AnalysisConfig | None:
    if values is False:
        return None
    return _make(
        AnalysisConfig, underscored(_merge(values, {}, f"{source}: analysis")), overrides, f"{source}: analysis"
    )


def _make(kind: type[S], values: Mapping[str, Any], overrides: Mapping[str, Any], source: str) -> S:
    """Makes settings, with those of the command that they have before the spec's."""
    known = {field.name for field in fields(kind)}
    made = kind.from_values(values, source)
    own = {key: value for key, value in overrides.items() if key in known and value is not None}
    return replace(made, **own) if own else made
