from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffmodels.checkpoint import load_backbone
from ffmodels.errors import RunError
from ffmodels.labels import fill
from fftrain import ProbeConfig, load_data, probe_run
from fftrain.data import ImageData, Split
from fftrain.probe import GRID, Features, choices, fit
from fftrain.progress import Reporter
from fftrain.run import RunFolder

CPU = torch.device("cpu")


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


def test_choices_are_each_layer_and_the_last_three():
    assert choices(4) == [(0,), (1,), (2,), (3,), (1, 2, 3)]
    assert choices(1) == [(0,)]


def test_every_row_has_its_baselines_and_every_saved_probe_is_what_was_measured(trained):
    run = trained / "ff"
    result = RunFolder(run).read_results()["probes"]["digits-neutral"]
    names = ["layer1", "layer2", "layer3", "layer4", "layers2-4"]
    rows = {(row["source"], row["layers"]): row for row in result["rows"]}
    assert list(rows) == [("raw", "pixels"), *(("random", n) for n in names), *(("ff", n) for n in names)]
    assert rows["raw", "pixels"]["test"] > 0.85
    test = load_data(ProbeConfig(dataset="digits")).test
    images = fill(test.images.float() / 255, 4, "neutral")
    for name, layers in zip(names, choices(4), strict=True):
        head = load_file(run / "probes" / "digits-neutral" / f"{name}.safetensors")
        logits = load_backbone(run).features(images, layers) @ head["linear.weight"].T + head["linear.bias"]
        measured = (logits.argmax(-1) == test.labels).double().mean().item()
        assert measured == pytest.approx(rows["ff", name]["test"], abs=1.5 / len(test))
        about = json.loads((run / "probes" / "digits-neutral" / f"{name}.json").read_text())
        assert about["layers"] == list(layers)
        assert about["test"] == rows["ff", name]["test"]


def test_the_label_slot_is_neutral_for_ff_and_the_image_itself_for_bp(trained, run_copy):
    assert set(RunFolder(trained / "bp").read_results()["probes"]) == {"digits-pixels"}
    probe_run(run_copy, ProbeConfig(dataset="digits", slot="zeros", epochs=1, threads=1))
    assert set(RunFolder(run_copy).read_results()["probes"]) == {"digits-neutral", "digits-zeros"}


def test_a_probe_on_another_data_set_of_the_same_shape(run_copy, tmp_path):
    from fftrain.data import DataConfig, dump_images

    dump_images(DataConfig(dataset="digits"), "all", tmp_path / "other digits")
    config = ProbeConfig(dataset=f"imagefolder:{tmp_path}/other digits", grayscale=True, epochs=2, threads=1)
    result = probe_run(run_copy, config)
    assert len(list((run_copy / "probes").glob("other digits-??????-neutral/layer1.safetensors"))) == 1
    assert len(result["rows"]) == 11


def test_images_of_another_shape_are_refused_with_what_mends_it(run_copy):
    with pytest.raises(
        RunError, match=r"trained on 1x28x28 images, but digits has 1x8x8: .*--image-size 28 --grayscale"
    ):
        probe_run(run_copy, ProbeConfig(dataset="digits", image_size=8))
    assert not list((run_copy / "probes").glob("*8*"))
