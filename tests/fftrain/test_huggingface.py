"""Data sets of the library `datasets`: files and folders as it writes them, held against what was written."""

from __future__ import annotations

import io
import re
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from ffcore.errors import DataError, ImageError, SettingError
from fftrain.config import DataSettings
from fftrain.data import load_data, look_at
from fftrain.study.planning import plan
from tests.fftrain.tables import NAMES, SMALL, cells, digits, file_of
from tests.helpers import ROOT, one_line

hf = pytest.importorskip("datasets")
pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
INTEGERS, WORDS, IMAGE = hf.Value("int64"), hf.Value("string"), hf.Image()
ANIMALS = hf.ClassLabel(names=["cat", "dog"])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where the library keeps its tables of parquet files."""
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def load(dataset, **settings):
    return load_data(DataSettings(dataset=str(dataset), **settings))


def table(**columns):
    """A table of 20 images of two classes, or with these columns beside or instead."""
    rng = np.random.default_rng(0)
    images = cells(file_of(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))) for _ in range(20))
    features = {"image": IMAGE, "label": ANIMALS}
    rows = {"image": images, "label": [i % 2 for i in range(20)]}
    for name, (feature, values) in columns.items():
        features[name], rows[name] = feature, values
    return hf.Dataset.from_dict(rows, features=hf.Features(features))


def saved(folder, **splits):
    hf.DatasetDict(splits).save_to_disk(folder)
    return f"hf:{folder}"


def as_folder(folder, train, test):
    hf.DatasetDict(train=train, test=test).save_to_disk(folder / "both")
    return "both", ""


def as_one_table(folder, train, test):
    hf.concatenate_datasets([train, test]).select(range(len(train) + len(test))).save_to_disk(folder / "one")
    return "one", ""


def as_parquet(folder, train, test):
    train.to_parquet(folder / "train-00000-of-00001.parquet")
    test.to_parquet(folder / "test-00000-of-00001.parquet")
    return "", ""


def as_pattern(folder, train, test):
    as_parquet(folder, train, test)
    return "*.parquet", ""


def as_arrow(folder, train, test):
    for name, part in (("train", train), ("test", test)):
        part.save_to_disk(folder / name)
        shutil.move(next((folder / name).glob("*.arrow")), folder / f"my_{name}.arrow")
    return "my_*.arrow", ""


def as_tars(folder, train, test):
    for name, part in (("train", train), ("test", test)):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for i, row in enumerate(part.cast_column("image", hf.Image(decode=False))):
                for suffix, content in (("png", row["image"]["bytes"]), ("cls", str(row["label"]).encode())):
                    about = tarfile.TarInfo(f"{i:05}.{suffix}")
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
    return "*.tar", ",label=cls"


@pytest.mark.parametrize("write", [as_folder, as_parquet, as_pattern, as_arrow, as_tars])
def test_whatever_it_lies_in(tmp_path, write):
    (train, _), (test, pixels) = digits(0, 100), digits(100, 50)
    name, options = write(tmp_path, train, test)
    data = load(f"hf:{tmp_path}/{name}{options}", grayscale=True)
    np.testing.assert_array_equal(data.test.images[:, 0], pixels)
    assert data.test.labels.tolist() == test["label"]
    assert data.class_names == (tuple(NAMES) if not options else tuple("0123456789"))
    assert (len(data.train), len(data.validation)) == (90, 10)
    assert "train is train, test is test; validation is drawn from train; images of " in data.notes[0]
    facts = look_at(DataSettings(dataset=f"hf:{tmp_path}/{name}{options}", grayscale=True))
    assert facts == data.facts


def test_one_table_is_split_as_a_folder_is(tmp_path):
    (train, _), (test, _) = digits(0, 100), digits(100, 50)
    as_one_table(tmp_path, train, test)
    data = load(f"hf:{tmp_path}/one", grayscale=True, limit=30)
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [30, 12, 30]


def test_an_image_reads_the_same_from_a_folder_and_from_a_table(tmp_path):
    """Alpha, palettes, 16 bits, EXIF rotation and gray, of any size."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6

    def noise(*shape, high=256, kind=np.uint8):
        return Image.fromarray(rng.integers(0, high, shape, dtype=kind))

    made = []
    for _ in range(6):
        made += [
            ("png", file_of(noise(20, 30, 4))),
            ("gif", file_of(noise(20, 20, 3).quantize(9), "GIF", transparency=0)),
            ("png", file_of(noise(17, 12, high=2**16, kind=np.uint16))),
            ("jpg", file_of(noise(20, 40, 3), "JPEG", exif=exif)),
            ("webp", file_of(noise(9, 9, 3), "WEBP", lossless=True)),
        ]
    for i, (suffix, content) in enumerate(made):
        path = tmp_path / "photos" / "ab"[i >= 15] / f"{i:02}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    features = hf.Features(image=hf.Image(), kind=hf.ClassLabel(names=["a", "b"]))
    rows = {"image": cells(content for _, content in made), "kind": [int(i >= 15) for i in range(len(made))]}
    hf.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "photos.parquet")
    for more in ({}, {"grayscale": True}):
        one, other = (
            load(f"{name}", image_size=16, **more)
            for name in (f"imagefolder:{tmp_path}/photos", f"hf:{tmp_path}/photos.parquet")
        )
        assert one.held_out_digest == other.held_out_digest
        assert torch.equal(one.train.images, other.train.images)
        assert one.class_names == other.class_names
    with pytest.raises(DataError, match=r"images differ in size \(train row 0 has 30x20 .*: set --image-size"):
        load(f"hf:{tmp_path}/photos.parquet")


PAIR = [i % 2 for i in range(20)]


@pytest.mark.parametrize(
    ("columns", "options", "kind", "words"),
    [
        ({"image": (WORDS, ["x.png"] * 20)}, "", DataError, "has no column of images (it has image, label)"),
        ({"mask": (IMAGE, cells([b"x"] * 20))}, "", DataError, "has the image columns image, mask: choose one"),
        ({"fine": (ANIMALS, PAIR)}, "", DataError, "has the label columns label, fine: choose one with ,label=label"),
        ({}, ",label=kind", SettingError, "has no column 'kind': choose label among image, label"),
        ({}, ",picture=image", SettingError, "picture is no option: choose among image, label,"),
        ({}, ",image=label", DataError, "column label holds int64, no images"),
        ({}, ",label=image", DataError, "holds PIL.Image.Image, no classes"),
        ({}, ",train=dev", SettingError, "has no split 'dev': choose train among train"),
        ({}, ",revision=main", SettingError, "revision is of a name on the hub"),
        ({}, ",config=x", SettingError, "config is of a copy of a repository, or a name on the hub: leave it out"),
        ({}, ",label=image,label=label", SettingError, "label is given twice: leave one out"),
        ({}, ",test=train,train=train", SettingError, "train is named for two splits: name another"),
        ({}, ",validation=train,test=train", SettingError, "train is named for two splits: name another"),
        ({"label": (ANIMALS, [-1] * 20)}, "", DataError, "no row of train has a label in label"),
    ],
)
def test_what_cannot_be_told_is_one_line(tmp_path, columns, options, kind, words):
    dataset = saved(tmp_path / "made", train=table(**columns))
    with pytest.raises(kind, match=re.escape(words)) as error:
        load(dataset + options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("feature", "values", "names"),
    [
        (WORDS, ["wolf", "ape"] * 10, ("ape", "wolf")),
        (INTEGERS, [10, 9] * 10, ("9", "10")),
        (hf.Value("bool"), [True, False] * 10, ("False", "True")),
        (hf.ClassLabel(names=["x", "none", "y"]), [0, 2] * 10, ("x", "y")),
    ],
)
def test_a_label_column_that_is_named(tmp_path, feature, values, names):
    data = load(saved(tmp_path / "made", train=table(kind=(feature, values))) + ",label=kind")
    assert data.class_names == names
    whole = data.train_and_validation.labels.tolist() + data.test.labels.tolist()
    assert sorted(whole) == [0] * 10 + [1] * 10
    if "none" in getattr(feature, "names", ()):
        assert "left out, classes without images in train: none" in data.notes


def test_without_labels_there_are_no_classes(tmp_path):
    made = table(label=(INTEGERS, PAIR))
    data = load(saved(tmp_path / "made", train=made))
    assert data.class_names == ()
    assert "no column of class labels: choose one with ,label= if it is among label" in data.notes
    assert load(saved(tmp_path / "two", train=table()) + ",label=").class_names == ()


def test_rows_without_a_label_are_left_out_and_said(tmp_path):
    some = table(label=(ANIMALS, [None, -1, *PAIR[2:]]))
    dataset = saved(tmp_path / "made", train=some, test=table(label=(ANIMALS, [-1] * 20)), extra=table())
    data = load(dataset)
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [14, 1, 3]
    assert "left out, rows of train without a label: 2 of 20" in data.notes
    assert "left out, rows of test without a label: 20 of 20" in data.notes
    assert "left out, splits: extra" in data.notes
    assert "test is drawn from train" in data.notes[0]
    data = load(dataset + ",train=extra,label=")
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [18, 2, 20]


def test_splits_that_do_not_fit(tmp_path):
    other = table(label=(hf.ClassLabel(names=["dog", "cat"]), PAIR))
    with pytest.raises(DataError, match="test has no column label as train has: leave it out with ,test="):
        load(saved(tmp_path / "other", train=table(), test=other))
    words = table(label=(WORDS, ["a", "b"] * 10))
    more = table(label=(WORDS, ["a", "c"] * 10))
    with pytest.raises(DataError, match="test has the class 'c', which train lacks"):
        load(saved(tmp_path / "more", train=words, test=more) + ",label=label")
    with pytest.raises(DataError, match="has the splits a, b: choose one to train on with ,train=NAME"):
        load(saved(tmp_path / "two", a=table(), b=table()))


def test_images_that_cannot_be_read_are_named_and_left_out_where_asked(tmp_path):
    images = table()["image"]
    files = cells([*(file_of(image) for image in images[:17]), b"no image", None, file_of(images[19])[:90]])
    dataset = saved(tmp_path / "made", train=table(image=(IMAGE, files)), test=table())
    with pytest.raises(ImageError, match=r"3 of 40 images in hf:.* cannot be read, the first: 'train row 17'") as error:
        load(dataset)
    assert "mend or delete 'train row 17', 'train row 18', 'train row 19', or leave" in str(error.value)
    data = load(dataset, skip_bad=True)
    assert len(data.train) + len(data.validation) == 17
    assert data.skipped == ("train row 17", "train row 18", "train row 19")


def test_only_images_that_are_asked_for_are_read(tmp_path, monkeypatch):
    from fftrain import encoded

    read, as_it_is = [], encoded.read_picture
    monkeypatch.setattr(encoded, "read_picture", lambda *a, **k: read.append(k["name"]) or as_it_is(*a, **k))
    load(saved(tmp_path / "made", train=table(), test=table()), limit=4, image_size=8)
    assert len(read) == 4 + 2 + 20


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_bytes_and_path_are_images_without_the_librarys_metadata(tmp_path, kind):
    made, _ = digits(0, 40)
    struct = pyarrow.struct({"bytes": getattr(pyarrow, kind)(), "path": pyarrow.string()})
    files = [{**row, "path": "a.png"} for row in made.cast_column("image", hf.Image(decode=False))["image"]]
    rows = pyarrow.array(files, struct)
    parquet.write_table(pyarrow.table({"image": rows, "label": made["label"][:]}), tmp_path / "plain.parquet")
    data = load(f"hf:{tmp_path}/plain.parquet,label=label,test=", grayscale=True)
    assert (data.shape, len(data.class_names)) == ((1, 8, 8), 10)


def test_relative_paths_go_by_the_folder_of_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set"
    (folder / "photos").mkdir(parents=True)
    for i in range(20):
        Image.new("L", (4, 4), i).save(folder / "photos" / f"{i}.png")
    rows = {"image": [f"photos/{i}.png" for i in range(20)], "label": PAIR}
    parquet.write_table(pyarrow.table(rows), folder / "train.parquet")
    for name in ("set/train.parquet", f"{tmp_path}/set/*.parquet"):
        data = load(f"hf:{name},image=image,label=label")
        images = torch.cat([data.train_and_validation.images, torch.from_numpy(np.asarray(data.test.images))])
        assert sorted(images[:, 0, 0, 0].tolist()) == [*range(20)]
    (folder / "photos" / "0.png").unlink()
    with pytest.raises(ImageError, match=rf"'{folder}/photos/0\.png \(train row 0\)' cannot be read: no such file"):
        load("hf:set/train.parquet,image=image", image_size=4)
    assert load("hf:set/train.parquet,image=image", skip_bad=True).skipped == ("train row 0",)


def test_files_of_any_kind_that_are_none(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "x.csv").write_text("image,label\n")
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("x.parquet", "cannot be read"),
        ("x.csv", "no .parquet, .arrow, .tar file"),
        ("empty", "cannot be read"),
        ("none", "is not there: name a file"),
        ("*.arrow", "is not there"),
    ):
        with pytest.raises(DataError, match=words) as error:
            load(f"hf:{tmp_path}/{name}")
        assert "\n" not in str(error.value)
    for name in ("bad name!", "a/b/c", "hf://x"):
        with pytest.raises(SettingError, match="is neither a path that is there nor a name on the hub"):
            load(f"hf:{name}")
    with pytest.raises(SettingError, match="write PATH_OR_NAME behind the colon"):
        load("hf:")


def test_a_damaged_file_is_one_line_with_the_reason(cli, tmp_path):
    whole, _ = digits(0, 60)
    whole.to_parquet(tmp_path / "x.parquet")
    as_tars(tmp_path, whole, whole)
    as_arrow(tmp_path, whole, whole)
    (tmp_path / "empty.parquet").touch()
    reasons = {
        "x.parquet": "magic bytes",
        "train.tar": "unexpected end of data",
        "my_train.arrow": "bytes",
        "empty.parquet": "0 bytes",
    }
    for name, said in reasons.items():
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 - 100])
        ended = cli("fftrain", "pretrain", "--dataset", f"hf:{file}", *SMALL, "--out", tmp_path / "run")
        one_line(ended, 1, f"hf:{file} cannot be read (", said)
        assert len(ended.err.splitlines()) == 1, ended.err


@pytest.mark.parametrize("words", ["[Errno 28] No space left on device", "Not enough disk space. Needed: 3 GB"])
def test_a_full_disk_is_told_with_its_place(tmp_path, monkeypatch, words):
    from datasets.exceptions import DatasetGenerationError

    def fail(*given, **more):
        raise DatasetGenerationError("An error occurred while generating the dataset") from OSError(words)

    monkeypatch.setattr(hf, "load_dataset", fail)
    with pytest.raises(
        DataError, match=f"{hf.config.HF_DATASETS_CACHE} cannot be written .* another place with HF_HOME"
    ):
        load("hf:lab/beans")


def test_a_set_without_classes_is_told_how_to_name_them(cli, tmp_path):
    dataset = saved(tmp_path / "made", train=table(label=(INTEGERS, PAIR)))
    words = ["--dataset", dataset, "--recipe", "bp", "--view", "plain", *SMALL]
    ended = cli("fftrain", "pretrain", *words, "--out", tmp_path / "run")
    one_line(ended, 2, "has no classes", "or a column of classes with ,label=COLUMN")


def test_a_name_on_the_hub(monkeypatch):
    asked = []

    def answer(*given, **more):
        asked.append((given, more))
        print("noise")
        return hf.DatasetDict(train=table(), valid=table())

    monkeypatch.setattr(hf, "load_dataset", answer)
    data = load("hf:lab/beans,config=small,revision=refs/pr/1")
    assert asked == [(("lab/beans", "small"), {"revision": "refs/pr/1"})]
    assert data.hub == "lab/beans"
    assert (data.name, len(data.validation)) == ("hf:lab/beans,config=small,revision=refs/pr/1", 20)


def test_no_network_is_one_line(cli, tmp_path, monkeypatch):
    def refuse(*given, **more):
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(hf, "load_dataset", refuse)
    ended = cli("fftrain", "pretrain", "--dataset", "hf:lab/beans", *SMALL, "--out", tmp_path / "run")
    one_line(ended, 1, "hf:lab/beans is not here", "(Couldn't reach the hub)", "HF_HUB_OFFLINE", "name the folder")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    ended = cli("fftrain", "pretrain", "--dataset", "hf:lab/beans", *SMALL, "--out", tmp_path / "run")
    one_line(ended, 1, "needs the library datasets: pip install 'ffstudy[hf]'")


def test_the_library_is_loaded_only_where_it_is_asked_for():
    for folder in ("ffcore", "fftrain", "models", "export", "ffserve"):
        for file in (ROOT / folder).rglob("*.py"):
            assert not re.search(r"^(import|from) (datasets|huggingface_hub)\b", file.read_text(), re.MULTILINE), file


def test_a_study_tells_columns_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "made", train=table(kind=(INTEGERS, PAIR)))
    names = ["hf:made,label=label", "hf:made,label=kind"]
    spec = plan({"dataset": names, "recipe": "bp", "view": "plain", "settings": {"epochs": 1}}, "two")
    assert [cell.config.dataset for cell in spec.cells] == [n.replace("made", f"{tmp_path}/made") for n in names]
    assert len({cell.name for cell in spec.cells}) == 2
    assert all("made_label=" in cell.name and "/" not in cell.name for cell in spec.cells)
