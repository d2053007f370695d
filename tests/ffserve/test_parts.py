"""Answers by part, without Ray: what is listed, what a session writes, and what a folder refuses."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet
import pytest

from ffcore.errors import DataError, RunError, UsageError
from ffcore.folders import find
from ffcore.tally import Tally
from ffserve.account import Account
from ffserve.parts import storage
from ffserve.parts.finding import Ref, class_folders_at, labelled, located
from ffserve.parts.job import MANIFEST, begin, part_name, refs_of
from ffserve.parts.storage import Folder
from ffserve.parts.work import Session
from tests.ffserve.parts import answers, job_of, write_images, write_table
from tests.helpers import one_line


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def memory(contents):
    """A storage by URL: memory://photos/0.png and so on, below it sub/x.png, and what is no image."""
    system = fsspec.filesystem("memory")
    for number, content in enumerate(contents[:4]):
        system.pipe_file(f"/photos/{number}.png", content)
    system.pipe_file("/photos/sub/x.png", contents[4])
    system.pipe_file("/photos/.hidden.png", b"")
    system.pipe_file("/photos/notes.txt", b"")
    yield system
    system.rm("/", recursive=True)


def names(given, **kwargs):
    return [ref.name for ref in located(given, Tally(), **kwargs)]


def test_files_are_listed_as_the_plain_command_finds_them(tmp_path, contents, monkeypatch):
    write_images(tmp_path / "photos", contents)
    monkeypatch.chdir(tmp_path)
    given = ["photos", "photos/zero/*.png", "photos/one/001.png", "missing.png", "none/*.png"]
    plain = [*find(given)]
    assert names(given) == [item.name for item in plain]
    assert [ref.error for ref in located(given, Tally())] == [
        str(item.source) if isinstance(item.source, Exception) else None for item in plain
    ]
    assert names([f"file://{tmp_path}/photos/one/001.png"]) == [f"{tmp_path}/photos/one/001.png"]
    with pytest.raises(UsageError, match="it goes without --engine ray"):
        names(["-"])
    with pytest.raises(UsageError, match=r"'nowhere://x/1\.png' cannot be reached"):
        names(["nowhere://x/1.png"])


def test_what_lies_by_url_is_listed(memory):
    left_out = Tally()
    every = [f"memory://photos/{name}.png" for name in ("0", "1", "2", "3", "sub/x")]
    assert [ref.name for ref in located(["memory://photos/"], left_out)] == every
    assert dict(left_out.counts) == {"hidden": 1, "no images": 1}
    assert names(["memory://photos/*.png"])[-4:] == every[:4]
    assert names(["memory://photos/**/x.png", "memory://photos/2.png"]) == [every[4], every[2]]
    [none] = located(["memory://photos/*.jpg"], Tally())
    assert none.error == "'memory://photos/*.jpg' matches no file"
    assert class_folders_at("memory://photos", Tally()) == {"sub": ["memory://photos/sub"]}
    [inside] = labelled([("memory://photos/sub", 2)], Tally())
    assert (inside.file, inside.label) == (every[4], 2)
    with pytest.raises(DataError, match="'memory://photos/sub' holds no folders"):
        class_folders_at("memory://photos/sub", Tally())


def test_rows_of_parquet_files_are_listed_by_their_column(tmp_path, contents):
    write_table(tmp_path / "a.parquet", contents[:3])
    write_table(tmp_path / "b.parquet", contents[:2], nested=True)
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert names([f"{tmp_path}/*.parquet"]) == [f"{a}[{i}]" for i in range(3)] + [f"{b}[{i}]" for i in range(2)]
    [ref] = located([str(a)], Tally(), column="number")
    assert (
        ref.error
        == f"{str(a)!r} has no column 'number' of images' bytes (--image-column): it has number (int64), image (binary)"
    )
    table = pyarrow.table({"x": [b""], "y": [b""]})
    pyarrow.parquet.write_table(table, a)
    [ref] = located([str(a)], Tally())
    assert ref.error.endswith("has several columns of images' bytes, x, y: name one with --image-column")
    assert names([str(a)], column="y") == [f"{a}[0]"]
    a.write_bytes(b"none")
    [ref] = located([str(a)], Tally())
    assert "cannot be read" in ref.error


def test_a_session_answers_parts_as_the_plain_command_does(cli, tmp_path, model, contents, memory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), contents)
    write_table("t.parquet", contents, nested=True)
    flat = [(Path(ref.name)).read_bytes() for ref in located(["photos"], Tally())]
    plain = cli(
        "ffserve", "features", "photos", "--model", model.path, "--out", "f.parquet", "--batch-size", 4, "--threads", 1
    )
    assert plain.code == 1
    wanted = pyarrow.parquet.read_table("f.parquet")
    given = ["photos", "t.parquet", "t.parquet", "memory://photos"]
    job = job_of(tmp_path, model)
    listed = begin(job, model.path.read_bytes(), located(given, Tally()))
    assert (listed.images, listed.parts) == (24 * 3 + 5, 10)
    session, account = Session(job), Account()
    for number in range(listed.parts):
        told = session.answered(number, listed.keys[number])
        assert not told["kept"]
        account.include(told["account"])
    found = answers("out")
    assert found.slice(0, 23).equals(wanted)
    features = model.expected(np.concatenate([model.images(23)]))["features"]
    np.testing.assert_allclose(np.stack(found["features"].to_numpy()[23:46]), features, atol=1e-6)
    np.testing.assert_allclose(np.stack(found["features"].to_numpy()[46:69]), features, atol=1e-6)
    np.testing.assert_allclose(np.stack(found["features"].to_numpy()[69:]), features[:5], atol=1e-6)
    bad = [failed.file for failed in account.failed]
    assert bad == [f"photos/two/{len(flat) - 1:03d}.png", "t.parquet[23]", "t.parquet[23]"]
    assert f"ffserve: error: {account.failed[0].error}" in plain.err
    whole = {path.name: path.read_bytes() for path in Path("out").glob("part-*")}
    damaged, gone = Path("out", part_name(2)), Path("out", part_name(3))
    damaged.write_bytes(b"PAR1")
    gone.unlink()
    again = Session(job)
    assert [again.answered(number, listed.keys[number])["kept"] for number in range(listed.parts)] == [
        number not in (2, 3) for number in range(10)
    ]
    assert {path.name: path.read_bytes() for path in Path("out").glob("part-*")} == whole


def test_predictions_have_the_columns_and_values_of_csv(cli, tmp_path, model, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), contents)
    plain = cli("ffserve", "predict", "photos", "--model", model.path, "--csv", "--top-k", 2, "--batch-size", 4)
    header, *rows = csv.reader(StringIO(plain.out))
    job = job_of(tmp_path, model, command="predict", called=str(model.path))
    listed = begin(job, model.path.read_bytes(), located(["photos"], Tally()))
    for number in range(listed.parts):
        Session(job).answered(number, listed.keys[number])
    found = answers("out")
    assert found.column_names == header

    def cell(value):
        if isinstance(value, float):
            return f"{value:.6f}"
        return "" if value is None else str(value).lower() if isinstance(value, bool) else value

    assert [[cell(value) for value in row.values()] for row in found.to_pylist()] == rows


def test_a_folder_takes_up_the_same_job_alone(tmp_path, model, contents):
    write_images(tmp_path / "photos", contents)
    job, content = job_of(tmp_path, model), model.path.read_bytes()

    def refs(count=24):
        return [Ref(f"photos/{number}.png", label=number, stamp="1") for number in range(count)]

    assert begin(job, content, refs()) == begin(job, content, refs())
    assert refs_of(Folder(job.out), 1) == refs()[8:16]
    begin(replace(job, called="elsewhere.onnx"), content, refs())
    for other, key in (
        (replace(job, batch_size=8), "batch_size is 4 there, and 8"),
        (replace(job, model="2"), "it is of another model; ask for the same"),
    ):
        with pytest.raises(RunError, match=f"holds another job: {key}"):
            begin(other, content, refs())
    with pytest.raises(RunError, match="holds another job: it is of other images"):
        begin(job, content, refs(23))
    with pytest.raises(RunError, match="holds another job: it is of other images"):
        begin(replace(job, working="/elsewhere"), content, refs())
    (tmp_path / "out" / MANIFEST).unlink()  # killed while it listed
    begin(job, content, refs(23))
    assert len(refs_of(Folder(job.out), 2)) == 7
    with pytest.raises(RunError, match=r"holds something else \(one, and no _manifest.json\): name a new folder"):
        begin(job_of(tmp_path, model, out=str(tmp_path / "photos")), content, refs())
    with pytest.raises(DataError, match="no image was named"):
        begin(job_of(tmp_path, model, out=str(tmp_path / "new")), content, [])


def test_a_node_says_what_it_lacks(tmp_path, model):
    other = Session(job_of(tmp_path, model, version="0.0"))
    assert "has ffstudy 0.0" not in other({"number": 0, "key": ""})["said"]
    assert "and this machine 0.0: install the same" in other({"number": 0, "key": ""})["said"]
    assert (
        "name an --out on storage that all share" in Session(job_of(tmp_path, model))({"number": 0, "key": ""})["said"]
    )


def test_what_is_of_ray_goes_with_it_alone(cli, tmp_path, model, monkeypatch, unused_port):
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.chdir(tmp_path)
    out = ("--out", "x", "--model", model.path)
    one_line(cli("ffserve", "features", "x.png", *out, "--sessions", 2), 2, "--sessions is of Ray: add --engine ray")
    one_line(cli("ffserve", "predict", "x.png", *out), 2, "--out is of Ray: add --engine ray")
    ray = ("--engine", "ray", "--model", model.path)
    one_line(cli("ffserve", "predict", "x.png", *ray), 2, "name a folder with --out")
    one_line(cli("ffserve", "predict", "x.png", *ray, "--csv"), 2, "leave --jsonl and --csv out")
    one_line(cli("ffserve", "evaluate", "--train", "a", "--test", "b", *ray), 2, "without --train and --test")
    nobody = f"127.0.0.1:{unused_port}"
    one_line(cli("ffserve", "features", "x.png", *ray, "--out", "x", "--address", nobody), 1, "nothing listens at")
    assert not (tmp_path / "x").exists()
    monkeypatch.setitem(sys.modules, "ffserve.parts.command", None)  # as without fsspec
    one_line(cli("ffserve", "features", "x.png", *ray, *out), 2, "run pip install 'ffstudy[ray]'")
    monkeypatch.setitem(sys.modules, "ray", None)
    one_line(cli("ffserve", "features", "x.png", *ray, *out), 2, "run pip install 'ffstudy[ray]'")


def test_s3_is_where_the_environment_says(monkeypatch):
    storage._s3.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    place = storage.placed("s3://bucket/photos/")
    assert (place.path, place.root) == ("bucket/photos", "s3://")
    storage._s3.cache_clear()
