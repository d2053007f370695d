from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from ffcore.errors import RunError
from ffcore.files import read_json, write_json
from ffmodels.checkpoint import load_backbone, load_weights, save_weights
from ffmodels.heads import LinearHead, Standardisation


def test_weights_come_back_bit_for_bit(tmp_path):
    head, other = LinearHead(3, 2), LinearHead(3, 2)
    save_weights(head, tmp_path / "new" / "head.safetensors")
    load_weights(other, tmp_path / "new" / "head.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), other.parameters(), strict=True))
    assert os.listdir(tmp_path / "new") == ["head.safetensors"]


def test_a_run_gives_its_backbone_trained_and_untrained(trained):
    backbone, untrained = load_backbone(trained / "ff"), load_backbone(trained / "ff", untrained=True)
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not torch.equal(backbone.layers[0].linear.weight, untrained.layers[0].linear.weight)


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
    ["", "[]", "{}", '{"config": {}}', '{"config": 3, "model": 3, "data": 3, "task": 3}', "not json"],
)
def test_a_damaged_config_says_so(run_copy, config):
    (run_copy / "config.json").write_text(config)
    with pytest.raises(RunError, match=r"config\.json"):
        load_backbone(run_copy)


@pytest.mark.parametrize("model", [{"width": -1}, {"depth": "four"}, {"backbone": "x"}, {"shape": [1, 28]}, {"new": 1}])
def test_a_config_that_describes_no_backbone_says_so(run_copy, model):
    config = read_json(run_copy / "config.json")
    config["model"].update(model)
    write_json(run_copy / "config.json", config)
    with pytest.raises(RunError, match=r"config\.json"):
        load_backbone(run_copy)


def test_weights_of_another_width_do_not_fit(run_copy):
    config = read_json(run_copy / "config.json")
    config["model"]["width"] = 49
    write_json(run_copy / "config.json", config)
    with pytest.raises(RunError, match="does not fit"):
        load_backbone(run_copy)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is not a run folder"):
        load_backbone(tmp_path / "nothing")


def test_standardisation_folds_into_the_head():
    features = torch.rand(500, 6) * torch.tensor([1.0, 5.0, 0.1, 20.0, 1.0, 0.0]) + 3
    standardisation = Standardisation.of(features)
    weight, bias = torch.randn(4, 6), torch.randn(4)
    folded = LinearHead.folded(weight, bias, standardisation)
    expected = (features - features.mean(0)) / features.std(0, correction=0).clamp(min=1e-6)
    expected[:, 5] = 0  # a dead unit tells nothing
    torch.testing.assert_close(folded(features), expected @ weight.T + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(standardisation.apply_(features.clone()), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(folded.linear.weight[:, 5], torch.zeros(4))
