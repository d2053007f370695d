"""Data sets of torchvision, each held against a small file in its format."""

from __future__ import annotations

import bz2
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as torchvision

from ffcore.errors import DataError
from fftrain.config import DataSettings
from fftrain.data import load_data, look_at
from fftrain.parts import DATASETS
from tests.helpers import ROOT, one_line

RNG = np.random.default_rng(0)


def load(dataset, folder, **settings):
    return load_data(DataSettings(dataset=dataset, data_dir=str(folder), **settings))


def idx(array):
    """The bytes of an IDX file (LeCun): uint8, or int32 with its high byte first."""
    kind = {"uint8": 8, "int32": 12}[array.dtype.name]
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, kind, array.ndim]) + lengths + array.astype(array.dtype.newbyteorder(">")).tobytes()


def pixels(count, *shape):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def raw(folder, kind, **files):
    """Writes idx files as torchvision keeps them, named with dashes."""
    place = folder / kind / "raw"
    place.mkdir(parents=True)
    for name, array in files.items():
        (place / name.replace("_", "-")).write_bytes(idx(array))


def checked(monkeypatch, kind, folder, lists):
    """Writes files into the folder of a data set whose digests torchvision checks, and lets it take theirs."""
    place = folder / kind.base_folder
    place.mkdir()
    for name, files in lists.items():
        for file, content in files.items():
            (place / file).write_bytes(content)
        monkeypatch.setattr(kind, name, [[file, hashlib.md5(c).hexdigest()] for file, c in files.items()])
    return place


def ten(count):
    return (np.arange(count) % 10).astype(np.uint8)


def test_kmnist(tmp_path):
    images = pixels(40, 28, 28)
    labels = {"train_labels_idx1_ubyte": ten(40), "t10k_labels_idx1_ubyte": ten(20)}
    raw(tmp_path, "KMNIST", train_images_idx3_ubyte=images, t10k_images_idx3_ubyte=images[:20], **labels)
    data = load("kmnist", tmp_path)
    np.testing.assert_array_equal(data.test.images[:, 0], images[:20])
    assert data.class_names == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    assert data.test.labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (pixels(40, 28, 28), ten(30), "its train split has 40 images and 30 labels"),
        (pixels(40, 28, 28), ten(41), "its train split has 40 images and 41 labels"),
        (pixels(40, 28, 28), ten(40) + 2, "its train split has labels 2 to 11 for 10 classes"),
        (pixels(40, 20, 20), ten(40), "its train split has images of 1x20x20"),
    ],
)
def test_files_that_do_not_fit_one_another_are_refused(tmp_path, images, labels, said):
    files = {"train_labels_idx1_ubyte": labels.astype(np.uint8), "t10k_labels_idx1_ubyte": ten(20)}
    raw(tmp_path, "KMNIST", train_images_idx3_ubyte=images, t10k_images_idx3_ubyte=pixels(20, 28, 28), **files)
    with pytest.raises(DataError, match=rf"kmnist cannot be right: {said}; mend it, or delete its files in "):
        load("kmnist", tmp_path)


def test_qmnist_reads_the_class_of_what_is_known_of_a_digit(tmp_path):
    known = RNG.integers(0, 4000, (40, 8)).astype(np.int32)
    known[:, 0] = ten(40)
    images = pixels(40, 28, 28)
    for part in ("train", "test"):
        files = {f"qmnist_{part}_images_idx3_ubyte": images, f"qmnist_{part}_labels_idx2_int": known}
        place = tmp_path / "QMNIST" / "raw"
        place.mkdir(parents=True, exist_ok=True)
        for name, array in files.items():
            (place / name.replace("_", "-")).write_bytes(idx(array))
    data = load("qmnist", tmp_path)
    np.testing.assert_array_equal(data.test.images[:, 0], images)
    assert data.test.labels.tolist() == ten(40).tolist()


@pytest.mark.parametrize(
    ("dataset", "split", "first", "names"),
    [
        ("emnist", "balanced", 0, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"),
        ("emnist-letters", "letters", 1, "abcdefghijklmnopqrstuvwxyz"),
        ("emnist-digits", "digits", 0, "0123456789"),
    ],
)
def test_emnist_stands_upright(tmp_path, dataset, split, first, names):
    """Its files hold each image by columns, and the letters are counted from 1."""
    classes = np.arange(4 * len(names)) % len(names)
    upright = pixels(len(classes), 28, 28)
    for part in ("train", "test"):
        place = tmp_path / "EMNIST" / "raw"
        place.mkdir(parents=True, exist_ok=True)
        start = f"emnist-{split}-{part}"
        (place / f"{start}-images-idx3-ubyte").write_bytes(idx(np.ascontiguousarray(upright.transpose(0, 2, 1))))
        (place / f"{start}-labels-idx1-ubyte").write_bytes(idx((classes + first).astype(np.uint8)))
    data = load(dataset, tmp_path)
    np.testing.assert_array_equal(data.test.images[:, 0], upright)
    assert data.test.labels.tolist() == classes.tolist()
    assert data.class_names == tuple(names)


def test_usps(tmp_path):
    values = RNG.choice([-1.0, 0.0, 1.0], (40, 256))
    for name in ("usps.bz2", "usps.t.bz2"):
        lines = [
            f"{i % 10 + 1} " + " ".join(f"{k}:{value}" for k, value in enumerate(row, start=1))
            for i, row in enumerate(values)
        ]
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    data = load("usps", tmp_path)
    assert data.shape == (1, 16, 16)
    np.testing.assert_array_equal(data.test.images.reshape(40, -1), ((values + 1) * 127.5).astype(np.uint8))
    assert data.test.labels.tolist() == ten(40).tolist()
    (tmp_path / "usps.t.bz2").write_bytes((tmp_path / "usps.t.bz2").read_bytes()[:200])
    with pytest.raises(DataError, match=r"usps is not in .*, or damaged there, .*end-of-stream"):
        load("usps", tmp_path)


def test_cifar100_has_its_fine_classes(tmp_path, monkeypatch):
    images = pixels(400, 3 * 32 * 32)
    fine = [i % 100 for i in range(400)]
    content = pickle.dumps({"data": images, "fine_labels": fine, "coarse_labels": [0] * 400})
    lists = {"train_list": {"train": content}, "test_list": {"test": content}}
    place = checked(monkeypatch, torchvision.CIFAR100, tmp_path, lists)
    meta = pickle.dumps({"fine_label_names": [f"class {i}" for i in range(100)]})
    (place / "meta").write_bytes(meta)
    digest = hashlib.md5(meta).hexdigest()
    monkeypatch.setattr(torchvision.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": digest})
    data = load("cifar100", tmp_path)
    np.testing.assert_array_equal(data.test.images.reshape(400, -1), images)
    assert (data.test.labels.tolist(), data.class_names[42]) == (fine, "class 42")


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """A folder that holds a small STL-10, and its images: labelled and not, upright."""
    train, test, unlabelled = pixels(50, 3, 96, 96), pixels(30, 3, 96, 96), pixels(60, 3, 96, 96)

    def columns(images):
        return images.transpose(0, 1, 3, 2).tobytes()

    labels = {part: (ten(count) + 1).tobytes() for part, count in (("train", 50), ("test", 30))}
    of_train = {"train_X.bin": columns(train), "train_y.bin": labels["train"], "unlabeled_X.bin": columns(unlabelled)}
    of_test = {"test_X.bin": columns(test), "test_y.bin": labels["test"]}
    lists = {"train_list": of_train, "test_list": of_test}
    place = checked(monkeypatch, torchvision.STL10, tmp_path, lists)
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (place / "class_names.txt").write_text("\n".join(names) + "\n")
    return tmp_path, test, unlabelled


def test_stl10_labelled_and_not(stl10):
    folder, test, unlabelled = stl10
    data = load("stl10", folder)
    np.testing.assert_array_equal(data.test.images, test)
    assert (data.class_names[7], len(data.train) + len(data.validation)) == ("monkey", 50)
    assert data.test.labels[:3].tolist() == [0, 1, 2]
    data = load("stl10-unlabelled", folder)
    assert data.class_names == ()
    np.testing.assert_array_equal(data.test.images, test)
    found = {image.tobytes() for image in data.train_and_validation.images.numpy()}
    assert found == {image.tobytes() for image in unlabelled}


def test_a_run_on_unlabelled_images_is_measured_on_the_labelled(stl10, cli, tmp_path):
    small = ["--data-dir", stl10[0], "--image-size", 8, "--threads", 1]
    run = tmp_path / "run"
    words = ["--method", "vicreg", "--view", "two-shifts", "backbone.width=8", "backbone.depth=1", "--epochs", 1]
    ended = cli(
        "fftrain", "pretrain", "--dataset", "stl10-unlabelled", *words, *small, "--batch-size", 16, "--out", run
    )
    assert ended.code == 0, ended.err
    one_line(cli("fftrain", "evaluate", run, "linear", *small), 2, "no classes to tell apart", "--dataset")
    ended = cli("fftrain", "evaluate", run, "linear", "--dataset", "stl10", *small, "linear.epochs=1", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["evaluations"][0]["dataset"] == "stl10"
    refused = ["--dataset", "stl10-unlabelled", "--recipe", "bp", "--view", "plain", *small, "--out", tmp_path / "bp"]
    one_line(cli("fftrain", "pretrain", *refused), 2, "reads labels, and stl10-unlabelled has no classes")


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_known_of_each_before_it_is_read(dataset):
    """Published numbers: what a study is planned by."""
    known, facts = DATASETS.load(dataset), look_at(DataSettings(dataset=dataset))
    assert (facts.shape, facts.classes) == (known.shape, known.classes)
    assert (facts.train + facts.validation, facts.test) == known.images


def test_the_page_has_them_all():
    rows = []
    for name in DATASETS:
        known = DATASETS.load(name)
        train, test = known.images
        rows.append(f"| `{name}` | {DATASETS[name]} | {known.classes or 'none'} | {train:,} | {test:,} |")
    page = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if line.startswith("| `")] == rows


@pytest.mark.parametrize(
    "dataset", [name for name in DATASETS if name not in ("digits", "mnist", "fashion-mnist", "svhn", "cifar10")]
)
def test_what_cannot_be_downloaded_is_one_line(tmp_path, monkeypatch, dataset):
    def refuse(*arguments, **settings):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=rf"{dataset} is not in {Path(tmp_path)}, .* \(.*no network.*\)") as error:
        load(dataset, tmp_path)
    assert "\n" not in str(error.value)
