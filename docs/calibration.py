"""Measures how well what runs export is calibrated, through the real commands: results/calibration.csv.

    fftrain dump-images mnist images/mnist --split test
    python docs/calibration.py images/mnist studies/tasks-10k/cells/mnist-* runs/untrained runs/pixels

Rows of other runs that the file holds stay. tables.py makes the tables of results.md from it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from figures import COLUMNS, Row, write

from fftrain.config import RunConfig

FIGURES = {"accuracy": "accuracy", "error": "calibration error", "negative_log_likelihood": "log loss"}


def command(name: str, *arguments: object) -> str:
    """Returns what a command of the package prints. Raises CalledProcessError where it fails."""
    line = [sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout


def measured(run: Path, images: Path) -> list[Row]:
    """Returns what a run's exported classifier is worth on class folders of test images."""
    config = RunConfig(**json.loads((run / "config.json").read_text(encoding="utf-8"))["config"])
    with tempfile.TemporaryDirectory() as folder:
        command("ffexport", run, "--format", "onnx", "--out", folder)
        model = Path(folder) / "model.onnx"
        asked = ("--invert", "no", "--place", "no", "--json")
        found = json.loads(command("ffserve", "evaluate", images, "--model", model, *asked))
    kind, _, path = config.dataset.partition(":")
    cell = {
        "dataset": f"{kind}:{Path(path).name}" if path else kind,
        "view": config.view.part_name,
        "method": config.label,
        "seed": str(config.seed),
        "varied": f"backbone={config.backbone.part_name}",
    }
    row = {**dict.fromkeys(COLUMNS, ""), **cell, "split": "test", "source": config.label}
    figures = {**found, **found["calibration"]}
    return [{**row, "measure": name, "value": str(figures[key])} for key, name in FIGURES.items()]


def main(images: Path, runs: Sequence[Path]) -> None:
    """Measures runs and writes the file."""
    rows = []
    for run in runs:
        rows += measured(run, images)
        print(run.name, *(f"{row['measure']} {float(row['value']):.4f}" for row in rows[-len(FIGURES) :]), flush=True)
    write("calibration", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]])
