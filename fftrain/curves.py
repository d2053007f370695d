"""Records -> figures by layer, as lines and tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fftrain.collect import Cell, Pair
from fftrain.means import SEEDLESS, Group, Mean, pretext_mean


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of each layer: a line of a panel, and a row of a table. `style` is a method, `random` or `raw`."""

    dataset: str
    panel: str
    name: str
    style: str
    means: Mapping[str, Mean]


def layer_order(name: str) -> tuple[bool, int, str]:
    """Returns what sorts names of layers: single ones by number, then several together, then what is none."""
    number = "".join(c if c.isdigit() else " " for c in name).split()
    return name.startswith("layers") or not number, int(number[0]) if number else 0, name


def layer_curves(found: Sequence[Group], measure: str, target: str = "") -> list[Curve]:
    """Returns the test figures of each layer of every data set, task and slot, with the baselines that were measured.

    Args:
        found: the groups.
        measure: `probe accuracy` or `explained variance`.
        target: what the probes tell, `class` or `pretext`.
    """
    curves: dict[tuple[str, str], list[Curve]] = {}
    several = len({network_of(group) for group in found} - {""}) > 1
    for group in found:
        asked = {"measure": measure, "target": target, "split": "test"}
        places = dict.fromkeys((r["probed_on"], r["slot"]) for cell in group.cells for r in cell.find(**asked))
        for probed_on, slot in places:
            panel = f"{group.dataset} {group.task}"
            panel += f", probed on {probed_on}" if probed_on != group.dataset else ""
            if slot != next(cell for cell in group.cells if cell.run).slot(probed_on):
                panel += f", slot {slot}"
            wanted = {**asked, "probed_on": probed_on, "slot": slot}
            random = f"random{network_of(group) if several else ''}, slot {slot}"
            for name, source in {group.label: group.method, random: "random", "raw": "raw"}.items():
                means = _means(group, **wanted, source=source)
                made = Curve(dataset=group.dataset, panel=panel, name=name, style=source, means=means)
                curves.setdefault((panel, name), []).extend([made] if means else [])
    # The baselines of several methods are one where their seeds are: that of most seeds is drawn.
    kept = [max(of, key=lambda curve: sum(len(m.values) for m in curve.means.values())) for of in curves.values() if of]
    order, panels = {"random": 1, "raw": 2}, list(dict.fromkeys(panel for panel, _ in curves))
    return sorted(kept, key=lambda curve: (panels.index(curve.panel), order.get(curve.style, 0)))


def network_of(group: Group) -> str:
    """Returns what tells untrained networks apart; "" where no run was read."""
    models = [cell.run.config["model"] for cell in group.cells if cell.run]
    return "".join(f" {model['depth']}x{model['width']} {model['normalisation']}" for model in models[:1])


def _means(group: Group, **wanted: Any) -> dict[str, Mean]:
    """Returns the mean of each layer over a group's records that have these values."""
    layers = dict.fromkeys(record["layers"] for cell in group.cells for record in cell.find(**wanted))
    seedless = wanted.get("source") == SEEDLESS
    return {layer: group.mean(partial(Cell.value, **wanted, layers=layer), seedless=seedless) for layer in layers}


def goodness_curves(found: Sequence[Group]) -> list[Curve]:
    """Returns the pretext accuracy that is read from the goodness of each layer."""
    curves = []
    for group in found:
        means = _means(group, measure="pretext accuracy by reader", split=pretext_mean(group)[1])
        kept = {layer.removesuffix("-mean"): mean for layer, mean in means.items() if layer.startswith("layer")}
        about = {"panel": f"{group.dataset} {group.task}", "name": f"{group.label}, goodness", "style": group.method}
        curves += [Curve(dataset=group.dataset, **about, means=kept)] if kept else []
    return curves


def cka_curves(pairs: Sequence[Pair]) -> list[Curve]:
    """Returns the similarity of like layers: of two methods, before training too, and of each to itself before it."""
    found: dict[tuple[str, str, str], dict[str, dict[int, float]]] = {}
    for pair in pairs:
        one, other = pair.first, pair.second
        panel = f"{one.dataset} {one.task}" + "".join(f", {cell.varied}" for cell in (one, other) if cell.varied)
        for record in pair.records:
            layer, _, second = record["layers"].partition(" and ")
            if layer == second:
                values = found.setdefault((one.dataset, panel, record["source"]), {}).setdefault(layer, {})
                values[one.seed] = record["value"]
    return [
        Curve(
            dataset=dataset,
            panel=panel,
            name=source,
            style="random" if source.startswith("untrained") else source.split()[0],
            means={layer: Mean(values=values, lacking={}) for layer, values in layers.items()},
        )
        for (dataset, panel, source), layers in found.items()
    ]
