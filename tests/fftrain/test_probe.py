from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffcore.errors import RunError
from ffcore.files import sha256
from ffcore.plugins import trust
from ffmodels.backbones.mlp import MLP
from ffmodels.conditions import Condition
from ffmodels.encoder import Encoder
from ffmodels.run import load_encoder
from fftrain import ProbeConfig, compare_runs, load_data, probe_run
from fftrain.config import DataSettings
from fftrain.data import ImageData, Split, dump_images
from fftrain.features import Features, choices, extract, name_of
from fftrain.probe import GRID, fit
from fftrain.progress import Reporter
from fftrain.run import RunFolder
from tests.helpers import Ended, one_line, python

CPU = torch.device("cpu")
PROBE = {"dataset": "digits", "epochs": 2, "threads": 1}
NAMES = ["block1", "block2", "block3", "block4", "blocks2-4"]


class Counting(Reporter):
    """Remembers what was done."""

    def __init__(self):
        self.done = []

    def track(self, items, total, what, ahead=0.0):
        self.done.append(what)
        yield from items

    @property
    def probes(self):
        return [what.partition(", ")[2] for what in self.done if what.startswith("probe ")]  # without the place


def files(folder):
    """The weights and records of probes by their place below a run's folder; without what differs between calls."""
    found = {p.relative_to(folder): p.read_bytes() for p in (folder / "probes").rglob("*") if p.is_file()}
    return {path: content for path, content in found.items() if path.name != "results.json"}


def blobs(count, seed, noise=0.3):
    """Three classes around three corners, in 5 features of which one never changes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    features = np.concatenate([np.eye(3)[labels], rng.normal(size=(count, 1)), np.zeros((count, 1))], axis=1)
    features[:, :3] += noise * rng.normal(size=(count, 3))
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def make(labels):
    splits = [Split(torch.zeros(len(part), 1, 2, 2, dtype=torch.uint8), part) for part in labels]
    return ImageData(name="x", train=splits[0], validation=splits[1], test=splits[2], class_names=("a", "b", "c"))


def test_a_probe_reaches_what_logistic_regression_reaches():
    from sklearn.linear_model import LogisticRegression

    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((600, 0), (200, 1), (400, 2)))
    config = ProbeConfig(epochs=60, batch_size=64)
    head, found = fit(Features(train, validation, test), make([a, b, c]), config, CPU, Reporter(), "blobs")
    reference = LogisticRegression().fit(train.numpy(), a.numpy()).score(test.numpy(), c.numpy())
    assert found["test"] == pytest.approx(reference, abs=0.02)
    assert found["test"] == (head(test).argmax(-1) == c).double().mean().item()
    assert found["validation"] == max(setting["validation"] for setting in found["grid"])
    assert len(found["grid"]) == len(GRID)


def test_settings_trained_together_are_each_what_it_is_alone():
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((300, 0), (80, 1), (80, 2)))
    features, data, config = Features(train, validation, test), make([a, b, c]), ProbeConfig(epochs=5, batch_size=50)
    together = fit(features, data, config, CPU, Reporter(), "all")[1]["grid"]
    for i, setting in enumerate(GRID):
        head, alone = fit(features, data, config, CPU, Reporter(), "one", grid=[setting])
        assert alone["validation"] == together[i]["validation"]
        assert torch.isfinite(head.linear.weight).all()


def test_validation_chooses_and_the_test_split_has_no_say():
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((300, 0), (80, 1), (80, 2)))
    config = ProbeConfig(epochs=5, batch_size=50)
    one, found = fit(Features(train, validation, test), make([a, b, c]), config, CPU, Reporter(), "a")
    other, unchanged = fit(Features(train, validation, test * 0), make([a, b, c * 0]), config, CPU, Reporter(), "b")
    assert torch.equal(one.linear.weight, other.linear.weight)
    assert found["settings"] == unchanged["settings"]


def encoder(width=12, depth=4, shape=(1, 4, 4)):
    return Encoder(Condition(), MLP(width=width, depth=depth).build(shape, 0).requires_grad_(False)).eval()


def test_choices_are_each_block_and_the_last_three():
    assert choices(encoder(depth=4)) == [(0,), (1,), (2,), (3,), (1, 2, 3)]
    assert choices(encoder(depth=1)) == [(0,)]
    assert choices(None) == [()]


def test_every_row_has_its_baselines_and_every_saved_probe_is_what_was_measured(trained):
    run = trained / "ff"
    result = RunFolder(run).read_results()["probes"]["digits-neutral"]
    rows = {(row["source"], row["blocks"]): row for row in result["rows"]}
    assert list(rows) == [("raw", "pixels"), *(("random", n) for n in NAMES), *(("ff", n) for n in NAMES)]
    assert rows["raw", "pixels"]["test"] > 0.85
    test = load_data(ProbeConfig(dataset="digits")).test
    found = load_encoder(run)
    features = found(test.images.float() / 255)
    for name, blocks in zip(NAMES, choices(found), strict=True):
        head = load_file(run / "probes" / "digits-neutral" / f"{name}.safetensors")
        logits = torch.cat([features[i] for i in blocks], 1) @ head["linear.weight"].T + head["linear.bias"]
        measured = (logits.argmax(-1) == test.labels).double().mean().item()
        assert measured == pytest.approx(rows["ff", name]["test"], abs=1.5 / len(test))
        about = json.loads((run / "probes" / "digits-neutral" / f"{name}.json").read_text())
        assert about == {
            "dataset": "digits",
            "reading": "neutral",
            "target": "class",
            "backbone_sha256": sha256(run / "backbone.safetensors"),
            "class_names": [*"0123456789"],
            "blocks": [*blocks],
            **{key: value for key, value in rows["ff", name].items() if key != "blocks"},
        }


def test_features_may_be_left_as_they_are_and_the_saved_probe_still_is_what_was_measured(run_copy):
    result = probe_run(run_copy, ProbeConfig(**PROBE, standardise=False))
    test = load_data(ProbeConfig(**PROBE)).test
    [row] = [row for row in result["rows"] if (row["source"], row["blocks"]) == ("ff", "block2")]
    saved = load_file(run_copy / "probes" / "digits-neutral" / "block2.safetensors")
    logits = load_encoder(run_copy)(test.images.float() / 255)[1] @ saved["linear.weight"].T + saved["linear.bias"]
    assert row["test"] == pytest.approx((logits.argmax(-1) == test.labels).double().mean().item())
    standardised = probe_run(run_copy, ProbeConfig(**PROBE))
    assert [row["test"] for row in result["rows"]] != [row["test"] for row in standardised["rows"]]


def test_the_default_reading_is_the_first_of_the_methods(trained, run_copy):
    assert set(RunFolder(trained / "bp").read_results()["probes"]) == {"digits-pixels"}
    probe_run(run_copy, ProbeConfig(dataset="digits", reading="zeros", epochs=1, threads=1))
    assert set(RunFolder(run_copy).read_results()["probes"]) == {"digits-neutral", "digits-zeros"}


FUNNEL = """
from torch import nn
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BackboneSettings, size

class Funnel(BackboneSettings):
    \"\"\"A convolution, then ever narrower blocks.\"\"\"

    channels: int = setting(6, ge=1, description="Of the convolution.")

    def make(self, shape):
        conv = nn.Sequential(nn.Conv2d(shape[0], self.channels, 3, padding=1, stride=4), nn.ReLU())
        flat = nn.Sequential(nn.Flatten(), nn.Linear(self.channels * (shape[1] // 4) * (shape[2] // 4), 40), nn.ReLU())
        narrow = nn.Sequential(nn.Linear(40, 17), nn.ReLU())
        return Backbone(nn.Identity(), [conv, flat, narrow], shape=shape, between=self.between)
"""


def test_a_backbone_of_ones_own_whose_blocks_differ_in_width_is_read_by_its_activations(cli, tmp_path):
    mine = tmp_path / "funnel.py"
    mine.write_text(FUNNEL)
    run = tmp_path / "run"
    options = ["--recipe", "bp", "--dataset", "digits", "--backbone", mine, "--epochs", 3, "--lr", 3e-3, "--threads", 1]
    ended = cli("fftrain", "pretrain", *options, "backbone.channels=5", "--out", run)
    assert ended.code == 0, ended.err
    trust(str(mine))
    found = load_encoder(run)
    assert found.dims == (5, 40, 17)
    for command in ("probe", "analyse", "evaluate"):
        more = {"probe": ["--epochs", 20], "analyse": ["--images", 100, "--points", 20], "evaluate": []}[command]
        ended = cli("fftrain", command, run, "--threads", 1, *more, "--trust-plugin", mine)
        assert ended.code == 0, ended.err
    results = RunFolder(run).read_results()
    test = load_data(ProbeConfig(dataset="digits")).test
    with torch.no_grad():
        features = found(test.images.float() / 255)
    rows = {row["blocks"]: row for row in results["probes"]["digits-pixels"]["rows"] if row["source"] == "bp"}
    assert [*rows] == ["block1", "block2", "block3", "blocks1-3"]
    for blocks in choices(found):
        about = rows[name_of(blocks)]
        head = load_file(run / "probes" / "digits-pixels" / f"{name_of(blocks)}.safetensors")
        assert head["linear.weight"].shape == (10, sum(found.dims[i] for i in blocks))
        logits = torch.cat([features[i] for i in blocks], 1) @ head["linear.weight"].T + head["linear.bias"]
        measured = (logits.argmax(-1) == test.labels).double().mean().item()
        assert measured == pytest.approx(about["test"], abs=1.5 / len(test))
    assert rows["block2"]["test"] > 0.6
    with np.load(run / "analysis" / "digits-pixels.npz") as file:
        assert sorted(file) == ["block1", "block2", "block3", "labels"]
    decoded = {row["blocks"]: row["test"] for row in results["analysis"]["digits-pixels"]["decoder"]}
    assert decoded["blocks1-3"] > decoded["block2"] > decoded["block3"] > 0.05
    compared = compare_runs(run, run, images=40)
    assert compared["blocks"] == ["block1", "block2", "block3"]
    np.testing.assert_allclose(np.diag(compared["cka"]), 1)


def test_a_probe_on_another_data_set_of_the_same_shape(run_copy, tmp_path):
    dump_images(DataSettings(dataset="digits"), "all", tmp_path / "other digits")
    config = ProbeConfig(dataset=f"imagefolder:{tmp_path}/other digits", grayscale=True, epochs=2, threads=1)
    result = probe_run(run_copy, config)
    assert len(list((run_copy / "probes").glob("other digits-??????-neutral/block1.safetensors"))) == 1
    assert len(result["rows"]) == 11


def test_images_of_another_shape_are_refused_with_what_mends_it(run_copy):
    with pytest.raises(
        RunError, match=r"trained on 1x28x28 images, but digits has 1x8x8: .*--image-size 28 --grayscale"
    ):
        probe_run(run_copy, ProbeConfig(dataset="digits", image_size=8))
    assert not list((run_copy / "probes").glob("*8*"))


def test_a_probe_is_what_autograd_and_adamw_make_of_it():
    (train, a), (validation, b), (test, c) = (blobs(n, seed) for n, seed in ((310, 0), (80, 1), (80, 2)))
    setting = {"lr": 0.01, "weight_decay": 0.1}
    config = ProbeConfig(epochs=4, batch_size=50, seed=3)
    head, _ = fit(Features(train, validation, test), make([a, b, c]), config, CPU, Reporter(), "x", grid=[setting])
    reference = torch.nn.Linear(5, 3).double()
    torch.nn.init.zeros_(reference.weight)
    torch.nn.init.zeros_(reference.bias)
    optimizer = torch.optim.AdamW(reference.parameters(), **setting)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    rng = np.random.default_rng(3)
    for _ in range(4):
        for index in torch.split(torch.from_numpy(rng.permutation(310)), 50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(reference(train[index].double()), a[index]).backward()
            optimizer.step()
        schedule.step()
    assert torch.allclose(head.linear.weight.double(), reference.weight, atol=1e-5)
    assert torch.allclose(head.linear.bias.double(), reference.bias, atol=1e-5)


def test_features_in_a_mapped_file_give_the_same_figures_bit_for_bit(run_copy, tmp_path):
    other = Path(shutil.copytree(run_copy, tmp_path / "mapped"))
    in_memory = probe_run(run_copy, ProbeConfig(**PROBE))
    before = set(other.rglob("*"))
    mapped = probe_run(other, ProbeConfig(**PROBE, feature_memory=0))
    assert mapped["rows"] == in_memory["rows"]
    assert files(other) == files(run_copy)
    assert set(other.rglob("*")) == before
    assert in_memory["seconds"] > 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_features_in_a_mapped_file_take_little_memory(tmp_path):
    counts, width = (24_000, 2000, 2000), 1000
    rng = np.random.default_rng(0)
    splits = [
        Split(torch.from_numpy(rng.integers(256, size=(n, 1, 4, 4), dtype=np.uint8)), torch.arange(n) % 3)
        for n in counts
    ]
    data = ImageData(name="x", train=splits[0], validation=splits[1], test=splits[2], class_names=("a", "b", "c"))
    deep = encoder(width)

    def anonymous():
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

    start, peak, ended = anonymous(), [0], threading.Event()

    def watch():
        while not ended.wait(0.01):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with extract(deep, data, CPU, Reporter(), memory=1e6, folder=tmp_path) as features:
            assert not list(tmp_path.iterdir())  # the file has no name
            features, _ = features.standardised()
            config = ProbeConfig(epochs=1)
            fit(features.columns(slice(width, 4 * width)), data, config, CPU, Reporter(), "x", grid=GRID[:1])
    finally:
        ended.set()
        watcher.join()
    size = 4 * sum(counts) * 4 * width
    assert size > 400e6
    assert peak[0] - start < size / 2


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
def test_a_disk_without_room_for_the_features_is_one_line_and_leaves_nothing(run_copy):
    before = {p: p.stat().st_mtime_ns for p in run_copy.rglob("*")}
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); import fftrain.cli; "
    code += f"sys.argv = ['fftrain', 'probe', {str(run_copy)!r}, '--epochs', '1', '--feature-memory', '0']; "
    ended = python("-c", code + "fftrain.cli.main()")
    one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 1, "GiB of features cannot", "raise --feature-memory")
    assert {p: p.stat().st_mtime_ns for p in run_copy.rglob("*")} == before


def test_two_processes_share_the_probes_out_and_give_the_figures_of_one(trained, cli, tmp_path):
    one, two = (Path(shutil.copytree(trained / "ff", tmp_path / name)) for name in ("one", "two"))
    for folder in (one, two):
        shutil.rmtree(folder / "probes")
    options = ["--epochs", 2, "--threads", 1, "--json"]
    alone = cli("fftrain", "probe", one, *options)
    assert alone.code == 0, alone.err
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1 -m fftrain probe"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    shared = python("-m", *launch.split(), two, *options, env=environment)
    assert shared.returncode == 0, shared.stderr
    assert json.loads(shared.stdout)["rows"] == alone.json["rows"]
    assert files(two) == files(one)
    rows = [RunFolder(folder).read_results()["probes"]["digits-neutral"]["rows"] for folder in (one, two)]
    assert rows[0] == rows[1]


def test_baselines_are_computed_once_for_runs_that_share_them(trained, tmp_path):
    ff, bp = (Path(shutil.copytree(trained / method, tmp_path / method)) for method in ("ff", "bp"))
    kept, first, second = tmp_path / "baselines", Counting(), Counting()
    config = ProbeConfig(**PROBE, reading="pixels")
    alone = probe_run(bp, config)["rows"]
    probe_run(ff, config, baselines=kept, reporter=first)
    result = probe_run(bp, ProbeConfig(**{**PROBE, "threads": 2}), baselines=kept, reporter=second)
    baselines = ["raw pixels", *(f"random {name}" for name in NAMES)]
    assert first.probes == [*baselines, *(f"ff {name}" for name in NAMES)]
    assert second.probes == [f"bp {name}" for name in NAMES]
    assert result["rows"] == alone
    assert len(list(kept.iterdir())) == len(baselines)

    third = Counting()
    probe_run(ff, ProbeConfig(**PROBE), baselines=kept, reporter=third)  # another reading: raw pixels have one alone
    assert third.probes[0] == "random block1"
    (damaged,) = kept.glob("raw-pixels-*.json")
    damaged.write_text(damaged.read_text()[:-40])
    fourth = Counting()
    assert probe_run(ff, config, baselines=kept, reporter=fourth)["rows"][:6] == alone[:6]
    assert fourth.probes == ["raw pixels", *(f"ff {name}" for name in NAMES)]
    assert json.loads(damaged.read_text())["row"] == alone[0]


def test_baselines_of_other_settings_weights_and_images_are_not_reused(run_copy, tmp_path):
    kept = tmp_path / "baselines"
    probe_run(run_copy, ProbeConfig(**PROBE), baselines=kept)
    for change, computed in (({"seed": 1}, 6), ({"limit": 900}, 6), ({"batch_size": 100}, 6), ({"threads": 2}, 0)):
        again = Counting()
        probe_run(run_copy, ProbeConfig(**{**PROBE, **change}), baselines=kept, reporter=again)
        assert len(again.probes) == computed + 5, change
    path = run_copy / "config.json"
    for seed, classes in ((7, 4), (0, 5)):  # five classes fill other pixels than four
        config = json.loads(path.read_text())
        config["config"]["seed"], config["classes"] = seed, [*"abcde"][:classes]
        path.write_text(json.dumps(config))
        again = Counting()
        probe_run(run_copy, ProbeConfig(**PROBE), baselines=kept, reporter=again)
        assert again.probes[0] == "random block1"
