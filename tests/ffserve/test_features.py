"""Features in files: what they hold, and that they are whole or not there."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from itertools import islice
from zipfile import ZipFile

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from ffcore.errors import FFStudyError, ImageError, UsageError
from ffcore.folders import Item
from ffcore.images import from_array
from ffserve import parquet as parquet_module
from ffserve.account import WORDS, Account
from ffserve.features import write_features
from ffserve.session import Model
from ffserve.stream import Batch, stream
from tests.ffserve.measuring import failed

SUFFIXES = (".npz", ".parquet")


@pytest.fixture
def measure(cli):
    return partial(cli, "ffserve")


def pictures(folder, images, name="{}.png"):
    """Saves gray images in a folder of class folders a and b; returns the paths in the order of the search."""
    paths = []
    for i, image in enumerate(images):
        path = os.path.join(os.fsencode(folder), b"ab"[i % 2 : i % 2 + 1], os.fsencode(name.format(i)))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(image[0]).save(path, format="png")
        paths.append((os.fsdecode(path), i))
    return sorted(paths)


def batches(names, features, size=64):
    """Returns batches as `stream` gives them; the features of a name that starts with ! could not be read."""
    for start in range(0, len(names), size):
        items = [Item(name, b"") for name in names[start : start + size]]
        errors = [ImageError(f"{item.name} is bad") if item.name.startswith("!") else None for item in items]
        rows = features[start : start + size][[error is None for error in errors]]
        yield Batch(
            items=items, errors=errors, did=[frozenset()] * len(items), images_BCHW=rows, outputs={"features": rows}
        )


def read(path):
    """Returns names, folders and features of a file, the last as float32 [N, F]."""
    if path.suffix == ".npz":
        with np.load(path) as found:
            return found["names"].tolist(), found["folders"].tolist(), found["features"]
    table = pyarrow.parquet.read_table(path)
    column = table["features"].combine_chunks()
    assert str(column.type) == f"fixed_size_list<element: float>[{column.type.list_size}]"
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return table["names"].to_pylist(), table["folders"].to_pylist(), values


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_becomes_names_folders_and_features(measure, make_model, tmp_path, suffix):
    made = make_model(classes=None)
    images = made.images(9)
    given = pictures(tmp_path / "in", images)
    out = tmp_path / f"out{suffix}"
    ended = measure("features", tmp_path / "in", "--out", out, "--model", made.path, "--batch-size", 2, "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json == {
        "model": str(made.path),
        "device": "cpu",
        "out": str(out),
        "images": 9,
        "features": 16,
        **dict.fromkeys(WORDS, 0),
        "left_out": {},
        "errors": [],
    }
    names, folders, features = read(out)
    assert names == [path for path, _ in given]
    assert folders == ["a"] * 5 + ["b"] * 4
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, made.expected(images[[i for _, i in given]])["features"], atol=1e-6)
    (tmp_path / "in" / "notes.txt").write_text("none")
    ended = measure("features", tmp_path / "in", "--out", out, "--model", made.path)
    notes = str(tmp_path / "in" / "notes.txt")
    assert (ended.code, ended.err) == (0, f"ffserve: note: left out, no images: 1 ({notes!r})\n")
    assert ended.out.splitlines()[0] == f"model {made.path}"
    assert [str(out), "9", "16"] in [line.split() for line in ended.out.splitlines()]


def test_bytes_that_are_no_text_stay_in_npz_and_are_escaped_in_parquet(measure, make_model, tmp_path):
    made = make_model()
    given = [path for path, _ in pictures(tmp_path / "in", made.images(3), "{}\udcff é\n.png")]
    for suffix in SUFFIXES:
        assert measure("features", tmp_path / "in", "--out", tmp_path / f"out{suffix}", "--model", made.path).code == 0
    names, _, _ = read(tmp_path / "out.npz")
    assert [os.fsencode(name) for name in names] == [os.fsencode(path) for path in given]
    assert all(os.path.exists(name) for name in names)
    names, folders, _ = read(tmp_path / "out.parquet")
    assert names == [path.replace("\udcff", "\\xff") for path in given]
    assert folders == ["a", "a", "b"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bad_image_is_named_and_the_others_are_written(measure, make_model, tmp_path, suffix):
    made = make_model()
    given = pictures(tmp_path / "in", made.images(4))
    bad, missing, out = tmp_path / "in" / "a" / "bad.png", tmp_path / "missing.png", tmp_path / f"out{suffix}"
    bad.write_bytes(b"no image")
    ended = measure("features", missing, tmp_path / "in", "--out", out, "--model", made.path, "--json")
    assert ended.code == 1
    gone, damaged = ended.err.splitlines()
    assert gone == f"ffserve: error: {str(missing)!r} cannot be read: no such file or directory"
    assert damaged.startswith(f"ffserve: error: {str(bad)!r} is no image but a text file")
    told = [gone, damaged]
    assert [f"ffserve: error: {entry['error']}" for entry in ended.json["errors"]] == told
    assert [entry["file"] for entry in ended.json["errors"]] == [str(missing), str(bad)]
    assert ended.json["images"] == 4
    assert read(out)[0] == [path for path, _ in given]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_where_nothing_can_be_read_the_file_stays_as_it_was(measure, make_model, tmp_path, suffix):
    made = make_model()
    out = tmp_path / "out" / f"features{suffix}"
    ended = measure("features", tmp_path / "missing.png", "--out", out, "--model", made.path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[1] == f"ffserve: error: no image could be read: {out} is not written"
    assert list(out.parent.iterdir()) == []
    out.write_text("mine")
    assert measure("features", tmp_path / "missing.png", "--out", out, "--model", made.path).code == 1
    assert [*out.parent.iterdir()] == [out]
    assert out.read_text() == "mine"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_those_of_the_batches_over_every_bound_of_a_buffer(tmp_path, suffix):
    rng = np.random.default_rng(0)
    names = [f"{'!' if rng.random() < 0.1 else ''}{'é' * rng.integers(80)}/{i}" for i in range(3000)]
    features = rng.normal(size=(3000, 1800)).astype(np.float32)
    told = []
    account = Account(report=told.append)
    written = write_features(batches(names, features), tmp_path / f"out{suffix}", account)
    good = [not name.startswith("!") for name in names]
    found, folders, rows = read(tmp_path / f"out{suffix}")
    assert found == [name for name in names if not name.startswith("!")]
    assert folders == [name.partition("/")[0] for name in found]
    np.testing.assert_array_equal(rows, features[good])
    assert (written.images, written.features, len(account.failed)) == (sum(good), 1800, 3000 - sum(good))
    assert [str(error) for error in told] == [entry.error for entry in account.failed]
    if suffix == ".npz":
        again = tmp_path / "again.npz"
        write_features(batches(names, features, 1000), again, Account())
        assert again.read_bytes() == (tmp_path / "out.npz").read_bytes()
        assert ZipFile(again).testzip() is None
    else:  # row groups of about 16 MiB, whatever the batches are
        assert pyarrow.parquet.ParquetFile(tmp_path / "out.parquet").metadata.num_row_groups == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(parquet_module, "GROUP_BYTES", 2**20)
    features = np.zeros((500, 256), dtype=np.float32)

    def peak(count):
        names = (f"{i}/{j}" for i in range(10, 10 + count) for j in range(500))
        many = (batch for _ in range(count) for batch in batches([*islice(names, 500)], features))
        tracemalloc.start()
        write_features(many, tmp_path / f"out{suffix}", Account())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)  # what is imported then stays
    few, many = peak(10), peak(60)
    assert many < few + 2**19 < 8 * 2**20  # of 30 MB
    assert len(read(tmp_path / f"out{suffix}")[0]) == 30_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_on_the_way_leaves_nothing_and_spares_what_is_there(tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    out.write_text("mine")

    def broken():
        yield from batches(["a"], np.ones((1, 3), dtype=np.float32))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(broken(), out, Account())
    features = np.random.default_rng(0).normal(size=(3000, 100)).astype(np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(FFStudyError, match=r"cannot be written \(.*too large"):  # as on a full disk
            write_features(batches(["a"] * 3000, features), out, Account())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [*tmp_path.iterdir()] == [out]
    assert out.read_text() == "mine"


def test_a_kill_leaves_no_file_of_that_name(make_model, tmp_path):
    made = make_model()
    pictures(tmp_path / "in", made.images(3))
    (tmp_path / "out").mkdir()
    command = ["features", tmp_path / "in", "-", "--out", tmp_path / "out" / "f.npz", "--model", made.path]
    code = "import typer; from ffserve import measure_cli; app = typer.Typer(); measure_cli.register(app); app()"
    with subprocess.Popen([sys.executable, "-c", code, *map(str, command)], stdin=subprocess.PIPE) as process:
        for _ in range(3000):  # until it waits for standard input
            if [*(tmp_path / "out").iterdir()]:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (left,) = (tmp_path / "out").iterdir()
    assert left.name.startswith(".f.npz.")


def test_one_image_on_standard_input(measure, make_model, tmp_path, monkeypatch):
    made = make_model()
    ((path, _),) = pictures(tmp_path / "in", made.images(1))
    with open(path, encoding="latin-1") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert measure("features", "-", "--out", tmp_path / "out.npz", "--model", made.path).code == 0
    names, folders, features = read(tmp_path / "out.npz")
    assert (names, folders) == (["-"], [""])
    np.testing.assert_allclose(features, made.expected(made.images(1))["features"], atol=1e-6)


def test_images_are_inverted_as_predict_does(measure, make_model, tmp_path):
    made = make_model(about=lambda texts: texts.update(border='{"mean": 2.0, "deviation": 1.0}'))
    images = np.full((2, 1, 4, 4), 255, dtype=np.uint8)
    images[:, :, 1:3, 1:3] = 0
    pictures(tmp_path / "in", images)
    arguments = ["features", tmp_path / "in", "--out", tmp_path / "out.npz", "--model", made.path]
    ended = measure(*arguments, "--json")
    assert ended.json["inverted"] == 2
    assert "inverted (--invert no keeps them): 2 (" in ended.err
    np.testing.assert_allclose(read(tmp_path / "out.npz")[2], made.expected(255 - images)["features"], atol=1e-6)
    ended = measure(*arguments, "--invert", "no")
    assert (ended.code, ended.err) == (0, "")
    np.testing.assert_allclose(read(tmp_path / "out.npz")[2], made.expected(images)["features"], atol=1e-6)


def test_a_name_that_cannot_be_written_is_refused_before_any_work(measure, make_model, tmp_path, monkeypatch):
    model = make_model().path
    (tmp_path / "folder.npz").mkdir()
    failed(
        measure("features", "x.png", "--out", "f.txt", "--model", "no.onnx"), 2, "--out is 'f.txt'", ".npz", ".parquet"
    )
    failed(measure("features", "x.png", "--out", tmp_path / "folder.npz", "--model", model), 2, "folder.npz")
    failed(measure("features", "x.png", "--out", "/proc/f.npz", "--model", model), 1, "/proc/f.npz cannot be written")
    failed(measure("features", "x.png", "--model", model), 2, "--out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    failed(
        measure("features", "x.png", "--out", "f.parquet", "--model", model),
        1,
        "run pip install pyarrow, or name an .npz",
    )


def test_the_python_api(make_model, tmp_path):
    made = make_model()
    images = made.images(5)
    items = [Item(f"image {i}", from_array(image)) for i, image in enumerate(images)]
    account = Account()
    written = write_features(stream(Model(made.path), items, batch_size=2), tmp_path / "f.npz", account)
    assert (written.images, written.features, account.failed) == (5, 16, [])
    assert read(tmp_path / "f.npz")[0] == [item.name for item in items]
    with pytest.raises(UsageError, match=r"f\.csv"):
        write_features([], tmp_path / "f.csv", Account())
