"""Image folders as people have them: which images are in which split, and what is said of it."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import DataError, ImageError
from ffcore.images import read_picture
from fftrain.config import DataSettings
from fftrain.data import load_data, look_at
from fftrain.dumping import dump_images
from fftrain.memory import check_memory
from tests.helpers import one_line


def paint(folder, kind, count, start=0, **save):
    """Writes pictures of a class: each of a colour of its own, with a spot."""
    place = folder / kind
    place.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        pixels = np.full((8, 8, 3), (i, len(kind), 9), np.uint8)
        pixels[2:4, 2:4] = 250
        Image.fromarray(pixels).save(place / f"{kind}-{i:03}.png")


def splits(folder, **counts):
    """Makes PATH/SPLIT/CLASS/... with so many images a class, and returns the data set's name."""
    for split, count in counts.items():
        for kind in ("disc", "line", "square"):
            paint(folder / split, kind, count, start=len(split) * 20)
    return f"imagefolder:{folder}"


def load(dataset, **settings):
    return load_data(DataSettings(dataset=dataset, **settings))


def sizes(data):
    return len(data.train), len(data.validation), len(data.test)


def firsts(split):
    """Returns the first channel of the first pixel of each image: which file it is."""
    return sorted(split.images[:, 0, 0, 0].tolist())


def read_as(data):
    """Returns what is said of how a folder was read; not which classes are too few to be in every split."""
    return [note for note in data.notes if not note.startswith("no image of")]


@pytest.mark.parametrize(
    ("counts", "wanted", "note"),
    [
        ({"train": 10, "val": 4}, (24, 12, 6), "train/ is train, val/ is validation; test is drawn from train/"),
        ({"train": 10, "test": 4}, (27, 3, 12), "train/ is train, test/ is test; validation is drawn from train/"),
        (
            {"Train": 10, "valid": 3, "Testing": 4},
            (30, 9, 12),
            "Train/ is train, valid/ is validation, Testing/ is test",
        ),
        ({"train": 10}, (22, 2, 6), "3 classes in train/: disc, line, square"),
    ],
)
def test_splits_that_a_folder_has_are_taken(tmp_path, counts, wanted, note):
    dataset = splits(tmp_path / "photos", **counts)
    data = load(dataset)
    assert data.class_names == ("disc", "line", "square")
    assert sizes(data) == wanted
    assert read_as(data) == [f"photos: {note}"]
    if "val" in counts:
        assert firsts(data.validation) == sorted([60 + i for i in range(4)] * 3)
        assert not {*firsts(data.test)} & {*firsts(data.validation)}
    assert asdict(look_at(DataSettings(dataset=dataset))) == {
        "shape": (3, 8, 8),
        "classes": 3,
        **dict(zip(("train", "validation", "test"), wanted, strict=True)),
    }


def test_classes_alone_are_said(tmp_path):
    for kind in ("cat", "dog"):
        paint(tmp_path, kind, 10)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "Thumbs.db").write_bytes(bytes(9))
    data = load(f"imagefolder:{tmp_path}")
    assert read_as(data) == [
        f"{tmp_path.name}: 2 classes: cat, dog",
        f"left out, beside class folders: 1 ('{tmp_path}/notes.txt')",
        f"left out, hidden: 1 ('{tmp_path}/.cache')",
        f"left out, no images: 1 ('{tmp_path}/cat/Thumbs.db')",
    ]


def test_a_class_that_a_split_lacks_is_said_and_keeps_its_number(tmp_path):
    dataset = splits(tmp_path, train=8, test=3)
    for file in (tmp_path / "test" / "line").iterdir():
        file.unlink()
    for made in (True, False):  # an empty folder, or none
        data = load(dataset)
        assert data.class_names == ("disc", "line", "square")
        assert np.bincount(data.test.labels, minlength=3).tolist() == [3, 0, 3]
        assert "no image of line in test" in data.notes
        if made:
            (tmp_path / "test" / "line").rmdir()


def test_a_class_that_training_lacks_is_refused(tmp_path):
    dataset = splits(tmp_path, train=8, test=3)
    paint(tmp_path / "test", "star", 1)
    with pytest.raises(DataError, match=r"test has the class 'star', which .*train lacks"):
        load(dataset)
    (tmp_path / "train" / "star").mkdir()
    with pytest.raises(DataError, match="star holds no images: each class needs some to train on"):
        load(dataset)


def test_one_image_a_class_is_refused(tmp_path):
    dataset = splits(tmp_path, train=1)
    with pytest.raises(DataError, match=r"too few images to give .* training one of each class: add some"):
        load(dataset)


def test_a_class_of_one_image_is_trained_on_and_said(tmp_path):
    for kind, count in (("cat", 10), ("dog", 10), ("rare", 1)):
        paint(tmp_path, kind, count)
    data = load(f"imagefolder:{tmp_path}")
    assert (data.train.labels == 2).sum() == 1
    assert "no image of rare in test" in data.notes


def test_a_split_without_images_is_refused(tmp_path):
    dataset = splits(tmp_path, train=4)
    (tmp_path / "val" / "disc").mkdir(parents=True)
    with pytest.raises(DataError, match="val holds no images"):
        load(dataset)


def test_names_of_classes_are_composed(tmp_path):
    apart = unicodedata.normalize("NFD", "Äpfel")
    paint(tmp_path, apart, 10)
    paint(tmp_path, "b", 10)
    assert load(f"imagefolder:{tmp_path}").class_names == ("b", unicodedata.normalize("NFC", "Äpfel"))


def test_images_are_known_by_their_content(tmp_path):
    for kind in ("cat", "dog"):
        paint(tmp_path, kind, 10)
        for i, name in enumerate(("x.jfif", "y.HEIC", "z")):
            Image.open(tmp_path / kind / f"{kind}-00{i}.png").convert("L").save(tmp_path / kind / name, "JPEG")
    assert sum(sizes(load(f"imagefolder:{tmp_path}"))) == 26


def test_images_that_come_out_blank_or_dim_are_said(tmp_path):
    for kind in ("cat", "dog"):
        paint(tmp_path, kind, 10)
    ink = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    ink.putpixel((3, 3), (0, 0, 0, 255))
    ink.save(tmp_path / "cat" / "ink.png")
    Image.fromarray(np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "dog" / "deep.png")
    assert read_as(load(f"imagefolder:{tmp_path}"))[1:] == [
        f"images nearly black, for 16 bits of which few are used: 1 ('{tmp_path}/dog/deep.png')",
        f"images of one colour all over (transparency is laid over black): 1 ('{tmp_path}/cat/ink.png')",
    ]


def test_a_person_is_told_how_a_folder_was_understood(tmp_path, cli):
    dataset = splits(tmp_path / "photos", train=10, val=4)
    run = tmp_path / "run"
    how = ["--recipe", "bp", "--view", "plain", "backbone.width=8", "backbone.depth=1", "--epochs", 1]
    ended = cli("fftrain", "pretrain", "--dataset", dataset, *how, "--out", run)
    assert ended.code == 0
    said = "photos: train/ is train, val/ is validation; test is drawn from train/"
    assert ended.err.count(said) == 1
    ended = cli("fftrain", "evaluate", run, "linear", "linear.epochs=1")
    assert (ended.code, said in ended.err) == (0, False)
    other = splits(tmp_path / "others", training=9, testing=4)
    ended = cli("fftrain", "evaluate", run, "linear", "linear.epochs=1", "--dataset", other)
    assert "others: training/ is train, testing/ is test; validation is drawn from training/" in ended.err


def unlabelled(folder, kind):
    """Makes 60 images without classes: in one folder, in splits without class folders, of one class, or by dates."""
    if kind in ("dates", "split dates"):
        top = folder / "train" if kind == "split dates" else folder
        paint(top / "2024", "may", 30)
        paint(top, "2025", 20)
        paint(top.parent, top.name, 10)
        (top / "empty").mkdir()
        if kind == "split dates":
            paint(folder / "test", "2026", 12)
        return f"imagefolder:{folder},label="
    place = {"flat": folder.parent, "split": folder, "one": folder}[kind]
    paint(place, folder.name if kind == "flat" else "train" if kind == "split" else "all", 60)
    if kind == "split":
        paint(place, "test", 12)
    return f"imagefolder:{folder}"


@pytest.mark.parametrize(
    ("kind", "wanted", "note"),
    [
        ("flat", (44, 4, 12), "photos: no classes"),
        ("one", (44, 4, 12), "photos: no classes"),
        ("split", (54, 6, 12), "photos: train/ is train, test/ is test; validation is drawn from train/; no classes"),
        ("dates", (44, 4, 12), "photos: no classes"),
        (
            "split dates",
            (54, 6, 12),
            "photos: train/ is train, test/ is test; validation is drawn from train/; no classes",
        ),
    ],
)
def test_images_without_classes_have_no_labels(tmp_path, kind, wanted, note):
    dataset = unlabelled(tmp_path / "photos", kind)
    data = load(dataset)
    assert data.class_names == ()
    assert sizes(data) == wanted
    assert data.notes == (note,)
    assert not data.train_and_validation.labels.any()
    facts = look_at(DataSettings(dataset=dataset))
    assert (facts.classes, facts.shape, facts.train) == (0, (3, 8, 8), wanted[0])
    dump_images(DataSettings(dataset=dataset), "all", tmp_path / "png")
    again = load(f"imagefolder:{tmp_path}/png")
    assert again.class_names == ()
    assert firsts(again.test) == firsts(data.test)


def test_a_test_split_is_never_trained_on_for_want_of_classes(tmp_path):
    dataset = unlabelled(tmp_path / "photos", "split dates")
    paint(tmp_path, "photos", 2)
    assert "left out, beside class folders: 2" in load(dataset).notes[1]
    paint(tmp_path / "photos", "Training", 2)
    with pytest.raises(DataError, match="two mean the same split"):
        load(dataset)
    (tmp_path / "photos" / "Training").rename(tmp_path / "photos" / "extra")
    with pytest.raises(DataError, match=r"holds test, train and beside them extra: it cannot be told"):
        load(dataset)


def test_methods_without_labels_and_views_that_make_some_train_on_images_without_classes(cli, tmp_path):
    dataset = unlabelled(tmp_path / "photos", "flat")
    labelled = splits(tmp_path / "labelled", train=10)
    small = ["--dataset", dataset, "backbone.width=8", "backbone.depth=2", "--epochs", 1, "--threads", 1]
    ended = cli("fftrain", "pretrain", "--recipe", "bp", "--view", "plain", *small, "--out", tmp_path / "bp")
    one_line(ended, 2, "cross-entropy reads labels, and", "has no classes: choose a --view that makes labels")
    assert not (tmp_path / "bp").exists()
    for recipe, view in (("ff-unsupervised", "plain"), ("ff", "rotation")):
        run = tmp_path / recipe
        ended = cli("fftrain", "pretrain", "--recipe", recipe, "--view", view, *small, "--out", run)
        assert ended.code == 0, ended.err
        probe = ["evaluate", run, "linear", "linear.epochs=1", "--threads", 1]
        made = ", or on what the view makes (--target pretext)" if view == "rotation" else ""
        for name, command in (
            ("linear", probe),
            ("knn", ["evaluate", run, "knn"]),
            ("few-labels", ["evaluate", run, "decoder", "few-labels"]),
        ):
            said = f"{dataset} has no classes to tell apart: evaluate {name} on a labelled data set of this shape"
            one_line(cli("fftrain", *command), 2, f"{said} (--dataset){made}")
        ended = cli("fftrain", *probe, "--dataset", labelled, "--json")
        assert ended.code == 0, ended.err
        [linear] = ended.json["evaluations"]
        blocks = [record["blocks"] for record in linear["records"] if record["split"] == "test"]
        assert blocks[-3:] == ["block1", "block2", "blocks1-2"]
        without = ["decoder", "tsne", "similarity", "tsne.points=4"]
        ended = cli("fftrain", "evaluate", run, *without, "--threads", 1)
        assert ended.code == 0, ended.err
    ended = cli("fftrain", *probe, "--target", "pretext")
    assert ended.code == 0, ended.err


@pytest.fixture
def partly_broken(tmp_path):
    """A folder of 63 images in three classes, of which 3 cannot be read."""
    dataset = splits(tmp_path / "photos", train=20)
    whole = tmp_path / "photos" / "train"
    for name, content in (("disc/a.png", b""), ("line/b.png", b"text"), ("square/c.jpg", b"\xff\xd8\xff\xe0")):
        (whole / name).write_bytes(content)
    return dataset


BROKEN = ["train/disc/a.png", "train/line/b.png", "train/square/c.jpg"]


@pytest.mark.parametrize("size", [None, 8])
def test_images_that_cannot_be_read_are_all_named(cli, tmp_path, partly_broken, size):
    more = [] if size is None else ["--image-size", size]
    ended = cli("fftrain", "pretrain", "--dataset", partly_broken, *more, "--out", tmp_path / "run")
    one_line(ended, 1, "3 of 63 images in", *map(repr, BROKEN), "or leave them out with --skip-bad")
    assert not (tmp_path / "run").exists()
    for i in range(30):
        (tmp_path / "photos" / "train" / "disc" / f"x{i}.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"33 of 93 images .* and 13 more, or leave them out"):
        load(partly_broken, image_size=size)


@pytest.mark.parametrize("size", [None, 8])
def test_images_that_cannot_be_read_are_left_out_and_recorded_where_that_is_asked_for(
    cli, tmp_path, partly_broken, size
):
    more = ["--skip-bad", *(() if size is None else ("--image-size", size))]
    run = tmp_path / "run"
    small = ["--recipe", "bp", "backbone.width=8", "backbone.depth=1", "--threads", 1]
    ended = cli("fftrain", "pretrain", *small, "--dataset", partly_broken, *more, "--epochs", 1, "--out", run)
    assert ended.code == 0, ended.err
    assert "left out, cannot be read: 3 (train/disc/a.png, train/line/b.png, train/square/c.jpg)" in ended.err
    recorded = json.loads((run / "config.json").read_text())
    assert recorded["config"]["skip_bad"] is True
    assert recorded["data"]["skipped"] == BROKEN
    assert sum(recorded["data"]["images"].values()) == 60
    for names in (["readout.split=test"], ["linear", "linear.epochs=1"], ["decoder", "similarity"]):
        ended = cli("fftrain", "evaluate", run, *names, "--threads", 1, "--json")
        assert ended.code == 0, ended.err
        assert all(one["settings"]["skip_bad"] is True for one in ended.json["evaluations"])
    ended = cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2)
    assert ended.code == 0, ended.err
    (tmp_path / "photos" / "train" / "disc" / "a.png").unlink()  # it was drawn for a split: those are others now
    one_line(cli("fftrain", "evaluate", run), 1, "has changed since")


def watch(monkeypatch, read):
    """Notes which files are read."""

    def reading(file, get, name):
        read.append(file)
        return read_picture(file, get, name=name)

    monkeypatch.setattr("fftrain.encoded.read_picture", reading)


def test_only_images_that_are_asked_for_are_read(tmp_path, monkeypatch):
    dataset, read = splits(tmp_path / "photos", train=30, val=5, test=6), []
    watch(monkeypatch, read)
    whole = load(dataset)
    assert len(read) == 123
    read.clear()
    few = load(dataset, limit=9)
    assert len(read) == 9 + 15 + 18
    assert np.bincount(few.train.labels).tolist() == [3, 3, 3]
    assert {*firsts(few.train)} <= {*firsts(whole.train)}
    read.clear()
    held_out = load_data(DataSettings(dataset=dataset), training=False)
    assert len(read) == 15 + 18
    assert held_out.shape == whole.shape
    assert sizes(held_out) == (0, 15, 18)
    assert held_out.held_out_digest == few.held_out_digest == whole.held_out_digest


def test_evaluating_reads_no_training_image(cli, tmp_path, monkeypatch):
    dataset, read = splits(tmp_path / "photos", train=30, test=6), []
    run, small = tmp_path / "run", ["backbone.width=8", "backbone.depth=1", "--epochs", 1, "--threads", 1]
    assert cli("fftrain", "pretrain", "--dataset", dataset, *small, "--out", run).code == 0
    watch(monkeypatch, read)
    for names in (["readout.split=test"], ["tsne", "tsne.points=4", "similarity"]):
        read.clear()
        assert cli("fftrain", "evaluate", run, *names, "--threads", 1).code == 0
        assert len(read) == 9 + 18
    read.clear()
    assert cli("fftrain", "evaluate", run, "decoder", "--threads", 1).code == 0
    assert len(read) == 90 + 18


def test_memory_is_looked_at_before_it_is_taken(cli, tmp_path, monkeypatch):
    dataset = splits(tmp_path / "photos", train=30)
    monkeypatch.setattr("fftrain.memory.free_memory", lambda: 2**20)
    small = ["--recipe", "bp", "backbone.width=8", "backbone.depth=1", "--epochs", 1, "--threads", 1]
    for name in (dataset, "digits"):
        ended = cli("fftrain", "pretrain", "--dataset", name, "--image-size", 600, *small, "--out", tmp_path / "run")
        one_line(ended, 1, "there is not enough memory (images", "GiB, and 0.000977 GiB are free)", "--data-cache DIR")
    assert not (tmp_path / "run").exists()
    ended = cli("fftrain", "pretrain", "--dataset", dataset, "--image-size", 40, *small, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    monkeypatch.setattr("fftrain.memory.free_memory", lambda: 90 * 3 * 40 * 40)
    ended = cli("fftrain", "evaluate", tmp_path / "run", "linear", "linear.epochs=1", "--feature-memory", 1)
    assert ended.code == 0, ended.err
    monkeypatch.setattr("fftrain.features.check_memory", lambda needed, what: check_memory(needed * 2**20, what))
    ended = cli("fftrain", "evaluate", tmp_path / "run", "linear", "linear.epochs=2", "--feature-memory", 1)
    one_line(ended, 1, "there is not enough memory (features take", "--feature-memory")
