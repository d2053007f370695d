"""Named points of the product of method, cut and view: a TOML file each, the study's own among them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ffcore.errors import SettingError
from ffcore.plugins import short
from ffcore.settings import read_toml

FOLDER = Path(__file__).parent
# What names a training beside its method, and what stands for each where it is not said.
POINT = {"cut": "block", "at": "all", "order": "together"}


def listed(folder: Path) -> dict[str, str]:
    """Returns the names of a folder's TOML files, and of each what its first line says."""
    files = sorted(folder.glob("[!_]*.toml"))
    return {f.stem: f.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").rstrip(".") for f in files}


@cache
def recipes() -> dict[str, str]:
    """Returns the names of the recipes, and of each what its first line says."""
    return listed(FOLDER)


@cache
def default() -> dict[str, Any]:
    """Returns the parts of a run where none are named."""
    return read_toml(FOLDER / "_default.toml")


def read_recipe(name: str) -> dict[str, Any]:
    """Reads a recipe. Raises SettingError for an unknown name."""
    if name not in recipes():
        raise SettingError(f"--recipe is {name!r}: choose one of {', '.join(recipes())}")
    return read_toml(FOLDER / f"{name}.toml", "--recipe")


def label(config: Mapping[str, Any]) -> str:
    """Returns what people call a method that is cut and ordered so, of a run's settings, all or some.

    Its recipe's name, or the method's with what differs from its own.
    """
    point = {**POINT, **{key: config[key] for key in POINT.keys() & config.keys()}}
    method = config["method"]
    return _label(method if isinstance(method, str) else method["name"], **point)


@cache
def _label(method: str, **mine: str) -> str:
    mine = {**mine, "at": POINT["at"]} if mine["cut"] == "block" else mine
    for name in recipes():
        recipe = read_recipe(name)
        if {**POINT, **{key: recipe.get(key) for key in recipe.keys() & {"method", *POINT}}} == {
            "method": method,
            **mine,
        }:
            return name
    return " ".join([short(method), *(f"{key}={value}" for key, value in mine.items() if value != POINT[key])])
