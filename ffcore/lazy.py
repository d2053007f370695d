"""Public names of a package that are loaded when they are first used: to import the package itself costs nothing."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, home: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns what a package has as its `__getattr__` (PEP 562).

    Args:
        package: its `__name__`, for messages.
        home: public name -> the module that it lies in.
    """

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return pkgutil.resolve_name(f"{home[name]}:{name}")

    return load
