"""Folders of classes and of splits, as people have them."""

from __future__ import annotations

import unicodedata

import pytest

from ffcore.errors import DataError
from ffcore.layout import as_class, class_folders, folder_name, images_in, look
from ffcore.tally import Tally


def tree(folder, *names):
    """Makes empty files, with the folders that they lie in."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def shape(folder):
    """Returns the splits with the names of their classes."""
    return {split: list(classes) for split, classes in look(folder).splits.items()}


CLASSES = ("cat/1.png", "dog/1.png")


@pytest.mark.parametrize(
    ("splits", "wanted"),
    [
        (("train", "test"), ("train", "test")),
        (("train", "val"), ("train", "validation")),
        (("train", "val", "test"), ("train", "validation", "test")),
        (("Train", "Valid", "Test"), ("train", "validation", "test")),
        (("training", "validation", "testing"), ("train", "validation", "test")),
        (("TRAIN", "dev"), ("train", "validation")),
        (("train",), ("train",)),
    ],
)
def test_splits_are_known_by_what_people_call_them(tmp_path, splits, wanted):
    for split in splits:
        tree(tmp_path / split, *CLASSES)
    assert shape(tmp_path) == {split: ["cat", "dog"] for split in wanted}


def test_classes_alone(tmp_path):
    assert shape(tree(tmp_path, *CLASSES)) == {"train": ["cat", "dog"]}
    tree(tmp_path, "test/1.png", "val/1.png")  # what is called so beside no training split is a class
    assert shape(tmp_path) == {"train": ["cat", "dog", "test", "val"]}


def test_a_class_may_be_called_train_where_images_lie_in_it(tmp_path):
    assert shape(tree(tmp_path, "train/1.png", "plane/1.png", "ship/1.png")) == {"train": ["plane", "ship", "train"]}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/cat/1.png", "cat/1.png", "dog/1.png"), "train and beside them cat, dog: it cannot be told"),
        (
            ("train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"),
            "train, val, valid, of which two mean the same split",
        ),
        (("train/1.png", "test/1.png"), "test, .*train holds no folders"),
        (("train/cat/1.png", "test/1.png"), "test holds no folders"),
        (("1.png",), "holds no folders"),
        ((".git/x", "__MACOSX/._1.png"), "holds no folders"),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        look(tree(tmp_path, *names))


def test_what_is_hidden_or_beside_class_folders_is_left_out(tmp_path):
    left_out = Tally()
    tree(tmp_path, *CLASSES, ".cache/1.png", "__MACOSX/cat/._1.png", "notes.txt")
    assert list(class_folders(tmp_path, left_out)) == ["cat", "dog"]
    assert left_out.counts == {"hidden": 2, "beside class folders": 1}


def test_names_are_one_however_their_accents_are_written(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Äpfel") for form in ("NFC", "NFD"))
    tree(tmp_path, f"{apart}/1.png", f"{composed}/2.png", "b/1.png")
    found = class_folders(tmp_path)
    assert list(found) == ["b", composed]
    assert [name.rpartition("/")[2] for name in images_in(found[composed])] == ["1.png", "2.png"]


@pytest.mark.parametrize("name", ["T-shirt/top", "0", "a.b", "..", "", "é ü", "a:b*c", ".hidden", "x" * 300])
def test_a_class_and_its_folder_are_one(name):
    folder = folder_name(name)
    assert as_class(name) == as_class(folder)
    assert folder == folder_name(folder)
    assert not {*folder} & {"/", ":", "*"}
    assert not folder.startswith(".")


def test_a_folder_that_cannot_be_listed(tmp_path):
    with pytest.raises(DataError, match=r"none cannot be listed \(no such file or directory\)"):
        class_folders(tmp_path / "none")
