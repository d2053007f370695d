"""A directory is a registry: a file in it holds one part, under its name; a dotted name or a path takes anyone's.

`forward_forward.py` is `forward-forward`; the first line of its class's docstring says what it is. Names and first
lines are read without importing anything, so that a command line answers without loading torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ffcore.errors import FFStudyError, RunError, SettingError

# Names of code outside the package that may be run: those that a person gave.
_trusted: set[str] = set()


class Plugins(Mapping[str, str]):
    """The parts of a package's directory: name -> what it is, in a line.

    Args:
        package: where the files are, such as `ffmodels.methods`.
        kind: what they are called, such as `method`.
        base: the class that a part is a subclass of, in the package's base.py.
    """

    def __init__(self, package: str, kind: str, base: str) -> None:
        self.package = package
        self.kind = kind
        self.base = base

    def __getitem__(self, name: str) -> str:
        path = _files(self.package)[name]
        return _first_line(path)

    def __contains__(self, name: object) -> bool:
        return name in _files(self.package)  # a Mapping's own would read the file

    def __iter__(self) -> Iterator[str]:
        return iter(_files(self.package))

    def __len__(self) -> int:
        return len(_files(self.package))

    def knows(self, given: str) -> bool:
        """Whether a name is of a file here, or of code outside that a path or a person named."""
        return given.replace("_", "-") in self or given.endswith(".py") or given in _trusted

    def name(self, given: str) -> str:
        """Returns a part's own name: of a file here with dashes, of code outside as it is found from anywhere.

        Raises:
            SettingError: where there is no such part; it says which come near.
        """
        if given.endswith(".py"):
            return str(Path(given).expanduser().absolute())
        if "." in given:
            return given
        own = given.replace("_", "-")
        if own not in self:
            near = get_close_matches(own, self, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise SettingError(
                f"{self.kind} {given!r} is unknown: {hint}choose among {', '.join(self)}, or name a file of your own "
                "(./mine.py or mylab.mine)"
            )
        return own

    def load(self, given: str) -> type[Any]:
        """Returns a part's class.

        Raises:
            SettingError: where there is none of that name, or its file holds none or several, or cannot be imported.
            RunError: for code outside the package whose name no person gave.
        """
        name = self.name(given)
        if not is_outside(name):
            module = importlib.import_module(f"{self.package}.{name.replace('-', '_')}")
        elif name not in _trusted:
            raise RunError(
                f"{self.kind} {name!r} is code outside this package: look at it, then give --trust-plugin {name}"
            )
        else:
            module = _outside(name, self.kind)
        base = getattr(importlib.import_module(f"{self.package}.base"), self.base)
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, base)
            and value.__module__ == module.__name__
            and not value.__name__.startswith("_")
        ]
        if len(found) != 1:
            what = ", ".join(value.__name__ for value in found) or "none"
            raise SettingError(f"{self.kind} {name!r}: its file must hold one {self.base}, and it holds {what}")
        if lacking := sorted(getattr(found[0], "__abstractmethods__", ())):
            raise SettingError(f"{self.kind} {name!r}: {found[0].__name__} lacks {', '.join(lacking)}: write it")
        part: Any = found[0]
        part.part_name = name
        return part  # type: ignore[no-any-return]


def is_outside(name: str) -> bool:
    """Whether a part's own name is of code outside the package."""
    return "." in name


def short(name: str) -> str:
    """Returns what people call a part: of code outside the last part of its path or module."""
    return name.removesuffix(".py").replace("\\", "/").rpartition("/")[2].rpartition(".")[2]


def trust(name: str) -> None:
    """Lets code outside the package be run in this process: a person named it."""
    _trusted.add(str(Path(name).expanduser().absolute()) if name.endswith(".py") else name)


def digest(part: type[Any]) -> str:
    """Returns the SHA-256 of the file that a part lies in, 16 hexadecimal digits: what a run outside records of it."""
    file = sys.modules[part.__module__].__file__
    return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()[:16]


@cache
def _files(package: str) -> dict[str, Path]:
    """Returns the files of a package's directory that hold parts, by the parts' names."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    places = list(spec.submodule_search_locations)
    names = sorted(m.name for m in pkgutil.iter_modules(places) if m.name != "base" and not m.name.startswith("_"))
    return {name.replace("_", "-"): Path(places[0]) / f"{name}.py" for name in names}


@cache
def _first_line(path: Path) -> str:
    """Returns the first line of what a file's first class says, or of the file's own docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    text = (ast.get_docstring(classes[0]) if classes else None) or ast.get_docstring(tree) or ""
    return text.partition("\n")[0].rstrip(".")


def _outside(name: str, kind: str) -> ModuleType:
    """Imports a file or module outside the package, from the working directory too, however the program was started."""
    if name.endswith(".py") and not Path(name).is_file():
        raise SettingError(f"{kind} {name!r} is no file: name one that is there")
    try:
        if name.endswith(".py"):
            known = f"ffstudy_outside_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
            if known not in sys.modules:
                spec = importlib.util.spec_from_file_location(known, name)
                assert spec is not None
                assert spec.loader is not None
                module = sys.modules[known] = importlib.util.module_from_spec(spec)
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[known]
                    raise
            return sys.modules[known]
        if str(Path.cwd()) not in sys.path and "" not in sys.path:
            sys.path.append(str(Path.cwd()))
        return importlib.import_module(name)
    except FFStudyError:
        raise
    except Exception as error:
        raise SettingError(f"{kind} {name!r} cannot be imported ({type(error).__name__}: {error})") from error
