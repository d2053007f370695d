"""Named points of the product of method, cut and view: a TOML file each, the study's own among them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ffcore.errors import SettingError
from ffcore.plugins import short
from ffcore.settings import read_toml

FOLDER = Path(__file__).parent


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


@cache
def label(method: str, cut: str, at: str) -> str:
    """Returns what people call a method cut so: its recipe's name, or the method's with what differs from its own."""
    at = "all" if cut == "block" else at
    for name in recipes():
        point = read_recipe(name)
        if (point.get("method"), point.get("cut", "block"), point.get("at", "all")) == (method, cut, at):
            return name
    return short(method) + (f" cut={cut}" if cut != "block" else "") + (f" at={at}" if at != "all" else "")
