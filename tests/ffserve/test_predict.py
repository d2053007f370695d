from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import FFStudyError, ImageError, ModelError, UsageError
from ffserve import Classifier, Model
from ffserve.stream import BATCH_SIZE


def test_files_and_arrays_are_predicted_alike_in_order(make_model, tmp_path):
    made = make_model(shape=(3, 6, 5))
    images = made.images(BATCH_SIZE + 3)
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    classifier = Classifier(made.path)
    found = classifier.predict([*paths[:10], *map(str, paths[10:20]), *images[20:]])
    expected = made.expected(images)["probabilities"]
    assert len({prediction.label for prediction in found}) > 1
    for prediction, probabilities in zip(found, expected, strict=True):
        order = np.argsort(-probabilities)
        assert prediction.label == prediction.classes[0]
        assert prediction.classes == tuple(made.classes[k] for k in order)
        np.testing.assert_allclose(prediction.probabilities, probabilities[order], atol=1e-5)
        assert all(type(probability) is float for probability in prediction.probabilities)


def test_files_are_read_as_the_model_wants_them(make_model, tmp_path):
    made = make_model(shape=(1, 4, 4))
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "red.png")
    found = Classifier(made.path).predict([tmp_path / "red.png"])[0]
    expected = made.expected(np.full((1, 1, 4, 4), 76, np.uint8))["probabilities"][0]
    np.testing.assert_allclose(found.probabilities, sorted(expected, reverse=True), atol=1e-5)


def test_a_classifier_takes_a_loaded_model_a_run_folder_and_the_environment(make_model, tmp_path, monkeypatch):
    made = make_model("run/export/model.onnx")
    monkeypatch.setenv("FFSERVE_MODEL", str(made.path))
    for given in (Model(made.path), tmp_path / "run", str(made.path), None):
        classifier = Classifier(given)
        assert classifier.model.path == made.path
        assert classifier.class_names == made.classes


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (5, 3), (1000, 3)])
def test_top_k(make_model, top_k, count):
    made = make_model()
    images = made.images(4)
    for short, whole in zip(
        Classifier(made.path).predict(images, top_k=top_k), Classifier(made.path).predict(images), strict=True
    ):
        assert len(short.classes) == len(short.probabilities) == count
        assert short.classes == whole.classes[:count]
        assert short.probabilities == whole.probabilities[:count]


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_below_one_is_refused(make_model, top_k):
    made = make_model()
    with pytest.raises(UsageError, match=f"top_k is {top_k}: it must be at least 1"):
        Classifier(made.path).predict(made.images(1), top_k=top_k)


def test_classes_of_equal_probability_keep_the_order_of_the_model(make_model):
    names = tuple("hgfedcba")
    made = make_model(classes=names, weight=np.zeros((16, 8)), bias=np.array([0, 1, 0, 1, 0, 1, 0, 1]))
    assert Classifier(made.path).predict(made.images(1), top_k=8)[0].classes == tuple("gecahfdb")


def test_no_images_give_no_predictions(make_model):
    assert Classifier(make_model().path).predict([]) == []


def test_images_may_come_from_an_iterator(make_model, tmp_path):
    made = make_model()
    for number, pixels in enumerate(made.images(3)):
        Image.fromarray(pixels[0]).save(tmp_path / f"{number}.png")
    classifier = Classifier(made.path)
    expected = classifier.predict(made.images(3))
    assert classifier.predict(iter(made.images(3))) == expected
    assert classifier.predict(path for path in sorted(tmp_path.glob("*.png"))) == expected
    assert len(classifier.predict(tmp_path.glob("*.png"))) == 3
    with pytest.raises(ModelError, match="takes uint8"):
        classifier.predict(iter([np.zeros((1, 4, 5), np.uint8)]))


@pytest.mark.parametrize("one", ["a.png", b"content", bytearray(b"content"), Path("a.png")])
def test_one_image_by_itself_is_refused(make_model, one):
    with pytest.raises(UsageError, match=rf"images is one {type(one).__name__}: give a list, \[image\]"):
        Classifier(make_model().path).predict(one)


@pytest.mark.parametrize("odd", [Image.new("L", (4, 4)), bytearray(b"content"), None, 3])
def test_an_image_of_no_known_type_is_named(make_model, odd):
    made = make_model()
    with pytest.raises(UsageError, match=rf"images\[2\] is of type {type(odd).__name__}: give a path, the bytes"):
        Classifier(made.path).predict([*made.images(2), odd])


def test_content_that_cannot_be_read_is_named_by_its_place(make_model):
    made = make_model()
    with pytest.raises(ImageError, match=r"'images\[2\]' is no image"):
        Classifier(made.path).predict([*made.images(2), b"no image"])


def test_an_image_that_cannot_be_read_is_named(make_model, tmp_path):
    made = make_model()
    with pytest.raises(ImageError, match=r"missing\.png"):
        Classifier(made.path).predict([*made.images(2), tmp_path / "missing.png"])


@pytest.mark.parametrize(
    "images",
    [
        [np.zeros((1, 4, 5), np.uint8)],
        [np.zeros((1, 4, 4), np.float32)],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 5), np.uint8)],
        [np.zeros((1, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)],
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(make_model, images):
    with pytest.raises(ModelError, match=r"takes uint8 images \[batch, 1, 4, 4\]"):
        Classifier(make_model().path).predict(images)


def test_a_model_without_a_probe_is_refused_with_what_mends_it(make_model):
    made = make_model(classes=None)
    for given in (made.path, Model(made.path)):
        with pytest.raises(ModelError, match=r"has no probe.*`ffexport RUN`") as error:
            Classifier(given)
        assert str(made.path) in str(error.value)


def test_threads_share_a_classifier(make_model, tmp_path):
    made = make_model(shape=(1, 16, 16))
    classifier = Classifier(made.path, threads=1)
    paths = [tmp_path / f"{i}.png" for i in range(64)]
    for path, pixels in zip(paths, made.images(64), strict=True):
        Image.fromarray(pixels[0]).save(path)
    alone = [classifier.predict([path])[0] for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: classifier.predict([path])[0], paths))
    assert together == alone
    assert len({prediction.label for prediction in alone}) > 1


def test_usage_errors_are_value_errors_and_end_with_code_2():
    assert issubclass(UsageError, ValueError)
    assert (UsageError.exit_code, FFStudyError.exit_code) == (2, 1)
