"""Images in, outputs out: in order, in constant memory, whatever is wrong with some of them."""

from __future__ import annotations

import itertools
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import ImageError, ModelError, UsageError
from ffcore.folders import Item
from ffcore.images import border_means
from ffserve import reading
from ffserve import stream as stream_module
from ffserve.paper import inverts
from ffserve.session import Model
from ffserve.stream import AHEAD, stream


@pytest.fixture
def made(make_model):
    return make_model()


def bordered(mean, deviation=0.0):
    """Returns what records a border in a model's metadata."""
    return lambda texts: texts.update(border=f'{{"mean": {mean}, "deviation": {deviation}}}')


def saved(folder, images, suffix=".png"):
    """Writes images [N, 1, H, W] and returns their items."""
    paths = [folder / f"{i}{suffix}" for i in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels[0]).save(path)
    return [Item(path.name, path) for path in paths]


def joined(batches, name="logits"):
    return np.concatenate([batch.outputs[name] for batch in batches])


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (64, None), (7, 5), (1000, 2)])
def test_order_and_values(made, tmp_path, monkeypatch, batch_size, workers, processes):
    monkeypatch.setattr(stream_module, "FEW", 5)
    images = made.images(50)
    items = saved(tmp_path, images)
    batches = list(stream(Model(made.path), items, batch_size=batch_size, workers=workers, processes=processes))
    assert [item for batch in batches for item in batch.items] == items
    assert [len(batch.items) for batch in batches] == [batch_size] * (50 // batch_size) + [50 % batch_size] * (
        50 % batch_size > 0
    )
    assert all(error is None for batch in batches for error in batch.errors)
    np.testing.assert_array_equal(np.concatenate([batch.images_BCHW for batch in batches]), images)
    np.testing.assert_allclose(joined(batches), made.expected(images)["logits"], atol=1e-5)


@pytest.mark.parametrize("processes", [False, True])
def test_bad_images_leave_no_row(made, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(stream_module, "FEW", 0)
    images = made.images(20)
    items = saved(tmp_path, images)
    for i in (0, 5, 6, 7, 19):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    items[11] = Item("listed", ImageError("'listed' has no images"))
    good = [i for i in range(20) if i not in (0, 5, 6, 7, 11, 19)]
    batches = list(stream(Model(made.path), items, batch_size=3, workers=2, processes=processes))
    errors = [error for batch in batches for error in batch.errors]
    assert [i for i, error in enumerate(errors) if error is None] == good
    assert str(errors[11]) == "'listed' has no images"
    assert str(errors[5]).startswith("'5.png' is no image of a known format")
    for batch in batches:
        rows = sum(error is None for error in batch.errors)
        assert {len(values) for values in (*batch.outputs.values(), batch.images_BCHW)} == {rows}
        assert len(batch.items) == len(batch.errors) == len(batch.inverted)
    np.testing.assert_allclose(joined(batches), made.expected(images[good])["logits"], atol=1e-5)


def test_a_file_that_vanishes_while_others_are_read(made, tmp_path):
    items = saved(tmp_path, made.images(12))
    batches = stream(Model(made.path), items, batch_size=2, workers=1)
    first = next(batches)
    (tmp_path / "11.png").unlink()  # beyond what is read ahead
    *_, last = batches
    assert first.errors == [None, None]
    assert last.errors[0] is None
    assert str(last.errors[1]) == "'11.png' cannot be read: no such file or directory"


def test_few_items_are_drawn_ahead_and_none_before_the_first_batch_is_asked_for(made):
    drawn = itertools.count()
    images = made.images(1)
    items = (Item(str(next(drawn)), images[0]) for _ in itertools.count())
    batches = stream(Model(made.path), items, batch_size=4)
    assert next(drawn) == 0
    for done in range(1, 30):
        next(batches)
        assert next(drawn) <= (done + AHEAD) * 4 + done  # this counts, too
    batches.close()


def test_contents_arrays_and_files_are_read_alike(made, tmp_path):
    images = made.images(3)
    items = saved(tmp_path, images)
    mixed = [items[0], Item("content", (tmp_path / "1.png").read_bytes()), Item("array", images[2])]
    for processes in (False, True):
        batches = list(stream(Model(made.path), mixed * 200, processes=processes, workers=2))
        np.testing.assert_array_equal(np.concatenate([b.images_BCHW for b in batches]), np.tile(images, (200, 1, 1, 1)))


def test_arrays_of_another_shape_are_the_callers_mistake(made):
    with pytest.raises(ModelError, match="takes uint8 images"):
        list(stream(Model(made.path), [Item("array", np.zeros((1, 5, 5), np.uint8))]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"invert": "maybe"}, "invert is 'maybe': it must be one of auto, yes, no"),
    ],
)
def test_arguments_are_checked_at_once(made, arguments, words):
    with pytest.raises(UsageError, match=words):
        stream(Model(made.path), [], **arguments)


def test_nothing_gives_nothing(made):
    assert list(stream(Model(made.path), [])) == []


@pytest.mark.parametrize(
    ("border", "level", "turned"),
    [
        ((0, 0), 255, True),
        ((0, 0), 128, True),
        ((0, 0), 127, False),
        ((32, 32), 200, True),
        ((255, 0), 0, True),
        ((230, 10), 250, False),
        ((33, 0), 255, False),
        ((222, 0), 0, False),
        ((120, 50), 255, False),
        ((0, 33), 255, False),
        (None, 255, False),
    ],
)
def test_the_rule_of_invert_auto(border, level, turned):
    assert inverts(np.full((2, 1, 6, 5), level, np.uint8), border).tolist() == [turned, turned]


@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 4, 4), (1, 1, 1), (1, 2, 7), (3, 1, 9)])
def test_the_border_is_the_outermost_ring(shape):
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    ring = np.ones(shape[1:], dtype=bool)
    ring[1:-1, 1:-1] = False
    assert border_means(images) == pytest.approx([image[:, ring].mean(dtype=np.float64) for image in images])


@pytest.mark.parametrize("processes", [False, True])
def test_images_are_inverted_where_their_border_is_the_negatives(make_model, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(stream_module, "FEW", 0)
    made = make_model(about=bordered(3, 2))
    images = made.images(6) // 4  # a dark border
    images[::2] = 255 - images[::2]
    items = saved(tmp_path, images)
    model = Model(made.path)

    def run(invert):
        batches = list(stream(model, items, batch_size=2, workers=2, invert=invert, processes=processes))
        return np.concatenate([b.images_BCHW for b in batches]), [turned for b in batches for turned in b.inverted]

    found, turned = run("auto")
    assert turned == [True, False] * 3
    assert (found < 64).all()
    for invert, expected in (("no", images), ("yes", 255 - images)):
        found, turned = run(invert)
        assert turned == [invert == "yes"] * 6
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not reading.Readers.available, reason="no processes are forked here")
def test_large_images_are_left_to_this_process(made, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "FEW", 0)
    monkeypatch.setattr(reading, "SMALL", 100)
    here = []
    read_image = reading.read_image
    monkeypatch.setattr(reading, "read_image", lambda source, **how: here.append(source) or read_image(source, **how))
    images = made.images(6)
    items = saved(tmp_path, images)
    big = np.kron(images[2][0], np.ones((4, 4), np.uint8))
    Image.fromarray(big).save(tmp_path / "2.png")
    Image.fromarray(np.kron(big, np.ones((2, 2), np.uint8))).save(tmp_path / "4.png")
    model = Model(made.path)
    (batch,) = stream(model, items, workers=2, processes=True, max_pixels=300)
    assert sorted(path.name for path in here) == ["2.png", "4.png"]
    assert [error is None for error in batch.errors] == [True, True, True, True, False, True]
    assert str(batch.errors[4]) == "'4.png' has 32x32 pixels: at most 300 are read (--max-pixels)"
    np.testing.assert_array_equal(batch.images_BCHW[[0, 1, 3, 4]], images[[0, 1, 3, 5]])
    assert np.abs(batch.images_BCHW[2].astype(int) - images[2]).max() < 120  # resized


@pytest.mark.skipif(not reading.Readers.available, reason="no processes are forked here")
def test_a_process_that_dies_is_reported_and_the_rest_is_done(made, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "FEW", 0)
    parent, read_image = os.getpid(), reading.read_image

    def fatal(source, **how):
        if os.getpid() != parent and os.fspath(source).endswith("/3.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(source, **how)

    monkeypatch.setattr(reading, "read_image", fatal)
    items = saved(tmp_path, made.images(40))
    batches = list(stream(Model(made.path), items, batch_size=4, workers=2, processes=True))
    errors = [str(error) for batch in batches for error in batch.errors if error is not None]
    assert [batch.errors.count(None) for batch in batches] == [2] + [4] * 9
    assert errors == [f"'{i}.png' or a file near it ended the process that read it" for i in (2, 3)]


@pytest.mark.skipif(not reading.Readers.available, reason="no processes are forked here")
def test_no_process_is_left(made, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "FEW", 0)
    items = saved(tmp_path, made.images(8))
    started = []
    start = reading.Readers.__init__
    monkeypatch.setattr(reading.Readers, "__init__", lambda self, *how: started.append(self) or start(self, *how))
    batches = stream(Model(made.path), items, batch_size=2, workers=2, processes=True)
    next(batches)
    processes = [process for _, process in started[0]._all]
    assert [process.is_alive() for process in processes] == [True, True]
    batches.close()
    assert [process.exitcode for process in processes] == [0, 0]


def test_slow_items_are_waited_for_and_come_out_in_order(made):
    images = made.images(6)

    def items():
        for i, pixels in enumerate(images):
            time.sleep(0.01)
            yield Item(str(i), pixels)

    batches = list(stream(Model(made.path), items(), batch_size=1))
    assert [batch.items[0].name for batch in batches] == list("012345")
