"""A study on the digits that takes seconds: its grid, its resuming, its shards and its plan."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffmodels.evaluated import evaluations
from fftrain.progress import duration
from fftrain.study import Shard, Study, choose, plan, read_preset, run_study
from fftrain.study.cost import NOMINAL, estimate
from tests.fftrain.studies import OWN_EVALUATION, SPEC, cells, figures, planned, start, study_command, times, weights
from tests.helpers import one_line, python


def test_every_cell_is_trained_measured_and_compared(finished):
    out, ended = finished
    found = json.loads(ended.stdout)
    assert [cell["status"] for cell in found["cells"]] == ["done"] * 3
    assert found["seconds_left"] == 0
    assert {cell["name"] for cell in found["cells"]} == {*cells(out)}
    for cell in read_json(out / "study.json")["cells"]:
        measured = evaluations(out / "cells" / cell["name"])
        tells = cell["method"] != "ff-unsupervised"
        assert [one.name for one in measured] == ["decoder", "linear", *["readout"] * 2 * tells, "similarity", "tsne"]
        told = [record for one in measured for record in one.records if record["measure"] == "pretext accuracy"]
        assert {record["split"]: record["images"] for record in told} == (
            {"validation": 143, "test": 359} if tells else {}
        )
        sources = {one.name: {record["source"] for record in one.records} for one in measured}
        assert sources["linear"] == sources["decoder"] == {"raw", "random", cell["method"]}
        assert sources["similarity"] == sources["tsne"] == {cell["method"]}
        recorded = [one["settings"] for one in cell["evaluations"]]
        assert len(recorded) == len(measured)
        for one in measured:  # as they were planned, down to the reading
            assert {**one.settings, "limit": None} in [{**settings, "limit": None} for settings in recorded]
            assert one.about["value"] > 0
        assert len([*(out / "cells" / cell["name"] / "probes").rglob("*.safetensors")]) == 5
        assert not (out / "cells" / cell["name"] / "checkpoint").exists()
    [pair] = (out / "pairs").iterdir()
    assert read_json(pair)["methods"] == ["ff", "bp"]
    assert "cell 1/3" in ended.stderr
    assert "left: about" in ended.stderr


def test_a_finished_study_is_left_as_it_is(copy, cli):
    before = times(copy)
    ended = cli("fftrain", "study", "--out", copy)
    assert ended.code == 0, ended.err
    assert "3 cells (3 done)" in ended.out
    changed = {path for path, then in times(copy).items() if before.get(path) != then}
    assert changed == {copy / "study.json"}


def test_killed_anywhere_it_goes_on_and_ends_as_if_it_had_not_been(finished, spec, tmp_path):
    out = tmp_path / "killed"
    child = start("--spec", spec, "--out", out)
    names = [cell["name"] for cell in read_json(finished[0] / "study.json")["cells"]]
    deadline = time.monotonic() + 120
    while not (out / "cells" / names[1] / "checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.communicate()
    first = times(out / "cells" / names[0])
    states = {cell["name"]: cell["status"] for cell in Study(out, planned()).listing(Shard())}
    assert states == {names[0]: "done", names[1]: "started", names[2]: "missing"}
    resumed = study_command("--out", out)
    assert resumed.returncode == 0, resumed.stderr
    assert times(out / "cells" / names[0]) == first
    assert weights(out) == weights(finished[0])
    assert figures(out) == figures(finished[0])


@pytest.mark.slow
def test_two_shards_share_a_folder_and_each_cell_is_done_once(finished, spec, tmp_path):
    out = tmp_path / "sharded"
    shards = [start("--spec", spec, "--out", out, "--shard", f"{i}/2") for i in (1, 2)]
    done = []
    for child in shards:
        _, err = child.communicate(timeout=240)
        assert child.returncode == 0, err
        done.append(re.findall(r"cell \d/\d (\S+) done", err))
    assert sorted(len(part) for part in done) == [1, 2]
    assert sorted(done[0] + done[1]) == [*cells(out)]
    assert weights(out) == weights(finished[0])
    assert figures(out) == figures(finished[0])
    assert [path.name for path in (out / "pairs").iterdir()] == [p.name for p in (finished[0] / "pairs").iterdir()]


def test_a_cell_in_work_by_another_process_is_left_to_it(copy):
    found = Study(copy, planned())
    cell = found.spec.cells[0]
    shutil.rmtree(found.folder(cell))
    with found.lock(cell.name):
        assert run_study(found, command="test", shard=Shard()) == {}
        assert not found.folder(cell).exists()
    run_study(found, command="test", shard=Shard())
    assert found.state(cell).status == "done"


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(finished, spec, tmp_path):
    out = tmp_path / "two"
    launch = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 --num_cpu_threads_per_process 1 -m fftrain study"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    ended = python("-m", *launch.split(), "--spec", spec, "--out", out, "--processes", 2, env=environment)
    assert ended.returncode == 0, ended.stderr

    def compare(one, two, path=()):
        assert type(one) is type(two), path
        if isinstance(one, dict):
            assert one.keys() == two.keys(), path
            for key in one:
                compare(one[key], two[key], (*path, key))
        elif isinstance(one, list):
            assert len(one) == len(two), path
            for i, (a, b) in enumerate(zip(one, two, strict=True)):
                compare(a, b, (*path, i))
        elif isinstance(one, float):  # weights differ by rounding, and so may an image or two
            assert one == pytest.approx(two, abs=0.02), path
        else:
            assert one == two, path

    one, two = figures(finished[0]), figures(out)
    for about, *_ in (records for found in (one, two) for cell in found.values() for records in cell.values()):
        del about["weights"]
        about["files"] = [name.rpartition("-")[0] for name in about.get("files", ())]  # named by what they are of
    compare(one, two)


def test_a_wrong_number_of_processes_is_refused(cli, spec, tmp_path):
    ended = cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--processes", 2)
    one_line(ended, 1, "--processes is 2, but the launcher started 1", "accelerate launch")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("setting", ["[parts.linear]\nepochs = 3\n", "[evaluate]\nlimit = 300\n"])
def test_leaving_a_setting_of_an_evaluation_out_measures_with_its_default(copy, setting):
    found = Study(copy, planned(SPEC.replace(setting, setting.splitlines()[0] + "\n")))
    assert [cell["status"] for cell in found.listing(Shard())] == ["started"] * 3
    assert all(state["left"][0].startswith("evaluate ") for state in found.listing(Shard()))


def test_a_plan_that_would_lose_cells_is_refused(copy, cli, spec):
    before = (copy / "study.json").read_bytes()
    fewer = copy.parent / "fewer.toml"
    fewer.write_text(SPEC.replace(', "ff-unsupervised"', ""))
    ended = cli("fftrain", "study", "--spec", fewer, "--out", copy)
    one_line(ended, 2, "trained cells are not in this plan (1,", "--replace-plan")
    assert (copy / "study.json").read_bytes() == before
    assert cli("fftrain", "study", "--spec", fewer, "--out", copy, "--replace-plan").code == 0


def test_what_this_machine_cannot_do_is_refused_before_anything_starts(cli, tmp_path):
    spec = tmp_path / "half.toml"
    spec.write_text(SPEC.replace("epochs = 2", 'epochs = 2\nmixed_precision = ["no", "fp16"]'))
    one_line(cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x"), 2, "fp16 cannot be had on a CPU")
    assert not (tmp_path / "x").exists()


def test_other_settings_of_a_measurement_do_that_again_and_nothing_else(copy):
    before = weights(copy)
    kept = {one.path: one.path.read_bytes() for path in cells(copy).values() for one in evaluations(path)}
    trained = {name: (path / "backbone.safetensors").stat().st_mtime_ns for name, path in cells(copy).items()}
    found = Study(copy, planned(SPEC.replace("epochs = 3", "epochs = 4")))
    assert [state["left"] for state in found.listing(Shard())] == [
        ["evaluate digits neutral class"],
        ["evaluate digits pixels class"],
        ["evaluate digits pixels class"],
    ]
    assert run_study(found, command="test", shard=Shard()) == {}
    assert weights(copy) == before
    assert {n: (p / "backbone.safetensors").stat().st_mtime_ns for n, p in cells(copy).items()} == trained
    for path in cells(copy).values():
        [linear] = [one for one in evaluations(path) if one.name == "linear"]  # the old one is gone
        assert linear.settings["evaluation"]["epochs"] == 4
        now = {one.path: one.path.read_bytes() for one in evaluations(path)}
        assert [file for file in now if now[file] != kept.get(file)] == [linear.path]
        assert len(now) == len({file for file in kept if path in file.parents})
    assert {state["status"] for state in found.listing(Shard())} == {"done"}


def test_an_evaluation_that_is_asked_for_later_is_measured_beside_the_others(copy):
    kept = {one.path: one.path.read_bytes() for path in cells(copy).values() for one in evaluations(path)}
    usual = '["linear", "decoder", "tsne", "similarity"]'
    for names in (usual.replace("]", ', "knn"]'), '"linear"'):
        found = Study(copy, planned(f"evaluation = {names}\n{SPEC}"))
        assert run_study(found, command="test", shard=Shard()) == {}
        assert {state["status"] for state in found.listing(Shard())} == {"done"}
        for path in cells(copy).values():
            now = {one.path: one for one in evaluations(path)}
            assert [one.name for file, one in now.items() if file not in kept] == ["knn"]
        assert {file: file.read_bytes() for file in kept} == kept


def test_an_evaluation_of_somebodys_own_is_measured_and_again_where_it_is_another(copy, cli, tmp_path):
    (tmp_path / "mine.py").write_text(OWN_EVALUATION)
    spec = tmp_path / "own.toml"
    name = json.dumps(str(tmp_path / "mine.py"))
    spec.write_text(f"evaluation = [{name}]\n{SPEC}\n[parts.{name}]\ntimes = 2.0\n")
    first, second = {}, {}
    for found in (first, second):
        ended = cli("fftrain", "study", "--spec", spec, "--out", copy)
        assert ended.code == 0, ended.err
        for cell, path in cells(copy).items():
            [own] = [one for one in evaluations(path) if one.name == "mine"]
            found[cell] = {record["blocks"]: record["value"] for record in own.records}
        spec.write_text(spec.read_text().replace("times = 2.0", "times = 1.0"))
    assert all({"pixels", "block1"} <= found.keys() for found in first.values())
    halved = {cell: {blocks: value / 2 for blocks, value in found.items()} for cell, found in first.items()}
    assert second == halved
    (tmp_path / "mine.py").write_text(OWN_EVALUATION + "\n# changed\n")
    assert [cell["status"] for cell in Study(copy, choose(None, spec, None, {})).listing(Shard())] == ["started"] * 3


def test_a_study_may_grow(copy):
    found = Study(copy, planned(SPEC.replace("recipe", "seed = [0, 1]\nrecipe")))
    assert [cell["status"] for cell in found.listing(Shard())] == ["done", "missing"] * 3


def test_a_dry_run_lists_the_cells_and_their_cost_and_makes_nothing(cli, spec, tmp_path):
    ended = cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--dry-run", "--json")
    assert ended.code == 0, ended.err
    assert [cell["status"] for cell in ended.json["cells"]] == ["missing"] * 3
    assert all(cell["seconds_left"] > 0 for cell in ended.json["cells"])
    assert not (tmp_path / "x").exists()
    part = cli("fftrain", "study", "--preset", "paper", "--shard", "2/4", "--dry-run", "--json").json["cells"]
    assert 20 < len(part) < 50
    whole = cli("fftrain", "study", "--preset", "paper", "--dry-run").out
    assert all(cell["name"] in whole for cell in part)


def test_one_cell_is_done_alone_and_the_rest_of_the_plan_stays(cli, finished, spec, tmp_path):
    out = tmp_path / "one"
    name = next(name for name in cells(finished[0]) if "-bp-" in name)
    ended = cli("fftrain", "study", "--spec", spec, "--out", out, "--only", "digits-rotation-bp-s0-*")
    assert ended.code == 0, ended.err
    assert [*cells(out)] == [name]
    assert figures(out) == {name: figures(finished[0])[name]}
    assert len(read_json(out / "study.json")["cells"]) == 3
    assert f"fftrain report {out}" in ended.err
    listed = cli("fftrain", "study", "--out", out, "--dry-run", "--only", name, "--only", "*-ff-s0-*", "--json")
    assert [cell["status"] for cell in listed.json["cells"]] == ["missing", "done"]
    assert "fftrain report" not in listed.err


def test_a_cell_that_is_not_planned_is_refused_with_names_that_are_near(cli, spec, tmp_path):
    ended = cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--only", "digits-rotaton-bp-s0")
    one_line(ended, 2, "--only is 'digits-rotaton-bp-s0'", "names no cell", "near it are digits-rotation-bp-s0-")
    ended = cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--only", "plain")
    one_line(ended, 2, "near it are digits-plain-ff-unsupervised-s0-")
    assert not (tmp_path / "x").exists()


def test_shards_are_disjoint_and_whole():
    found = Study(Path("nowhere"), plan(read_preset("paper"), "paper"))
    cells = found.spec.cells
    parts = [Shard(i, 7).of_cells(cells) for i in range(1, 8)]
    assert sorted(c.name for part in parts for c in part) == sorted(c.name for c in cells)
    costs = [sum(sum(estimate(c, NOMINAL).values()) for c in part) for part in parts]
    assert max(costs) < 1.3 * min(costs)
    for text in ("0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"):
        with pytest.raises(SettingError, match=f"--shard is '{text}': write I/N"):
            Shard.of(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('["rotation"]', '["jigsaw"]', "epochs = 2", "epochs = 2\nimage_size = 7"), "view 'jigsaw' on 'digits'"),
        (('["rotation"]', '["jigsaw"]', "epochs = 2", "epochs = 2\nimage_size = 4"), "a label of 24 classes"),
        (("recipe", 'transfer = ["cifar10"]\nrecipe'), "transfer has 'cifar10'"),
        (("digits", "imagefolder:/nowhere"), "imagefolder:/nowhere is no folder"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(cli, tmp_path, change, words):
    text = SPEC
    for old, new in zip(change[::2], change[1::2], strict=True):
        text = text.replace(old, new)
    spec = tmp_path / "bad.toml"
    spec.write_text(text)
    ended = cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x")
    one_line(ended, 1 if "nowhere" in words else 2, words)
    assert not (tmp_path / "x").exists()


def test_pictures_are_looked_for_before_anything_starts(cli, pictures, tmp_path):
    spec, out = tmp_path / "scenes.toml", tmp_path / "x"
    spec.write_text(f'evaluation = ["segmentation"]\n{SPEC}\n[parts.segmentation]\ndata = "voc"\nscenes = 7\n')
    command = ("fftrain", "study", "--spec", spec, "--out", out, "--data-dir")
    one_line(cli(*command, pictures), 2, "segmentation.scenes is 7", "ask for 6")
    half = shutil.copytree(pictures, tmp_path / "half")
    shutil.rmtree(half / "VOCdevkit" / "VOC2012" / "ImageSets")
    one_line(cli(*command, half), 1, "VOC2012 is incomplete")
    assert cli(*command, half, "--dry-run").code == 0
    assert not out.exists()


def test_wrong_usage_is_said_in_one_line(cli, spec, tmp_path):
    one_line(cli("fftrain", "study"), 2, "--preset paper|quick|smoke")
    one_line(cli("fftrain", "study", "--preset", "big"), 2, "--preset is 'big'")
    one_line(cli("fftrain", "study", "--preset", "smoke", "--spec", spec), 2, "two studies")
    one_line(cli("fftrain", "study", "--spec", tmp_path / "no.toml"), 2, "--spec", "no.toml cannot be read")
    one_line(cli("fftrain", "study", "--out", tmp_path), 2, "holds no study")
    one_line(cli("fftrain", "study", "smok"), 2, "smok is neither a preset (paper, quick, smoke) nor a TOML file")
    one_line(cli("fftrain", "study", "smoke", "--spec", spec), 2, "smoke and --spec", "name two studies")


@pytest.mark.parametrize("option", ["--spec", None])
def test_a_study_is_named_with_and_without_an_option(cli, spec, tmp_path, option):
    words = [spec] if option is None else [option, spec]
    assert "3 cells (3 missing)" in cli("fftrain", "study", *words, "--out", tmp_path / "x", "--dry-run").out
    (tmp_path / "bad.toml").write_text("dataset = [")
    one_line(cli("fftrain", "study", "--spec", tmp_path / "bad.toml"), 2, "is not TOML")
    one_line(cli("fftrain", "study", "--spec", spec, "--shard", "3/2"), 2, "--shard is '3/2'")
    one_line(cli("fftrain", "study", "--spec", spec, "--mixed-precision", "fp8"), 2, "fp8")


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="in use already, and not by a study"):
        run_study(Study(tmp_path, planned()), command="test", shard=Shard())
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_times_are_said_as_people_say_them():
    assert [duration(s) for s in (3, 89, 91, 5399, 5401, 90000)] == [
        "3 s",
        "89 s",
        "1.5 min",
        "90.0 min",
        "1.5 h",
        "25.0 h",
    ]


@pytest.mark.slow
def test_the_smoke_preset_ends_in_two_minutes(tmp_path):
    began = time.monotonic()
    ended = study_command("--preset", "smoke", "--out", tmp_path / "smoke")
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 120
    assert python("-m", "fftrain", "report", tmp_path / "smoke").returncode == 0
