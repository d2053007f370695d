"""The views, evaluations and data sets there are, a file each; and how a run's parts are made of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ffcore.errors import SettingError
from ffcore.places import PLACES, PREFIXES, Place
from ffcore.plugins import Plugins, short
from ffcore.settings import Part, underscored
from ffmodels.parts import BACKBONES, METHODS
from fftrain.recipes import default, recipes

VIEWS = Plugins("fftrain.views", "view", "View")
DATASETS = Plugins("fftrain.datasets", "dataset", "Dataset")
EVALUATIONS = Plugins("fftrain.evaluations", "evaluation", "Evaluation")
# The sources that stand beside every number: the pixels, and the network before training.
RAW, RANDOM = "raw", "random"
BASELINES = (RAW, RANDOM)
# A run's parts.
PARTS = {"view": VIEWS, "backbone": BACKBONES, "method": METHODS}


def make_part(kind: str, given: Any) -> Part:
    """Returns a part of a run, or an evaluation.

    Args:
        kind: a key of PARTS, or `evaluation`.
        given: a name, or settings with or without a `name`.

    Raises:
        SettingError: for an unknown name or a setting that is not legal.
        RunError: for code outside the package that no person named.
    """
    values = named(given)
    name = values.pop("name", default().get(kind))
    if name is None:
        raise SettingError(f"{given!r} is no {kind}: give its name")
    if kind == "method" and name in recipes() and name not in METHODS:
        raise SettingError(f"--method {name} is a recipe: write --recipe {name}")
    values.pop("sha256", None)
    plugins = EVALUATIONS if kind == "evaluation" else PARTS[kind]
    part: Part = plugins.load(name).made(values, f"{kind if kind in PARTS else short(name)}.")
    return part


def named(given: Any) -> dict[str, Any]:
    """Returns what was given for a part as its settings, the name among them."""
    if isinstance(given, str):
        return {"name": given}
    if not isinstance(given, Mapping):
        raise SettingError(f"{given!r} is no part of a run: give a name, or a table with a name")
    return underscored(given)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of a run, those of later layers first; another part's settings go with its name."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if key in PARTS:
                before, now = named(found.get(key, {})), named(value)
                same = now.get("name", before.get("name")) == before.get("name")
                found[key] = {**(before if same else {}), **now}
            else:
                found[key] = value
    return found


def check_dataset(name: str) -> None:
    """Raises SettingError unless `name` is a data set's, or says where one lies."""
    place = Place.of(name)
    if place is None:
        try:
            DATASETS.name(name)
        except SettingError as error:
            raise SettingError(f"{error}, or {PLACES}") from error
    elif not place.name:
        raise SettingError(f"--dataset is {name!r}: write {PREFIXES[place.prefix]} behind the colon")


def placed(dataset: str) -> str:
    """Returns a data set's own name, of one that lies on this machine from the root."""
    place, own = Place.of(dataset), dataset.replace("_", "-")
    if place is None:
        return DATASETS.name(dataset) if own in DATASETS or dataset.endswith(".py") else dataset
    return str(place.placed) if place.name else dataset
