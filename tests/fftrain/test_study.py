"""A study on the digits that takes seconds: its grid, its resuming, its shards, and what goes wrong in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffmodels.errors import RunError, SettingError, WriteError
from ffmodels.files import read_json
from fftrain import cells as cells_module
from fftrain.cost import NOMINAL, estimate
from fftrain.grid import Shard, Study, duration
from fftrain.run import RunFolder
from fftrain.spec import plan, read_preset
from fftrain.study import run_study
from tests.helpers import ROOT, one_line, python

SPEC = """
datasets = ["digits"]
tasks = ["rotation"]
methods = ["ff", "bp", "ff-unsupervised"]

[settings]
width = 24
epochs = 2
batch_size = 64
lr = 3e-3
limit = 300
eval_images = 40
threads = 1

[probe]
epochs = 3
limit = 300
threads = 1

[analysis]
images = 100
points = 40
threads = 1
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "mine.toml"
    path.write_text(SPEC)
    return path


def study(*arguments):
    return python("-m", "fftrain", "study", *arguments)


def start(*arguments):
    command = [sys.executable, "-m", "fftrain", "study", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def finished(spec, tmp_path_factory):
    """The study, done in one go by the command: its folder and what it printed. Read it, never write to it."""
    out = tmp_path_factory.mktemp("study") / "mine"
    ended = study("--spec", spec, "--out", out, "--json")
    assert ended.returncode == 0, ended.stderr
    return out, ended


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "mine")


def cells(out):
    return {path.name: path for path in sorted((out / "cells").iterdir())}


def weights(out):
    return {name: (path / "backbone.safetensors").read_bytes() for name, path in cells(out).items()}


def figures(out):
    """Every figure of a study, without what a clock says."""

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k != "seconds"}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return {name: timeless(read_json(path / "results.json")) for name, path in cells(out).items()}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts}


def planned(text=SPEC, name="mine", **overrides):
    import tomllib

    return plan(tomllib.loads(text), name, overrides)


def test_every_cell_is_trained_tested_probed_analysed_and_compared(finished):
    out, ended = finished
    found = json.loads(ended.stdout)
    assert [cell["status"] for cell in found["cells"]] == ["done"] * 3
    assert found["seconds_left"] == 0
    assert {cell["name"] for cell in found["cells"]} == {*cells(out)}
    for cell in read_json(out / "study.json")["cells"]:
        results = read_json(out / "cells" / cell["name"] / "results.json")
        assert {*results["pretext"]} == {"validation", "test"}
        assert results["pretext"]["test"]["images"] == 359
        [probe] = results["probes"].values()
        assert {row["source"] for row in probe["rows"]} == {"raw", "random", cell["method"]}
        [analysis] = results["analysis"].values()
        assert {row["source"] for row in analysis["decoder"]} == {"raw", "random", cell["method"]}
        assert {*results["seconds"]} == {"pretrain", "test", "probe", "analysis"}
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
    resumed = study("--out", out)
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


def test_a_cell_that_fails_is_reported_and_the_others_go_on(cli, tmp_path):
    spec = tmp_path / "failing.toml"
    spec.write_text(SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["bp"]').replace("3e-3", "[1e30, 3e-3]"))
    out = tmp_path / "study"
    ended = cli("fftrain", "study", "--spec", spec, "--out", out, "--json")
    assert ended.code == 1
    assert [cell["status"] for cell in ended.json["cells"]] == ["failed", "done"]
    assert "not finite" in ended.json["cells"][0]["reason"]
    assert "Traceback" not in ended.err
    [failed] = (out / "failed").iterdir()
    assert read_json(failed)["step"] == "pretrain"
    again = cli("fftrain", "study", "--out", out, "--json")
    assert [cell["status"] for cell in again.json["cells"]] == ["failed", "done"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("results.json", '{"pretext": 3}'),
        ("metrics.jsonl", "x\n"),
        ("config.json", None),
        ("backbone.safetensors", "x"),
    ],
)
def test_a_damaged_cell_is_reported_and_can_be_redone_and_nothing_else_is_lost(copy, cli, finished, file, content):
    name, *others = cells(copy)
    path = copy / "cells" / name / file
    path.unlink() if content is None else path.write_text(content)
    before = {other: times(copy / "cells" / other) for other in others}
    ended = cli("fftrain", "study", "--out", copy, "--json")
    assert ended.code == 1
    assert {cell["name"]: cell["status"] for cell in ended.json["cells"]}[name] == "damaged"
    assert file in ended.err
    assert "--redo-damaged" in ended.err
    assert cli("fftrain", "study", "--out", copy, "--redo-damaged").code == 0
    assert (copy / "discarded" / f"{name}-1").is_dir()
    assert {other: times(copy / "cells" / other) for other in others} == before
    assert weights(copy) == weights(finished[0])
    assert len([*(copy / "pairs").iterdir()]) == 1


def test_weights_that_do_not_fit_are_found_when_they_are_read(copy, cli, trained):
    """The file is whole, but another network's."""
    name = next(iter(cells(copy)))
    shutil.copy(trained / "ff" / "backbone.safetensors", copy / "cells" / name)
    results = RunFolder(copy / "cells" / name).read_results()
    del results["analysis"]
    (copy / "cells" / name / "results.json").write_text(json.dumps(results))
    for _ in range(2):
        ended = cli("fftrain", "study", "--out", copy, "--json")
        assert ended.code == 1
        found = {cell["name"]: cell for cell in ended.json["cells"]}[name]
        assert found["status"] == "damaged"
        assert "backbone.safetensors does not fit" in found["reason"]
    assert cli("fftrain", "study", "--out", copy, "--redo-damaged").code == 0


@pytest.mark.parametrize("file", ["samples.npz", "analysis/digits-neutral.npz"])
def test_what_a_report_would_call_damaged_is_damaged(copy, cli, file):
    name = next(name for name in cells(copy) if "-ff-s0" in name)
    (copy / "cells" / name / file).write_bytes(b"garbage")
    ended = cli("fftrain", "study", "--out", copy, "--json")
    assert ended.code == 1
    assert {cell["name"]: cell["status"] for cell in ended.json["cells"]}[name] == "damaged"
    assert file in ended.err


def test_a_finished_cell_without_its_weights_is_damaged_and_nothing_is_forgotten(copy):
    found = Study(copy, planned())
    cell = found.spec.cells[0]
    (found.folder(cell) / "backbone.safetensors").unlink()
    before = (found.folder(cell) / "results.json").read_bytes()
    assert cell.name in run_study(found, command="test", shard=Shard())
    assert found.state(cell).status == "damaged"
    assert (found.folder(cell) / "results.json").read_bytes() == before


def test_a_damaged_or_outdated_comparison_is_made_again(copy):
    [pair] = (copy / "pairs").iterdir()
    whole = pair.read_bytes()
    for content in ("{", json.dumps({**json.loads(whole), "weights": ["a", "b"]})):
        pair.write_text(content)
        assert run_study(Study(copy, planned()), command="test", shard=Shard()) == {}
        assert pair.read_bytes() == whole


def test_a_comparison_that_fails_is_reported_and_recorded(copy, monkeypatch):
    [pair] = (copy / "pairs").iterdir()
    pair.unlink()

    def fail(*arguments, **more):
        raise RunError("no good")

    monkeypatch.setattr("fftrain.study.compare_runs", fail)
    failed = run_study(Study(copy, planned()), command="test", shard=Shard())
    assert [*failed.values()] == ["no good"]
    assert read_json(copy / "failed" / f"pair-{pair.stem}.json")["error"] == "no good"
    monkeypatch.undo()
    assert run_study(Study(copy, planned()), command="test", shard=Shard()) == {}
    assert not [*(copy / "failed").iterdir()]


def test_a_full_disk_is_no_damage_and_is_tried_again(copy, monkeypatch):
    found = Study(copy, planned(SPEC.replace("epochs = 3", "epochs = 4")))

    def fail(*arguments, **more):
        raise WriteError("no space left")

    monkeypatch.setattr(cells_module, "probe_run", fail)
    assert set(run_study(found, command="test", shard=Shard()).values()) == {"no space left"}
    assert {found.state(cell).status for cell in found.spec.cells} == {"failed"}
    monkeypatch.undo()
    assert run_study(found, command="test", shard=Shard()) == {}
    assert {found.state(cell).status for cell in found.spec.cells} == {"done"}


def test_killed_at_any_write_a_study_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """Every file is written through `replacing`: here the n-th write never happens, then the study goes on."""

    class KilledError(BaseException):
        pass

    text = SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["ff"]').replace("epochs = 2", "epochs = 1")
    text = text.replace("points = 40", "points = 12").replace("width = 24", "width = 24\ndepth = 1")
    whole = tmp_path / "whole"
    run_study(Study(whole, planned(text)), command="test", shard=Shard())
    replace, n = Path.replace, 0
    while True:
        n += 1
        writes = 0

        def kill(self, target, at=n):
            nonlocal writes
            writes += 1
            if writes == at:
                raise KilledError
            return replace(self, target)

        out = tmp_path / f"killed{n}"
        monkeypatch.setattr(Path, "replace", kill)
        try:
            run_study(Study(out, planned(text)), command="test", shard=Shard())
        except KilledError:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(Path, "replace", replace)
        assert run_study(Study(out, planned(text)), command="test", shard=Shard()) == {}
        assert figures(out) == figures(whole)
        assert weights(out) == weights(whole)
        names = [sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in (out, whole)]
        assert names[0] == names[1]
        shutil.rmtree(out)
    assert n > 12


def test_fewer_images_than_tsne_needs_are_no_reason_to_go_on_for_ever(tmp_path):
    text = SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["ff"]').replace("points = 40", "points = 2")
    found = Study(tmp_path / "few", planned(text))
    assert run_study(found, command="test", shard=Shard()) == {}
    assert found.state(found.spec.cells[0]).status == "done"


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


def test_a_plan_that_was_lost_is_written_anew_and_its_cells_are_kept(copy, cli, spec):
    for content in ("{", "{}", None):
        path = copy / "study.json"
        path.unlink() if content is None else path.write_text(content)
        before = weights(copy)
        ended = cli("fftrain", "study", "--spec", spec, "--out", copy)
        assert ended.code == 0, ended.err
        assert "3 cells (3 done)" in ended.out
        assert weights(copy) == before


def test_a_start_that_was_killed_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / ".study.json.0123.partial").write_text("{")
    Study(tmp_path, planned()).create("test")
    assert (tmp_path / "study.json").exists()


def test_what_this_machine_cannot_do_is_refused_before_anything_starts(cli, tmp_path):
    spec = tmp_path / "half.toml"
    spec.write_text(SPEC.replace("width = 24", 'width = 24\nmixed_precision = ["no", "fp16"]'))
    one_line(cli("fftrain", "study", "--spec", spec, "--out", tmp_path / "x"), 2, "fp16 cannot be had on a CPU")
    assert not (tmp_path / "x").exists()


def folder_of_images(path, sizes):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.fromarray(rng.integers(256, size=(size, size), dtype=np.uint8)).save(path / name / f"{i}.png")


def test_of_two_processes_a_failing_cell_does_not_end_the_others_and_pairs_of_many_data_sets_are_compared(tmp_path):
    for name, sizes in (("mixed", [8, 9] * 20), ("a b", [8] * 40), ("c", [6] * 40), ("d", [10] * 40)):
        folder_of_images(tmp_path / name, sizes)
    datasets = ", ".join(f'"imagefolder:{tmp_path}/{name}"' for name in ("mixed", "a b", "c", "d"))
    text = SPEC.replace('"digits"', datasets).replace(', "ff-unsupervised"', "").replace("limit = 300\n", "")
    text = text.replace("epochs = 2", "epochs = 1")
    (tmp_path / "many.toml").write_text(text)
    out = tmp_path / "two"
    launch = "torch.distributed.run --standalone --nproc-per-node 2 -m fftrain study"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ended = python("-m", *launch.split(), "--spec", tmp_path / "many.toml", "--out", out, env=environment)
    assert ended.returncode == 1
    assert len([*(out / "pairs").iterdir()]) == 3, ended.stderr
    states = {
        cell["name"]: cell["status"]
        for cell in Study(out, planned(text.replace("epochs = 2", "epochs = 1"))).listing(Shard())
    }
    assert sorted(states.values()) == ["done"] * 6 + ["failed"] * 2
    assert all(name.startswith("mixed") for name, status in states.items() if status == "failed")


def test_an_image_folder_that_has_changed_is_noticed(tmp_path):
    folder_of_images(tmp_path / "data", [8] * 40)
    text = SPEC.replace('"digits"', f'"imagefolder:{tmp_path}/data"').replace("limit = 300\n", "")
    text = text.replace('["ff", "bp", "ff-unsupervised"]', '["ff"]')
    assert run_study(Study(tmp_path / "x", planned(text)), command="test", shard=Shard()) == {}
    for i in range(10):
        shutil.copy(tmp_path / "data" / "cat" / "0.png", tmp_path / "data" / "cat" / f"new{i}.png")
    other = Study(tmp_path / "x", planned(text.replace("epochs = 3", "epochs = 4")))
    [reason] = run_study(other, command="test", shard=Shard()).values()
    assert "has changed since" in reason


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
    found = Study(copy, planned(SPEC.replace("methods", "seeds = [0, 1]\nmethods")))
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


def test_shards_are_disjoint_and_whole():
    found = Study(Path("nowhere"), plan(read_preset("paper"), "paper"))
    cells = found.spec.cells
    parts = [Shard(i, 7).of_cells(cells, found.facts) for i in range(1, 8)]
    assert sorted(c.name for part in parts for c in part) == sorted(c.name for c in cells)
    costs = [sum(sum(estimate(c, found.facts[c.name], NOMINAL).values()) for c in part) for part in parts]
    assert max(costs) < 1.3 * min(costs)
    for text in ("0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"):
        with pytest.raises(SettingError, match=f"--shard is '{text}': write I/N"):
            Shard.of(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('["rotation"]', '["jigsaw"]', "width = 24", "width = 24\nimage_size = 7"), "task 'jigsaw' on 'digits'"),
        (('["rotation"]', '["jigsaw"]', "width = 24", "width = 24\nimage_size = 4"), "a label of 24 classes"),
        (("methods", 'transfer = ["cifar10"]\nmethods'), "transfer has 'cifar10'"),
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
    one_line(cli("fftrain", "study"), 2, "--preset smoke|quick|paper")
    one_line(cli("fftrain", "study", "--preset", "big"), 2, "--preset is 'big'")
    one_line(cli("fftrain", "study", "--preset", "smoke", "--spec", spec), 2, "two studies")
    one_line(cli("fftrain", "study", "--spec", tmp_path / "no.toml"), 2, "--spec", "no.toml cannot be read")
    one_line(cli("fftrain", "study", "--out", tmp_path), 2, "holds no study")
    (tmp_path / "bad.toml").write_text("datasets = [")
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
    ended = study("--preset", "smoke", "--out", tmp_path / "smoke")
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - began < 120
    assert python("-m", "fftrain", "report", tmp_path / "smoke").returncode == 0
