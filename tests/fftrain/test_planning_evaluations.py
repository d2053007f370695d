"""What a spec measures of its cells, and where."""

from __future__ import annotations

import pytest

from ffcore.errors import SettingError
from fftrain.parts import EVALUATIONS
from fftrain.study import Study, choose, plan
from fftrain.study.spec import where
from fftrain.study.steps import steps
from tests.fftrain.studies import OWN_EVALUATION, SMALL, folder_of_images, made, of_places, settings_of

# What is measured of a method that tells, on validation and test.
TOLD = ["readout", "readout"]


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


def test_pictures_are_told_once_of_a_cell_and_named():
    """Images are of each data set, reading and target."""
    tables = [{"epochs": 1}, {"data": "voc"}, {"data": "pet", "size": 64}]
    axes = {"reading": ["neutral", "zeros"], "target": ["class", "pretext"], "transfer": ["fashion-mnist"]}
    parts = {**SMALL["parts"], "segmentation": tables}
    content = {**SMALL, **axes, "dataset": "mnist", "recipe": "ff", "evaluation": "segmentation", "parts": parts}
    [cell] = made(content)
    told = [where(config) for config in cell.evaluations if config.evaluation.called == "segmentation"]
    places = [(one["dataset"], one["reading"], one["target"]) for one in told]
    own = [("mnist", reading, target) for target in ("class", "pretext") for reading in ("neutral", "zeros")]
    other = [("fashion-mnist", reading, "class") for reading in ("neutral", "zeros")]
    assert sorted(places) == sorted([*own, *other, ("voc", "neutral", "class"), ("pet", "neutral", "class")])
    with pytest.raises(SettingError, match=r"segmentation.ink is True, of scenes that are made, and data is voc"):
        made({**content, "parts": {**parts, "segmentation": {"data": "voc", "ink": True}}})


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


def test_labels_of_each_class_are_those_of_what_the_view_makes():
    few = {"evaluation": "finetune", "parts": {"finetune": {"per_class": 200}}}  # 129 images a class, 323 a rotation
    [cell] = made({"dataset": "digits", "recipe": "bp", "target": "pretext", **few})
    assert "finetune" in of_places(cell)["evaluate digits pixels pretext"]


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
