"""A spec is read whole and checked before anything runs."""

from __future__ import annotations

import json
import tomllib

import pytest

from ffcore.errors import RunError, SettingError
from fftrain.study import PRESETS, choose, plan, read_preset
from fftrain.study.spec import step_name
from fftrain.study.steps import steps
from tests.fftrain.studies import folder_of_images
from tests.helpers import ROOT

SMALL = {"dataset": ["digits"], "settings": {"epochs": 2}, "parts": {"mlp": {"width": 32}}}
# The methods of the study.
STUDIED = {"ff", "bp", "bp-goodness-last", "bp-goodness-all", "ff-unsupervised"}
SPECS = sorted((ROOT / "docs" / "specs").glob("*.toml"))
CROSS_ENTROPY = ("local-ce", "cross-entropy cut=never")
# A view of two crops, of somebody's own, and a method that asks for two.
TWO_VIEWS = """
from fftrain.views.base import View

class Twice(View):
    \"\"\"Each image twice.\"\"\"
    views = 2
    def __call__(self, images, labels, draws):
        return (images, images), labels
"""
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


def test_a_cell_of_two_grids_has_the_probes_of_both():
    readings = (("neutral", False), ("zeros", {}))
    grids = [{"recipe": ["ff"], "reading": [reading], "analysis": analysis} for reading, analysis in readings]
    (cell,) = made({**SMALL, "grid": grids})
    assert [step_name(p) for p in cell.probes] == ["probe digits neutral class", "probe digits zeros class"]
    assert cell.analysis is not None


def test_tables_of_a_grid_are_laid_over_the_shared_ones():
    content = {**SMALL, "analysis": {"images": 500}, "grid": [{"analysis": {"points": 7}, "probe": {"epochs": 3}}]}
    cell = made({**content, "probe": {"batch_size": 9}})[0]
    assert (cell.analysis.images, cell.analysis.points) == (500, 7)
    assert (cell.probes[0].batch_size, cell.probes[0].epochs) == (9, 3)


def test_data_lie_in_one_place_for_training_and_probes():
    for cell in made({**SMALL, "settings": {**SMALL["settings"], "data_dir": "/data"}}):
        assert {cell.config.data_dir, *(p.data_dir for p in cell.probes)} == {"/data"}


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


def test_probes_are_of_each_reading_that_the_method_has_and_of_each_data_set():
    content = {
        **SMALL,
        "dataset": ["mnist"],
        "recipe": ["ff", "bp", "ff-unsupervised"],
        "reading": ["neutral", "zeros"],
        "target": ["class", "pretext"],
        "transfer": ["mnist", "fashion-mnist"],
    }
    ff, bp, unsupervised = ([step_name(p) for p in cell.probes] for cell in made(content))
    assert ff == [
        "probe mnist neutral class",
        "probe mnist zeros class",
        "probe fashion-mnist neutral class",
        "probe fashion-mnist zeros class",
        "probe mnist neutral pretext",
        "probe mnist zeros pretext",
    ]
    assert bp == ["probe mnist pixels class", "probe fashion-mnist pixels class", "probe mnist pixels pretext"]
    assert unsupervised == bp[:2]
    default = made({**SMALL, "recipe": ["ff"]})[0]
    assert [step_name(p) for p in default.probes] == ["probe digits neutral class"]


def test_pairs_are_each_cell_beside_the_reference_on_the_same_data_view_and_seed():
    content = {**SMALL, "recipe": ["bp", "ff", "ff-unsupervised"], "seed": [0, 1]}

    def pairs(spec):
        return [(a.config.label, a.config.seed, b.config.label, b.config.seed) for a, b in spec.pairs]

    assert pairs(plan(content, "my.toml")) == [("ff", 0, "bp", 0), ("ff", 1, "bp", 1)]
    assert pairs(plan({**content, "reference": "ff"}, "my.toml")) == [("bp", 0, "ff", 0), ("bp", 1, "ff", 1)]
    assert plan({**SMALL, "analysis": False}, "my.toml").pairs == []


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


def test_a_study_that_was_begun_is_not_trusted_with_code_that_it_names(tmp_path):
    (tmp_path / "mine.py").write_text(TWO_VIEWS)
    about = {"spec": {"dataset": "digits", "view": str(tmp_path / "mine.py")}, "name": "x", "overrides": {}}
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
        ({"dataset": ["imagefolder:"]}, "'imagefolder:': write the folder behind the colon"),
        (
            {"grid": [{"recipe": ["ff"]}, {"recipe": ["ff"], "probe": {"epochs": 7}}]},
            "my.toml, grid 2: 'probe digits neutral class' of digits-rotation-ff",
        ),
        (
            {"grid": [{"recipe": ["ff"]}, {"recipe": ["ff"], "analysis": {"points": 7}}]},
            "my.toml, grid 2: the analysis of digits-rotation-ff",
        ),
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
            {"parts": {"mlp": {"widht": 3}}},
            "parts.mlp has 'widht' (set to 3), which is no setting of it: did you mean width?",
        ),
        ({"parts": {"mlp": 3}}, "parts.mlp is 3: it must be a table"),
        ({"parts": {"forward-forward": {"threshold": "high"}}}, "method.threshold is 'high': it must be a number"),
        ({"probe": {"epochs": 0}}, "probe: --epochs is 0"),
        ({"probe": {"reading": "zeros"}}, "probe has 'reading'"),
        ({"analysis": {"points": -1}}, "analysis: --points is -1"),
        ({"analysis": True}, "analysis is True"),
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
        ({"method": {"bp": {"lr": 1e-3}}}, "[method.bp] is gone: write [recipes.bp]"),
    ],
)
def test_a_malformed_spec_is_refused_with_key_and_value(change, words):
    with pytest.raises(SettingError) as error:
        plan({**SMALL, **change}, "my.toml")
    assert words in str(error.value)
    assert str(error.value).startswith("my.toml")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_legal_and_hold_what_they_promise(name):
    cells = plan(read_preset(name), name).cells
    assert {cell.config.label for cell in cells} == STUDIED
    if name == "paper":
        assert {c.config.dataset for c in cells} == {"mnist", "fashion-mnist", "svhn", "cifar10"}
        assert {c.config.view.part_name for c in cells} == {"rotation", "flip-h", "flip-hv", "jigsaw", "plain"}
        assert {c.config.seed for c in cells} == {0, 1, 2}
        protocol = {(c.config.epochs, c.config.lr, c.config.holdout) for c in cells}
        assert protocol == {(60, 1e-4, False)}
        assert {(c.config.backbone.width, c.config.backbone.depth) for c in cells} == {(2000, 4)}
        assert {p.epochs for c in cells for p in c.probes} == {100}
    with pytest.raises(SettingError, match=r"--preset is 'papper': choose one of paper, quick, smoke"):
        read_preset("papper")


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_specs_of_the_results_are_legal(path, tmp_path, monkeypatch):
    """Each stands for as many cells as docs/results.md says."""
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "data" / "cifar10-jpeg", [8] * 40)
    counts = {"mnist": 29, "fashion-mnist": 5, "cifar10-jpeg": 4, "gap": 4, "gap-plain-probe": 3, "width": 2}
    counts |= {"shipped": 1, "search-1": 46, "search-2": 23, "search-3": 4, "search-rates": 9}
    cells = choose(None, path, None, {}).cells
    assert len(cells) == counts[path.stem]
    for method in (cell.config.method for cell in cells):  # none goes by a default that another version may change
        assert getattr(method, "threshold", 0.0) is not None


def test_the_spec_that_the_documentation_shows_is_legal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "photos", [28] * 40)
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    cells = made(tomllib.loads(text.partition("```toml")[2].partition("```")[0]))
    found = dict.fromkeys((cell.config.view.part_name, cell.config.label) for cell in cells)
    assert [*found] == [
        *(("plain", label) for label in ("ff", "bp")),
        *((v, m) for v in ("rotation", "jigsaw") for m in ("ff", "bp-goodness-all", *CROSS_ENTROPY)),
    ]
    # Two rates, or BP's own; two widths; three seeds; two data sets.
    assert len(cells) == (24 + 12) + 2 * 4 * 24


def test_an_image_folder_without_classes_is_probed_on_others_alone(tmp_path):
    folder_of_images(tmp_path / "photos", [28] * 40)
    for path in [*(tmp_path / "photos").rglob("*.png")]:
        path.rename(tmp_path / "photos" / f"{path.parent.name}{path.name}")
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).rmdir()
    content = {"dataset": f"imagefolder:{tmp_path}/photos", "settings": {"grayscale": True}}
    [cell] = made({**content, "recipe": "ff-unsupervised", "transfer": ["mnist"]})
    assert [step_name(probe) for probe in cell.probes] == ["probe mnist pixels class"]
    with pytest.raises(SettingError, match=r"photos' has no classes to probe: name a data set with classes"):
        made({**content, "recipe": "ff-unsupervised"})
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


def test_data_sets_that_are_missing_are_said_to_be():
    with pytest.raises(SettingError, match=r"my\.toml: dataset is missing"):
        plan({}, "my.toml")


def test_a_search_measures_nothing_but_validation_unless_another_grid_asks():
    lrs = {"settings": {"lr": [1e-3, 3e-3], "epochs": 2}}
    cells = made({**SMALL, **lrs, "recipe": ["ff"], "search": True})
    assert all(cell.search and not cell.probes and cell.analysis is None for cell in cells)
    assert [step.name for step in steps(cells[0])] == ["pretrain"]
    alike = {"recipe": ["ff"], "settings": {"lr": 1e-3}}
    searched, wanted = made({**SMALL, "grid": [{**alike, "search": True}, {**alike, "settings": {"lr": 3e-3}}]})
    assert [searched.search, wanted.search, bool(wanted.probes)] == [True, False, True]
    [both] = made({**SMALL, "grid": [{**alike, "search": True}, alike]})
    assert [both.search, bool(both.probes), both.analysis is None] == [False, True, False]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"search": "yes"}, "search is 'yes': it must be true or false"),
        ({"search": True, "transfer": ["mnist"]}, "search = true measures no probe, transfer or analysis"),
        ({"search": True, "probe": {"epochs": 3}}, "search = true measures no probe, transfer or analysis"),
    ],
)
def test_a_search_that_asks_for_more_is_refused(more, message):
    with pytest.raises(SettingError, match=message):
        made({**SMALL, **more})
