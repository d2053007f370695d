"""Accuracy on trees of class folders, and linear classifiers on features, against NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, precision_score, recall_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ffcore.layout import folder_name
from ffserve.confusion import Confusion, wilson
from ffserve.evaluate import evaluate
from ffserve.session import Model
from ffserve.transfer import GRID
from tests.ffserve.measuring import failed


@pytest.fixture
def measure(cli):
    return partial(cli, "ffserve")


def tree(folder, images, labels, names):
    """Saves gray images as FOLDER/CLASS/00000.png."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / folder_name(names[label]) / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)


@pytest.fixture
def made(make_model, tmp_path):
    """A model, and a tree of 60 images that it takes for something: (model, labels, what it takes them for)."""
    weight = np.random.default_rng(1).normal(size=(16, 3))
    made = make_model(classes=("T-shirt/top", "one", "two"), weight=weight - weight.mean(0), bias=np.zeros(3))
    images = made.images(60)
    predicted = made.expected(images)["logits"].argmax(1)
    assert set(predicted) == {0, 1, 2}
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(60) < 0.7, predicted, rng.integers(0, 3, 60))
    tree(tmp_path / "in", images, labels, made.classes)
    return made, labels, predicted


def test_figures_equal_those_of_scikit_learn(measure, made, tmp_path):
    made, labels, predicted = made
    ended = measure("evaluate", tmp_path / "in", "--model", made.path, "--batch-size", 7, "--json")
    assert (ended.code, ended.err) == (0, "")
    result = ended.json
    right = int((labels == predicted).sum())
    interval = binomtest(right, 60).proportion_ci(method="wilson")
    assert result["interval"] == pytest.approx([interval.low, interval.high], abs=1e-12)
    assert result["confusion"] == confusion_matrix(labels, predicted, labels=range(3)).tolist()
    recall = recall_score(labels, predicted, average=None)
    precision = precision_score(labels, predicted, average=None)
    for k, found in enumerate(result["classes"]):
        assert (found["class"], found["images"]) == (made.classes[k], int((labels == k).sum()))
        assert (found["recall"], found["precision"]) == pytest.approx((recall[k], precision[k]))
    assert {key: result[key] for key in ("model", "folder", "images", "right", "accuracy", "errors")} == {
        "model": str(made.path),
        "folder": str(tmp_path / "in"),
        "images": 60,
        "right": right,
        "accuracy": right / 60,
        "errors": [],
    }
    assert (result["missing_classes"], result["unknown_folders"]) == ([], [])
    table = measure("evaluate", tmp_path / "in", "--model", made.path)
    assert (table.code, table.err) == (0, "")
    assert table.out.splitlines()[0] == f"model {made.path}"
    assert f"{right / 60:.4f}" in table.out
    calibration = result["calibration"]
    figures = [calibration[name] for name in ("error", "confidence", "negative_log_likelihood", "brier")]
    assert [f"{value:.4f}" for value in figures] in [line.split() for line in table.out.splitlines()]
    assert ["T-shirt/top", *map(str, result["confusion"][0])] in [line.split() for line in table.out.splitlines()]


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 10), (9_731, 10_000)])
def test_the_interval_is_that_of_scipy(right, images):
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson(right, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_what_has_no_images_has_no_share():
    assert wilson(0, 0) == (0.0, 1.0)
    confusion = Confusion.empty(("a", "b"))
    assert math.isnan(confusion.accuracy)
    assert confusion.mistakes() == []
    confusion.add(np.array([0, 0]), np.array([0, 0]))
    assert confusion.classes()[1] == {"class": "b", "images": 0, "recall": None, "precision": None}


def test_other_folders_and_missing_classes_are_told(measure, made, tmp_path):
    made, labels, predicted = made
    (tmp_path / "in" / "two").rename(tmp_path / "in" / "zwei")
    (tmp_path / "in" / ".hidden").mkdir()
    ended = measure("evaluate", tmp_path / "in", "--model", made.path, "--json")
    assert ended.code == 0
    assert (ended.json["missing_classes"], ended.json["unknown_folders"]) == (["two"], ["zwei"])
    assert ended.json["images"] == (labels < 2).sum()
    assert ended.json["right"] == ((labels < 2) & (labels == predicted)).sum()
    assert ended.err.splitlines() == [
        f"ffserve: note: left out, no class of {made.path}: zwei",
        "ffserve: note: no folder for the class two",
        f"ffserve: note: left out, hidden: 1 ({str(tmp_path / 'in' / '.hidden')!r})",
    ]


def test_bad_images_are_counted_and_in_no_figure(measure, made, tmp_path):
    made, labels, predicted = made
    bad = tmp_path / "in" / "one" / "bad.png"
    bad.write_bytes(b"")
    ended = measure("evaluate", tmp_path / "in", "--model", made.path, "--json")
    assert ended.code == 1
    assert (ended.json["images"], ended.json["right"]) == (60, (labels == predicted).sum())
    assert ended.json["errors"] == [{"file": str(bad), "error": f"{str(bad)!r} is empty (0 bytes)"}]
    assert ended.err == f"ffserve: error: {str(bad)!r} is empty (0 bytes)\n"


def readout(target, classes):
    return lambda texts: texts.update(head='"readout"', target=json.dumps(target), class_names=json.dumps(classes))


def test_a_readout_is_evaluated_where_its_classes_are_those_of_images(measure, make_model, tmp_path):
    names = ("zero", "one", "two")
    supervised = make_model("supervised.onnx", classes=names, about=readout("class", names))
    rotation = make_model("rotation.onnx", classes=("0", "90", "180"), about=readout("pretext", ["0", "90", "180"]))
    images = supervised.images(12)
    labels = supervised.expected(images)["logits"].argmax(1)
    tree(tmp_path / "in", images, labels, names)
    assert measure("evaluate", tmp_path / "in", "--model", supervised.path, "--json").json["accuracy"] == 1
    ended = measure("evaluate", tmp_path / "in", "--model", rotation.path)
    failed(ended, 1, "rotation.onnx tells apart what its pretext task asked (0, 90, 180)", "--train DIR --test DIR")


def test_what_the_user_can_mend_is_one_line(measure, made, make_model, tmp_path):
    model = made[0].path
    (tmp_path / "in").rename(tmp_path / "test")
    (tmp_path / "empty" / "one").mkdir(parents=True)
    (tmp_path / "train").mkdir()
    (tmp_path / "bare").mkdir()
    features = make_model("features.onnx", classes=None).path

    def run(*arguments):
        return measure("evaluate", "--model", model, *arguments)

    failed(run(tmp_path), 1, "has no folder with the name of a class", "T-shirt/top, one, two", f"name {tmp_path}/test")
    failed(run(tmp_path / "bare"), 1, "bare holds no folders")
    failed(run(tmp_path / "none"), 1, "none cannot be listed (no such file or directory)")
    failed(run(tmp_path / "test", "--model", features), 1, "features.onnx has no classes", "--train DIR --test DIR")
    failed(run(), 2, "--train DIR and --test DIR")
    failed(run("--train", tmp_path), 2, "--train DIR and --test DIR")
    failed(run(tmp_path / "test", "--test", tmp_path), 2, "exclude each other")
    failed(run(tmp_path / "test", "--picture", "p.jpg"), 2, "--picture is 'p.jpg'", ".png, .svg, .pdf")
    failed(run(tmp_path / "test", "--batch-size", "0"), 2, "--batch-size")
    ended = run(tmp_path / "empty")
    assert (ended.code, ended.out) == (1, "")
    assert "has no images" in ended.err.splitlines()[0]
    assert ended.err.splitlines()[1] == f"ffserve: error: no image below {tmp_path / 'empty'} could be read"


def test_the_picture_is_drawn_and_the_same_again(measure, made, tmp_path, monkeypatch):
    model = made[0].path
    for name in ("a.png", "a.svg", "b.svg", "a.pdf"):
        path = tmp_path / "out" / name
        assert measure("evaluate", tmp_path / "in", "--model", model, "--picture", path).code == 0
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert min(image.size) > 400
        assert len(image.convert("RGB").getcolors(1_000_000) or ()) > 20
    text = (tmp_path / "out" / "a.svg").read_text()
    assert text == (tmp_path / "out" / "b.svg").read_text()
    assert "<!-- T-shirt/top -->" in text
    assert (tmp_path / "out" / "a.pdf").read_bytes().startswith(b"%PDF")
    assert len([*(tmp_path / "out").iterdir()]) == 4
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = measure("evaluate", tmp_path / "in", "--model", "no.onnx", "--picture", "a.png")
    failed(ended, 1, "matplotlib is not installed: run pip install matplotlib")


def test_any_names_and_numbers_of_classes_can_be_drawn(tmp_path):
    for names in (("$x", "日本"), ("_u", "new\nline", "b\udcff", "long " * 20), tuple(map(str, range(40)))):
        confusion = Confusion.empty(names)
        confusion.add(np.zeros(5, dtype=np.int64), np.arange(5) % len(names))
        confusion.draw(tmp_path / f"{len(names)}.png", "a title \udcff")
        assert (tmp_path / f"{len(names)}.png").stat().st_size > 1000


def test_of_many_classes_the_mistakes_are_printed(measure, make_model, tmp_path):
    names = tuple(f"class{k}" for k in range(20))
    made = make_model(classes=names)
    images = made.images(40)
    predicted = made.expected(images)["logits"].argmax(1)
    labels = np.where(np.arange(40) < 37, predicted, (predicted + 1) % 20)
    tree(tmp_path / "in", images, labels, names)
    ended = measure("evaluate", tmp_path / "in", "--model", made.path)
    assert ended.code == 0
    below = ended.out.partition("most frequent mistakes")[2]
    found = [line.split() for line in below.splitlines() if "class" in line][1:]
    assert sum(int(count) for _, _, count in found) == 3
    for label, taken in zip(labels[37:], predicted[37:], strict=True):
        assert any(row[:2] == [names[label], names[taken]] for row in found)


@pytest.fixture
def trees(tmp_path):
    """Two trees of three overlapping classes: (images, labels) of train and of test, in the order of their files."""
    rng = np.random.default_rng(5)
    parts = {}
    for part, count in (("train", 200), ("test", 80)):
        labels = np.sort(rng.integers(0, 3, count))
        images = rng.normal(110, 40, (count, 1, 4, 4))
        images[:, 0, 1:3, 1:3] += 25 * labels[:, None, None]
        images[:, 0, 0, 0] = 7  # a pixel that never differs
        images = images.clip(0, 255).astype(np.uint8)
        tree(tmp_path / part, images, labels, "abc")
        parts[part] = (images.reshape(count, -1), labels)
    return parts


def test_both_classifiers_equal_scikit_learn_alone(measure, make_model, trees, tmp_path):
    made = make_model(classes=None)  # whose features are the pixels / 255, which standardisation undoes
    ended = measure(
        "evaluate",
        "--train",
        tmp_path / "train",
        "--test",
        tmp_path / "test",
        "--model",
        made.path,
        "--seed",
        4,
        "--json",
    )
    assert ended.code == 0
    assert len([line for line in ended.err.splitlines() if line.startswith("ffserve: classifier on ")]) == 2 * len(GRID)
    result = ended.json
    (images, labels), (test_images, test_labels) = trees["train"], trees["test"]
    fit, held_out = train_test_split(np.arange(200), test_size=20, stratify=labels, random_state=4)
    tried = {}
    for C in GRID:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
        classifier.fit(images[np.sort(fit)].astype(float), labels[np.sort(fit)])
        tried[C] = (classifier.score(images[held_out], labels[held_out]), classifier.score(test_images, test_labels))
    best = max(tried, key=lambda C: tried[C][0])
    assert [row["source"] for row in result["rows"]] == ["features", "raw"]
    for row in result["rows"]:
        assert (row["width"], row["C"], row["converged"]) == (16, best, True)
        assert [entry["validation"] for entry in row["grid"]] == pytest.approx([v for v, _ in tried.values()])
        assert (row["validation"], row["accuracy"]) == pytest.approx(tried[best])
        assert row["interval"] == list(wilson(row["right"], 80))
    assert result["train"] == {"folder": str(tmp_path / "train"), "images": 180, "held_out": 20}
    assert result["test"] == {"folder": str(tmp_path / "test"), "images": 80}
    assert result["class_names"] == ["a", "b", "c"]
    assert 0.5 < result["rows"][0]["accuracy"] < 0.95


def test_transfer_is_the_same_on_any_threads_and_prints_both(measure, make_model, trees, tmp_path):
    made = make_model(classes=("0", "90"), about=readout("pretext", ["0", "90"]))
    given = ["evaluate", "--train", tmp_path / "train", "--test", tmp_path / "test", "--model", made.path]
    one = measure(*given, "--threads", 1, "--json")
    assert one.json == measure(*given, "--threads", 3, "--json", "--batch-size", 9).json
    bad = tmp_path / "test" / "b" / "bad.jpg"
    bad.write_bytes(b"bad")
    ended = measure(*given, "--picture", tmp_path / "p.png")
    assert ended.code == 1
    assert f"error: {str(bad)!r} is no image" in ended.err
    rows = [line.split() for line in ended.out.splitlines()]
    for row, name in zip(one.json["rows"], (["features"], ["raw", "pixels"]), strict=True):
        figures = [f"{row['C']:g}", f"{row['validation']:.4f}", f"{row['accuracy']:.4f}"]
        assert [*name, "16", *figures, f"{row['interval'][0]:.4f}", "to", f"{row['interval'][1]:.4f}"] in rows
    assert (tmp_path / "p.png").exists()


def test_transfer_inverts_images_only_where_that_is_asked(measure, make_model, trees, tmp_path):
    model = make_model(about=lambda texts: texts.update(border='{"mean": 250.0, "deviation": 1.0}')).path
    given = ["evaluate", "--train", tmp_path / "train", "--test", tmp_path / "test", "--model", model, "--json"]
    assert measure(*given).json["inverted"] == 0
    assert measure(*given, "--invert", "auto").json["inverted"] > 20


def test_folders_are_classes_however_their_accents_are_written(measure, make_model, tmp_path):
    names = ("Rote Äpfel", "sécher", "zero")
    made = make_model(classes=names)
    images = made.images(90)
    right = [names[k] for k in made.expected(images)["logits"].argmax(1)]
    for i, (pixels, name) in enumerate(zip(images, right, strict=True)):
        form = "NFD" if i % 3 else "NFC"  # of one class in both: two folders
        path = tmp_path / "in" / unicodedata.normalize(form, name) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0]).save(path)
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    ended = measure("evaluate", tmp_path / "in", "--model", made.path, "--json")
    assert ended.code == 0
    assert (ended.json["right"], ended.json["images"], ended.json["unknown_folders"]) == (90, 90, [])
    assert ended.json["missing_classes"] == [name for name in names if name not in right]
    assert ended.json["left_out"] == {"hidden": 1, "beside class folders": 1}
    assert "left out, beside class folders: 1 (" in ended.err
    ended = measure("evaluate", "--train", tmp_path / "in", "--test", tmp_path / "in", "--model", made.path, "--json")
    assert ended.json["class_names"] == sorted(set(right))


def test_trees_that_do_not_fit_are_one_line(measure, make_model, trees, tmp_path, monkeypatch):
    model = make_model(classes=None).path
    train, test = tmp_path / "train", tmp_path / "test"

    def run(train, test):
        return measure("evaluate", "--train", train, "--test", test, "--model", model)

    (test / "d").mkdir()
    failed(run(train, test), 1, f"{test} has the class 'd', which {train} lacks")
    (test / "d").rmdir()
    failed(run(train, tmp_path / "none"), 1, "none cannot be listed")
    tree(tmp_path / "single", np.zeros((4, 1, 4, 4), dtype=np.uint8), [0] * 4, "a")
    failed(run(tmp_path / "single", tmp_path / "single"), 1, "holds one class folder, 'a': at least 2 are needed")
    tree(tmp_path / "few", np.zeros((5, 1, 4, 4), dtype=np.uint8), [0, 0, 0, 0, 1], "ab")
    failed(run(tmp_path / "few", tmp_path / "few"), 1, f"{tmp_path / 'few' / 'b'} holds fewer than 2 images")
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    failed(run(train, test), 1, "sklearn is not installed: run pip install scikit-learn")


def test_what_one_tree_leaves_out_is_counted_once(measure, make_model, trees, tmp_path):
    made = make_model(classes=None)
    for name in ("beside.txt", "a/inside.txt", "a/.hidden.png"):
        path = tmp_path / "train" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (path.parent / "1.png").write_bytes(next((tmp_path / "train").rglob("*.png")).read_bytes())
    (path.parent / "2.png").write_bytes(next((tmp_path / "train").rglob("*.png")).read_bytes())
    (tmp_path / "link").symlink_to("train")
    for test in ("train", "link"):
        ended = measure(
            "evaluate", "--train", tmp_path / "train", "--test", tmp_path / test, "--model", made.path, "--json"
        )
        assert ended.json["left_out"] == {"beside class folders": 1, "hidden": 1, "no images": 1}


def test_a_folder_that_is_a_class_but_for_a_space_is_shown_in_quotes(measure, made, tmp_path):
    (tmp_path / "odd" / "one ").mkdir(parents=True)
    (tmp_path / "odd" / "two\u200b").mkdir()
    failed(measure("evaluate", tmp_path / "odd", "--model", made[0].path), 1, r"it has 'one ', 'two\u200b': ")


def test_the_python_api(made, tmp_path):
    made, labels, predicted = made
    found = evaluate(Model(made.path), tmp_path / "in", workers=1, batch_size=11)
    assert found.confusion.accuracy == (labels == predicted).mean()
    assert found.confusion.mistakes()[0][2] == max(
        np.sum((labels == i) & (predicted == j)) for i in range(3) for j in range(3) if i != j
    )
