"""What is done is not measured again, and what was measured otherwise gives way."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffcore.errors import RunError, SettingError
from ffcore.plugins import trust
from ffmodels.evaluated import evaluations, lines, read
from ffmodels.run import load_encoder, save_weights
from fftrain import EVALUATIONS, compare_runs, evaluate_run, load_data, pretrain
from fftrain.config import DataSettings, RunConfig
from fftrain.data import ImageData, Split, dump_images
from fftrain.features import choices, name_of
from fftrain.progress import Reporter
from fftrain.run import RunFolder
from tests.fftrain.training import SMALL, evaluation, launched, settings
from tests.helpers import one_line
from tests.parts import small

NAMES = ["block1", "block2", "block3", "block4", "blocks2-4"]
LINEAR = evaluation("linear", epochs=2)
# Every evaluation there is, in small.
ALL = {name: {key: value for key, value in small("evaluation", name).items() if key != "name"} for name in EVALUATIONS}


class Counting(Reporter):
    """Remembers what was done."""

    def __init__(self):
        self.done = []

    def track(self, items, total, what, ahead=0.0):
        self.done.append(what)
        yield from items

    @property
    def probes(self):
        return [what.removeprefix("probe ") for what in self.done if what.startswith("probe ")]


def contents(run):
    """Every file of a run with what it holds and when it was written."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()}


def told(run):
    """The evaluations of a run, by name; of those that are there more than once, a list."""
    found = {}
    for one in evaluations(run):
        found.setdefault(one.name, []).append(one)
    return {name: ones[0] if len(ones) == 1 else ones for name, ones in found.items()}


def of_source(found, *sources):
    """What an evaluation tells of these sources, but for their name."""
    return [{**record, "source": ""} for record in found.records if record["source"] in sources]


def arrays(name="beans", seed=0):
    """Noise of the shape of the digits."""
    generator = torch.Generator().manual_seed(seed)

    def split(count):
        images = torch.randint(0, 256, (count, 1, 28, 28), generator=generator).to(torch.uint8)
        return Split(images, torch.arange(count) % 3)

    return ImageData(name=name, train=split(90), validation=split(30), test=split(30), class_names=("a", "b", "c"))


def changed_weights(run):
    """Gives a run other weights."""
    network = load_encoder(run).backbone
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    save_weights(network, run / "backbone.safetensors")


def test_what_is_done_is_not_measured_again(run_copy):
    [first] = evaluate_run(run_copy, LINEAR)
    before, again = contents(run_copy), Counting()
    others = LINEAR.changed(threads=2, feature_memory=0), LINEAR.changed(dataset="digits", reading="neutral")
    for config in (LINEAR, *others):
        assert evaluate_run(run_copy, config, reporter=again) == [first]
    assert again.done == []
    assert contents(run_copy) == before
    knn, same = evaluate_run(run_copy, evaluation("knn"), LINEAR, reporter=again)  # in the order that is asked for
    assert (knn.name, same) == ("knn", first)
    assert again.probes == []
    assert contents(run_copy).items() > before.items()


def test_features_are_computed_once_for_all_that_reads_them(run_copy):
    counted = Counting()
    names = ["linear", "knn", "decoder", "tsne", "few-labels"]
    found = evaluate_run(run_copy, *(evaluation(name, **ALL[name]) for name in names), reporter=counted)
    assert [one.name for one in found] == names
    assert counted.done.count("extracting features") == 2  # of the network before training and after it


def test_other_settings_take_the_place_of_the_earlier_ones(run_copy):
    [before] = evaluate_run(run_copy, LINEAR)
    [after] = evaluate_run(run_copy, evaluation("linear", epochs=3))
    assert after.path != before.path
    assert not before.path.exists()
    assert told(run_copy)["linear"] == after
    for settings_ in ({"limit": 900}, {"seed": 1}, {"standardise": False}):
        [after] = evaluate_run(run_copy, evaluation("linear", epochs=2, **settings_))
        assert told(run_copy)["linear"] == after, settings_
    assert evaluate_run(run_copy, LINEAR)[0].records == before.records


def test_what_is_of_another_place_stands_beside_it(run_copy, tmp_path):
    dump_images(DataSettings(dataset="digits"), "all", tmp_path / "other digits")
    [own] = evaluate_run(run_copy, LINEAR)
    places = (
        {"reading": "zeros"},
        {"target": "pretext"},
        {"dataset": f"imagefolder:{tmp_path}/other digits", "grayscale": True},
    )
    others = evaluate_run(run_copy, *(LINEAR.changed(**place) for place in places))
    assert {one.path for one in told(run_copy)["linear"]} == {own.path, *(other.path for other in others)}
    assert [other.about["target"] for other in others] == ["class", "pretext", "class"]
    probes = {path.name: [*path.glob("block1.*")] for path in (run_copy / "probes").iterdir()}
    assert all(len(found) == 2 for found in probes.values())
    own_names = {"digits-neutral", "digits-zeros", "digits-neutral-rotation"}
    assert probes.keys() > own_names
    [folder] = probes.keys() - own_names
    assert re.fullmatch(r"other digits-\w{6}-neutral", folder)
    assert json.loads((run_copy / "probes/digits-neutral-rotation/block1.json").read_text())["target"] == "pretext"


def test_the_readout_of_test_stands_beside_that_of_validation(run_copy):
    validation = told(run_copy)["readout"]
    [test] = evaluate_run(run_copy, evaluation("readout", split="test"))
    assert {one.path for one in told(run_copy)["readout"]} == {validation.path, test.path}
    assert [one.value(measure="pretext accuracy", split="validation") is None for one in (validation, test)] == [
        False,
        True,
    ]
    assert validation == read(validation.path)


def test_other_numbers_of_labels_stand_beside_each_other(run_copy):
    few, more = (evaluate_run(run_copy, evaluation("few-labels", draws=2, per_class=n))[0] for n in (2, 5))
    assert [one.path for one in sorted((few, more), key=lambda one: one.path)] == [
        one.path for one in told(run_copy)["few-labels"]
    ]
    [drawn_more] = evaluate_run(run_copy, evaluation("few-labels", draws=3, per_class=2))
    assert {one.path for one in told(run_copy)["few-labels"]} == {drawn_more.path, more.path}


def test_other_weights_and_other_data_give_another_digest(run_copy):
    [own] = evaluate_run(run_copy, LINEAR)
    [beans] = evaluate_run(run_copy, LINEAR, data=arrays())
    assert {one.path for one in told(run_copy)["linear"]} == {own.path, beans.path}
    [other_beans] = evaluate_run(run_copy, LINEAR, data=arrays(seed=1))  # their name is the same
    assert other_beans.about["data"] != beans.about["data"]
    assert {one.path for one in told(run_copy)["linear"]} == {own.path, other_beans.path}
    changed_weights(run_copy)
    [again] = evaluate_run(run_copy, LINEAR)
    assert again.about["weights"] != own.about["weights"]
    assert {one.path for one in told(run_copy)["linear"]} == {again.path, other_beans.path}
    assert of_source(again, "raw", "random") == of_source(own, "raw", "random")
    assert of_source(again, "ff") != of_source(own, "ff")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: "",
        lambda text: text.replace('"settings"', '"sittings"', 1),
        lambda text: text.replace('"settings": {', '"settings": 5, "x": {', 1),
        lambda text: re.sub(r'"value": [\d.]+', '"value": NaN', text),
        lambda text: re.sub(r'"value": [\d.]+', '"value": true', text),
        lambda text: text + "[1]\n",
    ],
    ids=["cut", "empty", "lacking", "no settings", "nan", "true", "list"],
)
def test_a_damaged_file_is_refused_in_a_line_that_names_it(cli, run_copy, damage):
    path = told(run_copy)["linear"].path
    path.write_text(damage(path.read_text()))
    before = contents(run_copy)
    for words in (["linear", "linear.epochs=8"], ["linear", "linear.epochs=2"], ["knn"]):  # itself, its place, another
        ended = cli("fftrain", "evaluate", run_copy, *words, "--threads", 1)
        one_line(ended, 1, f"{path} is damaged", "delete it, then evaluate the run again")
    assert contents(run_copy) == before
    path.unlink()
    assert cli("fftrain", "evaluate", run_copy, "linear", "linear.epochs=2", "--threads", 1).code == 0


def test_baselines_are_measured_once_for_runs_that_share_them(trained, tmp_path):
    ff, bp = (Path(shutil.copytree(trained / method, tmp_path / method)) for method in ("ff", "bp"))
    kept, first, second = tmp_path / "baselines", Counting(), Counting()
    config = LINEAR.changed(reading="pixels")
    [alone] = evaluate_run(bp, config)
    RunFolder(bp).forget_measurements()
    evaluate_run(ff, config, baselines=kept, reporter=first)
    [found] = evaluate_run(bp, config.changed(threads=2), baselines=kept, reporter=second)
    baselines = ["raw pixels", *(f"random {name}" for name in NAMES)]
    assert first.probes == [*baselines, *(f"ff {name}" for name in NAMES)]
    assert second.probes == [f"bp {name}" for name in NAMES]
    assert second.done.count("extracting features") == 1
    assert (found.path, found.records) == (alone.path, alone.records)
    assert len(list(kept.iterdir())) == 2

    third = Counting()
    evaluate_run(ff, LINEAR, baselines=kept, reporter=third)  # another reading: raw pixels have one alone
    assert third.probes[0] == "random block1"
    (damaged,) = kept.glob("raw-linear-*.json")
    whole = damaged.read_bytes()
    for broken in (whole[:-40], whole.replace(b'"value"', b'"volume"'), b"[]", b'{"of": 1}'):
        damaged.write_bytes(broken)
        RunFolder(ff).forget_measurements()
        fourth = Counting()
        [again] = evaluate_run(ff, config, baselines=kept, reporter=fourth)
        assert fourth.probes == ["raw pixels", *(f"ff {name}" for name in NAMES)], broken
        assert of_source(again, "raw", "random") == of_source(alone, "raw", "random")
        assert damaged.read_bytes() == whole


def test_each_evaluation_keeps_baselines_of_its_own(run_copy, tmp_path):
    names = ["linear", "knn", "decoder", "few-labels", "readout", "similarity"]
    configs = [evaluation(name, **ALL[name]) for name in names]
    first = evaluate_run(run_copy, *configs, baselines=tmp_path / "kept")
    of = {path.name.rpartition("-")[0] for path in (tmp_path / "kept").iterdir()}
    assert of == {f"{source}-{name}" for source in ("raw", "random") for name in names[:4]}
    RunFolder(run_copy).forget_measurements()
    counted = Counting()
    again = evaluate_run(run_copy, *configs, baselines=tmp_path / "kept", reporter=counted)
    assert [one.records for one in again] == [one.records for one in first]
    assert counted.done.count("extracting features") == 1


def test_baselines_of_other_settings_weights_and_images_are_not_reused(run_copy, tmp_path):
    kept = tmp_path / "baselines"

    def probes(**changes):
        RunFolder(run_copy).forget_measurements()
        counted = Counting()
        config = evaluation("linear", **{"epochs": 2, **changes})
        data = arrays() if changes.pop("data", None) else None
        evaluate_run(run_copy, config, baselines=kept, reporter=counted, data=data)
        return counted.probes

    assert len(probes()) == 6 + 5
    changes = ({"seed": 1}, 6), ({"limit": 900}, 6), ({"batch_size": 100}, 6), ({"threads": 2}, 0)
    for change, computed in (*changes, ({"feature_memory": 0}, 0), ({"target": "pretext"}, 6)):
        assert len(probes(**change)) == computed + 5, change
    path = run_copy / "config.json"
    for seed, classes in ((7, 4), (0, 5)):  # five classes fill other pixels than four
        config = json.loads(path.read_text())
        config["config"]["seed"], config["classes"] = seed, [*"abcde"][:classes]
        path.write_text(json.dumps(config))
        assert probes()[0] == "random block1"


def test_baselines_of_images_that_changed_are_not_reused(run_copy, tmp_path):
    kept, data = tmp_path / "baselines", arrays()
    evaluate_run(run_copy, LINEAR, data=data, baselines=kept)
    turned = replace(data, train=replace(data.train, images=data.train.images.flip(0)))
    RunFolder(run_copy).forget_measurements()
    counted = Counting()
    evaluate_run(run_copy, LINEAR, data=turned, baselines=kept, reporter=counted)  # what is held out is the same
    assert counted.probes[:2] == ["raw pixels", "random block1"]


def test_an_untrained_run_has_no_network_before_training_beside_it(tmp_path):
    run = tmp_path / "run"
    small = {"dataset": "digits", "limit": 300, "threads": 1}
    pretrain(RunConfig(method="untrained", backbone={"name": "mlp", "width": 12}, view="plain", **small), run)
    [linear, decoder] = evaluate_run(run, LINEAR, evaluation("decoder", images=200))
    for found in (linear, decoder):
        assert {record["source"] for record in found.records} == {"raw", "untrained"}
    trained = tmp_path / "trained"
    pretrain(settings("bp", view="plain", **{**SMALL, "width": 12, "depth": 4, "epochs": 1}), trained)
    [beside] = evaluate_run(trained, LINEAR)
    assert of_source(linear, "untrained") == of_source(beside, "random")


def test_a_run_on_pixels_reaches_what_the_source_raw_does(tmp_path):
    small = {"dataset": "digits", "limit": 300, "threads": 1}
    pretrain(RunConfig(method="untrained", backbone="pixels", view="plain", **small), tmp_path / "run")
    names = ["linear", "knn", "decoder", "few-labels"]
    for found in evaluate_run(tmp_path / "run", *(evaluation(name, **ALL[name]) for name in names)):
        raw, own = ([record for record in found.records if record["source"] == s] for s in ("raw", "untrained"))
        assert [record["split"] for record in raw] == ["validation", "test"]
        assert {record["blocks"] for record in own} == {"block1"}
        assert [record["value"] for record in own] == pytest.approx([record["value"] for record in raw], abs=1e-6)
        assert raw[0]["value"] > 0.4


def test_all_that_is_told_is_finite(cli, run_copy):
    words = [f"{name}.{key}={value}" for name, given in ALL.items() for key, value in given.items()]
    ended = cli("fftrain", "evaluate", run_copy, *ALL, *words, "--threads", 1, "--json")
    assert ended.code == 0, ended.err

    def refused(word):
        raise AssertionError(word)

    found = json.loads(ended.out, parse_constant=refused)["evaluations"]
    assert [one["evaluation"] for one in found] == [*ALL]
    for one in found:
        text = Path(one["file"]).read_text()
        about, *records = (json.loads(line, parse_constant=refused) for line in text.splitlines())
        assert records == one["records"]
        assert {key: one[key] for key in about} == about
        assert records
        assert about["value"] > 0
        for record in records:
            assert math.isfinite(record["value"])
            assert record["low"] <= record["value"] <= record["high"] if "low" in record else True
        for row in lines(records):
            assert set(row.values()) - {""}
            assert not re.search(r"nan|inf", " ".join([*row.values()][3:]), re.IGNORECASE)
    ended = cli("fftrain", "evaluate", run_copy, *ALL, *words, "--threads", 1)
    assert all(f"{run_copy}: {name}" in ended.out for name in ALL)


MINE = """
from ffcore.settings import setting
from fftrain.evaluations.base import Evaluation

class Mine(Evaluation):
    \"\"\"Counts.\"\"\"

    by: float = setting(1.0, description="What a feature counts.")

    def measure(self, subject):
        if subject.main:
            yield {"measure": "images", "value": len(subject.data.train)}
        for choice in subject.choices():
            yield {"measure": "features", "blocks": choice.name, "value": self.by * choice.features.train.shape[1]}
"""


def test_an_evaluation_of_ones_own_may_tell_of_no_split(cli, run_copy, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    words = ["evaluate", run_copy, mine, "mine.by=0.5", "--threads", 1]
    ended = cli("fftrain", *words, "--json")
    assert ended.code == 0, ended.err
    [found] = ended.json["evaluations"]
    assert (found["evaluation"], found["settings"]["evaluation"]["by"]) == ("mine", 0.5)
    assert not any("split" in record for record in found["records"])
    values = {(r["source"], r["measure"], r.get("blocks", "")): r["value"] for r in found["records"]}
    count = len(load_data(DataSettings(dataset="digits")).train)
    dims = dict(zip(NAMES, [24.0] * 4 + [72.0], strict=True))
    assert values == {
        **{(source, "images", ""): count for source in ("raw", "random", "ff")},
        ("raw", "features", "pixels"): 392.0,
        **{(source, "features", name): dim for source in ("random", "ff") for name, dim in dims.items()},
    }
    rows = lines(found["records"])
    assert rows[0] == {"measure": "images", "features of": "raw", "blocks": "", "value": f"{count:,}"}
    assert rows[1]["value"] == "392.0000"
    before = contents(run_copy)
    ended = cli("fftrain", *words)
    assert "392.0000" in ended.out
    assert contents(run_copy) == before
    mine.write_text(MINE.replace("Counts", "Counts what there is"))  # other code may tell something else
    [other] = cli("fftrain", *words, "--json").json["evaluations"]
    assert other["file"] != found["file"]
    assert not Path(found["file"]).exists()


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'much'", "True", "None"])
def test_what_is_no_number_is_refused_and_not_kept(cli, run_copy, tmp_path, value):
    mine = tmp_path / "mine.py"
    mine.write_text(re.sub(r'"value": [^}]*}', f'"value": {value}}}', MINE))
    before = contents(run_copy)
    ended = cli("fftrain", "evaluate", run_copy, mine, "--threads", 1)
    one_line(ended, 2, "evaluation mine gave a record that is not of a number", "nothing of it is kept")
    assert contents(run_copy) == before


def test_what_lacks_a_file_that_belongs_to_it_is_measured_again(run_copy):
    linear, tsne = evaluate_run(run_copy, LINEAR, evaluation("tsne", points=20))
    head = run_copy / "probes" / "digits-neutral" / "block2.safetensors"
    assert head.relative_to(run_copy).as_posix() in linear.about["files"]
    was = {path: path.read_bytes() for path in (head, tsne.arrays)}
    for path in was:
        path.unlink()
    counted = Counting()
    evaluate_run(run_copy, LINEAR, evaluation("tsne", points=20), reporter=counted)
    assert "ff block2" in counted.probes
    assert "t-SNE" in counted.done
    assert head.read_bytes() == was[head]
    assert tsne.arrays.exists()


def test_other_training_images_give_another_digest(run_copy):
    one = arrays()
    other = replace(one, train=Split(one.train.images.flip(0), one.train.labels.flip(0)))
    [before] = evaluate_run(run_copy, LINEAR, data=one)
    [after] = evaluate_run(run_copy, LINEAR, data=other)
    assert before.path != after.path
    told_before, told_after = (evaluate_run(run_copy, evaluation("tsne", points=20), data=d)[0] for d in (one, other))
    assert told_before.path == told_after.path  # it reads none


def test_two_settings_of_one_evaluation_in_a_call_are_refused(run_copy):
    few, more = (evaluation("decoder", images=count) for count in (50, 60))
    with pytest.raises(SettingError, match="decoder is asked for with several settings, of which the last is kept"):
        evaluate_run(run_copy, few, more)
    kept = told(run_copy)["decoder"]
    assert kept.settings["evaluation"]["images"] == 60


@pytest.mark.parametrize("name", ["random", "raw"])
def test_a_method_cannot_be_called_as_a_baseline_is(cli, tmp_path, name):
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\nfrom ffmodels.methods.base import Method\n\n"
        "class Mine(Method):\n    def head(self, block, classes):\n        return nn.Identity()\n"
    )
    ended = cli("fftrain", "pretrain", "--method", tmp_path / f"{name}.py", "--out", tmp_path / "run")
    one_line(ended, 2, f"--method '{name}' is what a baseline is called: give its file another name")


FUNNEL = """
from torch import nn
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BackboneSettings, size

class Funnel(BackboneSettings):
    \"\"\"A convolution, then ever narrower blocks.\"\"\"

    channels: int = setting(6, ge=1, description="Of the convolution.")

    def make(self, shape):
        conv = nn.Sequential(nn.Conv2d(shape[0], self.channels, 3, padding=1, stride=4), nn.ReLU())
        flat = nn.Sequential(nn.Flatten(), nn.Linear(self.channels * (shape[1] // 4) * (shape[2] // 4), 40), nn.ReLU())
        narrow = nn.Sequential(nn.Linear(40, 17), nn.ReLU())
        return Backbone(nn.Identity(), [conv, flat, narrow], shape=shape, between=self.between)
"""


def test_a_backbone_of_ones_own_whose_blocks_differ_in_width_is_read_by_its_activations(cli, tmp_path):
    mine = tmp_path / "funnel.py"
    mine.write_text(FUNNEL)
    run = tmp_path / "run"
    options = ["--recipe", "bp", "--dataset", "digits", "--backbone", mine, "--epochs", 3, "--lr", 3e-3, "--threads", 1]
    ended = cli("fftrain", "pretrain", *options, "backbone.channels=5", "--out", run)
    assert ended.code == 0, ended.err
    trust(str(mine))
    found = load_encoder(run)
    assert found.dims == (5, 40, 17)
    words = ["linear", "linear.epochs=20", "decoder", "decoder.images=100", "tsne", "tsne.points=20", "readout"]
    ended = cli("fftrain", "evaluate", run, *words, "--threads", 1, "--trust-plugin", mine)
    assert ended.code == 0, ended.err
    results = told(run)
    test = load_data(DataSettings(dataset="digits")).test
    with torch.no_grad():
        features = found(test.images.float() / 255)
    rows = {r["blocks"]: r["value"] for r in results["linear"].records if (r["source"], r["split"]) == ("bp", "test")}
    assert [*rows] == ["block1", "block2", "block3", "blocks1-3"]
    for blocks in choices(found):
        head = load_file(run / "probes" / "digits-pixels" / f"{name_of(blocks)}.safetensors")
        assert head["linear.weight"].shape == (10, sum(found.dims[i] for i in blocks))
        logits = torch.cat([features[i] for i in blocks], 1) @ head["linear.weight"].T + head["linear.bias"]
        measured = (logits.argmax(-1) == test.labels).double().mean().item()
        assert measured == pytest.approx(rows[name_of(blocks)], abs=1.5 / len(test))
    assert rows["block2"] > 0.6
    with np.load(results["tsne"].arrays) as file:
        assert sorted(file) == ["block1", "block2", "block3", "labels"]
    decoded = {name: results["decoder"].value(split="test", source="bp", blocks=name) for name in rows}
    assert decoded["blocks1-3"] > decoded["block2"] > decoded["block3"] > 0.05
    compared = compare_runs(run, run, images=40)
    assert compared["blocks"] == ["block1", "block2", "block3"]
    np.testing.assert_allclose(np.diag(compared["cka"]), 1)


def test_images_of_another_shape_are_refused_with_what_mends_it(run_copy):
    before = contents(run_copy)
    with pytest.raises(
        RunError, match=r"trained on 1x28x28 images, but digits has 1x8x8: .*--image-size 28 --grayscale"
    ):
        evaluate_run(run_copy, LINEAR.changed(dataset="digits", image_size=8))
    assert contents(run_copy) == before


def test_a_reading_that_the_method_does_not_have_is_refused(cli, trained):
    before = contents(trained / "bp")
    assert told(trained / "bp")["linear"].about["reading"] == "pixels"  # the first of the method's
    for names in (["linear"], ["decoder", "tsne"], ["readout"]):
        ended = cli("fftrain", "evaluate", trained / "bp", *names, "--reading", "zeros")
        one_line(ended, 2, "reading 'zeros' is unknown for", "choose one of pixels")
    assert contents(trained / "bp") == before


def test_labels_that_are_not_there_cannot_be_told(run_copy):
    data = arrays()
    unlabelled = replace(data, class_names=())
    with pytest.raises(SettingError, match=r"beans has no classes .*evaluate linear .*\(--target pretext\)"):
        evaluate_run(run_copy, LINEAR, data=unlabelled)
    [decoder] = evaluate_run(run_copy, evaluation("decoder", images=40), data=unlabelled)
    assert decoder.records


def test_two_processes_share_the_blocks_out_and_give_the_figures_of_one(trained, cli, tmp_path):
    one, two = (Path(shutil.copytree(trained / "ff", tmp_path / name)) for name in ("one", "two"))
    for folder in (one, two):
        RunFolder(folder).forget_measurements()
    options = [f"{name}.{key}={value}" for name, given in ALL.items() for key, value in given.items()]
    options = [*ALL, *options, "--threads", 1, "--json"]
    alone = cli("fftrain", "evaluate", one, *options)
    assert alone.code == 0, alone.err
    shared = launched("-m", "fftrain", "evaluate", two, *options)
    assert shared.returncode == 0, shared.stderr
    found = json.loads(shared.stdout)["evaluations"]
    assert [Path(f["file"]).name for f in found] == [Path(f["file"]).name for f in alone.json["evaluations"]]
    assert [f["records"] for f in found] == [f["records"] for f in alone.json["evaluations"]]
    files = [{p.relative_to(f): p.read_bytes() for p in f.glob("probes/*/*")} for f in (one, two)]
    assert files[0] == files[1]
    assert len(files[0]) == 2 * len(NAMES)
    assert told(two).keys() == told(one).keys()
    with np.load(told(one)["tsne"].arrays) as a, np.load(told(two)["tsne"].arrays) as b:
        assert all(np.array_equal(a[name], b[name]) for name in (*a, *b))


BOTH = """
import sys
from pathlib import Path
from fftrain.evaluate import evaluate_run
from fftrain.launcher import make_accelerator
from tests.fftrain.training import evaluation
accelerator, run = make_accelerator(1), Path(sys.argv[1])
for images in (100, 100):
    found = evaluate_run(
        run, evaluation("decoder", images=images), evaluation("readout"),
        accelerator=accelerator, baselines=run.parent / "kept",
    )
(run / f"told{accelerator.process_index}").write_text(repr([one.records for one in found]))
accelerator.end_training()
"""


@pytest.mark.slow
def test_every_process_knows_what_all_found(trained, tmp_path, monkeypatch):
    one, two = (Path(shutil.copytree(trained / "ff", tmp_path / name)) for name in ("one", "two"))
    expected = evaluate_run(one, evaluation("decoder", images=100), evaluation("readout"))
    script = tmp_path / "both.py"
    script.write_text(BOTH)
    monkeypatch.setenv("PYTHONPATH", ".")
    ended = launched(script, two)
    assert ended.returncode == 0, ended.stderr
    records = repr([found.records for found in expected])
    assert [(two / f"told{i}").read_text() for i in range(2)] == [records, records]
    assert [one.records for one in evaluations(two) if one.name == "decoder"] == [expected[0].records]
