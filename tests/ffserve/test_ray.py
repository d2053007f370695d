"""Answers by part on a real Ray: those of the plain command, whatever dies, from and to a storage by URL."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest

from tests.ffserve.parts import answers, big, noise, png, write_images, write_table
from tests.helpers import ROOT, Ended, until

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="ray is not installed")
RAY = ("--engine", "ray", "--threads", 1)


def start(*arguments, model=None, **kwargs):
    command = [sys.executable, "-m", "ffserve", *map(str, arguments)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, **({"FFSERVE_MODEL": str(model)} if model else {})}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs
    )


def ffserve(*arguments, **kwargs):
    child = start(*arguments, **kwargs)
    out, err = child.communicate(timeout=300)
    return Ended(child.returncode, out, err)


def told(ended):
    """What a command says of images on standard error."""
    found = [line for line in ended.err.splitlines() if line.startswith("ffserve: ")]
    return [line for line in found if not line.startswith("ffserve: note: dashboard: ")]


def workers():
    """The processes of sessions."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::MapWorker")
    ]


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def photos(tmp_path, model):
    write_images(tmp_path / "photos", [*map(png, model.images(300)), b"no image"])
    return tmp_path / "photos"


@pytest.fixture
def slow(tmp_path):
    """A folder of 400 names of one image that takes a while to read."""
    folder = tmp_path / "slow"
    folder.mkdir()
    big(folder / "0000.png")
    for number in range(1, 400):
        (folder / f"{number:04d}.png").symlink_to("0000.png")
    return folder


@pytest.fixture
def s3(monkeypatch):
    """A server of S3 on this machine, with an empty bucket."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    for name, value in {**given, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    found = S3FileSystem(endpoint_override=given["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
    found.create_dir("bucket")
    yield found
    server.stop()


def test_features_are_those_of_the_plain_command(tmp_path, photos, model):
    common = ("features", photos, "--model", model.path, "--batch-size", 16, "--threads", 1)
    plain = ffserve(*common, "--out", tmp_path / "f.parquet")
    ray = ffserve(*common, "--out", tmp_path / "out", "--engine", "ray", "--part-images", 64, "--json")
    assert (plain.code, ray.code) == (1, 1), ray.err
    assert told(ray) == told(plain)
    assert ray.json["images"] == 300
    assert (ray.json["parts"], ray.json["kept"]) == (5, 0)
    wanted = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    assert answers(tmp_path / "out").equals(wanted)
    again = ffserve(*common, "--out", tmp_path / "out", "--engine", "ray", "--part-images", 64, "--json")
    assert again.json == {**ray.json, "kept": 5}
    assert told(again) == told(plain)


def test_an_evaluation_is_that_of_the_plain_command(tmp_path, photos, model):
    common = ("evaluate", photos, "--model", model.path, "--threads", 1)
    plain = ffserve(*common)
    ray = ffserve(*common, "--out", tmp_path / "out", "--engine", "ray", "--part-images", 128)
    assert (plain.code, ray.code) == (1, 1), ray.err
    assert ray.out == plain.out
    assert told(ray) == told(plain)
    found = answers(tmp_path / "out").to_pydict()
    right = sum(own == taken for own, taken in zip(found["class"], found["predicted"], strict=True))
    assert f"{right}" in plain.out.splitlines()[4].split()


def test_a_driver_that_is_killed_goes_on_by_part(tmp_path, slow, model):
    out = tmp_path / "out"
    common = ("features", slow, "--model", model.path, *RAY, "--out", out, "--part-images", 20, "--batch-size", 10)
    child = start(*common, start_new_session=True)
    until(lambda: len([*out.glob("part-*")]) >= 2)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(before) < 20
    again = ffserve(*common, "--json")
    assert again.code == 0, again.err
    assert len(before) <= again.json["kept"] < again.json["parts"] == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before
    plain = ffserve(*common[:4], "--threads", 1, "--out", tmp_path / "f.parquet", "--batch-size", 10)
    assert plain.code == 0, plain.err
    assert answers(out).equals(pyarrow.parquet.read_table(tmp_path / "f.parquet"))


def test_one_that_is_told_to_stop_says_how_it_goes_on(tmp_path, slow, model):
    out = tmp_path / "out"
    child = start("features", slow, "--model", model.path, *RAY, "--out", out, "--part-images", 20)
    until(lambda: [*out.glob("part-*")])
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert "ffserve: note: stopped: the same command goes on" in err
    assert "Traceback" not in err
    assert not [*out.glob(".*")]


def test_parts_of_a_node_that_dies_are_done_elsewhere(tmp_path, slow, model, cluster):
    out = tmp_path / "out"
    common = ("features", slow, "--model", model.path, *RAY, "--address", cluster.address, "--out", out, "--json")
    child = start(*common, "--part-images", 20)
    until(lambda: [*out.glob("part-*")])
    [one, *_] = workers()
    raylet = one.parent()
    assert "raylet" in raylet.name()
    raylet.kill()
    printed, err = child.communicate(timeout=300)
    ended = Ended(child.returncode, printed, err)
    assert ended.code == 0, err
    assert ended.json["images"] == 400
    assert len({*answers(out).to_pydict()["names"]}) == 400


def test_s3_is_read_and_written(tmp_path, photos, model, s3, monkeypatch, unused_port):
    for path in sorted(photos.rglob("*.png")):
        with s3.open_output_stream(f"bucket/photos/{path.relative_to(photos)}") as file:
            file.write(path.read_bytes())
    common = ("--model", model.path, "--batch-size", 16, "--threads", 1)
    ray = (*common, "--engine", "ray", "--part-images", 64, "--out")
    ffserve("features", photos, *common, "--out", tmp_path / "f.parquet")
    for given, out in (("s3://bucket/photos/", "a"), ("s3://bucket/photos/*/*.png", "b")):
        ended = ffserve("features", given, *ray, f"s3://bucket/{out}", "--json")
        assert ended.code == 1, ended.err
        bad = "s3://bucket/photos/zero/300.png"
        assert [entry["file"] for entry in ended.json["errors"]] == [bad]
        assert told(ended)[0].removeprefix("ffserve: error: ").startswith(f"'{bad}' is no image")
        found = pyarrow.parquet.read_table(f"bucket/{out}", filesystem=s3)
        wanted = pyarrow.parquet.read_table(tmp_path / "f.parquet")
        assert sorted(found["names"].to_pylist()) == sorted(
            f"s3://bucket/photos/{Path(name).relative_to(photos)}" for name in wanted["names"].to_pylist()
        )
        assert found["features"].combine_chunks().equals(wanted["features"].combine_chunks())
    again = ffserve("features", "s3://bucket/photos/", *ray, "s3://bucket/a", "--json")
    assert again.json["kept"] == again.json["parts"] == 5
    ended = ffserve("evaluate", "s3://bucket/photos", *ray, "s3://bucket/c", "--json")
    local = ffserve("evaluate", photos, *common, "--json")
    for key in ("accuracy", "confusion", "classes"):
        assert ended.json[key] == local.json[key]
    missing = ffserve("features", "s3://none/x/", *ray, "s3://bucket/d")
    assert missing.code == 1
    assert told(missing)[0].startswith("ffserve: error: 's3://none/x' cannot be read: ")
    assert "does not exist" in told(missing)[0] or "no such file" in told(missing)[0]
    assert told(missing)[1:] == ["ffserve: error: no image could be read: s3://bucket/d is not written"]
    with s3.open_output_stream("bucket/photos/zero/300.png") as file:
        file.write(png(model.images(1)[0]))
    mended = ffserve("features", "s3://bucket/photos/", *ray, "s3://bucket/a", "--json")
    assert (mended.code, mended.json["kept"], mended.json["images"]) == (0, 4, 301), mended.err
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    for given, out in (("s3://bucket/photos/*/*.png", "x"), ("s3://bucket/photos/", "x"), (photos, "s3://bucket/x")):
        failed = ffserve("features", given, *ray, tmp_path / out if out == "x" else out)
        assert failed.code == 1
        assert [line for line in told(failed) if "the same command tries again" in line] == told(failed) != []
        assert not (tmp_path / "x").exists()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, model):
    rows = [noise(32, seed) for seed in range(100)] * 20
    most = {}
    for times in (1, 10):
        write_table(tmp_path / "rows.parquet", rows * times, group=500)
        out = tmp_path / f"out{times}"
        common = ("--model", model.path, *RAY, "--sessions", 1, "--part-images", 500, "--out", out)
        child = start("features", tmp_path / "rows.parquet", *common)
        most[times] = {"driver": 0, "session": 0}
        while child.poll() is None:
            for who, process in (("driver", psutil.Process(child.pid)), *(("session", found) for found in workers())):
                with contextlib.suppress(psutil.Error):
                    most[times][who] = max(most[times][who], process.memory_info().rss)
            time.sleep(0.1)
        assert child.wait() == 0, child.communicate()[1]
        child.communicate()
        assert len(answers(out)) == 2000 * times
    grown = {who: (most[10][who] - most[1][who]) / 2**20 for who in most[1]}
    assert min(most[1].values()) > 2**20
    assert max(grown.values()) < 15, grown  # the images of the larger are 20 MiB more


def test_the_commands_of_the_page(tmp_path, model):
    write_images(tmp_path / "images" / "test", [*map(png, model.images(30))])
    section = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").partition("## Images by the million")[2]
    script, commands = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("python", "sh"))
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "ffserve"
        ended = ffserve(*words, cwd=tmp_path, model=model.path)
        assert ended.code == 0, (line, ended.err)
    with contextlib.chdir(tmp_path):
        exec(script, found := {})
    assert found["features"].column_names == ["names", "features"]
    assert len(found["features"]) == 30
