from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from ffcore.errors import DataError, ImageError, SettingError
from fftrain.config import DataSettings
from fftrain.data import file_name, load_data
from fftrain.datasets import mnist
from fftrain.datasets.digits import Digits
from fftrain.dumping import dump_images
from fftrain.parts import DATASETS
from fftrain.run import describe


def load(dataset="digits", **settings):
    return load_data(DataSettings(dataset=dataset, **settings))


def rows(split):
    return {image.numpy().tobytes() for image in split.images}


def write_folder(root: Path, classes=("cat", "dog"), count=10, size=(12, 12), parts=("",)):
    """A tree of class folders with images of random pixels."""
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return f"imagefolder:{root}"


def test_digits_are_those_of_scikit_learn():
    found, expected = Digits.load(Path()), load_digits()
    np.testing.assert_array_equal(found.train_images[:, 0], np.rint(expected.images * (255 / 16)))
    np.testing.assert_array_equal(found.train_labels, expected.target)


def test_digits_are_embedded_and_enlarged_to_the_shape_of_mnist():
    data = load()
    assert data.shape == (1, 28, 28)
    assert [len(data.train), len(data.validation), len(data.test)] == [1295, 143, 359]
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert data.train.images.max() > 240
    assert load(image_size=8).shape == (1, 8, 8)


def test_splits_are_disjoint_stratified_and_the_same_every_time():
    data, again = load(), load()
    for name in ("train", "validation", "test"):
        assert torch.equal(data.split(name).images, again.split(name).images)
        shares = np.bincount(data.split(name).labels, minlength=10) / len(data.split(name))
        assert np.abs(shares - 0.1).max() < 0.02
    assert not rows(data.train) & rows(data.validation)
    assert not rows(data.train) & rows(data.test)
    assert not rows(data.validation) & rows(data.test)


def test_limit_draws_training_images_by_class_and_leaves_the_other_splits():
    data, whole = load(limit=100), load()
    assert np.bincount(data.train.labels).tolist() == pytest.approx([10] * 10, abs=1)
    assert rows(data.train) < rows(whole.train)
    assert torch.equal(data.validation.images, whole.validation.images)
    assert len(load(limit=10**6).train) == len(whole.train)
    assert len(load(limit=len(whole.train) - 1).train) == len(whole.train) - 1
    assert len(load(limit=3).train) == 3


@pytest.mark.parametrize("dataset", ["minst", "imagefolders:x", ""])
def test_an_unknown_name_is_answered_with_the_known_ones(dataset):
    places = "or imagefolder:PATH or hf:PATH_OR_NAME"
    with pytest.raises(SettingError, match=rf"is unknown: .*choose among cifar10, .*, {places}"):
        load(dataset)


@pytest.mark.parametrize(("dataset", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_data_that_are_missing_and_cannot_be_downloaded(tmp_path, monkeypatch, dataset, kind):
    def refuse(*arguments, **settings):
        print("Downloading")
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=f"{dataset} is not in .* could not be downloaded .*--data-dir") as error:
        load(dataset, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def idx(array):
    """The bytes of an IDX file (LeCun)."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_mnist_files_are_read_and_held_against_their_digests(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digests, arrays = {}, {}
    for part, count in (("train", 60), ("t10k", 20)):
        arrays[part] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", arrays[part]), ("labels-idx1", labels)):
            content = idx(array)
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
            digests[f"{part}-{name}-ubyte"] = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is not the published mnist"):
        load("mnist", data_dir=str(tmp_path))
    monkeypatch.setattr(mnist, "FILES", digests)
    monkeypatch.setenv("FFSTUDY_DATA", str(tmp_path))
    data = load("mnist", limit=20)
    np.testing.assert_array_equal(data.test.images[:, 0], arrays["t10k"])
    assert len(data.train) == 20


def test_svhn_and_cifar10_arrays(tmp_path, monkeypatch):
    import pickle

    import scipy.io
    import torchvision.datasets as torchvision

    rng = np.random.default_rng(0)
    split_list = {}
    for split in ("train", "test"):
        images = rng.integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
        labels = np.arange(40)[:, None] % 10 + 1  # SVHN writes 10 for 0
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": images, "y": labels})
        digest = hashlib.md5((tmp_path / f"{split}_32x32.mat").read_bytes()).hexdigest()
        split_list[split] = ["", f"{split}_32x32.mat", digest]
    monkeypatch.setattr(torchvision.SVHN, "split_list", split_list)
    data = load("svhn", data_dir=str(tmp_path))
    assert data.shape == (3, 32, 32)
    np.testing.assert_array_equal(data.test.images[7], images[:, :, :, 7].transpose(2, 0, 1))
    assert data.test.labels[9] == 0

    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    files = {}
    for name in ("train", "test"):
        pixels = rng.integers(0, 256, (40, 3072), dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(40)]}))
        files[name] = hashlib.md5((base / name).read_bytes()).hexdigest()
    (base / "meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr(torchvision.CIFAR10, "train_list", [["train", files["train"]]])
    monkeypatch.setattr(torchvision.CIFAR10, "test_list", [["test", files["test"]]])
    meta = {"filename": "meta", "key": "label_names", "md5": hashlib.md5((base / "meta").read_bytes()).hexdigest()}
    monkeypatch.setattr(torchvision.CIFAR10, "meta", meta)
    data = load("cifar10", data_dir=str(tmp_path))
    np.testing.assert_array_equal(data.test.images[3].flatten(), pixels[3])
    assert data.class_names[2] == "class 2"


def test_real_mnist(real_mnist):
    data = load("mnist", data_dir=str(real_mnist))
    assert [len(data.train), len(data.validation), len(data.test)] == [55_000, 5_000, 10_000]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_a_folder_of_images_is_read_with_its_class_names(tmp_path):
    data = load(write_folder(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.shape == (3, 12, 12)
    assert [len(data.train), len(data.validation), len(data.test)] == [15, 1, 4]
    assert np.bincount(data.test.labels).tolist() == [2, 2]


def test_train_and_test_folders_are_kept_apart(tmp_path):
    dataset = write_folder(tmp_path, parts=("train", "test"), count=20)
    data = load(dataset, grayscale=True)
    assert data.shape == (1, 12, 12)
    assert len(data.test) == 40
    first = Image.open(tmp_path / "test" / "cat" / "0.png").convert("L")
    np.testing.assert_array_equal(data.test.images[0, 0], np.asarray(first))


def test_images_of_any_size_mode_and_orientation_are_read_as_asked(tmp_path):
    dataset = write_folder(tmp_path, count=12)
    odd = tmp_path / "cat"
    Image.new("RGBA", (40, 20), (255, 0, 0, 0)).save(odd / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (30, 50), 128).save(odd / "turned.jpg", exif=exif)
    (odd / "notes.txt").write_text("not an image")
    (odd / ".hidden.png").write_bytes(b"")
    data = load(dataset, image_size=16)
    assert data.shape == (3, 16, 16)
    assert sum(len(data.split(name)) for name in ("train", "validation", "test")) == 26


def test_images_of_mixed_sizes_ask_for_one(tmp_path):
    dataset = write_folder(tmp_path)
    Image.new("RGB", (12, 13)).save(tmp_path / "dog" / "tall.png")
    with pytest.raises(DataError, match=r"tall\.png 12x13.*set --image-size"):
        load(dataset)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
@pytest.mark.parametrize("size", [None, 12])
def test_an_image_that_cannot_be_read_is_named(tmp_path, content, size):
    dataset = write_folder(tmp_path)
    broken = tmp_path / "dog" / "broken.png"
    broken.write_bytes((tmp_path / "dog" / "0.png").read_bytes()[:100] if content is None else content)
    with pytest.raises(ImageError, match=r"broken\.png") as error:
        load(dataset, image_size=size)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        load(f"imagefolder:{tmp_path}/none")
    with pytest.raises(DataError, match="holds no images: it needs some to train on"):
        load(f"imagefolder:{tmp_path}")
    for name in ("only", "empty"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="holds no images: each class needs some"):
            load(f"imagefolder:{tmp_path}")


def test_a_class_of_one_image_is_trained_on(tmp_path):
    dataset = write_folder(tmp_path)
    (tmp_path / "rare").mkdir()
    Image.new("RGB", (12, 12)).save(tmp_path / "rare" / "one.png")
    assert (load(dataset).train.labels == 2).sum() == 1


def test_dumped_images_come_back_as_they_were(tmp_path):
    assert dump_images(DataSettings(dataset="digits"), "all", tmp_path / "png") == 1797
    data, original = load(f"imagefolder:{tmp_path}/png", grayscale=True), load()
    assert rows(data.test) == rows(original.test)
    assert data.class_names == original.class_names
    with pytest.raises(DataError, match="in use already"):
        dump_images(DataSettings(dataset="digits"), "test", tmp_path / "png")
    with pytest.raises(SettingError, match="--split is 'tset'"):
        dump_images(DataSettings(dataset="digits"), "tset", tmp_path / "new")


@pytest.mark.parametrize(
    ("name", "expected"), [("imagefolder:/a/my cats/", "my cats"), ("T-shirt/top", "T-shirt_top"), ("..", "_")]
)
def test_names_become_file_names(name, expected):
    assert file_name(name) == expected


def test_a_run_records_what_the_hub_calls_its_data_set(monkeypatch):
    known = {name: DATASETS.load(name).hub for name in DATASETS}
    assert known["mnist"] == "ylecun/mnist"
    assert known["digits"] is None
    monkeypatch.setattr(DATASETS.load("digits"), "hub", "me/digits")
    assert describe(load_data(DataSettings(dataset="digits")))["hub"] == "me/digits"
