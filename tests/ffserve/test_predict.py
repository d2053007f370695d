from __future__ import annotations

import copy
import io
import os
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import FFStudyError, ImageError, ModelError, UsageError
from ffserve import Classifier, Model
from ffserve.stream import BATCH_SIZE
from tests.helpers import python


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
    with pytest.raises(UsageError, match=r"images\[0\] is float64"):
        classifier.predict(iter([np.zeros((1, 4, 5))]))


@pytest.mark.parametrize("one", ["a.png", b"content", bytearray(b"content"), Path("a.png")])
def test_one_image_by_itself_is_refused(make_model, one):
    with pytest.raises(UsageError, match=rf"images is one {type(one).__name__}: give a list, \[image\]"):
        Classifier(make_model().path).predict(one)


@pytest.mark.parametrize("odd", [None, 3, [[0, 1]]])
def test_an_image_of_no_known_type_is_named(make_model, odd):
    made = make_model()
    with pytest.raises(UsageError, match=rf"images\[2\] is of type {type(odd).__name__}: give a path, the bytes"):
        Classifier(made.path).predict([*made.images(2), odd])


def test_content_that_cannot_be_read_is_named_by_its_place(make_model):
    made = make_model()
    with pytest.raises(ImageError, match=r"'images\[2\]' is no image but a text file"):
        Classifier(made.path).predict([*made.images(2), b"no image"])


def test_an_image_that_cannot_be_read_is_named(make_model, tmp_path):
    made = make_model()
    with pytest.raises(ImageError, match=r"missing\.png"):
        Classifier(made.path).predict([*made.images(2), tmp_path / "missing.png"])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 4, 4), np.float32), r"float32 \[1, 4, 4\]"),
        (np.zeros((4,), np.uint8), r"uint8 \[4\]"),
        (np.zeros((1, 1, 4, 4), np.uint8), r"uint8 \[1, 1, 4, 4\]"),
        (np.zeros((5, 9, 7), np.uint8), r"uint8 \[5, 9, 7\]"),
        (np.zeros((0, 4), np.uint8), r"uint8 \[0, 4\]"),
        (np.array([["a"]]), r"<U1 \[1, 1\]"),
    ],
)
def test_arrays_of_another_type_or_that_are_no_pictures_are_refused(make_model, array, words):
    made = make_model()
    with pytest.raises(UsageError, match=rf"images\[1\] is {words}: give uint8 \[H, W\]"):
        Classifier(made.path).predict([made.images(1)[0], array])


def test_pictures_of_any_kind_are_read_as_files_are(make_model, tmp_path):
    made = make_model(shape=(3, 6, 5))
    classifier = Classifier(made.path)
    stored = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    for channels in (1, 2, 3, 4):
        pixels = stored[:, :, :channels] if channels > 1 else stored[:, :, 0]
        path = tmp_path / f"{channels}.png"
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        with path.open("rb") as file:
            same = [path, content, bytearray(content), memoryview(content), io.BytesIO(content), file]
            same += [Image.open(path), Image.fromarray(pixels), pixels]
            same += [np.moveaxis(pixels, 2, 0)] if channels > 1 else [pixels[:, :, None], pixels[None]]
            first, *others = classifier.predict(same)
        assert all(other == first for other in others)


def test_an_array_of_the_models_own_shape_is_taken_as_it_is(make_model):
    made = make_model(shape=(3, 4, 3))  # which might be 3 rows of 4 pixels
    images = made.images(5)
    found = Classifier(made.path).predict(list(images), top_k=3)
    for prediction, wanted in zip(found, made.expected(images)["probabilities"], strict=True):
        np.testing.assert_allclose(prediction.probabilities, np.sort(wanted)[::-1], atol=1e-5)


def test_a_file_opened_as_text_is_refused(make_model, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with (tmp_path / "a.txt").open() as file, pytest.raises(UsageError, match=r"images\[0\] .* open it in binary mode"):
        Classifier(make_model().path).predict([file])


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


def labels(classifier, images):
    return [prediction.label for prediction in classifier.predict(images)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_classifier_goes_to_other_processes(make_model, method):
    made = make_model()
    images = list(made.images(20))
    classifier = Classifier(made.path, threads=1, device="cpu")
    with ProcessPoolExecutor(1, mp_context=get_context(method)) as pool:
        assert pool.submit(labels, classifier, images).result(60) == labels(classifier, images)


def test_a_classifier_is_pickled_by_its_models_place_from_any_folder(make_model, tmp_path, monkeypatch):
    made = make_model()
    monkeypatch.chdir(tmp_path)
    classifier = Classifier(made.path.name, threads=1)
    packed = pickle.dumps(classifier)
    assert len(packed) < 1000
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = list(made.images(5))
    again = pickle.loads(packed)
    assert again.predict(images) == copy.copy(classifier).predict(images) == classifier.predict(images)
    assert again.model._session.get_session_options().intra_op_num_threads == 1


def test_a_model_may_be_given_as_its_content(make_model):
    made = make_model()
    classifier = Classifier(made.path.read_bytes())
    images = list(made.images(5))
    assert classifier.predict(images) == Classifier(made.path).predict(images)
    assert pickle.loads(pickle.dumps(classifier)).predict(images) == classifier.predict(images)
    assert str(classifier.model.path) == "<bytes>"
    with pytest.raises(ModelError, match="<bytes> is no ONNX model"):
        Classifier(b"no model")


def test_a_model_may_be_given_as_any_bytes_or_an_open_file(make_model):
    made = make_model()
    content = made.path.read_bytes()
    images = list(made.images(3))
    wanted = Classifier(made.path).predict(images)
    written = io.BytesIO()
    written.write(content)
    with made.path.open("rb") as file:
        for given in (bytearray(content), memoryview(content), io.BytesIO(content), written, file):
            classifier = Classifier(given)
            assert classifier.predict(images) == wanted
            assert pickle.loads(pickle.dumps(classifier)).predict(images) == wanted


def closed(file):
    file.close()
    return file


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("", UsageError, "model is an empty path: name a file"),
        (b"", ModelError, "<bytes> is empty (0 bytes): export it again"),
        (bytearray(), ModelError, "<bytes> is empty (0 bytes): export it again"),
        (io.BytesIO(), ModelError, "<bytes> is empty (0 bytes): export it again"),
        (3, UsageError, "model is of type int: give a path, the bytes of a file, or a file opened in binary mode"),
        ([], UsageError, "model is of type list: give a path"),
        (np.zeros(3), UsageError, "model is of type ndarray: give a path"),
        (io.StringIO("x"), UsageError, "model is a file that gives str: open it in binary mode"),
        (closed(io.BytesIO(b"x")), UsageError, "model is a file that was closed: hand it over while it is open"),
        (b"<!doctype html>", ModelError, "<bytes> is no ONNX model but an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            ModelError,
            "but a Git LFS pointer, not the file itself: run",
        ),
        (b"PK\x03\x04" + bytes(30), ModelError, "<bytes> is no ONNX model but a ZIP archive"),
        (b"\x89PNG\r\n\x1a\n", ModelError, "<bytes> is no ONNX model but a PNG image: name an .onnx file"),
        (b"\xff\xd8\xff\xe0", ModelError, "<bytes> is no ONNX model but a JPEG image: name an .onnx file"),
        (pickle.dumps([1, 2]), ModelError, "<bytes> is no ONNX model but a pickle"),
    ],
    ids=range(15),
)
def test_what_is_no_model_is_said_in_a_line(given, kind, words):
    with pytest.raises(kind) as error:
        Classifier(given)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("threads", ["2", 2.0, 0, -1])
def test_a_number_of_threads_that_is_none_is_refused(make_model, threads):
    with pytest.raises(UsageError, match=rf"threads is {threads!r}: it must be (a whole number of )?at least 1"):
        Classifier(make_model().path, threads=threads)


@pytest.mark.parametrize("name", ["top_k", "batch_size", "max_pixels"])
@pytest.mark.parametrize("value", ["3", 1.5, None])
def test_what_is_no_number_is_refused(make_model, name, value):
    made = make_model()
    with pytest.raises(UsageError, match=rf"{name} is {value!r}: it must be a whole number of at least 1"):
        Classifier(made.path).predict(made.images(1), **{name: value})
    assert len(Classifier(made.path, threads=np.int64(1)).predict(made.images(1), top_k=np.int64(2))[0].classes) == 2


@pytest.mark.parametrize(
    ("shape", "images", "words"),
    [
        ((1, 28, 28), np.zeros((28, 28), np.uint8), r"images is one array \[28, 28\]: give a list, \[image\]"),
        ((1, 28, 28), np.zeros((28, 30, 3), np.uint8), r"images is one array \[28, 30, 3\]: give a list"),
        ((3, 28, 28), np.zeros((3, 28, 28), np.uint8), r"images is one array \[3, 28, 28\]: give a list"),
        ((1, 28, 28), np.zeros((), np.uint8), r"images is one array \[\]: give a list"),
        ((1, 28, 28), io.BytesIO(b"x\ny"), r"images is one BytesIO: give a list, \[image\]"),
        ((1, 28, 28), None, "images is of type NoneType: give a list of images"),
        ((1, 28, 28), 3, "images is of type int: give a list of images"),
    ],
    ids=range(7),
)
def test_what_is_no_list_of_images_is_refused(make_model, shape, images, words):
    with pytest.raises(UsageError, match=words):
        Classifier(make_model(shape=shape).path).predict(images)


def test_an_array_of_several_images_is_a_list(make_model):
    gray = make_model(shape=(1, 28, 28))
    assert len(Classifier(gray.path).predict(np.zeros((3, 28, 28), np.uint8))) == 3
    assert len(Classifier(gray.path).predict(np.zeros((1, 28, 28), np.uint8))) == 1
    assert len(Classifier(gray.path).predict(np.zeros((5, 4, 28, 3), np.uint8))) == 5
    small = make_model("small.onnx", shape=(3, 4, 4))
    assert len(Classifier(small.path).predict(np.zeros((7, 4, 4), np.uint8))) == 7


def test_a_file_at_its_end_is_read_from_its_beginning_any_other_from_where_it_stands(make_model):
    made = make_model()
    first, second = (saved_image(pixels) for pixels in made.images(2))
    classifier = Classifier(made.path)
    wanted = classifier.predict([first, second])
    file = io.BytesIO()
    file.write(first)
    assert classifier.predict([file, file]) == [wanted[0], wanted[0]]
    file = io.BytesIO(first + second)
    file.seek(len(first))
    assert classifier.predict([file]) == [wanted[1]]
    with pytest.raises(ImageError, match=r"'images\[0\]' is empty \(0 bytes\)"):
        classifier.predict([io.BytesIO()])


def saved_image(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, "PNG")
    return file.getvalue()


def test_files_and_pictures_that_give_nothing_are_said_in_a_line(make_model):
    classifier = Classifier(make_model().path)
    with pytest.raises(UsageError, match=r"images\[0\] is a file that was closed"):
        classifier.predict([closed(io.BytesIO(b"x"))])
    with pytest.raises(UsageError, match=r"images\[0\] is an empty path"):
        classifier.predict([""])
    with pytest.raises(ImageError, match=r"'images\[0\]' has 0x5 pixels"):
        classifier.predict([Image.new("L", (0, 5))])
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as file, pytest.raises(ImageError, match=r"'images\[0\]' cannot be read"):
        classifier.predict([file])


FORKED = """
import os, sys, threading
import numpy as np
from ffserve import Classifier
classifier = Classifier(sys.argv[1], threads=int(sys.argv[2]))
images = [np.full((1, 4, 4), level, np.uint8) for level in range(0, 250, 9)]
wanted = [p.label for p in classifier.predict(images)]
for used in (True, False):
    child = os.fork()
    if not child:
        if used:
            both = [threading.Thread(target=classifier.predict, args=(images,)) for _ in range(2)]
            [thread.start() for thread in both]
            [thread.join() for thread in both]
        sys.exit(0 if not used or [p.label for p in classifier.predict(images)] == wanted else 3)
    print(os.waitpid(child, 0)[1])
assert [p.label for p in classifier.predict(images)] == wanted
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_classifier_that_was_made_before_a_fork_answers_there_and_lets_the_child_end(make_model, threads):
    """As gunicorn --preload does. A session's own end waits for threads that stayed in the parent, or crashes."""
    ended = python("-c", FORKED, make_model().path, threads, timeout=60)
    assert (ended.returncode, ended.stderr, ended.stdout.split()) == (0, "", ["0", "0"])


def test_usage_errors_are_value_errors_and_end_with_code_2():
    assert issubclass(UsageError, ValueError)
    assert (UsageError.exit_code, FFStudyError.exit_code) == (2, 1)
