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
from fftrain.progress import duration
from fftrain.study import Shard, Study, plan, read_preset, run_study
from fftrain.study.cost import NOMINAL, estimate
from tests.fftrain.studies import SPEC, cells, figures, planned, start, study_command, times, weights
from tests.helpers import one_line, python


def test_every_cell_is_trained_tested_probed_analysed_and_compared(finished):
    out, ended = finished
    found = json.loads(ended.stdout)
    assert [cell["status"] for cell in found["cells"]] == ["done"] * 3
    assert found["seconds_left"] == 0
    assert {cell["name"] for cell in found["cells"]} == {*cells(out)}
    for cell in read_json(out / "study.json")["cells"]:
        results = read_json(out / "cells" / cell["name"] / "results.json")
        tells = cell["method"] != "ff-unsupervised"
        assert {*results.get("pretext", {})} == ({"validation", "test"} if tells else set())
        assert not tells or results["pretext"]["test"]["images"] == 359
        [probe] = results["probes"].values()
        assert {row["source"] for row in probe["rows"]} == {"raw", "random", cell["method"]}
        [analysis] = results["analysis"].values()
        assert {row["source"] for row in analysis["decoder"]} == {"raw", "random", cell["method"]}
        assert {*results["seconds"]} == {"pretrain", "probe", "analysis", *(("test",) if tells else ())}
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

    compare(figures(finished[0]), figures(out))


def test_a_wrong_number_of_processes_is_refused(cli, spec, tmp_path):
    ended = cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--processes", 2)
    one_line(ended, 1, "--processes is 2, but the launcher started 1", "accelerate launch")
    assert not (tmp_path / "x").exists()


def test_leaving_a_setting_of_a_probe_out_measures_with_its_default(copy):
    found = Study(copy, planned(SPEC.replace("epochs = 3\nlimit = 300", "epochs = 3")))
    assert all(state["left"][0].startswith("probe") for state in found.listing(Shard()))


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
    trained = {name: (path / "backbone.safetensors").stat().st_mtime_ns for name, path in cells(copy).items()}
    found = Study(copy, planned(SPEC.replace("epochs = 3", "epochs = 4")))
    assert [state["left"] for state in found.listing(Shard())] == [
        ["probe digits neutral class"],
        ["probe digits pixels class"],
        ["probe digits pixels class"],
    ]
    assert run_study(found, command="test", shard=Shard()) == {}
    assert weights(copy) == before
    assert {n: (p / "backbone.safetensors").stat().st_mtime_ns for n, p in cells(copy).items()} == trained
    for path in cells(copy).values():
        [probe] = read_json(path / "results.json")["probes"].values()
        assert probe["config"]["epochs"] == 4


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


def test_wrong_usage_is_said_in_one_line(cli, spec, tmp_path):
    one_line(cli("fftrain", "study"), 2, "--preset paper|quick|smoke")
    one_line(cli("fftrain", "study", "--preset", "big"), 2, "--preset is 'big'")
    one_line(cli("fftrain", "study", "--preset", "smoke", "--spec", spec), 2, "two studies")
    one_line(cli("fftrain", "study", "--spec", tmp_path / "no.toml"), 2, "--spec", "no.toml cannot be read")
    one_line(cli("fftrain", "study", "--out", tmp_path), 2, "holds no study")
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
