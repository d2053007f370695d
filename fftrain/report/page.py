"""The report: one self-contained page over a study or the runs of a folder, with its tables and figures as files."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import version
from operator import methodcaller
from pathlib import Path
from typing import Any

import jinja2

from ffcore.errors import FFStudyError, RunError
from ffcore.files import AnyPath, write_json, write_text
from ffmodels.run import CONFIG_FILE
from fftrain.report.cells import UNREADABLE
from fftrain.report.effects import effects, headline, of_effects
from fftrain.report.frame import collect, with_choices
from fftrain.report.means import Published, groups
from fftrain.report.sections import of_runs, of_study
from fftrain.report.sweeps import of_sweeps, sweeps
from fftrain.report.tables import results_table

PAGE, MARKDOWN = "report.html", "report.md"
# What stands for letters that Markdown would take for something else, in a table too.
MARKED = str.maketrans({letter: f"\\{letter}" for letter in r"\`*_|<>[]~#$"} | {"\n": " "})


def write_report(root: AnyPath) -> dict[str, Any]:
    """Writes the report over a study's folder, or over the runs below any other.

    Leaves report.html, report.md, results.csv, results.json and figures/NAME.svg in the folder, and effects.csv where
    runs differ in one setting alone; where that is a run's own, which held its results in results.json in version 0.1,
    report-results.csv and report-results.json.

    Args:
        root: a study's folder, or one with run folders in it. A `prediction.json` in it, as `ffserve predict --json`
            prints, is shown.

    Returns:
        {"page", "markdown", "csv", "json", and "effects" where there are any: paths, "figures": their paths,
        "problems": what is unfinished, failed, damaged, missing or incomplete, "title", "results": the table of
        results as a list of records}.

    Raises:
        RunError: where there is no readable run in a plain folder, study.json is damaged, or the folder cannot be
            written. A damaged run beside others is named on the page.
    """
    root = Path(root)
    try:
        return _write(root)
    except FFStudyError:  # some are ValueErrors, and say what is wrong themselves
        raise
    except UNREADABLE as error:
        raise RunError(f"a file below {root} is damaged ({error!r}): restore it, or make it again") from error


def _write(root: Path) -> dict[str, Any]:
    """Does the work of `write_report`."""
    found = collect(root)
    frame = with_choices(found)
    whole = groups(found, frame)
    published = Published(found.study["spec"].get("published", {}) if found.study else {})
    results, rows = results_table(found, frame), headline(found, frame)
    planned = effects(found, rows)
    changed = planned.dropna(subset="figure")
    factors = [*of_effects(planned if found.study else changed), *of_sweeps([*sweeps(found, rows)])]
    sections = (
        of_study(found, whole, published, factors) if found.study else of_runs(found, whole, results, frame, factors)
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fftrain.report", ""),
        autoescape=jinja2.select_autoescape(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = methodcaller("translate", MARKED)
    quoted = any("published" in column for section in sections for t in section.tables for column in t.columns)
    prefix = "report-" if (root / CONFIG_FILE).exists() else ""
    table, numbers, by_setting = (root / f"{prefix}{name}" for name in ("results.csv", "results.json", "effects.csv"))
    content = {
        "name": found.study["name"] if found.study else root.resolve().name,
        "version": version("ffstudy"),
        "sections": [section for section in sections if not section.empty],
        "absent": [section.title for section in sections if section.empty] if found.study else [],
        "seeds": [len({cell.seed for cell in group.cells if cell.run}) for group in whole] or [1],
        "seen": any(cell.trained_on_validation for cell in found.cells),
        "published": published.remark if quoted else "",
        "data": [path.name for path in (table, numbers, *([by_setting] if len(changed) else ()))],
    }
    before = _pictures_of(root / MARKDOWN)
    for name in (PAGE, MARKDOWN):
        write_text(root / name, environment.get_template(name).render(**content) + "\n")
    drawn = {root / "figures" / f"{picture.name}.svg": picture.svg for s in sections for picture in s.pictures}
    for path, svg in drawn.items():
        write_text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}')
    for name in before - {path.stem for path in drawn}:
        with suppress(OSError):
            (root / "figures" / f"{name}.svg").unlink()
    write_text(table, found.tidy.to_csv(index=False, lineterminator="\n"))
    write_json(numbers, found.tidy.to_dict("records"))
    paths = {"page": root / PAGE, "markdown": root / MARKDOWN, "csv": table, "json": numbers}
    if len(changed):
        paths["effects"] = by_setting
        write_text(by_setting, changed.to_csv(index=False, lineterminator="\n"))
    else:  # that of an earlier report
        by_setting.unlink(missing_ok=True)
    return {
        **{kind: str(path) for kind, path in paths.items()},
        "figures": [str(path) for path in drawn],
        "problems": [dict(zip(("name", "state", "reason"), problem, strict=True)) for problem in found.problems],
        "title": results.title,
        "results": [dict(zip(results.columns, row, strict=True)) for row in results.rows],
    }


def _pictures_of(earlier: Path) -> set[str]:
    """Returns the names of the figures that an earlier report.md shows; none where it is not a report's."""
    try:
        text = earlier.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    made = text.rstrip().rpartition("\n")[2].startswith("Made by ffstudy ")
    return set(re.findall(r"^!\[.*\]\(figures/([a-z0-9-]+)\.svg\)$", text, re.MULTILINE)) if made else set()
