"""What is wrong with a spec is one line that names key and value, before anything runs."""

from __future__ import annotations

import json

import pytest

from ffcore.errors import RunError, SettingError
from fftrain.study import choose, plan
from tests.fftrain.studies import OWN_EVALUATION, SMALL, TWO_VIEWS


@pytest.mark.parametrize(("axis", "code"), [("view", TWO_VIEWS), ("evaluation", OWN_EVALUATION)])
def test_a_study_that_was_begun_is_not_trusted_with_code_that_it_names(tmp_path, axis, code):
    (tmp_path / "mine.py").write_text(code)
    about = {"spec": {"dataset": "digits", axis: str(tmp_path / "mine.py")}, "name": "x", "overrides": {}}
    (tmp_path / "study.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match=r"mine\.py' is code outside this package: .* --trust-plugin"):
        choose(None, None, tmp_path, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"foo": 1}, "'foo' (set to 1) is no key of a study"),
        ({"dataset": []}, "dataset is an empty list"),
        ({"dataset": 3}, "dataset is 3: it must be a list of names"),
        ({"dataset": ["minst"]}, "dataset 'minst' is unknown: did you mean mnist?"),
        ({"view": []}, "view is an empty list"),
        ({"view": ["rot"]}, "view 'rot' is unknown"),
        ({"view": "flip"}, "did you mean flip-v?"),
        (
            {"recipes": {"bp": {"lrr": 3}}},
            "recipes.bp has 'lrr' (set to 3), which is no setting of it: did you mean lr?",
        ),
        ({"dataset": ["imagefolder:"]}, "'imagefolder:': write PATH behind the colon"),
        (
            {"grid": [{"recipe": ["ff"]}, {"recipe": ["ff"], "parts": {"linear": {"epochs": 7}}}]},
            "my.toml, grid 2: 'linear digits neutral class' of digits-rotation-ff",
        ),
        (
            {"grid": [{"recipe": ["ff"]}, {"recipe": ["ff"], "parts": {"tsne": {"points": 7}}}]},
            "my.toml, grid 2: 'tsne digits neutral class' of digits-rotation-ff",
        ),
        (
            {"grid": [{"recipe": ["ff"]}, {"recipe": ["ff"], "evaluate": {"limit": 100}}]},
            "digits neutral class' of digits-rotation-ff",
        ),
        ({"evaluation": ["lineer"]}, "evaluation 'lineer' is unknown: did you mean linear? choose among decoder, "),
        ({"evaluation": "probe"}, "evaluation 'probe' is unknown: "),
        ({"evaluation": True}, "evaluation is True: it must be a list of names"),
        ({"evaluation": ["linear", 3]}, "evaluation is ['linear', 3]: it must be a list of names"),
        ({"recipe": ["random"]}, "recipe has 'random': random and raw stand beside every method"),
        ({"recipe": []}, "recipe is an empty list"),
        ({"recipe": "ff", "method": "cross-entropy"}, "recipe says method too: leave one of them out"),
        ({"recipe": "ff", "cut": "never"}, "recipe says cut too"),
        ({"cut": "never"}, "cut is named without a method"),
        ({"method": "cross_entropie"}, "method 'cross_entropie' is unknown: did you mean cross-entropy?"),
        ({"method": "cross-entropy", "cut": "layer"}, "view 'rotation' on 'digits': --cut is 'layer'"),
        ({"method": "cross-entropy", "at": "first"}, "--at is 'first': choose one of all, last"),
        ({"seed": [1.5]}, "seed is [1.5]: it must be a list of whole numbers"),
        ({"seed": [True]}, "seed is [True]"),
        ({"seed": [-1]}, "--seed is -1: it must be at least 0"),
        ({"reading": ["ones"]}, "reading has 'ones': choose among neutral"),
        ({"reading": ["label:3", "label:4"]}, "reading has 'label:4': choose among neutral, zeros, pixels, random, "),
        ({"reading": "neutral", "recipe": "bp"}, "reading has 'neutral': choose among pixels"),
        ({"target": ["x"]}, "target has 'x'"),
        ({"transfer": ["x"]}, "dataset 'x' is unknown"),
        ({"settings": 3}, "settings is 3: it must be a table"),
        ({"settings": {"lr": []}}, "settings.lr is an empty list"),
        ({"settings": {"lr": [0.1, -1.0]}}, "--lr is -1.0: it must be above 0"),
        ({"settings": {"learning_rate": 0.1}}, "settings has 'learning_rate' (set to 0.1), which is no setting"),
        ({"settings": {"seed": 3}}, "settings has 'seed' (set to 3), which a list says"),
        ({"settings": {"width": 3}}, "which is no setting of it: write width in [parts.NAME], NAME the backbone's"),
        ({"settings": {"normalisation": "rms"}}, "write between in [parts.NAME], NAME the backbone's"),
        ({"settings": {"threshold": 3}}, "write threshold in [parts.NAME], NAME the method's"),
        ({"recipes": {"sgd": {}}}, "recipes.sgd is what no cell is called: choose among bp-goodness-all, "),
        ({"parts": {"sgd": {}}}, "parts.sgd is no part: choose among "),
        ({"parts": {"./mine.py": {}}}, "mine.py is used by no cell"),
        (
            {"parts": {"linear": {"epoch": 3}}},
            "parts.linear has 'epoch' (set to 3), which is no setting of it: did you mean epochs?",
        ),
        (
            {"parts": {"linear": [{"epochs": 3}, {"epochs": 4}]}},
            "my.toml: 'linear digits neutral class' of digits-rotation-ff",
        ),
        ({"parts": {"linear": [{"epochs": 3}, {"epoch": 4}]}}, "parts.linear has 'epoch' (set to 4), which is no"),
        ({"parts": {"linear": []}}, "parts.linear is []: it must be a table"),
        ({"parts": {"mlp": [{"width": 3}]}}, "parts.mlp is [{'width': 3}]: it must be a table"),
        ({"parts": {"linear": {"blocks": "block5"}}}, "my.toml: linear.blocks has 'block5': choose among block1, "),
        ({"evaluation": "segmentation", "parts": {"segmentation": {"size": 30}}}, "my.toml: segmentation.size is 30"),
        ({"evaluation": "detection", "parts": {"detection": {"stride": 29}}}, "my.toml: detection.stride is 29"),
        ({"evaluation": "robustness", "parts": {"robustness": {"shift": [28]}}}, "my.toml: robustness.shift is 28"),
        (
            {"evaluation": "finetune", "parts": {"finetune": {"per_class": 200}}},
            "my.toml: finetune.per_class is 200, and a class has 129 training images: ask for no more",
        ),
        (
            {"evaluation": "few-labels", "evaluate": {"limit": 100}, "parts": {"few-labels": {"per_class": [1, 11]}}},
            "my.toml: few-labels.per_class is 11, and a class has 10 training images",
        ),
        ({"parts": {"linear": {"lr": 0}}}, "linear.lr is 0: it must be above 0"),
        ({"parts": {"linear": {"epochs": 0}}}, "linear.epochs is 0: it must be at least 1"),
        ({"parts": {"linear": {"epochs": [3, 4]}}}, "linear.epochs is (3, 4): it must be a whole number"),
        ({"parts": {"tsne": {"points": -1}}}, "tsne.points is -1: it must be at least 4"),
        (
            {"parts": {"mlp": {"widht": 3}}},
            "parts.mlp has 'widht' (set to 3), which is no setting of it: did you mean width?",
        ),
        ({"parts": {"mlp": 3}}, "parts.mlp is 3: it must be a table"),
        ({"parts": {"forward-forward": {"threshold": "high"}}}, "method.threshold is 'high': it must be a number"),
        ({"evaluate": {"limit": 0}}, "evaluate: --limit is 0"),
        ({"evaluate": {"reading": "zeros"}}, "evaluate has 'reading' (set to 'zeros'), which a list says"),
        ({"parts": {"readout": {"split": "test"}}}, "parts.readout has no settings to try"),
        ({"evaluate": {"evaluation": "knn"}}, "evaluate has 'evaluation' (set to 'knn'), which a list says"),
        ({"evaluate": {"epochs": 3}}, "evaluate has 'epochs' (set to 3), which is no setting of it"),
        ({"evaluate": True}, "evaluate is True: it must be a table"),
        ({"grid": {}}, "grid is {}: write each grid as a [[grid]] table"),
        ({"grid": []}, "grid is []"),
        (
            {"grid": [{"view": ["jigsaw"]}, {"veiw": ["flip-h"]}]},
            "my.toml, grid 2: 'veiw' (set to ['flip-h']) is no key",
        ),
        ({"reference": "sgd"}, "reference is 'sgd', and cells are called bp, ff"),
        ({"published": {"cifar": "cifar10"}}, "published is {'cifar': 'cifar10'}"),
        ({"published": {"digits": "minst"}}, "published is {'digits': 'minst'}"),
        ({"datasets": ["digits"]}, "datasets is gone: write dataset"),
        ({"tasks": ["rotation"]}, "tasks is gone: write view"),
        ({"methods": ["ff"]}, "methods is gone: write recipe"),
        ({"seeds": [0]}, "seeds is gone: write seed"),
        ({"slots": ["zeros"]}, "slots is gone: write reading"),
        ({"grid": [{"targets": ["class"]}]}, "grid 1: targets is gone: write target"),
        ({"probe": {"epochs": 3}}, "probe is gone: write [parts.linear]"),
        ({"analysis": False}, "analysis is gone: write evaluation, a list, and [parts.decoder] or [parts.tsne]"),
        ({"grid": [{"analysis": {"points": 9}}]}, "grid 1: analysis is gone: write evaluation"),
        ({"method": {"bp": {"lr": 1e-3}}}, "[method.bp] is gone: write [recipes.bp]"),
    ],
)
def test_a_malformed_spec_is_refused_with_key_and_value(change, words):
    with pytest.raises(SettingError) as error:
        plan({**SMALL, **change}, "my.toml")
    assert words in str(error.value)
    assert str(error.value).startswith("my.toml")


def test_data_sets_that_are_missing_are_said_to_be():
    with pytest.raises(SettingError, match=r"my\.toml: dataset is missing"):
        plan({}, "my.toml")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"search": "yes"}, "search is 'yes': it must be true or false"),
        ({"search": True, "transfer": ["mnist"]}, "search = true measures nothing: leave evaluation, "),
        ({"search": True, "evaluate": {"limit": 3}}, "search = true measures nothing: leave evaluation, "),
        ({"search": True, "evaluation": ["linear"]}, "search = true measures nothing: leave evaluation, "),
    ],
)
def test_a_search_that_asks_for_more_is_refused(more, message):
    with pytest.raises(SettingError, match=message):
        plan({**SMALL, **more}, "my.toml")
