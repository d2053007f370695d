"""One grid of a study -> its cells: the axes multiplied, with every choice of the settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from ffcore.errors import SettingError
from ffcore.plugins import is_outside
from ffcore.settings import Settings
from fftrain.config import DataSettings, EvaluationConfig, RunConfig
from fftrain.data import Facts
from fftrain.options import GONE
from fftrain.parts import EVALUATIONS, PARTS, check_dataset, merged, named, placed
from fftrain.recipes import POINT, default, label, read_recipe, recipes
from fftrain.study.sketch import Sketch, sketch
from fftrain.study.spec import Cell, only_data

S = TypeVar("S", bound=Settings)

# The axes, and what stands for one that is not named.
AXES: Mapping[str, tuple[Any, ...]] = {
    "dataset": (),
    "view": (default()["view"],),
    "recipe": (),
    "method": (),
    **{key: (value,) for key, value in POINT.items()},
    "backbone": (default()["backbone"],),
    "seed": (0,),
    "evaluation": ("linear", "decoder", "tsne", "similarity"),
    "reading": (),
    "target": ("class",),
    "transfer": (),
}
# What a recipe says.
NAMING = ("method", *POINT)
TABLES = ("settings", "recipes", "parts", "evaluate")
# What tables do not say, since axes do.
OF_RUNS = {"dataset", "seed", *PARTS, *POINT}
OF_EVALUATIONS = {"evaluation", "dataset", "reading", "target", "image_size", "grayscale", "skip_bad"}
# What is measured of a method that tells the labels that it was trained on; of a search the first alone.
TOLD = tuple({"name": "readout", "split": split} for split in ("validation", "test"))


class Grid:
    """One grid, checked as far as its words go.

    Args:
        values: its axes and tables.
        source: what messages call it.
        overrides: settings of the command, which go before its own.
        look: tells of a data set what is known before it is read.

    Raises:
        SettingError: for what is not legal.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        source: str,
        overrides: Mapping[str, Any],
        look: Callable[[DataSettings], Facts],
    ) -> None:
        self.values = values
        self.source = source
        self.overrides = overrides
        self.look = look
        self.search = values.get("search", False)
        if type(self.search) is not bool:
            raise SettingError(f"{source}: search is {self.search!r}: it must be true or false")
        self.lists = {axis: self._list(axis) for axis in AXES}
        if self.search and (values["evaluate"] or self.lists["transfer"] or "evaluation" in values):
            raise SettingError(f"{source}: search = true measures nothing: leave evaluation, evaluate and transfer out")
        self.recipes = {_own(key): table for key, table in values["recipes"].items()}
        self.parts = {_own(key): table for key, table in values["parts"].items()}
        self._check_tables()

    def cells(self) -> Iterator[Cell]:
        """Yields its cells. Raises SettingError, DataError or ImageError where one cannot be run."""
        lists, points = self.lists, self._points()
        views = dict.fromkeys((*lists["view"], *filter(None, map(_view, points.values()))))
        fit: set[str] = set()
        for dataset, view, called, backbone in itertools.product(lists["dataset"], views, points, lists["backbone"]):
            point = points[called]
            if view != _view(point) and (_view(point) or view not in lists["view"]):
                continue
            axes = {"view": view, "backbone": backbone, "dataset": dataset}
            for config in self._configs(merged(axes, point), called):
                method: Any = config.method
                if method.needs().views == config.view.views:  # type: ignore[attr-defined]
                    fit |= {called, view}
                    yield self._cell(config)
        free = lists["view"] if not all(map(_view, points.values())) else ()
        for what, names, others in (("a method", points, views), ("a view", free, points)):
            for name in names:
                if name not in fit:
                    of = ", ".join(others)
                    raise SettingError(f"{self.source}: {name!r} is {what} that goes with none of {of}: leave it out")

    def _points(self) -> dict[str, dict[str, Any]]:
        """Returns what people call a method -> what names it, and what else its recipe says."""
        if self.lists["recipe"]:
            return {name: read_recipe(name) for name in self.lists["recipe"]}
        chosen = itertools.product(*(self.lists[axis] for axis in NAMING))
        points = [dict(zip(NAMING, each, strict=True)) for each in chosen]
        return {label(point): point for point in points}

    def _configs(self, point: Mapping[str, Any], called: str) -> Iterator[RunConfig]:
        """Yields the settings of every choice at a point that is called so, for each seed."""
        names = {kind: str(named(point[kind])["name"]) for kind in PARTS}
        tables = {"settings": {**self.values["settings"], **self.recipes.get(called, {})}}
        tables |= {kind: self.parts.get(name, {}) for kind, name in names.items()}
        places = [(table, key) for table, values in tables.items() for key in values]
        choices = [_choices(tables[table][key], f"{self.source}: {table}.{key}") for table, key in places]
        for chosen in itertools.product(*choices):
            own: dict[str, dict[str, Any]] = {table: {} for table in tables}
            for (table, key), value in zip(places, chosen, strict=True):
                own[table][key] = value
            settings = own.pop("settings")
            for seed in self.lists["seed"]:
                values = merged({"mixed_precision": "no"}, point, settings, own, {"seed": seed})
                yield self._make(RunConfig, values, self.source)

    def _cell(self, config: RunConfig) -> Cell:
        """Returns a cell with what is measured on it."""
        facts = self.look(only_data(config))
        try:
            found = sketch(config, facts)
        except SettingError as error:
            where = f"view {config.view.part_name!r} on {config.dataset!r}"
            raise SettingError(f"{self.source}: {where}: {error}") from error
        evaluations = tuple(self._evaluations(config, found))
        return Cell(config=config, facts=facts, sketch=found, evaluations=evaluations, search=self.search)

    def _evaluations(self, config: RunConfig, found: Sketch) -> Iterator[EvaluationConfig]:
        """Yields the evaluations of a cell: those that tell labels of each target, data set and reading that it has."""
        same = {key: getattr(config, key) for key in ("image_size", "grayscale", "skip_bad", "data_dir", "data_cache")}
        readings = [r for r in self.lists["reading"] if r in found.readings] or found.readings[:1]
        usual = (config.dataset, found.readings[0], "class")
        told = []
        for target in self.lists["target"]:
            if target == "pretext" and not config.view.pretext:  # type: ignore[attr-defined]
                continue
            others = [name for name in self.lists["transfer"] if name != config.dataset] if target == "class" else []
            told += [*itertools.product((config.dataset, *others), readings, (target,))]
        named = () if self.search else self.lists["evaluation"]
        parts = [{"name": n, **table} for n in named if n != TOLD[0]["name"] for table in self._tables(n)]
        parts += TOLD[: 1 if self.search else 2] if found.tells else ()
        for part in parts:
            chosen = {**self.values["evaluate"], **same, "evaluation": part}
            chosen |= {"limit": None} if part in TOLD else {}  # as training measures it
            made: Any = self._make(EvaluationConfig, chosen, f"{self.source}: evaluate")
            for place in told if made.evaluation.labels else [usual]:
                yield made.changed(**dict(zip(("dataset", "reading", "target"), place, strict=True)))

    def _tables(self, name: str) -> list[Any]:
        """Returns the settings with which an evaluation is made: those of each [[parts.NAME]] table."""
        table = self.parts.get(name, {})
        return table if isinstance(table, list) and table else [table]

    def _make(self, kind: type[S], values: Mapping[str, Any], source: str) -> S:
        own = {key: value for key, value in self.overrides.items() if key in kind.model_fields}
        return kind.made({**values, **own}, f"{source}: ")

    def _list(self, axis: str) -> tuple[Any, ...]:
        """Returns the values of an axis, checked, each by its own name."""
        source = self.source
        given = self.values.get(axis, AXES[axis])
        values = [*given] if isinstance(given, list | tuple) else [given]
        kinds: dict[str, set[type]] = {"seed": {int}, "cut": {str, int}}
        if any(type(value) not in kinds.get(axis, {str}) for value in values):
            word = "whole numbers" if axis == "seed" else "names"
            raise SettingError(f"{source}: {axis} is {given!r}: it must be a list of {word}")
        if axis == "dataset" and axis not in self.values:
            raise SettingError(f"{source}: dataset is missing: name at least one")
        if not values and axis in self.values and axis not in ("reading", "transfer", "evaluation"):
            raise SettingError(f"{source}: {axis} is an empty list: name at least one, or leave the key out")
        try:
            return tuple(dict.fromkeys(_value(axis, value) for value in values))
        except SettingError as error:
            raise SettingError(f"{source}: {error}") from error

    def _check_tables(self) -> None:
        """Raises SettingError where a table has a key that is no setting of what it is of."""
        of_runs = {f"recipes.{name}": table for name, table in self.recipes.items()}
        for what, table in {"settings": self.values["settings"], **of_runs}.items():
            self._check(what, table, RunConfig, OF_RUNS)
        self._check("evaluate", self.values["evaluate"], EvaluationConfig, OF_EVALUATIONS)
        kinds = {**PARTS, "evaluation": EVALUATIONS}
        used = {name for kind in kinds for name in self.lists[kind]}
        if TOLD[0]["name"] in self.parts:
            raise SettingError(
                f"{self.source}: parts.{TOLD[0]['name']} has no settings to try: it is measured on "
                "validation and test by itself; leave it out"
            )
        for name, table in self.parts.items():
            holders = [parts for parts in kinds.values() if name in (used if is_outside(name) else parts)]
            if not holders and not is_outside(name):
                known = ", ".join(part for parts in kinds.values() for part in parts)
                raise SettingError(f"{self.source}: parts.{name} is no part: choose among {known}")
            for parts in holders:
                for one in self._tables(name) if parts is EVALUATIONS else [table]:
                    if not is_outside(name):
                        self._check(f"parts.{name}", one, parts.load(name), set())

    def _check(self, what: str, table: Any, kind: type[Settings], elsewhere: set[str]) -> None:
        if not isinstance(table, Mapping):
            raise SettingError(f"{self.source}: {what} is {table!r}: it must be a table of settings")
        for key in table:
            begins = f"{self.source}: {what} has {key!r} (set to {table[key]!r}), "
            if key in elsewhere:
                raise SettingError(f"{begins}which a list says: leave it out")
            if key not in kind.model_fields:
                known = sorted(kind.model_fields.keys() - elsewhere)
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                part, _, own = GONE.get(key, "").partition(".")
                if part in PARTS:
                    hint = f"write {own.partition('=')[0]} in [parts.NAME], NAME the {part}'s; "
                raise SettingError(f"{begins}which is no setting of it: {hint}choose among {', '.join(known)}")


def _own(key: str) -> str:
    """Returns the name of a part or a recipe as it is known."""
    return key if is_outside(key) else key.replace("_", "-")


def _view(point: Mapping[str, Any]) -> str:
    """Returns the view that a recipe fixes; "" where it fixes none."""
    return str(named(point.get("view", {})).get("name", ""))


def _value(axis: str, value: Any) -> Any:
    """Returns what an axis says by its own name. Raises SettingError where there is none."""
    if axis in ("dataset", "transfer"):
        check_dataset(value)
        return placed(value)
    if axis in PARTS or axis == "evaluation":
        return (EVALUATIONS if axis == "evaluation" else PARTS[axis]).name(value)
    if axis == "cut":
        return str(value)
    legal = {"recipe": (*recipes(),), "target": get_args(EvaluationConfig.model_fields["target"].annotation)}
    value = value.replace("_", "-") if axis == "recipe" else value
    if axis in legal and value not in legal[axis]:
        hint = "random and raw stand beside every method; " if value in ("random", "raw") else ""
        raise SettingError(f"{axis} has {value!r}: {hint}choose among {', '.join(legal[axis])}")
    return value


def _choices(value: Any, what: str) -> list[Any]:
    """Returns the values that are tried of a setting."""
    if value == []:
        raise SettingError(f"{what} is an empty list: name at least one value")
    return value if isinstance(value, list) else [value]
