"""Several processes measure a run together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ffcore.errors import SettingError
from ffcore.plugins import trust
from ffmodels.evaluated import evaluations
from fftrain import evaluate_run
from fftrain.run import RunFolder
from tests.fftrain.evaluating import ALL, NAMES, told
from tests.fftrain.training import evaluation, launched
from tests.together import run_together


def test_two_processes_share_the_blocks_out_and_give_the_figures_of_one(trained, cli, tmp_path):
    one, two = (Path(shutil.copytree(trained / "ff", tmp_path / name)) for name in ("one", "two"))
    for folder in (one, two):
        RunFolder(folder).forget_measurements()
    options = [f"{name}.{key}={value}" for name, given in ALL.items() for key, value in given.items()]
    options = [*ALL, *options, "--threads", 1, "--json"]
    alone = cli("fftrain", "evaluate", one, *options)
    assert alone.code == 0, alone.err
    shared = launched("-m", "fftrain", "evaluate", two, *options)
    assert shared.returncode == 0, shared.stderr
    found = json.loads(shared.stdout)["evaluations"]
    assert [Path(f["file"]).name for f in found] == [Path(f["file"]).name for f in alone.json["evaluations"]]
    assert [f["records"] for f in found] == [f["records"] for f in alone.json["evaluations"]]
    files = [{p.relative_to(f): p.read_bytes() for p in f.glob("probes/*/*")} for f in (one, two)]
    assert files[0] == files[1]
    assert len(files[0]) == 2 * len(NAMES)
    assert told(two).keys() == told(one).keys()
    with np.load(told(one)["tsne"].arrays) as a, np.load(told(two)["tsne"].arrays) as b:
        assert all(np.array_equal(a[name], b[name]) for name in (*a, *b))


BOTH = """
import sys
from pathlib import Path
from fftrain.evaluate import evaluate_run
from fftrain.launcher import make_accelerator
from tests.fftrain.training import evaluation
accelerator, run = make_accelerator(1), Path(sys.argv[1])
for images in (100, 100):
    found = evaluate_run(
        run, evaluation("decoder", images=images), evaluation("readout"),
        accelerator=accelerator, baselines=run.parent / "kept",
    )
(run / f"told{accelerator.process_index}").write_text(repr([one.records for one in found]))
accelerator.end_training()
"""


@pytest.mark.slow
def test_every_process_knows_what_all_found(trained, tmp_path, monkeypatch):
    one, two = (Path(shutil.copytree(trained / "ff", tmp_path / name)) for name in ("one", "two"))
    expected = evaluate_run(one, evaluation("decoder", images=100), evaluation("readout"))
    script = tmp_path / "both.py"
    script.write_text(BOTH)
    monkeypatch.setenv("PYTHONPATH", ".")
    ended = launched(script, two)
    assert ended.returncode == 0, ended.stderr
    records = repr([found.records for found in expected])
    assert [(two / f"told{i}").read_text() for i in range(2)] == [records, records]
    assert [one.records for one in evaluations(two) if one.name == "decoder"] == [expected[0].records]


ONE_ALONE = """
from ffcore.errors import SettingError
from fftrain.evaluations.base import Evaluation

class Alone(Evaluation):
    \"\"\"No number, or an error, and of one process alone.\"\"\"

    raises: bool = False

    def measure(self, subject):
        if self.raises and not subject.main:
            raise SettingError("alone.raises is true: set it to false")
        yield {"measure": "one", "value": float("nan") if subject.main and not self.raises else 1.0}
"""


def what_is_said(run, name, raises):
    trust(name)
    try:
        evaluate_run(run, evaluation(name, raises=raises))
    except SettingError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raises", "said"),
    [(False, "evaluation alone gave a record that is not of a number"), (True, "alone.raises is true")],
)
def test_what_one_process_alone_finds_ends_all_of_them_alike(run_copy, tmp_path, raises, said):
    mine = tmp_path / "alone.py"
    mine.write_text(ONE_ALONE)
    one, other = run_together(2, what_is_said, run_copy, str(mine), raises)
    assert one == other
    assert said in one
