"""Pixels and untrained networks are measured beside a run, and once for the runs that share them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fftrain import evaluate_run, pretrain
from fftrain.config import RunConfig
from fftrain.run import RunFolder
from tests.fftrain.evaluating import ALL, LINEAR, NAMES, Counting, arrays, of_source
from tests.fftrain.training import SMALL, evaluation, settings
from tests.helpers import one_line


def test_baselines_are_measured_once_for_runs_that_share_them(trained, tmp_path):
    ff, bp = (Path(shutil.copytree(trained / method, tmp_path / method)) for method in ("ff", "bp"))
    kept, first, second = tmp_path / "baselines", Counting(), Counting()
    config = LINEAR.changed(reading="pixels")
    [alone] = evaluate_run(bp, config)
    RunFolder(bp).forget_measurements()
    evaluate_run(ff, config, baselines=kept, reporter=first)
    [found] = evaluate_run(bp, config.changed(threads=2), baselines=kept, reporter=second)
    baselines = ["raw pixels", *(f"random {name}" for name in NAMES)]
    assert first.probes == [*baselines, *(f"ff {name}" for name in NAMES)]
    assert second.probes == [f"bp {name}" for name in NAMES]
    assert second.done.count("extracting features") == 1
    assert (found.path, found.records) == (alone.path, alone.records)
    assert len(list(kept.iterdir())) == 2

    third = Counting()
    evaluate_run(ff, LINEAR, baselines=kept, reporter=third)  # another reading: raw pixels have one alone
    assert third.probes[0] == "random block1"
    (damaged,) = kept.glob("raw-linear-*.json")
    whole = damaged.read_bytes()
    for broken in (whole[:-40], whole.replace(b'"value"', b'"volume"'), b"[]", b'{"of": 1}'):
        damaged.write_bytes(broken)
        RunFolder(ff).forget_measurements()
        fourth = Counting()
        [again] = evaluate_run(ff, config, baselines=kept, reporter=fourth)
        assert fourth.probes == ["raw pixels", *(f"ff {name}" for name in NAMES)], broken
        assert of_source(again, "raw", "random") == of_source(alone, "raw", "random")
        assert damaged.read_bytes() == whole


def test_each_evaluation_keeps_baselines_of_its_own(run_copy, tmp_path):
    names = ["linear", "knn", "decoder", "few-labels", "readout", "similarity"]
    configs = [evaluation(name, **ALL[name]) for name in names]
    first = evaluate_run(run_copy, *configs, baselines=tmp_path / "kept")
    of = {path.name.rpartition("-")[0] for path in (tmp_path / "kept").iterdir()}
    assert of == {f"{source}-{name}" for source in ("raw", "random") for name in names[:4]}
    RunFolder(run_copy).forget_measurements()
    counted = Counting()
    again = evaluate_run(run_copy, *configs, baselines=tmp_path / "kept", reporter=counted)
    assert [one.records for one in again] == [one.records for one in first]
    assert counted.done.count("extracting features") == 1


def test_baselines_of_other_settings_weights_and_images_are_not_reused(run_copy, tmp_path):
    kept = tmp_path / "baselines"

    def probes(**changes):
        RunFolder(run_copy).forget_measurements()
        counted = Counting()
        config = evaluation("linear", **{"epochs": 2, **changes})
        data = arrays() if changes.pop("data", None) else None
        evaluate_run(run_copy, config, baselines=kept, reporter=counted, data=data)
        return counted.probes

    assert len(probes()) == 6 + 5
    changes = ({"seed": 1}, 6), ({"limit": 900}, 6), ({"batch_size": 100}, 6), ({"threads": 2}, 0)
    for change, computed in (*changes, ({"feature_memory": 0}, 0), ({"target": "pretext"}, 6)):
        assert len(probes(**change)) == computed + 5, change
    path = run_copy / "config.json"
    for seed, classes in ((7, 4), (0, 5)):  # five classes fill other pixels than four
        config = json.loads(path.read_text())
        config["config"]["seed"], config["classes"] = seed, [*"abcde"][:classes]
        path.write_text(json.dumps(config))
        assert probes()[0] == "random block1"


def test_baselines_of_images_that_changed_are_not_reused(run_copy, tmp_path):
    kept, data = tmp_path / "baselines", arrays()
    evaluate_run(run_copy, LINEAR, data=data, baselines=kept)
    turned = replace(data, train=replace(data.train, images=data.train.images.flip(0)))
    RunFolder(run_copy).forget_measurements()
    counted = Counting()
    evaluate_run(run_copy, LINEAR, data=turned, baselines=kept, reporter=counted)  # what is held out is the same
    assert counted.probes[:2] == ["raw pixels", "random block1"]


def test_an_untrained_run_has_no_network_before_training_beside_it(tmp_path):
    run = tmp_path / "run"
    small = {"dataset": "digits", "limit": 300, "threads": 1}
    pretrain(RunConfig(method="untrained", backbone={"name": "mlp", "width": 12}, view="plain", **small), run)
    [linear, decoder] = evaluate_run(run, LINEAR, evaluation("decoder", images=200))
    for found in (linear, decoder):
        assert {record["source"] for record in found.records} == {"raw", "untrained"}
    trained = tmp_path / "trained"
    pretrain(settings("bp", view="plain", **{**SMALL, "width": 12, "depth": 4, "epochs": 1}), trained)
    [beside] = evaluate_run(trained, LINEAR)
    assert of_source(linear, "untrained") == of_source(beside, "random")


def test_a_run_on_pixels_reaches_what_the_source_raw_does(tmp_path):
    small = {"dataset": "digits", "limit": 300, "threads": 1}
    pretrain(RunConfig(method="untrained", backbone="pixels", view="plain", **small), tmp_path / "run")
    names = ["linear", "knn", "decoder", "few-labels"]
    for found in evaluate_run(tmp_path / "run", *(evaluation(name, **ALL[name]) for name in names)):
        raw, own = ([record for record in found.records if record["source"] == s] for s in ("raw", "untrained"))
        assert [record["split"] for record in raw] == ["validation", "test"]
        assert {record["blocks"] for record in own} == {"block1"}
        assert [record["value"] for record in own] == pytest.approx([record["value"] for record in raw], abs=1e-6)
        assert raw[0]["value"] > 0.4


@pytest.mark.parametrize("name", ["random", "raw"])
def test_a_method_cannot_be_called_as_a_baseline_is(cli, tmp_path, name):
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\nfrom ffmodels.methods.base import Method\n\n"
        "class Mine(Method):\n    def head(self, block, classes):\n        return nn.Identity()\n"
    )
    ended = cli("fftrain", "pretrain", "--method", tmp_path / f"{name}.py", "--out", tmp_path / "run")
    one_line(ended, 2, f"--method '{name}' is what a baseline is called: give its file another name")
