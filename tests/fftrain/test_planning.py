"""A spec is read whole and checked before anything runs."""

from __future__ import annotations

import pytest

from ffcore.errors import SettingError
from fftrain.cells import steps
from fftrain.planning import PRESETS, plan, read_preset
from fftrain.registry import METHODS, TASKS
from fftrain.spec import step_name

SMALL = {"datasets": ["digits"], "settings": {"width": 32, "epochs": 2}}


def made(content):
    return plan(content, "my.toml").cells


def points(cells):
    return [(c.config.dataset, c.config.task, c.config.method, c.config.seed) for c in cells]


def test_the_lists_are_multiplied():
    cells = made({**SMALL, "tasks": ["rotation", "jigsaw"], "methods": ["ff", "bp"], "seeds": [3, 4]})
    expected = [("digits", t, m, s) for t in ("rotation", "jigsaw") for m in ("ff", "bp") for s in (3, 4)]
    assert points(cells) == expected
    assert all(cell.config.width == 32 for cell in cells)
    assert len({cell.name for cell in cells}) == 8


def test_a_list_of_values_of_a_setting_is_tried_value_by_value_and_a_method_may_have_its_own():
    content = {**SMALL, "settings": {"lr": [1e-3, 1e-4], "width": 32}, "method": {"bp": {"lr": 3e-4, "batch-size": 9}}}
    cells = made(content)
    assert [(c.config.method, c.config.lr) for c in cells] == [("ff", 1e-3), ("ff", 1e-4), ("bp", 3e-4)]
    assert [c.config.batch_size for c in cells] == [128, 128, 9]
    spec = plan(content, "my.toml")
    assert [spec.varied(cell) for cell in cells] == [{"lr": 1e-3}, {"lr": 1e-4}, {}]


def test_grids_share_what_stands_above_them_and_no_cell_is_there_twice():
    content = {
        **SMALL,
        "seeds": [0, 1],
        "grid": [
            {"tasks": ["rotation"], "methods": ["ff"]},
            {"tasks": ["rotation"], "methods": ["ff", "bp"], "seeds": [0]},
            {"tasks": ["rotation"], "methods": ["ff"], "settings": {"width": 64}, "seeds": [0]},
        ],
    }
    cells = made(content)
    assert [(c.config.method, c.config.seed, c.config.width) for c in cells] == [
        ("ff", 0, 32),
        ("ff", 1, 32),
        ("bp", 0, 32),
        ("ff", 0, 64),
    ]
    assert all(c.config.epochs == 2 for c in cells)


def test_a_cell_of_two_grids_has_the_probes_of_both():
    slots = (("neutral", False), ("zeros", {}))
    grids = [{"methods": ["ff"], "slots": [slot], "analysis": analysis} for slot, analysis in slots]
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
    spec = plan({**SMALL, "settings": {"width": [24, 48], "grayscale": [True, False]}}, "my.toml")
    pairs = [(a.config, b.config) for a, b in spec.pairs]
    assert len(pairs) == 4
    assert all((a.width, a.grayscale, b.method) == (b.width, b.grayscale, "bp") for a, b in pairs)


def test_a_method_with_a_task_of_its_own_is_there_once():
    content = {**SMALL, "tasks": ["rotation", "jigsaw"], "methods": ["ff-unsupervised", "ff"]}
    assert points(made(content)) == [
        ("digits", "rotation", "ff", 0),
        ("digits", "jigsaw", "ff", 0),
        ("digits", "hybrid", "ff-unsupervised", 0),
    ]


def test_probes_are_of_each_slot_where_labels_were_read_and_of_each_data_set():
    content = {
        **SMALL,
        "datasets": ["mnist"],
        "methods": ["ff", "bp"],
        "slots": ["neutral", "zeros"],
        "targets": ["class", "pretext"],
        "transfer": ["mnist", "fashion-mnist"],
    }
    ff, bp = ([step_name(p) for p in cell.probes] for cell in made(content))
    assert ff == [
        "probe mnist neutral class",
        "probe mnist zeros class",
        "probe fashion-mnist neutral class",
        "probe fashion-mnist zeros class",
        "probe mnist neutral pretext",
        "probe mnist zeros pretext",
    ]
    assert bp == ["probe mnist pixels class", "probe fashion-mnist pixels class", "probe mnist pixels pretext"]


def test_pairs_are_each_method_beside_bp_on_the_same_data_task_and_seed():
    spec = plan({**SMALL, "methods": ["bp", "ff", "ff-unsupervised"], "seeds": [0, 1]}, "my.toml")
    pairs = [(a.config.method, a.config.seed, b.config.method, b.config.seed) for a, b in spec.pairs]
    assert pairs == [("ff", 0, "bp", 0), ("ff", 1, "bp", 1)]
    assert plan({**SMALL, "analysis": False}, "my.toml").pairs == []


def test_a_cells_name_depends_on_every_setting_of_its_result_and_on_no_other():
    (cell,) = made({**SMALL, "methods": ["ff"]})
    (other,) = made({**SMALL, "methods": ["ff"], "settings": {**SMALL["settings"], "lr": 0.5}})
    assert cell.name.startswith("digits-rotation-ff-s0-")
    assert cell.name != other.name
    same = plan({**SMALL, "methods": ["ff"]}, "x", {"threads": 1, "data_dir": "/elsewhere"}).cells[0]
    assert same.name == cell.name
    assert (same.config.threads, same.config.data_dir) == (1, "/elsewhere")
    assert plan({**SMALL, "methods": ["ff"]}, "x", {"mixed_precision": "bf16"}).cells[0].name != cell.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"foo": 1}, "'foo' (set to 1) is no key of a study"),
        ({"datasets": []}, "datasets is an empty list"),
        ({"datasets": "mnist"}, "datasets is 'mnist': it must be a list of names"),
        ({"datasets": ["minst"]}, "datasets has 'minst': choose among mnist"),
        ({"tasks": []}, "tasks is an empty list"),
        ({"tasks": ["rot"]}, "tasks has 'rot': choose among rotation"),
        ({"tasks": ["hybrid"], "methods": ["ff"]}, "methods has 'ff', which can be trained on none of the tasks"),
        ({"tasks": ["rotation", "hybrid"], "methods": ["ff"]}, "tasks has 'hybrid', which none of the methods ff"),
        ({"tasks": ["hybrid"], "methods": ["ff", "ff-unsupervised"]}, "methods has 'ff'"),
        ({"methods": ["ff"], "method": {"bp": {"lrr": 3}}}, "method.bp has 'lrr'"),
        ({"datasets": ["imagefolder:"]}, "datasets has 'imagefolder:'"),
        (
            {"grid": [{"methods": ["ff"]}, {"methods": ["ff"], "probe": {"epochs": 7}}]},
            "my.toml, grid 2: 'probe digits neutral class' of digits-rotation-ff",
        ),
        (
            {"grid": [{"methods": ["ff"]}, {"methods": ["ff"], "analysis": {"points": 7}}]},
            "my.toml, grid 2: the analysis of digits-rotation-ff",
        ),
        ({"methods": ["random"]}, "methods has 'random': random and raw stand beside every method"),
        ({"seeds": [1.5]}, "seeds is [1.5]: it must be a list of whole numbers"),
        ({"seeds": [True]}, "seeds is [True]"),
        ({"seeds": [-1]}, "--seed is -1: it must be at least 0"),
        ({"slots": ["ones"]}, "slots has 'ones': choose among neutral"),
        ({"targets": ["x"]}, "targets has 'x'"),
        ({"transfer": ["x"]}, "transfer has 'x'"),
        ({"settings": 3}, "settings is 3: it must be a table"),
        ({"settings": {"lr": []}}, "settings.lr is an empty list"),
        ({"settings": {"lr": [0.1, -1.0]}}, "--lr is -1.0: it must be above 0"),
        ({"settings": {"learning_rate": 0.1}}, "'learning_rate' (set to 0.1) is no setting"),
        ({"settings": {"seed": 3}}, "settings has 'seed': the list seeds says that"),
        ({"method": {"sgd": {}}}, "method.sgd is no method"),
        ({"method": {"ff": {"threshold": "high"}}}, "--threshold is 'high': it must be a number"),
        ({"probe": {"epochs": 0}}, "probe: --epochs is 0"),
        ({"probe": {"slot": "zeros"}}, "probe has 'slot'"),
        ({"analysis": {"points": -1}}, "analysis: --points is -1"),
        ({"analysis": True}, "analysis is True"),
        ({"grid": {}}, "grid is {}: write each grid as a [[grid]] table"),
        ({"grid": []}, "grid is []"),
        (
            {"grid": [{"tasks": ["jigsaw"]}, {"taks": ["flip-h"]}]},
            "my.toml, grid 2: 'taks' (set to ['flip-h']) is no key",
        ),
        ({"published": {"cifar": "cifar10"}}, "published is {'cifar': 'cifar10'}"),
        ({"published": {"digits": "minst"}}, "published is {'digits': 'minst'}"),
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
    assert {cell.config.method for cell in cells} == {*METHODS}
    if name == "paper":
        assert {c.config.dataset for c in cells} == {"mnist", "fashion-mnist", "svhn", "cifar10"}
        assert {c.config.task for c in cells} == {*TASKS} - {"flip-v"}
        assert {c.config.seed for c in cells} == {0, 1, 2}
        protocol = {(c.config.epochs, c.config.width, c.config.depth, c.config.lr, c.config.holdout) for c in cells}
        assert protocol == {(60, 2000, 4, 1e-4, False)}
        assert {p.epochs for c in cells for p in c.probes} == {100}
    with pytest.raises(SettingError, match=r"--preset is 'papper': choose one of smoke, quick, paper"):
        read_preset("papper")


def test_image_folders_are_named_from_the_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    content = {**SMALL, "datasets": ["imagefolder:a/../b"], "published": {"imagefolder:b": "mnist"}}
    spec = plan(content, "my.toml")
    assert {cell.config.dataset for cell in spec.cells} == {f"imagefolder:{tmp_path}/b"}
    assert spec.content["published"] == {f"imagefolder:{tmp_path}/b": "mnist"}
    monkeypatch.chdir("/")
    assert plan(spec.content, "my.toml").cells == spec.cells


def test_data_sets_that_are_missing_are_said_to_be():
    with pytest.raises(SettingError, match=r"my\.toml: datasets is missing"):
        plan({}, "my.toml")


def test_a_search_measures_nothing_but_validation_unless_another_grid_asks():
    lrs = {"settings": {"lr": [1e-3, 3e-3], "width": 32, "epochs": 2}}
    cells = made({**SMALL, **lrs, "methods": ["ff"], "search": True})
    assert all(cell.search and not cell.probes and cell.analysis is None for cell in cells)
    assert [step.name for step in steps(cells[0])] == ["pretrain"]
    alike = {"methods": ["ff"], "settings": {"lr": 1e-3}}
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
