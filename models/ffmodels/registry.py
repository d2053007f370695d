"""Names of things that can be chosen, without importing what they name.

An entry says where the thing lives (`module:attribute`) and what it is, in a few words. Help texts,
checks and error messages read the names here, so a command line answers without loading torch.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffcore.errors import SettingError


@dataclass(frozen=True)
class Entry:
    """Where a registered thing lives, what it is in a few words, and what is known of it before it is imported."""

    home: str
    about: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Registry(Mapping[str, Entry]):
    """A mapping from names to things that are imported when they are first asked for.

    Args:
        setting: the name of the setting that chooses from this registry; messages name it.
        entries: name -> (`module:attribute`, a few words of description), and where the registry says so, facts.
    """

    def __init__(self, setting: str, entries: Mapping[str, Sequence[Any]]) -> None:
        self.setting = setting
        self._entries = {name: Entry(*entry) for name, entry in entries.items()}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str) -> None:
        """Raises SettingError, with the legal names, unless `name` is registered."""
        if name not in self._entries:
            raise SettingError(f"{self.setting} {name!r} is unknown: choose one of {', '.join(self._entries)}")

    def load(self, name: str) -> Any:
        """Returns the thing registered under `name`. Raises SettingError for an unknown name."""
        self.check(name)
        return pkgutil.resolve_name(self._entries[name].home)


BACKBONES = Registry("backbone", {"mlp": ("ffmodels.backbone:MLP", "normalise, linear, ReLU in each layer")})

NORMALISATIONS = Registry(
    "normalisation",
    {
        "rms": ("ffmodels.backbone:rms_normalise", "divided by the root of the mean square"),
        "layer": ("ffmodels.backbone:layer_normalise", "LayerNorm without parameters"),
        "none": ("ffmodels.backbone:as_it_is", "nothing: for BP alone, since FF's goodness can be read off a length"),
    },
)

GOODNESS = Registry(
    "goodness",
    {
        "sum_squares": ("ffmodels.goodness:SUM_SQUARES", "sum of h^2 (Hinton 2022)"),
        "mean_squares": ("ffmodels.goodness:MEAN_SQUARES", "mean of h^2"),
        "norm": ("ffmodels.goodness:NORM", "||h|| (arXiv 2309.11955)"),
    },
)

# What the label pixels hold when a probe reads the features; ffmodels.labels.fill does it.
SLOTS = {
    "neutral": "1/K in each label pixel",
    "zeros": "0 in each label pixel",
    "pixels": "the image as it is",
}

# What names a folder of images as a data set.
FOLDER = "imagefolder:"


def public_name(dataset: str) -> str:
    """Returns a data set's name as others are told it: of a folder its last part, not where this machine has it."""
    path = dataset.removeprefix(FOLDER)
    return dataset if path == dataset else FOLDER + Path(path).name
