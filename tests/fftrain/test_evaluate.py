"""What is done is not measured again, and what was measured otherwise gives way."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ffcore.errors import RunError, SettingError
from ffmodels.evaluated import lines, read
from fftrain import evaluate_run
from fftrain.config import DataSettings
from fftrain.data import Split
from fftrain.dumping import dump_images
from fftrain.evaluations.linear import Linear
from tests.fftrain.evaluating import ALL, LINEAR, Counting, arrays, changed_weights, contents, of_source, told
from tests.fftrain.training import evaluation
from tests.helpers import one_line


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


def test_what_is_not_asked_again_stays(run_copy):
    both, one = (evaluation("few-labels", draws=2, per_class=n) for n in ([1, 3], 3))
    [before] = evaluate_run(run_copy, both)
    [after] = evaluate_run(run_copy, one)
    [rest] = [found for found in told(run_copy)["few-labels"] if found.path != after.path]
    assert [*rest.records, *after.records] == sorted(before.records, key=lambda record: record["measure"])
    assert not before.path.exists()
    assert not rest.whole  # it is not what was asked, which is made again
    [again] = evaluate_run(run_copy, both)
    assert told(run_copy)["few-labels"] == again
    assert again.records == before.records


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
        one_line(ended, 2, "reading 'zeros' is unknown for", "choose one of pixels, activations")
    assert contents(trained / "bp") == before


def test_labels_that_are_not_there_cannot_be_told(run_copy):
    data = arrays()
    unlabelled = replace(data, class_names=())
    with pytest.raises(SettingError, match=r"beans has no classes .*evaluate linear .*\(--target pretext\)"):
        evaluate_run(run_copy, LINEAR, data=unlabelled)
    [decoder] = evaluate_run(run_copy, evaluation("decoder", images=40), data=unlabelled)
    assert decoder.records


def test_probes_that_an_interrupted_call_leaves_are_of_no_evaluation(run_copy, monkeypatch):
    [before] = evaluate_run(run_copy, LINEAR)
    fitted, fit = [], Linear.fit

    def interrupted(self, *given, **more):
        fitted.append(given)
        if len(fitted) == 9:  # of the pixels, five of the untrained network, and of two blocks
            raise KeyboardInterrupt
        return fit(self, *given, **more)

    monkeypatch.setattr(Linear, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run_copy, evaluation("linear", epochs=1))
    monkeypatch.undo()
    heads = sorted(path.stem for path in (run_copy / "probes" / "digits-neutral").glob("*.safetensors"))
    assert heads == ["block1", "block2"]
    again = Counting()
    assert evaluate_run(run_copy, LINEAR, reporter=again)[0].records == before.records
    assert "ff block4" in again.probes
