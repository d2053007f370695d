"""Means -> sentences: which features tell the classes best on test, and by how much."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fftrain.parts import RANDOM, RAW
from fftrain.report.frame import AT_CHOSEN, PROBE
from fftrain.report.means import Group, Mean

# How many are named behind the best two; of more, the baselines too.
MOST = 6
# What is a share of the test images; other shares, of pixels or a precision, are told in points alone.
COUNTED = re.compile(r"(probe |knn )?accuracy\b(?! under)")


def findings(found: Sequence[Group], measure: str = PROBE) -> list[str]:
    """Returns a sentence for each data set and view of which several features were measured on the test split.

    Where there are several, the first one counts in how many of them a trained backbone is ahead.

    Args:
        found: the groups.
        measure: of the classes.
    """
    places = dict.fromkeys((group.dataset, group.view) for group in found)
    begin = "" if measure == PROBE else f"{measure[:1].upper()}{measure[1:]}: "
    said, ahead, clear = [], 0, 0
    for place in places:
        groups = [group for group in found if (group.dataset, group.view) == place]
        trained, beside = _measured(groups, measure + AT_CHOSEN)
        ranked = sorted({**trained, **beside}.items(), key=lambda named: -(named[1].value or 0.0))
        if len(ranked) < 2:
            continue
        cells = (cell for group in groups if group.label in trained for cell in group.cells)
        images = next(cell.run.record["data"]["images"]["test"] for cell in cells if cell.run)
        lead = (ranked[0][1].value or 0.0) - (ranked[1][1].value or 0.0)
        # The larger deviation over seeds of the best two; None where one of them has but one seed.
        spreads = [mean.spread for _, mean in ranked[:2] if not mean.once]
        spread = None if None in spreads else max((s for s in spreads if s is not None), default=0.0)
        ahead += ranked[0][0] in trained
        clear += ranked[0][0] in trained and spread is not None and lead > spread
        of = images if COUNTED.match(measure) else 0
        said.append(
            f"{begin}{place[1]} on {place[0]}: the class is read best from "
            + _sentence(ranked, lead, spread, round(lead * images), of)
        )
    if len(said) > 1:
        said.insert(
            0,
            f"{begin}Of {len(said)} pairs of data set and view, a trained backbone is ahead in {ahead} (in {clear} by "
            "more than the deviation over seeds), the untrained one (random) or the pixels (raw) in "
            f"{len(said) - ahead}.",
        )
    return said


def _measured(groups: Sequence[Group], measure: str) -> tuple[dict[str, Mean], dict[str, Mean]]:
    """Returns what was measured of one data set and view by the features' name: of trained ones, of the baselines."""
    trained, beside = dict[str, Mean](), dict[str, Mean]()
    means = [(group, *group.probes(measure)) for group in groups]
    measured = [group for group, own, *_ in means if own.value is not None]
    readings, networks = {group.reading for group in measured}, {group.network for group in measured}
    for group, own, random, raw in means:
        if own.value is None:
            continue
        trained[group.label] = own
        network = f" {group.network}" if len(networks) > 1 else ""
        reading = f" with reading {group.reading}" if len(readings) > 1 else ""
        for name, mean in ((RANDOM + network + reading, random), (RAW, raw)):
            # The baselines of several methods are one where their seeds are: that of most seeds is told.
            if mean.value is not None and len(mean.values) > len(beside[name].values if name in beside else ()):
                beside[name] = mean
    return trained, beside


def _sentence(ranked: Sequence[tuple[str, Mean]], lead: float, spread: float | None, count: int, images: int) -> str:
    """Returns which features are the best, how far ahead they are, whether seeds agree, and the others.

    Args:
        ranked: the means by the features' name, the best first.
        lead: how far the best is above the second, as a share of 1.
        spread: over seeds; None where that is not known.
        count: the images that the lead comes to.
        images: of the test split; 0 where it is no share of them.
    """
    (name, best), (next_name, second), *others = ranked
    said = f"{name} ({best.brief})"
    if count == 0:
        said += f" and {next_name} ({second.brief}) alike"
    else:
        of_images = f" ({count:,} of {images:,} test images)" if images else ""
        said += f", {100 * lead:.1f} points{of_images} above {next_name} ({second.brief})"
    if others:
        rest = [other for other in others[MOST:] if other[0].split()[0] not in (RANDOM, RAW)]
        named = [f"{other[0]} {other[1].brief}" for other in others if other not in rest]
        left = [f"{len(rest)} more down to {rest[-1][1].brief}"] if rest else []
        said += "; then " + ", ".join([*named[:MOST], *left, *named[MOST:]])
    if count == 0:
        return f"{said}."
    if spread is None:
        apart = ""
        if best.interval is not None and second.interval is not None:
            overlap = "do not overlap" if best.interval[0] > second.interval[1] else "overlap"
            apart = f" The intervals of the first two {overlap}."
        return f"{said}.{apart} Of one seed: how far seeds differ is not known."
    if lead <= spread:
        return f"{said}. The lead is no larger than the deviation over seeds ({100 * spread:.1f})."
    return f"{said}. The deviation over seeds is {100 * spread:.1f}."
