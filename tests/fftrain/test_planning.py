"""A spec is read whole and checked before anything runs."""

from __future__ import annotations

import json

import pytest

from ffcore.errors import SettingError
from fftrain.parts import EVALUATIONS
from fftrain.study import Study, choose, plan
from fftrain.study.steps import steps
from tests.fftrain.studies import OWN_EVALUATION, SMALL, TWO_VIEWS, folder_of_images

# What is measured of a method that tells, on validation and test.
TOLD = ["readout", "readout"]

# A method of somebody's own that asks for two views.
TWO_VIEW_METHOD = """
from torch import nn
from ffmodels.methods.base import Method, Needs

class Alike(Method):
    \"\"\"Features of two views shall be alike.\"\"\"
    def needs(self):
        return Needs(views=2)
    def head(self, block, classes):
        return Head(block)

class Head(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.features = block.features
    def forward(self, h, batch):
        one, other = self.features(h).chunk(2)
        return (one - other).square().mean()
"""


def made(content):
    return plan(content, "my.toml").cells


def of_places(cell):
    return {place: [config.evaluation.called for config in configs] for place, configs in cell.places.items()}


def settings_of(cell, name):
    [part] = {config.evaluation for config in cell.evaluations if config.evaluation.called == name}
    return part.model_dump()


def points(cells):
    return [(c.config.dataset, c.config.view.part_name, c.config.label, c.config.seed) for c in cells]


def test_the_lists_are_multiplied():
    cells = made({**SMALL, "view": ["rotation", "jigsaw"], "recipe": ["ff", "bp"], "seed": [3, 4]})
    expected = [("digits", t, m, s) for t in ("rotation", "jigsaw") for m in ("ff", "bp") for s in (3, 4)]
    assert points(cells) == expected
    assert all(cell.config.backbone.width == 32 for cell in cells)
    assert len({cell.name for cell in cells}) == 8


def test_a_single_value_may_stand_without_brackets_and_names_with_either_dash():
    content = {"dataset": "fashion_mnist", "view": "flip_h", "recipe": "bp_goodness_all", "seed": 2}
    assert points(made(content)) == [("fashion-mnist", "flip-h", "bp-goodness-all", 2)]


def test_a_method_and_its_cuts_are_axes_too():
    content = {**SMALL, "method": ["forward_forward", "cross-entropy"], "cut": ["block", "never", 2], "at": "all"}
    assert [c.config.label for c in made(content)] == [
        "ff",
        "bp-goodness-all",
        "forward-forward cut=2",
        "local-ce",
        "cross-entropy cut=never",
        "cross-entropy cut=2",
    ]
    assert "digits-rotation-forward-forward-cut=2-s0-" in made(content)[2].name


def test_cuts_that_come_to_the_same_units_are_one_cell():
    cuts = {**SMALL, "method": "cross-entropy", "cut": ["block", "stage", 1]}
    [cell] = made(cuts)
    assert cell.sketch.units == (((0,), (0,)), ((1,), (1,)), ((2,), (2,)), ((3,), (3,)))
    [one] = made({**cuts, "cut": ["block", "never"], "at": ["all", "last"], "parts": {"mlp": {"depth": 1}}})
    assert one.config.label == "local-ce"
    assert len(made({**cuts, "cut": [3, 4, "never"], "at": ["all", "last"]})) == 4
    assert cell.agrees(cell.config.changed(cut="stage", at="last"))
    assert not cell.agrees(cell.config.changed(cut="2"))


def test_a_list_of_values_of_a_setting_is_tried_value_by_value_and_a_recipe_may_have_its_own():
    content = {**SMALL, "settings": {"lr": [1e-3, 1e-4]}, "recipes": {"bp": {"lr": 3e-4, "batch-size": 9}}}
    cells = made(content)
    assert [(c.config.label, c.config.lr) for c in cells] == [("ff", 1e-3), ("ff", 1e-4), ("bp", 3e-4)]
    assert [c.config.batch_size for c in cells] == [128, 128, 9]
    spec = plan(content, "my.toml")
    assert [spec.varied(cell) for cell in cells] == [{"lr": 1e-3}, {"lr": 1e-4}, {}]


def test_settings_of_a_part_go_where_it_is_used_and_a_method_without_them_is_there_once():
    parts = {"mlp": {"width": [16, 32]}, "forward_forward": {"threshold": [1.0, 2.0]}}
    spec = plan({**SMALL, "parts": parts, "recipe": ["ff", "bp", "bp-goodness-all"]}, "my.toml")
    assert [cell.config.label for cell in spec.cells] == ["ff"] * 4 + ["bp"] * 2 + ["bp-goodness-all"] * 4
    assert [spec.varied(cell) for cell in spec.cells][1:5] == [
        {"backbone.width": 16, "method.threshold": 2.0},
        {"backbone.width": 32, "method.threshold": 1.0},
        {"backbone.width": 32, "method.threshold": 2.0},
        {"backbone.width": 16},
    ]
    assert "threshold" not in json.dumps([c["settings"] for c in spec.to_dict()["cells"] if c["method"] == "bp"])


def test_networks_differ_by_their_name_and_by_settings_that_both_have():
    parts = {"mlp": {"width": [16, 32]}, "convnet": {"channels": [[4]]}}
    spec = plan({**SMALL, "backbone": ["mlp", "convnet"], "recipe": "bp", "parts": parts}, "my.toml")
    assert [spec.varied(cell) for cell in spec.cells] == [
        {"backbone.name": "mlp", "backbone.width": 16},
        {"backbone.name": "mlp", "backbone.width": 32},
        {"backbone.name": "convnet"},
    ]


def test_grids_share_what_stands_above_them_and_no_cell_is_there_twice():
    content = {
        **SMALL,
        "seed": [0, 1],
        "grid": [
            {"view": ["rotation"], "recipe": ["ff"]},
            {"view": ["rotation"], "recipe": ["ff", "bp"], "seed": [0]},
            {"view": ["rotation"], "recipe": ["ff"], "parts": {"mlp": {"width": 64}}, "seed": [0]},
            {"method": "cross-entropy", "cut": "never", "at": "last", "seed": [0]},
        ],
    }
    cells = made(content)
    assert [(c.config.label, c.config.seed, c.config.backbone.width) for c in cells] == [
        ("ff", 0, 32),
        ("ff", 1, 32),
        ("bp", 0, 32),
        ("ff", 0, 64),
    ]
    assert all(c.config.epochs == 2 for c in cells)


def test_a_cell_of_two_grids_has_the_evaluations_of_both():
    axes = (("neutral", "linear"), ("zeros", ["linear", "decoder"]))
    grids = [{"recipe": ["ff"], "reading": [reading], "evaluation": names} for reading, names in axes]
    (cell,) = made({**SMALL, "grid": grids})
    assert of_places(cell) == {
        "evaluate digits neutral class": ["linear", *TOLD, "decoder"],
        "evaluate digits zeros class": ["linear"],
    }


@pytest.mark.parametrize("spread", [False, True])
def test_an_evaluation_is_made_with_each_of_its_tables_or_of_those_of_several_grids(spread):
    tables = [{"epochs": 3}, {"epochs": 5, "lr": 1e-4, "blocks": "block4"}]
    content = {**SMALL, "recipe": "ff", "evaluation": ["linear"]}
    content["grid"] = [{"parts": {"linear": one}} for one in (tables if spread else [tables])]
    [cell] = made(content)
    assert cell.config.backbone.width == 32
    found = [config.evaluation for config in cell.evaluations]
    assert sorted(part.measured for part in found) == [
        "probe accuracy",
        "probe accuracy, lr 0.0001, block4",
        "readout on test",
        "readout on validation",
    ]
    assert {part.epochs for part in found if part.called == "linear"} == {3, 5}


def test_tables_of_a_grid_are_laid_over_the_shared_ones():
    above = {"parts": {**SMALL["parts"], "tsne": {"perplexity": 5.0}, "linear": {"batch_size": 9}}}
    own = {"parts": {"tsne": {"points": 7}, "linear": {"epochs": 3}}, "evaluate": {"limit": 100}}
    cell = made({**SMALL, **above, "evaluate": {"threads": 1}, "grid": [own]})[0]
    assert settings_of(cell, "tsne") == {"points": 7, "perplexity": 5.0, "seed": 0}
    linear = settings_of(cell, "linear")
    assert {key: linear[key] for key in ("batch_size", "epochs", "seed")} == {"batch_size": 9, "epochs": 3, "seed": 0}
    assert {config.threads for config in cell.evaluations} == {1}
    assert {config.limit for config in cell.evaluations if config.evaluation.called == "linear"} == {100}


@pytest.mark.parametrize("several", ["above", "own"])
def test_several_tables_are_laid_over_one_and_one_over_several(several):
    tables, one = [{"lr": 1e-3}, {"lr": 1e-4, "epochs": 4}], {"standardise": False, "epochs": 3}
    above, own = (tables, one) if several == "above" else (one, tables)
    content = {**SMALL, "recipe": "ff", "evaluation": "linear", "parts": {**SMALL["parts"], "linear": above}}
    [cell] = made({**content, "grid": [{"parts": {"linear": own}}]})
    found = [config.evaluation for config in cell.evaluations if config.evaluation.called == "linear"]
    assert {(part.lr, part.standardise) for part in found} == {(1e-3, False), (1e-4, False)}
    assert [part.epochs for part in found] == ([3, 3] if several == "above" else [3, 4])


def test_data_lie_in_one_place_for_training_and_evaluations():
    for cell in made({**SMALL, "settings": {**SMALL["settings"], "data_dir": "/data"}}):
        assert {cell.config.data_dir, *(config.data_dir for config in cell.evaluations)} == {"/data"}
        assert cell.evaluations


def test_pairs_are_of_one_network_and_one_kind_of_images():
    spec = plan({**SMALL, "parts": {"mlp": {"width": [24, 48]}}, "settings": {"grayscale": [True, False]}}, "my.toml")
    pairs = [(a.config, b.config) for a, b in spec.pairs]
    assert len(pairs) == 4
    assert all((a.backbone, a.grayscale, b.label) == (b.backbone, b.grayscale, "bp") for a, b in pairs)


def test_a_recipe_with_a_view_of_its_own_is_there_once():
    content = {**SMALL, "view": ["rotation", "jigsaw"], "recipe": ["ff-unsupervised", "ff"]}
    assert points(made(content)) == [
        ("digits", "rotation", "ff", 0),
        ("digits", "jigsaw", "ff", 0),
        ("digits", "plain", "ff-unsupervised", 0),
    ]


def test_labels_are_told_of_each_reading_that_the_method_has_and_of_each_data_set():
    content = {
        **SMALL,
        "dataset": ["mnist"],
        "recipe": ["ff", "bp", "ff-unsupervised"],
        "reading": ["neutral", "zeros"],
        "target": ["class", "pretext"],
        "transfer": ["mnist", "fashion-mnist"],
    }
    ff, bp, unsupervised = (
        [place for place, names in of_places(cell).items() if "linear" in names] for cell in made(content)
    )
    assert ff == [
        "evaluate mnist neutral class",
        "evaluate mnist zeros class",
        "evaluate fashion-mnist neutral class",
        "evaluate fashion-mnist zeros class",
        "evaluate mnist neutral pretext",
        "evaluate mnist zeros pretext",
    ]
    assert bp == [
        "evaluate mnist pixels class",
        "evaluate fashion-mnist pixels class",
        "evaluate mnist pixels pretext",
    ]
    assert unsupervised == bp[:2]


def test_a_study_that_names_no_evaluation_has_the_usual_ones():
    ff, unsupervised = made({**SMALL, "recipe": ["ff", "ff-unsupervised"]})
    usual = ["linear", "decoder", "tsne", "similarity"]
    assert of_places(ff) == {"evaluate digits neutral class": [*usual, *TOLD]}
    assert of_places(unsupervised) == {"evaluate digits pixels class": usual}
    assert [step.name for step in steps(ff)] == ["pretrain", "evaluate digits neutral class"]


@pytest.mark.parametrize("name", [name for name in EVALUATIONS if not EVALUATIONS.load(name).labels])
def test_what_tells_no_labels_is_of_the_own_data_set_and_the_default_reading_alone(name):
    axes = {"reading": ["zeros", "pixels"], "target": ["pretext", "class"], "transfer": ["fashion-mnist"]}
    [cell] = made({**SMALL, **axes, "dataset": "mnist", "recipe": "ff", "evaluation": ["knn", name]})
    found = of_places(cell)
    expected = TOLD if name == "readout" else [name, *TOLD]
    assert found.pop("evaluate mnist neutral class") == expected
    assert len(found) == 6
    assert {*map(tuple, found.values())} == {("knn",)}


def test_evaluations_are_an_axis_by_their_names():
    [cell] = made({**SMALL, "recipe": "ff-unsupervised", "evaluation": ["few_labels", "knn", "few-labels"]})
    assert of_places(cell) == {"evaluate digits pixels class": ["few-labels", "knn"]}
    [cell] = made({**SMALL, "recipe": "ff-unsupervised", "evaluation": "knn", "parts": {"knn": {"neighbours": [3, 7]}}})
    assert settings_of(cell, "knn")["neighbours"] == (3, 7)  # one value, not two to try


def test_the_readout_is_planned_by_itself_and_named_beside_it_changes_nothing():
    content = {**SMALL, "recipe": ["ff", "ff-unsupervised"]}
    tells, blind = made({**content, "evaluation": []})
    assert of_places(tells) == {"evaluate digits neutral class": TOLD}
    assert [step.name for step in steps(blind)] == ["pretrain"]
    assert [cell.evaluations for cell in made({**content, "evaluation": "readout"})] == [tells.evaluations, ()]
    # What training measured is not measured again on the same images.
    limited = made({**content, "evaluation": [], "evaluate": {"limit": 100}})[0]
    assert limited.evaluations == tells.evaluations


def test_settings_of_evaluations_are_no_setting_of_a_run():
    [cell] = made({**SMALL, "recipe": "ff"})
    parts = {**SMALL["parts"], "linear": {"epochs": 7}}
    [other] = made({**SMALL, "recipe": "ff", "parts": parts, "evaluate": {"limit": 100}})
    assert other.name == cell.name
    assert (settings_of(cell, "linear")["epochs"], settings_of(other, "linear")["epochs"]) == (100, 7)
    assert [config.limit for config in cell.evaluations] == [None] * 6
    assert [config.limit for config in other.evaluations] == [100] * 4 + [None] * 2
    [recorded] = plan({**SMALL, "recipe": "ff", "parts": parts, "evaluation": "linear"}, "my.toml").to_dict()["cells"]
    first = recorded["evaluations"][0]
    assert {key: first[key] for key in ("evaluation", "dataset", "reading", "target")} == {
        "evaluation": "linear",
        "dataset": "digits",
        "reading": "neutral",
        "target": "class",
    }
    assert first["settings"]["evaluation"]["epochs"] == 7
    assert [one["target"] for one in recorded["evaluations"]] == ["class", "", ""]


def test_an_evaluation_of_somebodys_own_may_be_named_and_set(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN_EVALUATION)
    spec = tmp_path / "own.toml"
    spec.write_text(
        'dataset = "digits"\nrecipe = "ff-unsupervised"\nevaluation = ["linear", "./mine.py"]\n'
        '[parts."./mine.py"]\ntimes = 3.0\n'
    )
    monkeypatch.chdir(tmp_path)
    chosen = choose(None, spec, None, {})
    [cell] = chosen.cells
    assert of_places(cell) == {"evaluate digits pixels class": ["linear", "mine"]}
    own = cell.evaluations[1].evaluation
    assert (own.part_name, own.times) == (str(tmp_path / "mine.py"), 3.0)
    assert plan(chosen.content, "own").cells == chosen.cells
    resuming = Study(tmp_path / "out", chosen)
    resuming.create("test")
    assert f"--trust-plugin {tmp_path / 'mine.py'}` goes on" in resuming.resuming
    (tmp_path / "own.toml").write_text(spec.read_text().replace("times = 3.0", "times = 0.0"))
    with pytest.raises(SettingError, match=r"mine\.times is 0\.0: it must be above 0"):
        choose(None, spec, None, {})


def test_pairs_are_each_cell_beside_the_reference_on_the_same_data_view_and_seed():
    content = {**SMALL, "recipe": ["bp", "ff", "ff-unsupervised"], "seed": [0, 1]}

    def pairs(spec):
        return [(a.config.label, a.config.seed, b.config.label, b.config.seed) for a, b in spec.pairs]

    assert pairs(plan(content, "my.toml")) == [("ff", 0, "bp", 0), ("ff", 1, "bp", 1)]
    assert pairs(plan({**content, "reference": "ff"}, "my.toml")) == [("bp", 0, "ff", 0), ("bp", 1, "ff", 1)]
    assert len(plan({**SMALL, "evaluation": "similarity"}, "my.toml").pairs) == 1
    for names in ([], ["linear", "decoder", "tsne"]):
        assert plan({**SMALL, "evaluation": names}, "my.toml").pairs == []
    parts = {**SMALL["parts"], "similarity": {"images": 50}}
    assert {cell.paired for cell in made({**SMALL, "parts": parts})} == {50}
    grids = [{"recipe": "ff"}, {"recipe": "bp", "evaluation": "linear"}]  # the reference has none
    assert plan({**SMALL, "grid": grids}, "my.toml").pairs == []


def test_a_cells_name_depends_on_every_setting_of_its_result_and_on_no_other():
    (cell,) = made({**SMALL, "recipe": ["ff"]})
    (other,) = made({**SMALL, "recipe": ["ff"], "settings": {**SMALL["settings"], "lr": 0.5}})
    assert cell.name.startswith("digits-rotation-ff-s0-")
    assert cell.name != other.name
    same = plan({**SMALL, "recipe": ["ff"]}, "x", {"threads": 1, "data_dir": "/elsewhere"}).cells[0]
    assert same.name == cell.name
    assert (same.config.threads, same.config.data_dir) == (1, "/elsewhere")
    assert plan({**SMALL, "recipe": ["ff"]}, "x", {"mixed_precision": "bf16"}).cells[0].name != cell.name


def test_parts_of_somebodys_own_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "twice.py").write_text(TWO_VIEWS)
    (tmp_path / "alike.py").write_text(TWO_VIEW_METHOD)
    spec = tmp_path / "own.toml"
    spec.write_text(
        'dataset = "digits"\nview = ["rotation", "./twice.py"]\nmethod = ["cross-entropy", "./alike.py"]\n'
        "search = true\n[parts.mlp]\nwidth = 16\n"
    )
    monkeypatch.chdir(tmp_path)
    cells = choose(None, spec, None, {}).cells
    assert [(c.config.view.part_name, c.config.label, c.sketch.tells) for c in cells] == [
        ("rotation", "local-ce", True),
        (str(tmp_path / "twice.py"), "alike", False),
    ]
    assert cells[1].name.startswith("digits-twice-alike-s0-")
    assert [step.name for step in steps(cells[1])] == ["pretrain"]
    (tmp_path / "alike.py").write_text(TWO_VIEW_METHOD + "\n# changed\n")
    assert choose(None, spec, None, {}).cells[1].name != cells[1].name
    with pytest.raises(SettingError, match=r"'alike' is a method that goes with none of rotation: leave it out"):
        made({"dataset": "digits", "method": ["cross-entropy", str(tmp_path / "alike.py")]})


def test_classes_of_an_image_folder_that_has_none_are_told_of_others_alone(tmp_path):
    folder_of_images(tmp_path / "photos", [28] * 40)
    for path in [*(tmp_path / "photos").rglob("*.png")]:
        path.rename(tmp_path / "photos" / f"{path.parent.name}{path.name}")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).rmdir()
    content = {"dataset": f"imagefolder:{tmp_path}/photos", "settings": {"grayscale": True}}
    [cell] = made({**content, "recipe": "ff-unsupervised", "transfer": ["mnist"]})
    assert of_places(cell) == {
        "evaluate mnist pixels class": ["linear"],
        f"evaluate imagefolder:{tmp_path}/photos pixels class": ["decoder", "tsne", "similarity"],
    }
    with pytest.raises(SettingError, match=r"photos' has no classes to tell: name a data set with classes"):
        made({**content, "recipe": "ff-unsupervised"})
    [cell] = made({**content, "recipe": "ff-unsupervised", "evaluation": "decoder"})  # asks for none
    assert of_places(cell) == {f"evaluate imagefolder:{tmp_path}/photos pixels class": ["decoder"]}
    with pytest.raises(SettingError, match=r"reads labels, and .*photos has no classes"):
        made({**content, "recipe": "bp", "view": "plain"})


def test_image_folders_are_named_from_the_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "b", [8] * 40)
    content = {**SMALL, "dataset": ["imagefolder:a/../b"], "published": {"imagefolder:b": "mnist"}}
    spec = plan(content, "my.toml")
    assert {cell.config.dataset for cell in spec.cells} == {f"imagefolder:{tmp_path}/b"}
    assert spec.content["published"] == {f"imagefolder:{tmp_path}/b": "mnist"}
    monkeypatch.chdir("/")
    assert plan(spec.content, "my.toml").cells == spec.cells


def test_a_search_measures_nothing_but_validation_unless_another_grid_asks():
    lrs = {"settings": {"lr": [1e-3, 3e-3], "epochs": 2}}
    cells = made({**SMALL, **lrs, "recipe": ["ff"], "search": True})
    readout = {"evaluate digits neutral class": TOLD[:1]}
    assert all(cell.search and of_places(cell) == readout for cell in cells)
    assert [config.evaluation.split for cell in cells for config in cell.evaluations] == ["validation"] * 2
    assert [step.name for step in steps(cells[0])] == ["pretrain", *readout]
    alike = {"recipe": ["ff"], "settings": {"lr": 1e-3}}
    searched, wanted = made({**SMALL, "grid": [{**alike, "search": True}, {**alike, "settings": {"lr": 3e-3}}]})
    assert [searched.search, wanted.search] == [True, False]
    assert (len(searched.evaluations), len(wanted.evaluations)) == (1, 6)
    for grids in ([{**alike, "search": True}, alike], [alike, {**alike, "search": True}]):
        [both] = made({**SMALL, "grid": grids})
        assert not both.search
        assert {*both.evaluations} == {*made({**SMALL, **alike})[0].evaluations}
        assert len(both.evaluations) == 6
