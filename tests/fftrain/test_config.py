from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from ffmodels.errors import SettingError
from fftrain.config import PretrainConfig, ProbeConfig, continued, read_toml


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "--width is 0: it must be at least 1"),
        ({"width": 3.5}, "--width is 3.5: it must be a whole number"),
        ({"width": True}, "--width is True: it must be a whole number"),
        ({"lr": 0}, "--lr is 0.0: it must be above 0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"lr": float("inf")}, "--lr is inf: it must be finite"),
        ({"lr": "fast"}, "--lr is 'fast': it must be a number"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0: it must be at least 0"),
        ({"task": "spin"}, "--task is 'spin': choose one of rotation, flip-h"),
        ({"method": "fa"}, "--method is 'fa': choose one of ff, bp"),
        ({"goodness": "max"}, "--goodness is 'max': choose one of sum_squares, mean_squares, norm"),
        ({"mixed_precision": "fp8"}, "--mixed-precision is 'fp8'"),
        ({"threshold": "high"}, "--threshold is 'high': it must be a number"),
        ({"grayscale": 1}, "--grayscale is 1: it must be true or false"),
        ({"dataset": None}, "--dataset is None: it must be text"),
        ({"seed": -1}, "--seed is -1: it must be at least 0"),
    ],
)
def test_a_value_that_is_not_legal_is_named_with_what_is(settings, message):
    with pytest.raises(SettingError) as error:
        PretrainConfig(**settings)
    assert message in str(error.value)


def test_settings_are_frozen_keyword_only_and_whole_numbers_pass_for_numbers():
    config = PretrainConfig(lr=1, threshold=3)
    assert (config.lr, config.threshold) == (1.0, 3.0)
    with pytest.raises(FrozenInstanceError):
        config.lr = 2.0
    with pytest.raises(TypeError):
        PretrainConfig("mnist")


@pytest.mark.parametrize("kind", [PretrainConfig, ProbeConfig])
def test_every_setting_has_a_help_text(kind):
    assert all(len(f.metadata["help"]) > 10 for f in fields(kind))


def test_toml_keys_are_option_names(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('batch-size = 64\nlr = 1e-3\ntask = "jigsaw"\n')
    assert read_toml(path) == {"batch_size": 64, "lr": 1e-3, "task": "jigsaw"}
    with pytest.raises(SettingError, match="'epoch' is no setting: choose among"):
        PretrainConfig.from_values({"epoch": 3}, str(path))


@pytest.mark.parametrize("text", ["lr = ", "[", "\x00"])
def test_a_file_that_is_not_toml(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=r"recipe\.toml is not TOML"):
        read_toml(path)


def test_a_run_goes_on_with_more_epochs_but_not_with_another_seed():
    config = PretrainConfig(epochs=3, seed=1)
    assert continued(config, {"epochs": 5, "seed": 1}) == PretrainConfig(epochs=5, seed=1)
    with pytest.raises(SettingError, match="--seed is 2, but the run to resume has 1"):
        continued(config, {"seed": 2})
