"""Means -> sentences: which features tell the classes best on test, and by how much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fftrain.report.means import PROBE, SEEDLESS, Group, Mean, chosen

# What is a share of the test images; other shares, of pixels or a precision, are told in points alone.
COUNTED = re.compile(r"(probe |knn )?accuracy\b(?! under)")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What was measured on one data set and view: the means by the features' name, the best first."""

    measure: str
    dataset: str
    view: str
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


def findings(found: Sequence[Group], measure: str = PROBE) -> list[str]:
    """Returns a sentence for each data set and view of which several features were measured on the test split.

    Where there are several, the first one counts in how many of them a trained backbone is ahead.

    Args:
        found: the groups.
        measure: of the classes.
    """
    places = []
    for dataset, view in dict.fromkeys((group.dataset, group.view) for group in found):
        place = _place([group for group in found if (group.dataset, group.view) == (dataset, view)], measure)
        places += [place] if place is not None else []
    said = [_sentence(place) for place in places]
    if len(places) > 1:
        ahead = [place for place in places if place.ranked[0][0] in place.trained]
        clear = sum(place.spread is not None and place.lead > place.spread for place in ahead)
        said.insert(
            0,
            f"{_begin(measure)}Of {len(places)} pairs of data set and view, a trained backbone is ahead in "
            f"{len(ahead)} (in {clear} by "
            "more than the deviation over seeds), the untrained one (random) or the pixels (raw) in "
            f"{len(places) - len(ahead)}.",
        )
    return said


def _begin(measure: str) -> str:
    """Returns how a sentence begins that is not about probes."""
    return "" if measure == PROBE else f"{measure[:1].upper()}{measure[1:]}: "


def _place(groups: Sequence[Group], measure: str) -> _Place | None:
    """Ranks what was measured of one data set and view; None below two features with a number."""
    at = chosen(measure)
    means = [(group, group.probe(at)) for group in groups]
    measured = [group for group, mean in means if mean.value is not None]
    trained = {group.label: mean for group, mean in means if mean.value is not None}
    readings, networks = {group.reading for group in measured}, {group.network for group in measured}
    beside: dict[str, Mean] = {}
    for group in measured:
        random = "random" + (f" {group.network}" if len(networks) > 1 else "")
        random += f" with reading {group.reading}" if len(readings) > 1 else ""
        for name, source in ((random, "random"), (SEEDLESS, SEEDLESS)):
            mean = group.probe(at, source)
            # The baselines of several methods are one where their seeds are: that of most seeds is told.
            if mean.value is not None and len(mean.values) > len(beside[name].values if name in beside else ()):
                beside[name] = mean
    ranked = sorted({**trained, **beside}.items(), key=lambda named: -(named[1].value or 0.0))
    if len(ranked) < 2:
        return None
    images = next(cell.run.record["data"]["images"]["test"] for cell in measured[0].cells if cell.run)
    about = {"measure": measure, "dataset": groups[0].dataset, "view": groups[0].view, "images": images}
    return _Place(**about, ranked=ranked, trained=frozenset(trained))


def _sentence(place: _Place) -> str:
    """Returns which features are the best, how far ahead they are, whether seeds agree, and the others."""
    (name, best), (next_name, second), *others = place.ranked
    count = round(place.lead * place.images)
    said = (
        f"{_begin(place.measure)}{place.view} on {place.dataset}: the class is read best from {name} ({best.brief()})"
    )
    if count == 0:
        said += f" and {next_name} ({second.brief()}) alike"
    else:
        of_images = f" ({count:,} of {place.images:,} test images)" if COUNTED.match(place.measure) else ""
        said += f", {100 * place.lead:.1f} points{of_images} above {next_name} ({second.brief()})"
    if others:
        said += "; then " + ", ".join(f"{other} {mean.brief()}" for other, mean in others)
    if count == 0:
        return f"{said}."
    if place.spread is None:
        seeds = "how far seeds differ is not known."
        if best.interval is not None and second.interval is not None:
            apart = "do not overlap" if best.interval[0] > second.interval[1] else "overlap"
            return f"{said}. The intervals of the first two {apart}. Of one seed: {seeds}"
        return f"{said}. Of one seed: {seeds}"
    if place.lead <= place.spread:
        return f"{said}. The lead is no larger than the deviation over seeds ({100 * place.spread:.1f})."
    return f"{said}. The deviation over seeds is {100 * place.spread:.1f}."
