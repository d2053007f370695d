"""The settings of the cells of a data set -> its factors: in what cells differ, and which differ in one thing alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import pandas as pd

from fftrain.config import RunConfig, flat
from fftrain.parts import PARTS
from fftrain.recipes import POINT, recipes
from fftrain.report.cells import Cell

# What names a training, and the axes, in the order in which they are told.
NAMING = ("method.name", *POINT)
AXES = ("recipe", "view.name", "backbone.name", *NAMING)
# What differs without being a setting of the experiment.
NO_FACTORS = {"dataset", "seed", "eval_images", *RunConfig.RUNTIME}
# What means nothing beside a value of another: where each block is cut, each carries a loss; one unit has no order.
WITHOUT = {("cut", "block"): "at", ("cut", "never"): "order"}
# A setting, and what follows from it; the level of some cells and that which they are compared with, in words.
EFFECT = ["dataset", "setting", "beside", "level", "less"]
# Two cells of one seed, and what other seeds have in common with them.
PAIR = [*EFFECT, "alike", "seed", "run", "other"]
ORDER = ["place", "first", "second"]
Level = float | str


def factors(cells: Sequence[Cell]) -> list[Factors]:
    """Returns the factors of each data set; cells of a search, and those whose settings are not known, have none."""
    kept = [cell for cell in cells if cell.settings and not cell.search]
    datasets = dict.fromkeys(cell.dataset for cell in kept)
    return [Factors([cell for cell in kept if cell.dataset == dataset]) for dataset in datasets]


class Factors:
    """The settings in which the cells of one data set differ.

    Args:
        cells: of that data set.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.settings = [_settings(cell) for cell in cells]
        # Cells of one kind differ in their seed alone.
        self.kinds = [self.settings.index(one) for one in self.settings]
        keys = dict.fromkeys([*AXES, *(key for one in self.settings for key in one)])
        levels = {key: [*dict.fromkeys(one[key] for one in self.settings if key in one)] for key in keys}
        # The levels of each, in the order of the study.
        self.levels = {key: values for key, values in levels.items() if len(values) > 1}
        self.follows, self.alike = cache(self._follows), cache(self._alike)

    def apart(self, a: int, b: int) -> list[str]:
        """Returns in what two cells differ: of other parts their names alone, a recipe for several of what it names."""
        one, other = self.settings[a], self.settings[b]
        parts = {part for part in PARTS if one[f"{part}.name"] != other[f"{part}.name"]}
        keys = [key for key in self.levels if key in one and key in other and one[key] != other[key]]
        keys = [key for key in keys if key.endswith(".name") or key.partition(".")[0] not in parts]
        points = {one["recipe"], other["recipe"]} <= recipes().keys() and len({*keys} & {*NAMING}) > 1
        return [key for key in keys if (key not in NAMING if points else key != "recipe")]

    def factor(self, a: int, b: int) -> tuple[str, list[str]]:
        """Returns the one setting in which two cells differ, and the others that follow from it; "" where none is."""
        keys = self.apart(a, b)
        for key in keys:
            beside = [other for other in keys if other != key]
            if beside and str(None) in (self.settings[a][key], self.settings[b][key]):
                continue  # of a choice that has no such constant
            alike = self.alike((*keys,))[a]
            if all(o not in AXES and (self.follows(o, key) or self._goes(o, key, alike)) for o in beside):
                return key, beside
        return "", []

    def _goes(self, key: str, of: str, alike: Sequence[int]) -> bool:
        """Whether a part's setting goes with a choice of it, as a constant with its loss, in cells that are alike."""
        return (
            not self.is_number(of) and key.partition(".")[0] == of.partition(".")[0] and self._follows(key, of, alike)
        )

    def _alike(self, keys: tuple[str, ...]) -> list[list[int]]:
        """Returns of each cell those that are alike but for some settings, itself among them."""
        rest = [tuple((k, one[k]) for k in self.levels if k in one and k not in keys) for one in self.settings]
        found: dict[tuple[tuple[str, Level], ...], list[int]] = {}
        for i, one in enumerate(rest):
            found.setdefault(one, []).append(i)
        return [found[one] for one in rest]

    def _follows(self, key: str, of: str, cells: Sequence[int] | None = None) -> bool:
        """Whether a setting has one value for each of another, and for a number one of its own; None: in all cells."""
        settings = self.settings if cells is None else [self.settings[i] for i in cells]
        both = {(one[of], one[key]) for one in settings if of in one and key in one}
        its, mine = ({pair[side] for pair in both} for side in (0, 1))
        return len(both) == len(its) and (not self.is_number(of) or len(both) == len(mine))

    def is_number(self, key: str) -> bool:
        """Whether a setting is a number."""
        return all(isinstance(level, int | float) and not isinstance(level, bool) for level in self.levels[key])

    def pairs(self) -> list[dict[str, Any]]:
        """Returns the pairs of cells of one seed that differ in one setting, each with the first level of its kind.

        Returns:
            PAIR of each, `run` and `other` the names of the cells, in the order of AXES and of the levels.
        """
        found = pd.DataFrame([*self._pairs()], columns=[*ORDER, *PAIR])
        # One effect of a choice, whichever constants go with it in which cells.
        words = (
            found[found["beside"] != ""]
            .groupby("setting")["beside"]
            .agg(lambda of: [*dict.fromkeys(", ".join(of).split(", "))])
        )
        found["beside"] = found["beside"].where(found["beside"] == "", found["setting"].map(words.str.join(", ")))
        # A recipe is compared with the first one alone: the others differ in a method or a cut, which is told.
        least = found.groupby(["place", "run"])["first"].transform("min").where(found["setting"] != "recipe", 0)
        kept = found[found["first"] == least].sort_values(ORDER, kind="stable")
        return [dict(pair) for pair in kept[PAIR].to_dict("records")]

    def _pairs(self) -> Iterator[tuple[Any, ...]]:
        for pair in combinations(range(len(self.cells)), 2):
            key, beside = self.factor(*pair) if len({self.cells[i].seed for i in pair}) == 1 else ("", [])
            if key:
                rank = {i: self.levels[key].index(self.settings[i][key]) for i in pair}
                less, level = sorted(pair, key=rank.__getitem__)
                setting, *others = (name.removesuffix(".name") for name in (key, *beside))
                words = [_worded(self.settings[i][key]) for i in (level, less)]
                effect = (self.cells[level].dataset, setting, ", ".join(others), *words)
                alike = str([self.kinds[i] for i in (level, less)])
                names = (self.cells[i].name for i in (level, less))
                yield [*self.levels].index(key), rank[less], rank[level], *effect, alike, self.cells[level].seed, *names

    def numbers(self) -> Iterator[tuple[str, list[list[int]]]]:
        """Yields the numbers that have three levels or more in cells that are alike else, and those cells by what is.

        Of numbers that go together the first stands for all.
        """
        told: list[str] = []
        for key in filter(self.is_number, self.levels):
            lines = [] if any(self.follows(key, other) for other in told) else self.lines(key)
            if any(len({self.settings[i][key] for i in line}) > 2 for line in lines):
                told.append(key)
                yield key, lines

    def lines(self, key: str) -> list[list[int]]:
        """Returns the cells that are alike but for a number and those that go with it, where they have two levels."""
        lines = dict.fromkeys((*line,) for line in self.alike((*self.together(key),)))
        having = ([i for i in line if key in self.settings[i]] for line in lines)
        return [line for line in having if len({self.settings[i][key] for i in line}) > 1]

    def together(self, key: str) -> list[str]:
        """Returns a number, and those that have one value for each of its own."""
        return [key, *(k for k in self.levels if k != key and self.is_number(k) and self.follows(k, key))]

    def names(self, key: str, lines: Sequence[Sequence[int]], part: str = "") -> list[str]:
        """Returns what tells lines over a number apart: all settings, or those of a part."""
        firsts = [line[0] for line in lines]
        differ = {k for pair in combinations(firsts, 2) for k in self.apart(*pair)} - {*self.together(key)}
        keys = [k for k in self.levels if k in differ and k.startswith(part)]
        ends = [k.rpartition(".")[2] for k in keys]
        method = not {"recipe", *NAMING}.isdisjoint(keys) or not (keys or part)

        def words(i: int) -> Iterator[str]:
            if method:
                yield self.cells[i].method
            for k, end in zip(keys, ends, strict=True):
                if k in self.settings[i] and k not in ("recipe", *NAMING):
                    what = "" if end == "name" else f"{end if ends.count(end) == 1 else k}="
                    yield what + _worded(self.settings[i][k])

        return [", ".join(words(i)) for i in firsts]


def _settings(cell: Cell) -> dict[str, Level]:
    """Returns the settings of a cell by one name each, values that are no numbers as words."""
    found = {"recipe": cell.method, **flat(cell.settings)}
    left = {*NO_FACTORS, *(key for (of, value), key in WITHOUT.items() if found.get(of) == value)}
    words = {key: value if isinstance(value, int | float) else str(value) for key, value in found.items()}
    return {key: value for key, value in words.items() if key not in left}


def _worded(level: Level) -> str:
    """Returns a level in words."""
    return f"{level:g}" if isinstance(level, float) else str(level)
