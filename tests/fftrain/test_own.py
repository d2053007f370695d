"""The data that a run was trained on: arrays of one's own, folders that have moved, and others that pass for them."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ffcore.errors import RunError
from ffcore.files import read_json, write_json
from ffmodels.evaluated import evaluations
from fftrain import compare_runs, evaluate_run, write_report
from fftrain.data import ImageData, Split
from fftrain.report.names import short_names
from fftrain.run import RunFolder
from fftrain.training import pretrain
from tests.fftrain.studies import times
from tests.fftrain.training import evaluation, settings
from tests.helpers import one_line

SETTINGS = {"width": 16, "depth": 2, "lr": 1e-3, "epochs": 1, "threads": 1}
LINEAR = evaluation("linear", epochs=1)
TESTED = evaluation("readout", split="test")
QUICK = (TESTED, evaluation("decoder", images=20), evaluation("similarity", images=20))
# What is measured of the run's own data alone, and what of others of their shape too.
OWN, ANY = ["readout.split=test"], ["linear", "linear.epochs=1", "decoder", "decoder.images=20", "similarity"]


def arrays(name="beans", seed=0, classes=("a", "b", "c")):
    generator = torch.Generator().manual_seed(seed)

    def split(count):
        images = torch.randint(0, 256, (count, 1, 28, 28), generator=generator).to(torch.uint8)
        return Split(images, torch.arange(count) % len(classes))

    return ImageData(name=name, train=split(90), validation=split(30), test=split(30), class_names=classes)


@pytest.fixture
def beans(tmp_path):
    """A run on arrays that were handed over: RunConfig's own data set is MNIST."""
    pretrain(settings(**SETTINGS), tmp_path / "hf", data=arrays())
    return tmp_path / "hf"


def test_a_run_records_the_arrays_that_it_was_handed(beans):
    recorded = json.loads((beans / "config.json").read_text())
    assert (recorded["config"]["dataset"], recorded["data"]["name"]) == ("beans", "beans")
    assert recorded["data"]["images"] == {"train": 90, "validation": 30, "test": 30}


def test_no_command_takes_other_data_for_arrays_that_were_handed_over(cli, beans):
    for command in (
        ["evaluate", beans],
        ["evaluate", beans, *ANY],
        ["pretrain", "--resume", "--out", beans],
    ):
        ended = cli("fftrain", *command)
        one_line(ended, 1, f"{beans} was trained on 'beans', arrays", "as in evaluate_run(run, data=...)")
    before = times(beans)
    for names in ([], OWN, [*ANY, *OWN]):
        ended = cli("fftrain", "evaluate", beans, *names, "--dataset", "digits", "--threads", 1)
        one_line(ended, 1, f"{beans} was trained on beans, and digits is not that")
    ended = cli("fftrain", "pretrain", "--resume", "--out", beans, "--epochs", 2, "--dataset", "digits")
    one_line(ended, 1, "was trained on beans, and digits is not that")
    assert times(beans) == before
    for call in (
        *(lambda config=config: evaluate_run(beans, config) for config in (LINEAR, *QUICK)),
        lambda: compare_runs(beans, beans),
        lambda: pretrain(RunFolder(beans).read_config(), beans, resume=True),
    ):
        with pytest.raises(RunError, match="handed over in Python"):
            call()


def test_what_was_handed_over_is_handed_over_again(beans):
    data = arrays()
    [trained] = evaluations(beans)
    assert evaluate_run(beans, evaluation("readout"), data=data) == [trained]  # it is there
    trained.path.unlink()
    [measured] = evaluate_run(beans, evaluation("readout"), data=data)
    assert (measured.path, measured.records) == (trained.path, trained.records)
    found = evaluate_run(beans, LINEAR, *QUICK, data=data)
    assert [one.name for one in found] == ["linear", "readout", "decoder", "similarity"]
    assert {(one.about["dataset"], one.settings["dataset"]) for one in found} == {("beans", "beans")}
    assert compare_runs(beans, beans, data=data)["images"] == 30
    pretrain(settings(**{**SETTINGS, "epochs": 2}), beans, resume=True, data=data)
    assert len(RunFolder(beans).read_metrics()) == 2
    assert RunFolder(beans).read_config().dataset == "beans"


def test_the_same_data_by_another_name_are_the_runs_own(beans, tmp_path):
    renamed = arrays("kidney beans")
    found = evaluate_run(beans, LINEAR, *QUICK, data=renamed)
    assert {one.about["dataset"] for one in found} == {"beans"}
    assert os.listdir(beans / "probes") == ["beans-neutral"]
    assert evaluate_run(beans, LINEAR, *QUICK, data=arrays()) == found
    pretrain(settings(**{**SETTINGS, "epochs": 2}), beans, resume=True, data=renamed)
    pretrain(settings(**SETTINGS), tmp_path / "other", data=renamed)
    assert compare_runs(beans, tmp_path / "other", data=renamed)["images"] == 30
    assert json.loads((tmp_path / "other" / "config.json").read_text())["data"]["name"] == "kidney beans"


@pytest.mark.parametrize("change", ["labels", "images"])
def test_training_images_that_have_changed_are_refused(beans, change):
    """Though those held out are the same."""
    data = arrays()
    changed = replace(data.train, **{change: getattr(data.train, change).flip(0)})
    before = times(beans)
    for call in (
        lambda: pretrain(settings(**{**SETTINGS, "epochs": 2}), beans, resume=True, data=replace(data, train=changed)),
        lambda: evaluate_run(beans, LINEAR, data=replace(data, train=changed)),
    ):
        with pytest.raises(RunError, match="has changed since"):
            call()
    assert times(beans) == before
    fewer = replace(data, train=data.train.at(slice(0, 60)))  # probes may read some of them
    assert evaluate_run(beans, LINEAR, data=fewer)
    known = read_json(beans / "config.json")
    del known["data"]["train_digest"]  # which earlier versions did not record
    write_json(beans / "config.json", known)
    pretrain(settings(**{**SETTINGS, "epochs": 2}), beans, resume=True, data=data)


@pytest.mark.parametrize("name", ["beans", "peas"])
@pytest.mark.parametrize("other", [{"seed": 1}, {"classes": ("a", "b", "d")}])
def test_other_arrays_are_refused_whatever_their_name(beans, name, other):
    data = arrays(name, **other)
    before = times(beans)
    said = "has changed since" if name == "beans" else "was trained on beans, and peas is not that"
    for call in (
        lambda: evaluate_run(beans, TESTED, data=data),
        lambda: evaluate_run(beans, LINEAR, TESTED, data=data),
        lambda: pretrain(settings(**{**SETTINGS, "epochs": 2}), beans, resume=True, data=data),
        lambda: compare_runs(beans, beans, data=data),
    ):
        with pytest.raises(RunError, match=said):
            call()
    assert times(beans) == before
    for config in (LINEAR, *QUICK[1:]):
        if name == "peas":  # features may be read of other images, and it says of which
            [found] = evaluate_run(beans, config, data=data)
            assert found.about["dataset"] == found.settings["dataset"] == "peas"
        else:
            with pytest.raises(RunError, match=said):
                evaluate_run(beans, config, data=data)
    if name == "peas":
        assert os.listdir(beans / "probes") == ["peas-neutral"]
        [trained] = [one for one in evaluations(beans) if one.name == "readout"]
        assert trained.about["dataset"] == "beans"


def test_arrays_that_go_by_the_name_of_a_known_data_set_are_not_taken_for_it(cli, tmp_path):
    run = tmp_path / "run"
    pretrain(settings(**SETTINGS), run, data=arrays("digits", classes=tuple("0123456789")))
    for names in (OWN, ANY):
        ended = cli("fftrain", "evaluate", run, *names)
        one_line(ended, 1, f"digits has changed since {run}", "arrays of that name")


def test_a_run_whose_settings_name_other_data_than_it_had_is_not_taken_for_one_of_those(cli, beans):
    path = beans / "config.json"
    config = json.loads(path.read_text())
    config["config"]["dataset"] = "digits"
    path.write_text(json.dumps(config))
    for names in (OWN, ANY):
        ended = cli("fftrain", "evaluate", beans, *names)
        one_line(ended, 1, f"{beans} was trained on beans, and digits is not that")


def test_what_is_measured_on_another_data_set_stays_that(cli, beans):
    ended = cli("fftrain", "evaluate", beans, *ANY, "--dataset", "digits", "--threads", 1, "--json")
    assert {one["dataset"] for one in ended.json["evaluations"]} == {"digits"}
    assert os.listdir(beans / "probes") == ["digits-neutral"]
    assert {one.name: one.about["dataset"] for one in evaluations(beans)} == {
        "readout": "beans",
        "linear": "digits",
        "decoder": "digits",
        "similarity": "digits",
    }


def folder_of(path, seed=0):
    rng = np.random.default_rng(seed)
    for name in ("disc", "line", "square"):
        (path / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(path / name / f"{i}.png")


@pytest.fixture
def photos(cli, tmp_path, monkeypatch):
    """A run on `imagefolder:photos`, which is read smaller: (the run, the folder)."""
    (tmp_path / "a").mkdir()
    folder_of(tmp_path / "a" / "photos")
    monkeypatch.chdir(tmp_path / "a")
    options = [
        "backbone.width=16",
        "backbone.depth=2",
        "--epochs",
        1,
        "--threads",
        1,
        "--image-size",
        10,
        "--grayscale",
    ]
    ended = cli("fftrain", "pretrain", "--dataset", "imagefolder:photos", *options, "--out", "run")
    assert ended.code == 0, ended.err
    assert "ff on imagefolder:photos rotation" in ended.err
    return tmp_path / "a" / "run", tmp_path / "a" / "photos"


def commands(run, *options):
    yield ["evaluate", run, *OWN, "--threads", 1, *options]
    yield ["evaluate", run, *ANY, "--threads", 1, *options]
    yield ["pretrain", "--resume", "--out", run, "--epochs", len(RunFolder(run).read_metrics()) + 1, *options]


def test_a_run_on_a_folder_works_from_anywhere(cli, photos, tmp_path, monkeypatch):
    run, folder = photos
    assert RunFolder(run).read_config().dataset == f"imagefolder:{folder}"
    monkeypatch.chdir(tmp_path)
    for command in commands(run.relative_to(tmp_path)):
        ended = cli("fftrain", *command)
        assert ended.code == 0, ended.err
        assert str(folder) not in ended.out


@pytest.mark.parametrize("place", ["--dataset imagefolder:{}", "--data-dir {}", "--data-dir {}/.."])
def test_a_folder_that_has_moved_is_found_and_told_by_its_digest(cli, photos, tmp_path, monkeypatch, place):
    run, folder = photos
    assert cli("fftrain", "evaluate", run, *ANY, "--threads", 1).code == 0
    before = evaluations(run)
    (tmp_path / "b").mkdir()
    shutil.move(folder, tmp_path / "b" / "photos")
    monkeypatch.chdir(tmp_path)
    for command in commands(run):
        ended = cli("fftrain", *command)
        one_line(ended, 1, f"{folder}, the images that {run} was", "with --dataset imagefolder:PATH or --data-dir")
    option, now = place.format("b/photos").split(" ")
    for command in commands(run, option, now):
        if command[0] == "pretrain":
            found = evaluations(run)
        ended = cli("fftrain", *command)
        assert ended.code == 0, ended.err
    assert all(one in found for one in before)  # what was measured then is of the same data: it is not done again
    assert [one.name for one in found if one not in before] == ["readout"]
    for one in found:
        assert one.about["dataset"] == one.settings["dataset"] == f"imagefolder:{folder}"
        assert (one.settings["image_size"], one.settings["grayscale"]) == (10, True)
    assert len(RunFolder(run).read_metrics()) == 2
    assert RunFolder(run).read_config().dataset == f"imagefolder:{folder}"


def test_a_folder_under_a_new_name_is_the_runs_own_and_other_images_are_not(cli, photos, tmp_path):
    run, folder = photos
    folder.rename(tmp_path / "pictures")
    folder_of(tmp_path / "others", seed=1)
    for command in commands(run, "--dataset", f"imagefolder:{tmp_path}/pictures"):
        assert cli("fftrain", *command).code == 0
    for command in commands(run, "--dataset", f"imagefolder:{tmp_path}/others"):
        ended = cli("fftrain", *command)
        if "linear" in command:
            assert ended.code == 0, ended.err
            assert f"{run}: linear on imagefolder:others, reading neutral" in " ".join(ended.out.split())
        else:
            one_line(ended, 1, f"was trained on imagefolder:{folder}, and imagefolder:{tmp_path}/others is not that")
    for command in commands(run, "--data-dir", tmp_path / "others"):
        one_line(cli("fftrain", *command), 1, "is not that")


def test_an_image_that_was_changed_is_noticed_by_every_command(cli, photos):
    run, folder = photos
    for name in ("disc", "line"):
        for i in range(20):
            Image.new("RGB", (20, 20), (i, i, i)).save(folder / name / f"{i}.png")
    for command in commands(run):
        one_line(cli("fftrain", *command), 1, "has changed since")


def test_reports_name_folders_shortly_and_tell_those_of_one_name_apart(cli, tmp_path):
    root = tmp_path / "runs"
    for part, seed in (("new", 0), ("old", 1)):
        folder_of(tmp_path / part / "photos", seed)
        config = settings(**SETTINGS, dataset=f"imagefolder:{tmp_path}/{part}/photos", image_size=10)
        pretrain(config, root / part)
        evaluate_run(root / part, LINEAR, *QUICK, evaluation("tsne", points=10))
    write_report(root)
    told = "".join((root / name).read_text() for name in ("report.md", "report.html", "results.csv", "results.json"))
    assert str(tmp_path / "new") not in told
    assert {*re.findall(r"imagefolder:[a-z/]+", told)} == {"imagefolder:new/photos", "imagefolder:old/photos"}
    shutil.rmtree(root / "old")
    write_report(root)
    page = (root / "report.md").read_text()
    assert re.search(r"fftrain pretrain .*--dataset imagefolder:photos ", page)
    assert str(tmp_path / "new") not in page


def test_short_names():
    names = ["imagefolder:/a/b/photos", "imagefolder:/c/b/photos", "imagefolder:/a/cats", "imagefolder:/"]
    assert [*short_names(names).values()] == [
        "imagefolder:a/b/photos",
        "imagefolder:c/b/photos",
        "imagefolder:cats",
        f"imagefolder:{os.sep}",
    ]
