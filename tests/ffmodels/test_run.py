from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json, write_json
from ffmodels.linear import LinearHead
from ffmodels.run import Run, load_encoder, load_weights, save_weights


def test_weights_come_back_bit_for_bit(tmp_path):
    head, other = LinearHead(3, 2), LinearHead(3, 2)
    save_weights(head, tmp_path / "new" / "head.safetensors")
    load_weights(other, tmp_path / "new" / "head.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), other.parameters(), strict=True))
    assert os.listdir(tmp_path / "new") == ["head.safetensors"]


def test_a_run_gives_its_backbone_trained_and_untrained(trained):
    run = Run.load(trained / "ff")
    backbone, untrained = run.network(), run.network(untrained=True)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone.training
    assert not torch.equal(backbone.blocks[0][0].weight, untrained.blocks[0][0].weight)


def test_a_run_gives_its_encoder_as_its_method_reads_images(trained):
    images = torch.from_numpy(Run.load(trained / "ff").samples[0]).float() / 255
    found = {reading: load_encoder(trained / "ff", reading)(images) for reading in (None, "neutral", "pixels")}
    for one, other in zip(found[None], found["neutral"], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(found[None][0], found["pixels"][0])
    backbone = Run.load(trained / "ff").network()
    for features, h in zip(found["pixels"], backbone(images), strict=True):
        assert torch.equal(features, backbone.features(h))
    assert [len(features[0]) for features in found[None]] == [*load_encoder(trained / "ff").dims] == [48] * 4
    assert load_encoder(trained / "bp").reading == "pixels"


def test_activations_are_read_before_they_are_normalised_of_pixels_as_the_method_reads_them(trained):
    images = torch.rand(3, 1, 28, 28)
    for name in ("ff", "bp"):
        usual, raw = load_encoder(trained / name), load_encoder(trained / name, "activations")
        assert raw.reading == "activations"
        for features, h, normalised in zip(raw(images), usual.activations(images), usual(images), strict=True):
            assert torch.equal(features, h)
            assert not torch.equal(features, normalised)


def test_a_reading_that_the_method_does_not_have_is_refused(trained):
    with pytest.raises(SettingError, match=r"reading 'neutral' is unknown for .*bp: choose one of pixels"):
        load_encoder(trained / "bp", "neutral")
    with pytest.raises(
        SettingError, match=r"choose one of neutral, zeros, pixels, random, activations, label:0 to label:3$"
    ):
        load_encoder(trained / "ff", "ones")


def test_a_run_gives_what_tells_its_labels(trained):
    images, labels = Run.load(trained / "ff").samples
    assert (images.shape, len(labels)) == ((64, 1, 28, 28), 64)
    for name, readers in (("ff", [*(f"block{i}" for i in range(1, 5)), "blocks2-4-mean"]), ("bp", ["block4"])):
        run = Run.load(trained / name)
        readout = run.readout()
        pixels = torch.from_numpy(images).float() / 255
        assert [*readout.readers(pixels)] == readers
        assert readout(pixels).shape == (64, len(run.classes)) == (64, 4)
        assert not readout.training


def test_a_run_of_the_first_version_says_what_reads_it(run_copy):
    write_json(run_copy / "config.json", {"config": {}, "model": {}, "data": {}, "task": {}})
    with pytest.raises(RunError, match=r"was trained with ffstudy 0\.1, which reads it: train it again") as error:
        Run.load(run_copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["missing", "truncated", "foreign"])
def test_samples_that_cannot_be_read_say_so_in_one_line(run_copy, how):
    break_file(run_copy / "samples.npz", how)
    with pytest.raises(RunError, match=r"samples\.npz is missing or damaged") as error:
        _ = Run.load(run_copy).samples
    assert "\n" not in str(error.value)


def break_file(path, how):
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "header cut":
        path.write_bytes(whole[:20])
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "random":
        path.write_bytes(os.urandom(4096))
    elif how == "foreign":
        save_file({"a": torch.zeros(3)}, path)
    elif how == "mismatched":
        save_file({"linear.weight": torch.zeros(2, 9), "linear.bias": torch.zeros(2)}, path)


@pytest.mark.parametrize("how", ["missing", "truncated", "header cut", "zero bytes", "random", "foreign", "mismatched"])
def test_weights_that_cannot_be_loaded_say_so_in_one_line(tmp_path, how):
    path = tmp_path / "head.safetensors"
    save_weights(LinearHead(3, 2), path)
    break_file(path, how)
    with pytest.raises(RunError, match=r"head\.safetensors") as error:
        load_weights(LinearHead(3, 2), path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    ["", "[]", "{}", '{"config": {}}', '{"layout": 2, "config": 3, "data": 3, "classes": 3}', "not json"],
)
def test_a_damaged_config_says_so(run_copy, config):
    (run_copy / "config.json").write_text(config)
    with pytest.raises(RunError, match=r"config\.json") as error:
        Run.load(run_copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", [{"width": -1}, {"depth": "four"}, {"name": "x"}, {"new": 1}])
def test_a_config_that_describes_no_backbone_says_so(run_copy, backbone):
    config = read_json(run_copy / "config.json")
    config["config"]["backbone"].update(backbone)
    write_json(run_copy / "config.json", config)
    with pytest.raises(RunError, match=r"config\.json describes no backbone"):
        Run.load(run_copy).network()


def test_code_outside_the_package_is_not_run_unless_a_person_named_it(run_copy):
    config = read_json(run_copy / "config.json")
    config["config"]["backbone"]["name"] = "/nowhere/mine.py"
    write_json(run_copy / "config.json", config)
    with pytest.raises(RunError, match=r"/nowhere/mine\.py' is code outside this package: .*--trust-plugin"):
        Run.load(run_copy).network()


def test_weights_of_another_width_do_not_fit(run_copy):
    config = read_json(run_copy / "config.json")
    config["config"]["backbone"]["width"] = 49
    write_json(run_copy / "config.json", config)
    with pytest.raises(RunError, match="does not fit"):
        Run.load(run_copy).network()


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        Run.load(tmp_path / "nothing")
