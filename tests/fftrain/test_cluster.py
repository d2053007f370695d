"""Cells as Ray tasks, on a real cluster of several nodes: the same bytes, whatever dies."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from importlib.metadata import version

import psutil
import pytest

from ffcore.files import read_json
from fftrain.study.cluster import Cluster, _token
from fftrain.study.task import Job, unfit
from tests.fftrain.studies import OWN_EVALUATION, SPEC, cells, planned, start, study_command
from tests.fftrain.training import epochs
from tests.helpers import Ended, one_line, until

# A cell that takes long enough to be killed in.
LONG = SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["bp"]').replace("limit = 300\neval", "limit = 1000\neval")
LONG = 'evaluation = ["knn"]\n' + LONG.replace("epochs = 2", "epochs = 60").replace("width = 24", "width = 400")


def worker(name):
    """The process that does a cell, or None."""
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith(f"ray::{name}"):
            return process
    return None


def gone(process):
    """Whether a process has ended."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def trained(out, name, epoch=1):
    """Whether a cell's checkpoint is of an epoch or a later one, and it is not done."""
    found = [int(path.name.removeprefix("epoch-")) for path in (out / "cells" / name / "checkpoint").glob("epoch-*")]
    return max(found, default=0) >= epoch


def written(path):
    spec = path / "long.toml"
    spec.write_text(LONG)
    [cell] = planned(LONG).cells
    return spec, cell.name


def timeless(folder):
    """Every file of a study, without what a clock and the command line say."""

    def without(text):
        text = re.sub(r'"(seconds|images_per_second)": [0-9.e+-]+', "", text)
        text = re.sub(r'("measure": "seconds".*?"value": )[0-9.e+-]+', r"\1", text)
        return re.sub(r'"command": ".*"', "", text)

    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".partial":  # all that a kill may leave
            raw = path.read_bytes()
            named = path.suffix in (".json", ".jsonl")
            found[str(path.relative_to(folder))] = without(raw.decode()) if named else raw
    return found


def test_what_does_not_go_with_an_engine_is_refused(cli, spec, tmp_path, monkeypatch):
    command = ("fftrain", "study", "--spec", spec, "--out", tmp_path / "x")
    one_line(cli(*command, "--engine", "spark"), 2, "--engine is 'spark'", "plain, ray")
    one_line(cli(*command, "--cell-cpus", 2), 2, "--cell-cpus is of Ray: add --engine ray")
    one_line(cli(*command, "--address", "auto"), 2, "--address is of Ray")
    one_line(cli(*command, "--engine", "ray", "--processes", 2), 2, "each cell in one process, and 2 were asked for")
    monkeypatch.setitem(sys.modules, "ray", None)
    one_line(cli(*command, "--engine", "ray"), 2, "not installed: run pip install 'ffstudy[ray]'")
    assert cli(*command, "--engine", "ray", "--dry-run").code == 0  # nothing of it is used before
    assert not (tmp_path / "x").exists()


def test_where_no_cluster_is_it_is_said_at_once(cli, spec, tmp_path, unused_port):
    pytest.importorskip("ray", reason="ray is not installed")
    command = ("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--engine", "ray", "--address")
    for address in (f"127.0.0.1:{unused_port}", f"ray://127.0.0.1:{unused_port}"):
        one_line(cli(*command, address), 1, f"nothing listens at --address {address}", "start Ray there")
    for address in ("here", "host:port", "host:70000000"):
        assert cli(*command, address).code in (1, 2)
    one_line(cli(*command, "here"), 2, "--address is 'here': write auto, HOST:PORT or ray://HOST:PORT")
    assert not (tmp_path / "x").exists()


def test_a_node_says_what_it_lacks(tmp_path):
    path, here = tmp_path / "mine", version("torch")
    token = path / "locks" / "ray-1"

    def lacks(torch):
        about = {"planned": "", "working": "", "redo_damaged": False}
        return unfit(Job(path=str(path), token=str(token), versions=(("torch", torch),), **about))

    assert lacks(here) == f"does not see {path}: name an --out on storage that all nodes share"
    token.parent.mkdir(parents=True)
    token.touch()
    assert lacks(here) == ""
    assert lacks("1.0") == f"has torch {here}, and this machine 1.0: install the same"


@pytest.mark.slow
def test_on_this_machine_nothing_but_times_differs(finished, spec, tmp_path):
    pytest.importorskip("ray", reason="ray is not installed")
    out = tmp_path / "mine"
    ended = study_command("--spec", spec, "--out", out, "--engine", "ray", "--json")
    assert ended.returncode == 0, ended.stderr
    assert [cell["status"] for cell in json.loads(ended.stdout)["cells"]] == ["done"] * 3
    assert timeless(out) == timeless(finished[0])
    for number, cell in enumerate(read_json(out / "study.json")["cells"], start=1):
        name = re.escape(cell["name"])
        assert re.search(rf"^\({name} pid=\d+\) epoch 2/2 ", ended.stderr, re.MULTILINE)
        assert re.search(rf"^cell {number}/3 {name} done; left: about ", ended.stderr, re.MULTILINE)


@pytest.mark.slow
def test_what_no_node_has_is_said_and_nothing_waits_for_it(spec, tmp_path, cluster):
    command = ("--spec", spec, "--out", tmp_path / "x", "--engine", "ray", "--address", cluster.address)
    for option, said in (
        (("--cell-cpus", 2), "--cell-cpus is 2 and --cell-gpus 0, which no node has: the most are 1 CPUs and 0 GPUs"),
        (("--cell-gpus", 0.5), "--cell-cpus is 1 and --cell-gpus 0.5, which no node has"),
    ):
        ended = study_command(*command, *option)
        one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 2, said)
    assert not (tmp_path / "x").exists()


def test_what_listens_and_is_no_cluster_is_not_waited_for(cli, spec, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setattr("ffcore.cluster.ANSWERING", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = ("fftrain", "study", "--spec", spec, "--out", tmp_path / "x", "--engine", "ray", "--address", address)
        one_line(cli(*command), 1, f"--address {address}: what listens there is no Ray cluster", "ray start")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("told", "threads"), [({"OMP_NUM_THREADS": "1"}, "1"), ({}, "2")])
def test_a_cell_has_the_threads_of_the_plain_engine(monkeypatch, told, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    asked = Cluster(cell_cpus=2)._asked(2)
    assert (asked["num_cpus"], asked["runtime_env"]["env_vars"]["OMP_NUM_THREADS"]) == (2, threads)


def test_what_a_driver_that_was_killed_left_goes(tmp_path):
    (tmp_path / "ray-old").touch()
    with _token(tmp_path) as token, _token(tmp_path) as other:
        assert {token, other} == {*tmp_path.iterdir()}  # one that is at work is left alone
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_shown_that_of_this_machine(spec, tmp_path, unused_port, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = (sys.executable, "-m", "ray.scripts.scripts")
    subprocess.run([*ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    options = ("--port", str(unused_port), "--num-cpus", "1", "--include-dashboard", "false", "--block")
    address = f"{socket.gethostbyname(socket.gethostname())}:{unused_port}"
    with subprocess.Popen([*ray, "start", "--head", *options], stdout=subprocess.PIPE, text=True) as head:
        try:
            next(line for line in head.stdout if "--block" in line)  # it runs
            command = ("--spec", spec, "--engine", "ray", "--address", address, "--only", "*-bp-*", "--threads", "1")
            ended = study_command(*command, "--out", tmp_path / "x")
            assert ended.returncode == 0, ended.stderr
            monkeypatch.setenv("HOME", str(tmp_path / "other"))
            ended = study_command(*command, "--out", tmp_path / "y")
            one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 1, f"{address} wants its token: copy ~/.ray/")
        finally:
            head.terminate()


@pytest.mark.slow
def test_a_cell_whose_node_is_killed_goes_on_elsewhere_from_its_checkpoint(tmp_path, cluster):
    spec, name = written(tmp_path)
    plain, out = tmp_path / "plain", tmp_path / "out"
    child = start("--spec", spec, "--out", out, "--engine", "ray", "--address", cluster.address)
    until(lambda: trained(out, name))
    at_work = worker(name)
    raylet = at_work.parent()
    assert "raylet" in raylet.name()
    raylet.kill()
    until(lambda: gone(at_work), 20)  # else it would go on writing
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert "its process or node died; it goes on elsewhere" in err
    resumed = [int(epoch) for epoch in re.findall(r"resuming .* after epoch (\d+)", err)]
    assert len(resumed) == 1
    assert 1 <= resumed[0] < 60
    assert epochs(out / "cells" / name) == [*range(1, 61)]
    ended = study_command("--spec", spec, "--out", plain)
    assert ended.returncode == 0, ended.stderr
    assert timeless(out) == timeless(plain)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_ended_ends_its_cells_and_started_again_goes_on(tmp_path, cluster, number):
    spec, name = written(tmp_path)
    out = tmp_path / "out"
    command = ("--spec", spec, "--out", out, "--engine", "ray", "--address", cluster.address)
    child = start(*command)
    until(lambda: trained(out, name))
    at_work = worker(name)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert child.returncode == -number
        until(lambda: gone(at_work), 60)
    else:
        assert child.returncode == 128 + number
        assert "stopped: the same command goes on" in err
        assert worker(name) is None
        assert not [*out.rglob("*.partial")]
    again = study_command(*command)
    assert again.returncode == 0, again.stderr
    [resumed] = re.findall(r"resuming .* after epoch (\d+)", again.stderr)
    assert int(resumed) >= 1
    assert epochs(out / "cells" / name) == [*range(1, 61)]
    assert not [*(out / "locks").glob("ray-*")]


@pytest.mark.slow
def test_two_drivers_share_a_study_and_each_cell_is_done_once(finished, spec, tmp_path, cluster):
    out = tmp_path / "out"
    command = ("--spec", spec, "--out", out, "--engine", "ray", "--address", cluster.address)
    drivers = [start(*command) for _ in range(2)]
    done = []
    for child in drivers:
        _, err = child.communicate(timeout=300)
        assert child.returncode == 0, err
        done += re.findall(r"^cell \d/\d (\S+) done", err, re.MULTILINE)
    assert sorted(done) == [*cells(out)]
    assert timeless(out) == timeless(finished[0])


@pytest.mark.slow
def test_an_evaluation_of_somebodys_own_goes_along_and_what_fails_is_reported(tmp_path, cluster):
    (tmp_path / "mine.py").write_text(OWN_EVALUATION)
    text = SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["bp"]').replace("3e-3", "[1e30, 3e-3]")
    spec = tmp_path / "own.toml"
    spec.write_text(f'evaluation = ["{tmp_path}/mine.py"]\n{text}')
    ended = study_command(
        "--spec", spec, "--out", tmp_path / "x", "--engine", "ray", "--address", cluster.address, "--json"
    )
    assert ended.returncode == 1
    found = json.loads(ended.stdout)["cells"]
    assert [cell["status"] for cell in found] == ["failed", "done"]
    assert "not finite" in found[0]["reason"]
