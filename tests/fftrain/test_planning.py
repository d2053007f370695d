"""A spec is read whole and checked before anything runs."""

from __future__ import annotations

import json

import pytest

from ffcore.errors import SettingError
from fftrain.study import choose, plan
from fftrain.study.steps import steps
from tests.fftrain.studies import SMALL, TWO_VIEWS, folder_of_images, made

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


@pytest.mark.parametrize("key", ["data_dir", "data_cache"])
def test_data_lie_in_one_place_for_training_and_evaluations(key):
    for cell in made({**SMALL, "settings": {**SMALL["settings"], key: "/data"}}):
        assert {getattr(cell.config, key), *(getattr(config, key) for config in cell.evaluations)} == {"/data"}
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
    same = plan({**SMALL, "recipe": ["ff"]}, "x", {"threads": 1, "data_dir": "/elsewhere", "data_cache": "/c"}).cells[0]
    assert same.name == cell.name
    assert (same.config.threads, same.config.data_dir, same.config.data_cache) == (1, "/elsewhere", "/c")
    (mixed,) = made({**SMALL, "recipe": ["ff"], "settings": {**SMALL["settings"], "shuffle_block": 8}})
    assert mixed.name != cell.name
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


def test_image_folders_are_named_from_the_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "b", [8] * 40)
    content = {**SMALL, "dataset": ["imagefolder:a/../b"], "published": {"imagefolder:b": "mnist"}}
    spec = plan(content, "my.toml")
    assert {cell.config.dataset for cell in spec.cells} == {f"imagefolder:{tmp_path}/b"}
    assert spec.content["published"] == {f"imagefolder:{tmp_path}/b": "mnist"}
    monkeypatch.chdir("/")
    assert plan(spec.content, "my.toml").cells == spec.cells
