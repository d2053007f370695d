"""The frame -> the parts of the page: which tables and figures stand where."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fftrain.report import inventory, tables
from fftrain.report.blocks import block_curves, by_block, cka_curves, readout_curves
from fftrain.report.findings import findings
from fftrain.report.frame import PROBE, READER, Collection
from fftrain.report.gap import of_gap
from fftrain.report.means import Group, Published
from fftrain.report.pictures import embedded, examples, served, training
from fftrain.report.records import PRETEXT
from fftrain.report.section import Section, Table

DECODED = "explained variance"
# Measures that have a part of their own; any other gets one by its name.
KNOWN = (PRETEXT, READER, PROBE, DECODED, "cka", "seconds", "points")


def of_study(
    found: Collection, whole: Sequence[Group], published: Published, factors: Sequence[Section]
) -> list[Section]:
    """Returns the parts of a study's report; `factors` are those about its settings."""
    own = [group for group in whole if not group.supervised]
    supervised = [group for group in whole if group.supervised]
    told = [group for group in own if group.tells]
    search = Section("Search", "search", tables.search_table(found))
    about = Section("What was run", "", inventory.headline_table(found), inventory.problems_table(found))
    measured = [
        Section("In short", "found", points=_findings(found, whole)),
        *factors,
        Section("Pretext accuracy", "pretext", tables.pretext_table(told, published)),
        Section("Transfer", "transfer", tables.transfer_table(own, published)),
        Section("Supervised reference", "supervised", tables.supervised_table(supervised, published)),
        Section("Ablation", "ablation", tables.ablation_table(own, published)),
        Section("Readings", "readings", tables.places_table(whole, elsewhere=False)),
        Section("Transfer across data sets", "across", tables.places_table(whole, elsewhere=True)),
        *_by_block(whole),
        of_gap(own, published),
        *_representations(found, whole),
    ]
    return [about, *([] if search.empty else [search]), *(measured if whole else []), _every(found)]


def of_runs(
    found: Collection, whole: Sequence[Group], results: Table, frame: pd.DataFrame, factors: Sequence[Section]
) -> list[Section]:
    """Returns the parts of the report over a plain folder; `frame` is its own with what validation chose.

    `factors` are the parts about the settings of its runs.
    """
    others = [tables.measured_table(found, frame, measure) for measure in found.of_classes]
    return [
        Section("Results", "results", results, *others, inventory.problems_table(found)),
        Section("In short", "found", points=_findings(found, whole)),
        *factors,
        *_by_block(whole),
        *_representations(found, whole),
        served(found.root / "prediction.json"),
        Section("All numbers", "", tables.probes_table(found), inventory.exports_table(found.runs)),
        _every(found, *inventory.settings_tables(found.runs)),
    ]


def _findings(found: Collection, whole: Sequence[Group]) -> list[str]:
    """Returns sentences on the probes, then on what else was measured of the classes."""
    return [sentence for measure in (PROBE, *found.of_classes) for sentence in findings(whole, measure)]


def _every(found: Collection, *settings: Table) -> Section:
    """Returns every run, and the commands that make it again."""
    return Section("Every run", "runs", inventory.runs_table(found), inventory.commands_table(found), *settings)


def _by_block(whole: Sequence[Group]) -> list[Section]:
    """Returns what each block knows of the pretext task and of the classes."""
    pretext = [*readout_curves(whole), *block_curves(whole, PROBE, "pretext")]
    probes = block_curves(whole, PROBE, "class")
    return [
        by_block("Pretext accuracy by block", "by_block", "pretext", "pretext accuracy", pretext, whole),
        by_block("Linear probes by block", "probes", "probes", "test accuracy", probes, whole),
    ]


def _representations(found: Collection, whole: Sequence[Group]) -> list[Section]:
    """Returns what else is known of the features, how they came about, and what was trained on."""
    by_name = {cell.name: cell.method for cell in found.cells}
    to = " and ".join(dict.fromkeys(by_name[other] for _, other in found.pairs)) or "the reference"
    decoder, alike = block_curves(whole, DECODED), cka_curves(found)
    others = found.frame[~found.frame["measure"].isin(KNOWN)][["measure", "unit", "target", "split"]]
    others = others.sort_values("split", kind="stable").drop_duplicates(["measure", "target"])  # test before validation
    return [
        by_block("Explained variance of the pixels", "decoder", "decoder", "explained variance", decoder, whole),
        by_block(f"Similarity to {to}", "cka", "cka", "linear CKA", alike, whole),
        *(
            by_block(title, "other", title, measure, block_curves(whole, measure, target, split), whole, unit=unit)
            for measure, unit, target, split in others.itertuples(index=False, name=None)
            for title in [_title(measure, target, split)]
        ),
        training(whole),
        embedded(whole),
        examples(whole),
    ]


def _title(measure: str, target: str, split: str) -> str:
    """Returns what the part about a measure is called that has no part of its own."""
    of = f" of the {target} label" if target not in ("", "class") else ""
    return measure[:1].upper() + measure[1:] + of + ("" if split in ("", "test") else f", {split}")
