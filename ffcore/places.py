"""Data sets that are named by where they lie: `imagefolder:PATH`, and `hf:PATH_OR_NAME` with options behind it."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

# What stands before the colon -> what behind it; and what files of theirs are called.
FOLDER = "imagefolder"
PREFIXES = {FOLDER: "PATH", "hf": "PATH_OR_NAME"}
# And what of theirs has classes.
CLASSES = {FOLDER: "images in class folders", "hf": "a column of classes with ,label=COLUMN"}
SUFFIXES = (".parquet", ".arrow", ".tar")
PLACES = " or ".join(f"{prefix}:{what}" for prefix, what in PREFIXES.items())
# An option behind the name; a folder has one alone, for no classes.
UNLABELLED = ",label="
_OPTION = {FOLDER: re.compile(f"{UNLABELLED}$"), "hf": re.compile(r",\w+=[^,]*$")}


@dataclass(frozen=True)
class Place:
    """A data set that is named by where it lies.

    Args:
        prefix: a key of PREFIXES.
        name: a path on this machine, or the name of a data set on the Hugging Face Hub.
        options: what stands behind it, `,KEY=VALUE,...`; no part of a path that is there.
    """

    prefix: str
    name: str
    options: str = ""

    @classmethod
    def of(cls, dataset: str) -> Place | None:
        """Returns the place that a data set's name says; None where it says none."""
        prefix, colon, name = dataset.partition(":")
        if not colon or prefix not in PREFIXES:
            return None
        options = ""
        while not os.path.exists(os.path.expanduser(name)) and (last := _OPTION[prefix].search(name)):
            name, options = name[: last.start()], last[0] + options
        return cls(prefix, name, options)

    def __str__(self) -> str:
        return f"{self.prefix}:{self.name}{self.options}"

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine, from the root; None of a name on the hub."""
        path = os.path.expanduser(self.name)
        local = self.prefix == FOLDER or os.path.isabs(path) or path.startswith(os.curdir)
        if local or glob.has_magic(path) or path.endswith(SUFFIXES) or os.path.exists(path):
            return Path(os.path.abspath(path))
        return None

    @property
    def placed(self) -> Place:
        """The same, with its path from the root: it is found from anywhere."""
        return self if self.path is None else self.at(self.path)

    def at(self, path: Path) -> Place:
        """Returns the same data set where it lies elsewhere."""
        return replace(self, name=str(path))

    @property
    def called(self) -> str:
        """Its name without where this machine has it: of a path the last part that is no pattern."""
        path = self.path
        if path is None:
            return self.name + self.options
        parts = path.parts if self.prefix == FOLDER else [part for part in path.parts if not glob.has_magic(part)]
        return parts[-1] + self.options


def public_name(dataset: str) -> str:
    """Returns a data set's name as others are told it: not where this machine has it."""
    place = Place.of(dataset)
    return dataset if place is None else f"{place.prefix}:{place.called}"


def is_there(path: Path) -> bool:
    """Whether something lies at a path, or a pattern matches."""
    return path.exists() or any(glob.iglob(str(path)))
