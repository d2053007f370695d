"""Images outside memory: the same images, labels, notes and weights as in memory; whole or not at all; resumable."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from ffcore import images as images_module
from ffcore.errors import ImageError, RunError, SettingError, WriteError
from fftrain import cache as cache_module
from fftrain import encoded
from fftrain.cache import IMAGES, JOURNAL
from fftrain.config import STREAM, DataSettings
from fftrain.data import load_data
from fftrain.progress import Reporter
from tests.fftrain.cached import SPLITS, load, same
from tests.fftrain.training import weights
from tests.helpers import holding, one_line


class Said(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def photos(tmp_path):
    """Images of three classes and of several sizes, one of one colour and one broken in each."""
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    for kind in ("cat", "dog", "emu"):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (8 + i % 3, 9, 3), dtype=np.uint8)).save(folder / kind / f"{i}.png")
        Image.new("RGB", (8, 8)).save(folder / kind / "blank.png")
        (folder / kind / "half.png").write_bytes((folder / kind / "1.png").read_bytes()[:150])
    return folder


@contextmanager
def no_file_is_read(monkeypatch):
    def refuse(*arguments, **more):
        raise AssertionError("a file was read")

    with monkeypatch.context() as patched:
        patched.setattr(encoded, "read_picture", refuse)
        patched.setattr(encoded, "image_size", refuse)
        yield


@pytest.mark.parametrize("settings", [{}, {"limit": 9}, {"grayscale": True}])
@pytest.mark.parametrize("place", ["cache", STREAM])
def test_they_are_those_of_memory(photos, monkeypatch, settings, place):
    where = place if place == STREAM else str(photos.parent / place)
    one, said = load(photos, **settings), Said()
    assert len(one.skipped) == (0 if "limit" in settings else 3)  # of images that are not wanted none is read
    same(one, load(photos, said, **settings, data_cache=where))
    if place != STREAM:
        count = sum(map(len, map(one.split, SPLITS))) + len(one.skipped)
        [folder] = (photos.parent / place).iterdir()
        assert said.lines[0].startswith(f"decoding {count} images into {folder} (")
        assert said.lines[-1].startswith(f"images of {photos}: {count} in {folder / IMAGES} (")
        with no_file_is_read(monkeypatch):
            same(one, load(photos, **settings, data_cache=where))


def test_splits_that_a_folder_has_and_sizes_that_it_shares(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / split / f"{i}.jpg")
    how = {"image_size": None, "skip_bad": False}
    one, where = load(tmp_path / "photos", **how), str(tmp_path / "cache")
    same(one, load(tmp_path / "photos", **how, data_cache=where))
    with no_file_is_read(monkeypatch):
        same(one, load(tmp_path / "photos", **how, data_cache=where))


def test_arrays_are_read_where_they_are(tmp_path):
    for size in (None, 12):
        settings = {"dataset": "digits", "image_size": size}
        stored = load_data(DataSettings(**settings, data_cache=str(tmp_path / "cache")))
        same(load_data(DataSettings(**settings)), stored)
    assert not (tmp_path / "cache").exists()


def test_rows_of_a_table_are_those_of_memory(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(40)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    rows = {"image": images, "label": [i % 2 for i in range(40)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "some.parquet"))
    name = f"hf:{tmp_path}/some.parquet"
    one = load_data(DataSettings(dataset=name))
    for place in (tmp_path / "cache", STREAM):
        same(one, load_data(DataSettings(dataset=name, data_cache=str(place))))
    with no_file_is_read(monkeypatch):
        same(one, load_data(DataSettings(dataset=name, data_cache=str(tmp_path / "cache"))))


def test_files_that_a_table_names_are_seen_to_change(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = [tmp_path / f"{i}.png" for i in range(20)]
    for i, file in enumerate(files):
        Image.new("L", (8, 8), 10 * i).save(file)
    rows = {"image": [file.name for file in files], "label": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "some.parquet"))
    settings = {"dataset": f"hf:{tmp_path}/some.parquet,image=image,label=label", "grayscale": True}
    for value in (0, 255):
        Image.new("L", (8, 8), value).save(files[3])
        stored = load_data(DataSettings(**settings, data_cache=str(tmp_path / "cache")))
        same(load_data(DataSettings(**settings)), stored)


def test_files_that_cannot_be_read_are_named_by_every_start(photos, tmp_path):
    said = set()
    for place in (None, STREAM, str(tmp_path / "cache"), str(tmp_path / "cache")):
        with pytest.raises(ImageError, match=r"3 of 42 images in .*: .* or leave them out with --skip-bad") as error:
            load(photos, skip_bad=False, data_cache=place)
        said.add(str(error.value))
    assert len(said) == 1


@pytest.fixture
def _small_pieces(monkeypatch):
    monkeypatch.setattr(cache_module, "PIECE", 5 * 3 * 8 * 8)


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("torn", ["", '{"crc32":{"20":', '{"crc32":{"20":0},"told":{}}'])
def test_what_was_stopped_goes_on(photos, tmp_path, monkeypatch, torn):
    where, read, whole = tmp_path / "cache", [], encoded.read_picture

    def stop(file, *arguments, **more):
        if len(read) == 13:
            raise KeyboardInterrupt
        read.append(file)
        return whole(file, *arguments, **more)

    monkeypatch.setattr(encoded, "cores", lambda: 1)
    monkeypatch.setattr(encoded, "read_picture", stop)
    with pytest.raises(KeyboardInterrupt):
        load(photos, data_cache=where)
    [journal] = where.glob(f"*/{JOURNAL}")
    assert len(journal.read_text().splitlines()) == 1 + 2
    with journal.open("a") as file:
        file.write(torn)  # a line that was broken off: it does not count
    read.clear()
    monkeypatch.setattr(encoded, "read_picture", lambda *all_of, **more: read.append(1) or whole(*all_of, **more))
    said = Said()
    stored = load(photos, said, data_cache=where)
    assert len(read) == 42 - 10
    assert ", 10 are there)" in said.lines[0]
    monkeypatch.undo()
    same(load(photos), stored)


def test_a_file_that_has_changed_and_a_cache_that_has_are_seen(photos, tmp_path):
    where = tmp_path / "cache"
    load(photos, data_cache=where)
    Image.new("RGB", (8, 8), "red").save(photos / "cat" / "1.png")
    same(load(photos), load(photos, data_cache=where))
    assert len([*where.iterdir()]) == 2
    for file in where.glob(f"*/{IMAGES}"):
        os.truncate(file, 100)
    same(load(photos), load(photos, data_cache=where))
    [journal] = (one.with_name(JOURNAL) for one in where.glob(f"*/{IMAGES}") if one.stat().st_size > 100)
    first, piece = journal.read_text().splitlines()
    for text in (
        *("no journal", "{}", "[]", "3", first.replace("[3,8,8]", '"abc"')),
        *(f"{first}\n{line}" for line in ("[]", "{}", piece.replace('"0":', '"42":'), piece.replace('"0":', '"-1":'))),
        *(
            f"{first.replace(*one)}\n{piece}"
            for one in (("2", "1"), ("uint8", "int8"), ("[3,8,8]", "[3,8,9]"), ("[3,8,8]", "[3,4,16]"))
        ),
    ):
        said = Said()
        journal.write_text(f"{text}\n")
        same(load(photos), load(photos, said, data_cache=where))
        assert said.lines[0].startswith("decoding 42 images"), text
        assert journal.read_text().splitlines()[0] == first


def test_other_bytes_than_were_written_are_never_images(photos, tmp_path):
    load(photos, data_cache=tmp_path / "cache")
    [file] = tmp_path.glob(f"cache/*/{IMAGES}")
    with file.open("rb+") as array:
        array.write(bytes(1000))
    with pytest.raises(RunError, match=rf"{file} holds other bytes than were written: delete {file.parent}, and"):
        load(photos, data_cache=tmp_path / "cache").train_and_validation.images[:]


def test_what_the_system_refused_is_tried_again(photos, tmp_path, monkeypatch):
    """And what is wrong with a file is told with the path that it has now."""
    where, whole = tmp_path / "cache", images_module._content

    def refuse(path, name):
        if name.endswith("dog/5.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(path, name)

    with monkeypatch.context() as patched:
        patched.setattr(images_module, "_content", refuse)
        for _ in range(2):
            assert "dog/5.png" in load(photos, data_cache=where).skipped
    same(load(photos), load(photos, data_cache=where))
    with no_file_is_read(monkeypatch):
        load(photos, data_cache=where)
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(ImageError, match=f"the first: '{tmp_path}/link/photos/.*half.png' "):
            load(tmp_path / "link" / "photos", skip_bad=False, data_cache=where)


def test_a_file_that_is_gone_while_images_are_decoded_at_each_use(photos):
    images = load(photos, data_cache=STREAM).train.images
    shutil.rmtree(photos / "dog")
    with pytest.raises(ImageError, match=r"/dog/.*: no such file or directory, and could be read before: .*--resume"):
        images[:]


def test_a_folder_of_the_same_names_sizes_and_times_is_another(photos, tmp_path):
    """And so is a file that was written anew with its own, and one that a dangling link took the place of."""
    there, where = tmp_path / "other" / photos.name, tmp_path / "cache"
    for folder, value in ((photos, 10), (there, 200)):
        for kind in ("cat", "dog"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            for i in range(12):
                Image.new("RGB", (8, 8), (value, i, i)).save(folder / kind / f"{i}.bmp")
        for file in folder.rglob("*.*"):
            os.utime(file, ns=(0, 0))
    for folder in (photos, there):
        same(load(folder), load(folder, data_cache=where))
    file = there / "cat" / "3.bmp"
    Image.new("RGB", (8, 8), (99, 3, 3)).save(file)
    os.utime(file, ns=(0, 0))
    same(load(there), load(there, data_cache=where))
    for name in ("03.bmp", "8a.bmp"):  # no row is another's
        (there / "cat" / name).symlink_to("nothing")
        same(load(there), load(there, data_cache=where))
        (there / "cat" / name).unlink()


def test_another_process_that_decodes_is_waited_for(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "WAIT", 0.01)
    where, said, found = tmp_path / "cache", Said(), []
    load(photos, data_cache=where)
    [place] = where.iterdir()
    for file in (IMAGES, JOURNAL):
        (place / file).unlink()
    with holding(place) as process:
        waiting = threading.Thread(target=lambda: found.append(load(photos, said, data_cache=where)))
        waiting.start()
        while not said.lines:
            time.sleep(0.01)
        assert said.lines == [f"another process decodes into {place}: waiting for it"]
        assert not found
        process.kill()
        waiting.join()
    same(load(photos), found[0])


def test_where_it_may_not_be_written_images_are_decoded_at_each_use(photos, tmp_path, monkeypatch):
    said, claimed = Said(), cache_module.claimed

    def refuse(*arguments):
        raise WriteError("no") from OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(cache_module, "claimed", refuse)
    same(load(photos), load(photos, said, data_cache=tmp_path / "cache"))
    assert said.lines == [f"--data-cache {tmp_path / 'cache'} may not be written: images are decoded at each use"]
    monkeypatch.setattr(cache_module, "claimed", claimed)
    load(photos, data_cache=tmp_path / "cache")
    monkeypatch.setattr(cache_module, "claimed", refuse)
    said.lines.clear()
    same(load(photos), load(photos, said, data_cache=tmp_path / "cache"))  # what is whole is only read
    assert len(said.lines) == 1
    assert said.lines[0].startswith("images of ")


TINY = ["backbone.width=8", "backbone.depth=2", "--image-size", 8, "--skip-bad", "--batch-size", 4, "--epochs", 2]


def trained(cli, photos, name, place, *how):
    """Returns the run of a small training whose images lie in a place."""
    run = photos.parent / name
    words = ["--dataset", f"imagefolder:{photos}", "--threads", 1, *TINY, *how, *place, "--out", run]
    ended = cli("fftrain", "pretrain", *words)
    assert ended.code == 0, ended.err
    return run


def test_weights_and_features_are_those_of_memory(cli, photos, tmp_path):
    """Of a method that takes partners; raw pixels are copied into a mapped file, and the run's cache is used."""
    found = []
    for name, place in (("memory", []), ("cached", ["--data-cache", tmp_path / "cache"])):
        run = trained(cli, photos, name, place, "--recipe", "ff-unsupervised", "--shuffle-block", 1)
        words = ["linear", "linear.epochs=1", "linear.lr=0.01", "linear.weight_decay=0.1", "--feature-memory", 0]
        ended = cli("fftrain", "evaluate", run, *words, "--threads", 1, "--json")
        assert ended.code == 0, ended.err
        records = [one["records"] for one in ended.json["evaluations"]]
        found.append((weights(run), records, json.loads((run / "config.json").read_text())["data"]))
    assert found[0] == found[1]
    assert len([*(tmp_path / "cache").iterdir()]) == 1


@pytest.mark.slow
def test_figures_are_those_of_memory(cli, photos, tmp_path):
    """Of a view that makes labels, which are told too."""
    found = []
    own = ["linear.epochs=1", "decoder.images=12", "finetune.epochs=1", "robustness.epochs=1", "robustness.shift=[1]"]
    own += ["few-labels.per_class=[1]", "few-labels.draws=2", "tsne.points=20"]
    names = ["linear", "knn", "few-labels", "decoder", "finetune", "robustness", "spectrum", "tsne"]
    for name, place in (("memory", []), ("cached", [tmp_path / "cache"]), ("stream", [STREAM])):
        run = trained(cli, photos, name, ["--data-cache", *place] if place else [], "--view", "rotation")
        found.append([weights(run)])
        for target in ("class", "pretext"):
            words = [*names, *own, "--target", target, "--feature-memory", 0, "--json", "--threads", 1]
            ended = cli("fftrain", "evaluate", run, *words)
            assert ended.code == 0, ended.err
            found[-1].append([one["records"] for one in ended.json["evaluations"]])
    assert found[0] == found[1] == found[2]


def test_where_no_cache_can_be(photos, tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "file").touch()
    for place in ("file/cache", "link", "link/cache"):
        with pytest.raises(SettingError, match=rf"--data-cache is {tmp_path}/{place}, which is no folder, or in what"):
            load(photos, data_cache=tmp_path / place)
    (tmp_path / "inside").symlink_to(photos)
    for place in (photos, photos / "cat" / "cache", tmp_path / "inside" / "cache"):
        with pytest.raises(SettingError, match=f"--data-cache {place} lies in {photos}, among the images: name a"):
            load(photos, data_cache=place)
    with pytest.raises(SettingError, match="--data-cache is '': it must have at least 1 character"):
        load(photos, data_cache="")
    with pytest.raises(WriteError, match=f"{tmp_path}/x+/photos-.* cannot be made .File name too long.: name another"):
        load(photos, data_cache=tmp_path / ("x" * 300))


def test_a_cache_does_not_fit(cli, disk, photos, monkeypatch):
    small = disk(40)
    words = ["fftrain", "pretrain", "--dataset", f"imagefolder:{photos}", *TINY, "--out", photos.parent / "run"]
    words += ["--data-cache", small / "cache", "--view", "rotation", "--image-size", 24]
    one_line(cli(*words), 1, "42 decoded images take 72.6 kB, and", "are free in", "--data-cache stream")
    assert not [*small.rglob(IMAGES)]
    monkeypatch.setattr(cache_module, "PIECE", 5 * 3 * 24 * 24)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 2**30))
    one_line(cli(*words), 1, IMAGES, "cannot be written (No space left on device): free some space there")
    [journal] = small.rglob(JOURNAL)
    assert 1 < len(journal.read_text().splitlines()) < 9
    subprocess.run(["mount", "-o", "remount,size=400k", small], check=True)
    ended = cli(*words)
    assert (ended.code, "are there)" in ended.err) == (0, True), ended.err
