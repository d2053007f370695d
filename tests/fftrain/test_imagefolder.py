"""Image folders as people have them: which images are in which split, and what is said of it."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import DataError
from fftrain.config import DataConfig
from fftrain.data import load_data, look_at


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
    return load_data(DataConfig(dataset=dataset, **settings))


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
    assert asdict(look_at(DataConfig(dataset=dataset))) == {
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
    how = ["--task", "supervised", "--method", "bp", "--width", 8, "--depth", 1, "--epochs", 1]
    ended = cli("fftrain", "pretrain", "--dataset", dataset, *how, "--out", run)
    assert ended.code == 0
    said = "photos: train/ is train, val/ is validation; test is drawn from train/"
    assert ended.err.count(said) == 1
    assert said not in cli("fftrain", "probe", run, "--epochs", 1).err
    other = splits(tmp_path / "others", training=9, testing=4)
    ended = cli("fftrain", "probe", run, "--dataset", other, "--epochs", 1)
    assert "others: training/ is train, testing/ is test; validation is drawn from training/" in ended.err
