from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffcore.errors import SettingError
from ffcore.files import sha256
from ffmodels.evaluated import evaluations
from ffmodels.run import load_encoder
from fftrain import evaluate_run, load_data
from fftrain.config import DataSettings
from fftrain.evaluations.linear import Linear
from fftrain.features import Features, choices
from fftrain.progress import Reporter
from fftrain.report.frame import collect
from fftrain.report.inventory import commands_table
from tests.fftrain.evaluations.subjects import blobs, made
from tests.fftrain.training import evaluation

SMALL = {"epochs": 2}

CPU = torch.device("cpu")
NAMES = ["block1", "block2", "block3", "block4", "blocks2-4"]
GRID = Linear().grid
# The study's own.
STUDIED = {"lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "standardise": False}


def rows_of(found):
    """What each source reached: by its name and its blocks, of validation and test."""
    rows = {}
    for record in found.records:
        rows.setdefault((record["source"], record["blocks"]), {})[record["split"]] = record["value"]
    return rows


def test_a_probe_reaches_what_logistic_regression_reaches():
    from sklearn.linear_model import LogisticRegression

    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((600, 0), (200, 1), (400, 2)))
    probe = Linear(epochs=60, batch_size=64)
    head, found = probe.fit(Features(train, validation, test), made([a, b, c]), CPU, Reporter(), "blobs")
    reference = LogisticRegression().fit(train.numpy(), a.numpy()).score(test.numpy(), c.numpy())
    assert found["test"] == pytest.approx(reference, abs=0.02)
    assert found["test"] == (head(test).argmax(-1) == c).double().mean().item()
    assert found["validation"] == max(setting["validation"] for setting in found["grid"])
    assert len(found["grid"]) == len(GRID) == 6


def test_settings_trained_together_are_each_what_it_is_alone():
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((300, 0), (80, 1), (80, 2)))
    features, data, probe = Features(train, validation, test), made([a, b, c]), Linear(epochs=5, batch_size=50)
    together = probe.fit(features, data, CPU, Reporter(), "all")[1]["grid"]
    for i, setting in enumerate(GRID):
        head, alone = probe.changed(**setting).fit(features, data, CPU, Reporter(), "one")
        assert alone["validation"] == together[i]["validation"]
        assert torch.isfinite(head.linear.weight).all()


def test_a_rate_under_which_weights_do_not_stay_finite_is_refused():
    parts = [blobs(n, seed) for n, seed in ((300, 0), (80, 1), (80, 2))]
    features, data = Features(*(x for x, _ in parts)), made([labels for _, labels in parts])
    with pytest.raises(SettingError, match=r"probe a: its weights are no numbers any more: choose a lower linear\.lr"):
        Linear(epochs=2, lr=1e38, weight_decay=0.0).fit(features, data, CPU, Reporter(), "a")


def test_validation_chooses_and_the_test_split_has_no_say():
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((300, 0), (80, 1), (80, 2)))
    probe = Linear(epochs=5, batch_size=50)
    one, found = probe.fit(Features(train, validation, test), made([a, b, c]), CPU, Reporter(), "a")
    other, unchanged = probe.fit(Features(train, validation, test * 0), made([a, b, c * 0]), CPU, Reporter(), "b")
    assert torch.equal(one.linear.weight, other.linear.weight)
    assert found["settings"] == unchanged["settings"]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_probe_is_what_autograd_and_adamw_make_of_it(schedule):
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((310, 0), (80, 1), (80, 2)))
    setting = {"lr": 0.01, "weight_decay": 0.1}
    probe = Linear(epochs=4, batch_size=50, seed=3, schedule=schedule, **setting)
    head, found = probe.fit(Features(train, validation, test), made([a, b, c]), CPU, Reporter(), "x")
    assert found["settings"] == setting
    assert [*found["grid"]] == [{**setting, "validation": found["validation"]}]
    reference = torch.nn.Linear(5, 3).double()
    torch.nn.init.zeros_(reference.weight)
    torch.nn.init.zeros_(reference.bias)
    optimizer = torch.optim.AdamW(reference.parameters(), **setting)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    rng = np.random.default_rng(3)
    for _ in range(4):
        for index in torch.split(torch.from_numpy(rng.permutation(310)), 50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(reference(train[index].double()), a[index]).backward()
            optimizer.step()
        if schedule == "cosine":
            cosine.step()
    assert torch.allclose(head.linear.weight.double(), reference.weight, atol=1e-5)
    assert torch.allclose(head.linear.bias.double(), reference.bias, atol=1e-5)


def test_every_row_has_its_baselines_and_every_saved_probe_is_what_was_measured(trained):
    run = trained / "ff"
    [result] = [one for one in evaluations(run) if one.name == "linear"]
    rows = rows_of(result)
    assert list(rows) == [("raw", "pixels"), *(("random", n) for n in NAMES), *(("ff", n) for n in NAMES)]
    assert rows["raw", "pixels"]["test"] > 0.85
    assert {record["measure"] for record in result.records} == {"probe accuracy"}
    test = load_data(DataSettings(dataset="digits")).test
    found = load_encoder(run)
    features = found(test.images.float() / 255)
    for name, blocks in zip(NAMES, choices(found), strict=True):
        head = load_file(run / "probes" / "digits-neutral" / f"{name}.safetensors")
        logits = torch.cat([features[i] for i in blocks], 1) @ head["linear.weight"].T + head["linear.bias"]
        measured = (logits.argmax(-1) == test.labels).double().mean().item()
        assert measured == pytest.approx(rows["ff", name]["test"], abs=1.5 / len(test))
        about = json.loads((run / "probes" / "digits-neutral" / f"{name}.json").read_text())
        grid = about.pop("grid")
        assert [{key: setting[key] for key in GRID[0]} for setting in grid] == [*GRID]
        assert max(setting["validation"] for setting in grid) == rows["ff", name]["validation"]
        assert about == {
            "dataset": "digits",
            "reading": "neutral",
            "target": "class",
            "backbone_sha256": sha256(run / "backbone.safetensors"),
            "class_names": [*"0123456789"],
            "blocks": [*blocks],
            "source": "ff",
            **rows["ff", name],
            "settings": about["settings"],
        }
        told = [record for record in result.records if (record["source"], record["blocks"]) == ("ff", name)]
        assert [{key: record[key] for key in GRID[0]} for record in told] == [about["settings"]] * 2
        assert {**about["settings"], "validation": about["validation"]} in grid


def test_features_may_be_left_as_they_are_and_the_saved_probe_still_is_what_was_measured(run_copy):
    [result] = evaluate_run(run_copy, evaluation("linear", epochs=2, standardise=False))
    test = load_data(DataSettings(dataset="digits")).test
    saved = load_file(run_copy / "probes" / "digits-neutral" / "block2.safetensors")
    logits = load_encoder(run_copy)(test.images.float() / 255)[1] @ saved["linear.weight"].T + saved["linear.bias"]
    measured = (logits.argmax(-1) == test.labels).double().mean().item()
    assert rows_of(result)["ff", "block2"]["test"] == pytest.approx(measured)
    [standardised] = evaluate_run(run_copy, evaluation("linear", epochs=2))
    assert rows_of(result) != rows_of(standardised)


@pytest.mark.parametrize(
    ("settings", "measured", "tried"),
    [
        ({}, "probe accuracy", 6),
        ({"standardise": False, "epochs": 7}, "probe accuracy", 6),
        ({"lr": 0.01}, "probe accuracy, lr 0.01", 3),
        ({"weight_decay": 0.5}, "probe accuracy, weight decay 0.5", 2),
        (STUDIED, "probe accuracy, lr 0.0001, weight decay 0, constant, not standardised", 1),
        ({"blocks": "block4, blocks2-4"}, "probe accuracy, block4, blocks2-4", 6),
    ],
)
def test_what_is_given_of_the_protocol_is_said_and_not_searched(settings, measured, tried):
    probe = Linear(**settings)
    assert (probe.measured, len(probe.grid)) == (measured, tried)
    assert all({**setting, **{k: v for k, v in settings.items() if k in setting}} == setting for setting in probe.grid)


def test_a_probe_of_a_given_protocol_stands_beside_the_searched_one(run_copy):
    [searched] = [one for one in evaluations(run_copy) if one.name == "linear"]
    before = {path: path.read_bytes() for path in (run_copy / "probes").rglob("*.*")}
    config = evaluation("linear", epochs=2, blocks="block4,blocks2-4", **STUDIED)
    [given] = evaluate_run(run_copy, config)
    assert {one.path for one in evaluations(run_copy) if one.name == "linear"} == {searched.path, given.path}
    assert all(path.read_bytes() == content for path, content in before.items())
    assert list(rows_of(given)) == [("raw", "pixels"), *((source, n) for source in ("random", "ff") for n in NAMES[3:])]
    assert {(record["lr"], record["weight_decay"]) for record in given.records} == {(1e-4, 0.0)}
    assert {record["measure"] for record in given.records} == {config.evaluation.measured}
    folder = "digits-neutral-lr-0.0001-weight-decay-0-constant-block4-blocks2-4-not-standardised"
    assert {path.name for path in (run_copy / "probes" / folder).glob("*.safetensors")} == {
        "block4.safetensors",
        "blocks2-4.safetensors",
    }
    assert "linear.schedule=constant" in commands(run_copy)
    other = evaluation("linear", epochs=1, **STUDIED, blocks="block4")
    both = evaluate_run(run_copy, evaluation("linear", epochs=1), other)
    there = {one.path for one in evaluations(run_copy) if one.name == "linear"}
    assert there == {given.path, *(one.path for one in both)}  # the searched one took the place of the earlier


def commands(run):
    """The words of the commands of a report."""
    return {word for row in commands_table(collect(run)).rows for word in row[-1].split()}


@pytest.mark.parametrize("name", ["block5", "blocks1-2", "4", ""])
def test_blocks_that_there_are_not_are_refused(run_copy, name):
    before = {path: path.read_bytes() for path in run_copy.rglob("*.*")}
    with pytest.raises(SettingError, match=rf"^linear.blocks has '{name}': choose among block1, .*, blocks2-4$"):
        evaluate_run(run_copy, evaluation("linear", blocks=name))
    assert {path: path.read_bytes() for path in run_copy.rglob("*.*")} == before


def test_blocks_that_are_named_otherwise_are_the_same():
    ways = ("block2,block1", "block1, block2 ", "block1,block2,block1")
    assert {Linear(blocks=blocks) for blocks in ways} == {Linear(blocks="block1,block2")}
    assert Linear(blocks="blocks2-4,block10,block2").wanted == ["block2", "block10", "blocks2-4"]
