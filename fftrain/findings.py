"""Means -> sentences: which features tell the classes best on test, and by how much; none where nothing was probed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fftrain.curves import network_of
from fftrain.means import CHOSEN, Group, Mean


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What was probed on one data set and task: the means by the features' name, the best first."""

    dataset: str
    task: str
    images: int
    ranked: list[tuple[str, Mean]]
    trained: frozenset[str]

    @property
    def lead(self) -> float:
        """How far the best is above the second, as a share of 1."""
        return (self.ranked[0][1].value or 0.0) - (self.ranked[1][1].value or 0.0)

    @property
    def spread(self) -> float | None:
        """The larger standard deviation over seeds of the best two; None where one of them has but one seed."""
        spreads = [mean.spread for _, mean in self.ranked[:2] if not mean.once]
        return None if None in spreads else max((s for s in spreads if s is not None), default=0.0)


def findings(found: Sequence[Group]) -> list[str]:
    """Returns a sentence for each data set and task of which several features were probed on the test split.

    Where there are several, the first one counts in how many of them a trained backbone is ahead.
    """
    places = []
    for dataset, task in dict.fromkeys((group.dataset, group.task) for group in found):
        place = _place([group for group in found if (group.dataset, group.task) == (dataset, task)])
        places += [place] if place is not None else []
    said = [_sentence(place) for place in places]
    if len(places) > 1:
        ahead = [place for place in places if place.ranked[0][0] in place.trained]
        clear = sum(place.spread is not None and place.lead > place.spread for place in ahead)
        said.insert(
            0,
            f"Of {len(places)} pairs of data set and task, a trained backbone is ahead in {len(ahead)} (in {clear} by "
            "more than the deviation over seeds), the untrained one (random) or the pixels (raw) in "
            f"{len(places) - len(ahead)}.",
        )
    return said


def _place(groups: Sequence[Group]) -> _Place | None:
    """Ranks what was probed of one data set and task; None below two features with a number."""
    measured = [group for group in groups if group.read_at("own", CHOSEN).value is not None]
    trained = {group.label: group.read_at("own", CHOSEN) for group in measured}
    slots = [next(cell for cell in group.cells if cell.run).slot(group.dataset) for group in measured]
    networks = [network_of(group) for group in measured]
    beside: dict[str, Mean] = {}
    for group, slot, network in zip(measured, slots, networks, strict=True):
        random = "random" + (network if len({*networks}) > 1 else "")
        random += f" with slot {slot}" if len({*slots}) > 1 else ""
        for name, source in ((random, "random"), ("raw", "raw")):
            mean = group.read_at(source, CHOSEN)
            # The baselines of several methods are one where their seeds are: that of most seeds is told.
            if mean.value is not None and len(mean.values) > len(beside[name].values if name in beside else ()):
                beside[name] = mean
    ranked = sorted({**trained, **beside}.items(), key=lambda named: -(named[1].value or 0.0))
    if len(ranked) < 2:
        return None
    images = next(cell.run.config["data"]["images"]["test"] for cell in measured[0].cells if cell.run)
    about = {"dataset": groups[0].dataset, "task": groups[0].task, "images": images}
    return _Place(**about, ranked=ranked, trained=frozenset(trained))


def _sentence(place: _Place) -> str:
    """Returns which features are the best, how far ahead they are, whether seeds agree, and the others."""
    (name, best), (next_name, second), *others = place.ranked
    count = round(place.lead * place.images)
    said = f"{place.task} on {place.dataset}: the class is read best from {name} ({_said(best)})"
    if count == 0:
        said += f" and {next_name} ({_said(second)}) alike"
    else:
        said += f", {100 * place.lead:.1f} points ({count:,} of {place.images:,} test images) above {next_name}"
        said += f" ({_said(second)})"
    if others:
        said += "; then " + ", ".join(f"{other} {_said(mean)}" for other, mean in others)
    if count == 0:
        return f"{said}."
    if place.spread is None:
        return f"{said}. Of one seed: how far seeds differ is not known."
    if place.lead <= place.spread:
        return f"{said}. The lead is no larger than the deviation over seeds ({100 * place.spread:.1f})."
    return f"{said}. The deviation over seeds is {100 * place.spread:.1f}."


def _said(mean: Mean) -> str:
    """Returns a mean in % with its spread, where it has one."""
    spread = "" if mean.spread is None else f" ± {100 * mean.spread:.1f}"
    return f"{100 * (mean.value or 0.0):.1f}{spread}"
