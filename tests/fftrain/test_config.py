from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from ffcore.errors import SettingError
from ffmodels.registry import BACKBONES, GOODNESS, NORMALISATIONS
from fftrain.config import PretrainConfig, ProbeConfig, continued, read_toml
from fftrain.registry import DATASETS, METHODS, TASKS, fits


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
        ({"method": "fa"}, "--method is 'fa': choose one of ff, ff-unsupervised, bp"),
        ({"method": ["ff"]}, "--method is ['ff']: it must be text"),
        ({"task": 3}, "--task is 3: it must be"),
        ({"track": "wandb"}, "--track is 'wandb': choose one of tensorboard"),
        ({"holdout": "no"}, "--holdout is 'no': it must be true or false"),
        ({"limit": 9, "holdout": False}, "--limit is 9, but --no-holdout trains on all images: leave one of them out"),
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


PAIRS = [(method, task) for method in METHODS for task in TASKS]


@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_hybrid_is_the_task_of_unsupervised_ff_alone_and_its_only_one(method, task):
    legal = (task == "hybrid") == (method == "ff-unsupervised")
    assert fits(method, task) == legal
    if legal:
        assert PretrainConfig(method=method, task=task).task == task
        return
    with pytest.raises(SettingError) as error:
        PretrainConfig(method=method, task=task)
    if method == "ff-unsupervised":
        expected = f"--task is '{task}', but --method ff-unsupervised reads no pretext labels: leave --task out"
    else:
        expected = f"--task hybrid is for --method ff-unsupervised alone, not {method}: choose another task"
    assert str(error.value) == expected


@pytest.mark.parametrize("method", METHODS)
def test_without_a_task_a_method_has_one_that_fits(method):
    assert PretrainConfig(method=method).task == ("hybrid" if method == "ff-unsupervised" else "rotation")


@pytest.mark.parametrize("registry", [METHODS, TASKS, DATASETS, BACKBONES, NORMALISATIONS, GOODNESS])
def test_whatever_is_registered_can_be_loaded_and_says_what_it_is(registry):
    for name, entry in registry.items():
        assert registry.load(name) is not None
        assert entry.about


@pytest.mark.parametrize("kind", [PretrainConfig, ProbeConfig])
def test_every_setting_has_a_help_text(kind):
    assert all(len(f.metadata["help"]) > 10 for f in fields(kind))


def test_toml_keys_are_option_names(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('batch-size = 64\nlr = 1e-3\ntask = "jigsaw"\n')
    assert read_toml(path) == {"batch_size": 64, "lr": 1e-3, "task": "jigsaw"}
    with pytest.raises(SettingError, match=r"'epoch' \(set to .*\) is no setting: choose among"):
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
    assert continued(config, {"track": "tensorboard"}).track == "tensorboard"
    with pytest.raises(SettingError, match="--seed is 2, but the run to resume has 1"):
        continued(config, {"seed": 2})
    with pytest.raises(SettingError, match="--holdout is False, but the run to resume has True"):
        continued(config, {"holdout": False})
