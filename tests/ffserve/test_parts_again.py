"""Jobs that are taken up again, without Ray: what has changed since, what is damaged, and what did not answer."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from ffcore.errors import DataError, FFStudyError, RunError, UsageError
from ffcore.tally import Tally
from ffserve.parts import reading
from ffserve.parts.finding import Ref, located
from ffserve.parts.job import INPUTS, MANIFEST, MODEL, begin, part_name
from ffserve.parts.looking import stamped
from ffserve.parts.storage import Folder
from ffserve.parts.work import Session
from tests.ffserve.parts import answers, job_of, write_images


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def web():
    """A server: what it answers, by path, as (status, content), and its URL; a path without an answer is 404."""
    answered = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = answered.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", len(content))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield answered, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def run(job, model, given=("photos",)):
    """Takes a job up, and returns of each part whether it was kept, and the images that could not be read."""
    listed = begin(job, model.path.read_bytes(), located(given, Tally()))
    session = Session(job)
    told = [session.answered(number, key) for number, key in enumerate(listed.keys)]
    return [each["kept"] for each in told], [bad[0] for each in told for bad in each["account"]["failed"]]


def test_a_part_is_done_again_when_an_image_of_it_has_changed(tmp_path, model, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), contents)
    job = job_of(tmp_path, model)
    assert run(job, model) == ([False, False, False], ["photos/two/023.png"])
    first = answers("out")["features"].to_pylist()
    assert run(job, model) == ([True, True, True], ["photos/two/023.png"])
    Path("photos/two/023.png").write_bytes(contents[0])
    assert run(job, model) == ([True, False, True], [])
    path = Path("photos/one/001.png")
    before = path.stat()
    path.write_bytes(contents[0])
    assert run(job, model) == ([False, True, True], [])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # its time alone tells
    assert run(job, model) == ([False, True, True], [])
    found = answers("out")
    at = dict(zip(*found.select(["names", "features"]).to_pydict().values(), strict=True))
    assert at["photos/one/001.png"] == at["photos/zero/000.png"] == at["photos/two/023.png"] != first[0]


def test_an_image_that_could_not_be_opened_is_tried_again(tmp_path, model, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["0.png", "1.png", "2.png"]
    for name, content in zip(names, contents, strict=False):
        Path(name).write_bytes(content)
    job = job_of(tmp_path, model, part_images=2)
    stamps = [ref.stamp for ref in stamped(map(Ref, names))]
    refs = [Ref(name, stamp=stamp) for name, stamp in zip(names, stamps, strict=True)]
    listed = begin(job, model.path.read_bytes(), refs)
    Path("1.png").unlink()  # after it was listed
    told = [Session(job).answered(number, key) for number, key in enumerate(listed.keys)]
    assert [each["again"] for each in told] == [True, False]
    Path("1.png").write_bytes(contents[1])
    told = [Session(job).answered(number, key) for number, key in enumerate(listed.keys)]
    assert [(each["kept"], each["account"]["failed"]) for each in told] == [(False, []), (True, [])]


@pytest.mark.parametrize("given", ["empty", "none.png", "none/*.png", "empty.parquet", "memory://none/x.png"])
def test_nothing_is_written_where_no_image_was_found(tmp_path, model, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), "empty.parquet")
    said = []
    with pytest.raises(DataError, match=r"no image (could be read|was named): .*out is not written"):
        begin(job_of(tmp_path, model), b"", located([given], Tally()), said.append)
    assert len(said) == (given != "empty.parquet")
    assert all(repr(given) in str(error) for error in said)
    assert not Path("out").exists()


def test_a_storage_that_does_not_answer_is_no_bad_image(tmp_path, model, contents, web, monkeypatch, unused_port):
    monkeypatch.setattr(reading, "PAUSES", (0.0,))
    monkeypatch.chdir(tmp_path)
    answered, url = web
    answered |= {f"/{n}.png": (200, contents[n]) for n in range(4)} | {"/secret.png": (403, b"")}
    given = [f"{url}/{name}.png" for name in (0, 1, 2, 3, "gone", "secret")]
    job = job_of(tmp_path, model, part_images=2)
    listed = begin(job, model.path.read_bytes(), located(given, Tally()))
    answered["/1.png"] = (503, b"")
    session = Session(job)
    with pytest.raises(FFStudyError, match=rf"'{given[1]}' cannot be read \(Service Unavailable\): the same command"):
        session.answered(0, listed.keys[0])
    assert not Path("out", part_name(0)).exists()
    answered["/1.png"] = (200, contents[1])
    assert not session.answered(0, listed.keys[0])["account"]["failed"]
    assert session.answered(2, listed.keys[2])["account"]["failed"] == [
        (given[4], f"'{given[4]}' cannot be read: Not Found"),
        (given[5], f"'{given[5]}' cannot be read: Forbidden"),
    ]
    new = job_of(tmp_path, model, out=str(tmp_path / "new"))
    nobody = f"http://127.0.0.1:{unused_port}/x.png"
    answered["/1.png"] = (503, b"")
    for name, why in (
        (nobody, f"'{nobody}' cannot be read (connect"),
        (nobody[:-5], f"'{nobody[:-5]}' cannot be listed (connect"),
        (f"{nobody[:-5]}*.png", f"'{nobody[:-5]}*.png' cannot be listed (connect"),
        (given[1], f"'{given[1]}' cannot be read (Service Unavailable)"),
    ):
        with pytest.raises(FFStudyError) as caught:
            begin(new, b"", located([given[0], name], Tally()))
        assert str(caught.value).startswith(why)
        assert str(caught.value).endswith("): the same command tries again")
    assert not Path("new").exists()


def test_one_fault_is_mended_by_asking_again(tmp_path, model, contents, monkeypatch):
    monkeypatch.setattr(reading, "PAUSES", (0.0,))
    system = fsspec.filesystem("memory")
    system.pipe_file("/x.png", contents[0])
    faults, plain = [ConnectionResetError(104, "Connection reset by peer")], type(system)._open

    def opened(self, *args, **kwargs):
        if faults:
            raise faults.pop()
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(type(system), "_open", opened)
    [item] = reading.items([Ref("memory://x.png")], None, str(tmp_path))
    assert item.source == contents[0]
    system.rm("/", recursive=True)


def test_a_part_with_a_flipped_bit_is_done_again(tmp_path, model, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), contents)
    job = job_of(tmp_path, model, command="predict")
    [key, *_] = begin(job, model.path.read_bytes(), located(["photos"], Tally())).keys
    session, path = Session(job), Path("out", part_name(0))
    session.answered(0, key)
    whole = path.read_bytes()
    for at in range(0, len(whole), 17):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert session._there(path.name, key) is None, at
    for less in (1, 8, 100, len(whole)):
        path.write_bytes(whole[:-less])
        assert session._there(path.name, key) is None, less
    assert not session.answered(0, key)["kept"]
    assert path.read_bytes() == whole
    assert session.answered(0, key)["kept"]
    assert session._there(path.name, "of another job") is None


def test_damaged_bookkeeping_is_written_anew_or_refused(tmp_path, model, contents, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("photos"), contents)
    job, out = job_of(tmp_path, model), Path("out")
    run(job, model)
    inputs, whole = out / INPUTS, {path: path.read_bytes() for path in out.rglob("*.*")}
    (inputs / part_name(0)).write_bytes(b"junk")
    (inputs / part_name(1)).unlink()
    (out / MODEL).write_bytes(b"junk")
    (out / part_name(0)).unlink()
    (out / part_name(1)).unlink()
    assert run(job, model)[0] == [False, False, True]
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == whole
    keys = begin(job, model.path.read_bytes(), located(["photos"], Tally())).keys
    for name, number in ((f"{INPUTS}/{part_name(0)}", 0), (MODEL, 1)):
        (out / part_name(number)).unlink()
        (out / name).write_bytes(b"junk")
        with pytest.raises(RunError, match=f"out/{name} was changed meanwhile: the same command writes it anew"):
            Session(job).answered(number, keys[number])
    for junk in ("[]", "{}", "{", '{"format": 2}'):
        (out / MANIFEST).write_text(junk)
        with pytest.raises(RunError, match=f"out/{MANIFEST} is damaged: delete the folder, or name another --out"):
            run(job, model)
    (out / MANIFEST).unlink()
    with pytest.raises(RunError, match=rf"holds something else \({part_name(2)}, and no {MANIFEST}\)"):
        run(job_of(tmp_path, model, part_images=4), model)


def test_what_sessions_leave_half_written_is_cleared_by_their_command(tmp_path):
    with Folder(str(tmp_path), "abc").writing("part-00000.parquet") as path:
        assert ".abc" in path.name
    (tmp_path / "part-00000.parquet").unlink()
    ours, theirs = path, path.with_name(path.name.replace("abc", "def"))
    ours.touch()
    theirs.touch()
    Folder(str(tmp_path), "abc").clear()
    assert [*tmp_path.iterdir()] == [theirs]


def test_images_in_parquet_of_every_kind_of_bytes(tmp_path, contents):
    column = pyarrow.array(contents[:3])
    kinds = (
        column.cast(pyarrow.large_binary()),
        column.cast(pyarrow.binary_view()),
        column.dictionary_encode(),
        pyarrow.array([[*content] for content in contents[:3]], pyarrow.list_(pyarrow.uint8())),
        pyarrow.StructArray.from_arrays([column.dictionary_encode()], ["bytes"]),
    )
    path = str(tmp_path / "x.parquet")
    for kind in kinds:
        pyarrow.parquet.write_table(pyarrow.table({"image": kind}), path)
        refs = [*located([path], Tally())]
        assert [item.source for item in reading.items(refs, None, "/")] == contents[:3], kind.type
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a"], "label": [1]}), path)
    [ref] = located([path], Tally())
    assert ref.error.endswith("has no column of images' bytes (--image-column): it has image (string), label (int64)")
    [ref] = located([str(tmp_path)], Tally())
    assert ref.error == f"'{tmp_path}' has no images: '{tmp_path}/*.parquet' has rows of Parquet files"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s3://", "'s3://' names no place: write s3://PLACE/..."),
        ("foo://x/1.png", "s3://, gs://, az://, http://, https:// and others of fsspec are known"),
        ("gs://x/1.png", "gcsfs is not installed: run pip install gcsfs"),
    ],
)
def test_a_url_that_cannot_be_reached_says_why(given, words, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(UsageError) as caught:
        [*located([given], Tally())]
    assert words in str(caught.value)
    with pytest.raises(UsageError):
        Folder(given)


def test_what_is_not_there_by_url_is_said_in_words():
    [ref] = stamped(located(["memory://x/y.png"], Tally()))
    assert ref.error == "'memory://x/y.png' cannot be read: no such file or directory"
