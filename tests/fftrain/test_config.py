from __future__ import annotations

import pytest

from ffcore.errors import SettingError
from fftrain.config import EvaluationConfig, RunConfig, keyed
from fftrain.parts import EVALUATIONS, PARTS, make_part, merged
from fftrain.recipes import label, read_recipe, recipes
from tests.fftrain.training import settings

# Kinds of parts: those of a run, and what is measured of it.
KINDS = {**PARTS, "evaluation": EVALUATIONS}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0}, "--lr is 0: it must be above 0"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"lr": float("inf")}, "--lr is inf: it must be a finite number"),
        ({"lr": "fast"}, "--lr is 'fast': it must be a number"),
        ({"weight_decay": -1.0}, "--weight-decay is -1.0: it must be at least 0"),
        ({"view": "xyz"}, "view 'xyz' is unknown: choose among "),
        ({"view": "rotatoin"}, "did you mean rotation?"),
        ({"method": "fa"}, "method 'fa' is unknown: "),
        ({"method": "ff"}, "--method ff is a recipe: write --recipe ff"),
        ({"method": ["x"]}, "['x'] is no part of a run: give a name, or a table with a name"),
        ({"method": {"threshold": "high"}}, "method.threshold is 'high': it must be a number"),
        ({"method": {"name": "cross-entropy", "threshold": 3.0}}, "method.threshold (set to 3.0) is no setting"),
        ({"backbone": {"width": 0}}, "backbone.width is 0: it must be at least 1"),
        ({"backbone": {"width": 3.5}}, "backbone.width is 3.5: it must be a whole number"),
        ({"backbone": {"widht": 3}}, "did you mean width?"),
        ({"track": "wandb"}, "--track is 'wandb': choose one of tensorboard"),
        ({"holdout": "no"}, "--holdout is 'no': it must be true or false"),
        ({"limit": 9, "holdout": False}, "--limit is 9, but --no-holdout trains on all images: leave one of them out"),
        ({"mixed_precision": "fp8"}, "--mixed-precision is 'fp8': choose one of no, bf16, fp16"),
        ({"grayscale": 1}, "--grayscale is 1: it must be true or false"),
        ({"dataset": None}, "--dataset is None: it must be text"),
        ({"seed": -1}, "--seed is -1: it must be at least 0"),
        ({"epochs": -1}, "--epochs is -1: it must be at least 0"),
        ({"at": "first"}, "--at is 'first': choose one of all, last"),
        ({"epoch": 3}, "epoch (set to 3) is no setting: did you mean epochs? choose among"),
    ],
)
def test_a_value_that_is_not_legal_is_named_with_what_is(values, message):
    with pytest.raises(SettingError) as error:
        RunConfig(**values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, f"no evaluation is named: choose among {', '.join(EVALUATIONS)}"),
        ({"evaluation": "lineer"}, "evaluation 'lineer' is unknown: did you mean linear? choose among "),
        ({"evaluation": {"name": "linear", "epochs": 0}}, "linear.epochs is 0: it must be at least 1"),
        ({"evaluation": {"name": "linear", "epoch": 3}}, "linear.epoch (set to 3) is no setting: did you mean epochs?"),
        ({"evaluation": {"name": "tsne", "points": 3}}, "tsne.points is 3: it must be at least 4"),
        ({"evaluation": {"name": "knn", "neighbours": []}}, "knn.neighbours is ()"),
        ({"evaluation": {"name": "readout", "split": "train"}}, "readout.split is 'train': choose one of validation, "),
        ({"evaluation": {"epochs": 3}}, "{'epochs': 3} is no evaluation: give its name"),
        ({"evaluation": "knn", "target": "labels"}, "--target is 'labels': choose one of class, pretext"),
        ({"evaluation": "knn", "limit": 0}, "--limit is 0: it must be at least 1"),
        ({"evaluation": "knn", "epochs": 3}, "epochs (set to 3) is no setting"),
    ],
)
def test_what_is_no_evaluation_is_named_with_what_is(values, message):
    with pytest.raises(SettingError) as error:
        EvaluationConfig(**values)
    assert message in str(error.value)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_that_tells_no_labels_has_no_target(name):
    config = EvaluationConfig(evaluation=name, target="pretext")
    assert config.target == ("pretext" if EVALUATIONS.load(name).labels else "class")
    assert EvaluationConfig(**config.to_dict()) == config


@pytest.mark.parametrize("recipe", recipes())
def test_what_is_recorded_makes_the_same_run_again(recipe):
    config = settings(recipe, width=7, threshold=3, seed=5)
    assert RunConfig(**config.to_dict()) == config
    # A recipe that sets more than how a method is cut and ordered is no name for every run of that method.
    ordered = f"{config.method.called} order={config.order}" if config.order != "together" else config.method.called
    assert config.label == (recipe if isinstance(read_recipe(recipe)["method"], str) else ordered)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_is_recorded_with_its_name_and_all_its_settings(kind):
    for name in KINDS[kind]:
        part = make_part(kind, name)
        recorded = part.to_dict()
        assert recorded["name"] == name
        assert {*recorded} == {"name", *type(part).model_fields}
        assert make_part(kind, recorded) == part


def test_layers_of_settings_go_over_each_other_and_another_part_drops_the_settings_of_the_one_before():
    low = {"method": {"name": "forward-forward", "threshold": 3.0}, "lr": 0.1, "backbone": {"width": 5}}
    assert merged(low, {"method": {"goodness": "norm"}, "backbone": "mlp"}) == {
        "method": {"name": "forward-forward", "threshold": 3.0, "goodness": "norm"},
        "lr": 0.1,
        "backbone": {"name": "mlp"},
    }
    assert merged(low, {"method": "cross-entropy", "lr": 0.2}) == {
        "method": {"name": "cross-entropy"},
        "lr": 0.2,
        "backbone": {"width": 5},
    }


@pytest.mark.parametrize(
    ("point", "name"),
    [
        (("cross-entropy", "block", "all", "greedy"), "cross-entropy order=greedy"),
        (("forward-forward", "2", "all", "overlap"), "forward-forward cut=2 order=overlap"),
        (("forward-forward", "block", "all"), "ff"),
        (("forward-forward", "block", "last"), "ff"),
        (("forward-forward", "never", "last"), "bp-goodness-last"),
        (("cross-entropy", "never", "last"), "bp"),
        (("cross-entropy", "stage", "last"), "cross-entropy cut=stage at=last"),
        (("hybrid-forward-forward", "never", "all"), "hybrid-forward-forward cut=never"),
    ],
)
def test_a_method_cut_so_is_called_by_its_recipe_or_by_itself(point, name):
    settings = dict(zip(("method", "cut", "at", "order"), point, strict=False))
    assert label(settings) == name
    assert label({**settings, "method": {"name": point[0]}}) == name


def test_recipes_say_what_they_are_and_an_unknown_one_is_refused():
    assert all(len(about) > 10 for about in recipes().values())
    with pytest.raises(SettingError, match="--recipe is 'x': choose one of"):
        read_recipe("x")


@pytest.mark.parametrize("kind", [RunConfig, EvaluationConfig])
def test_every_setting_has_a_help_text(kind):
    assert all(len(field.description) > 10 for field in kind.model_fields.values())


@pytest.mark.parametrize("plugins", KINDS.values(), ids=KINDS)
def test_every_setting_of_a_part_has_a_help_text_and_a_default(plugins):
    for name in plugins:
        for field in plugins.load(name).model_fields.values():
            assert len(field.description) > 5
            assert not field.is_required()


def test_a_result_does_not_depend_on_where_it_was_made():
    config = settings(threads=3, data_dir="/data", data_cache="/cache", track="tensorboard")
    assert keyed(config) == keyed(settings())
    assert {"threads", "data_dir", "data_cache", "track"}.isdisjoint(keyed(config))
    measured = EvaluationConfig(evaluation="linear", threads=3, data_dir="/data", data_cache="/c", feature_memory=1.0)
    assert keyed(measured) == keyed(EvaluationConfig(evaluation="linear"))
    assert {"threads", "data_dir", "data_cache", "feature_memory"}.isdisjoint(keyed(measured))
    assert keyed(measured) != keyed(EvaluationConfig(evaluation={"name": "linear", "epochs": 7}))


def test_a_run_goes_on_with_more_epochs_but_not_with_another_seed():
    config = settings(epochs=3, seed=1)
    for free in ({"epochs": 5}, {"track": "tensorboard"}, {"threads": 1}, {"data_cache": "/c"}):
        assert config.continued(config.changed(**free)) == config.changed(**free)
    with pytest.raises(SettingError, match="--seed is 2, but the run to resume has 1"):
        config.continued(config.changed(seed=2))
    with pytest.raises(SettingError, match="--holdout is False, but the run to resume has True"):
        config.continued(config.changed(holdout=False))


def test_names_of_data_sets_may_be_written_with_a_line_and_folders_are_named_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RunConfig(dataset="fashion_mnist").dataset == "fashion-mnist"
    assert RunConfig(dataset="my_arrays").dataset == "my_arrays"
    assert RunConfig(dataset="imagefolder:photos").dataset == f"imagefolder:{tmp_path}/photos"
