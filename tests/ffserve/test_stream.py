"""Images in, outputs out: in order, in constant memory, whatever is wrong with some of them."""

from __future__ import annotations

import itertools
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import ImageError, UsageError
from ffcore.folders import Item
from ffcore.images import from_array
from ffserve import reading
from ffserve import stream as stream_module
from ffserve.drawing import settled
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
    assert str(errors[5]).startswith("'5.png' is no image but a text file")
    for batch in batches:
        rows = sum(error is None for error in batch.errors)
        assert {len(values) for values in (*batch.outputs.values(), batch.images_BCHW)} == {rows}
        assert len(batch.items) == len(batch.errors) == len(batch.did)
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
    items = (Item(str(next(drawn)), from_array(images[0])) for _ in itertools.count())
    batches = stream(Model(made.path), items, batch_size=4)
    assert next(drawn) == 0
    for done in range(1, 30):
        next(batches)
        assert next(drawn) <= (done + AHEAD) * 4 + done  # this counts, too
    batches.close()


def test_contents_images_and_files_are_read_alike(made, tmp_path):
    images = made.images(3)
    items = saved(tmp_path, images)
    mixed = [items[0], Item("content", (tmp_path / "1.png").read_bytes()), Item("image", from_array(images[2]))]
    for processes in (False, True):
        batches = list(stream(Model(made.path), mixed * 200, processes=processes, workers=2))
        np.testing.assert_array_equal(np.concatenate([b.images_BCHW for b in batches]), np.tile(images, (200, 1, 1, 1)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"invert": "maybe"}, "invert is 'maybe': it must be one of auto, yes, no"),
        ({"place": "there"}, "place is 'there': it must be one of auto, no"),
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
def test_a_file_that_does_not_tell_of_ink_is_taken_for_drawings_where_its_border_is_one_ground(
    make_model, border, level, turned
):
    about = bordered(*border) if border else lambda texts: None
    ink = Model(make_model(about=about).path).about.ink
    assert (ink is not None and not settled(np.full((1, 1, 6, 5), level, np.uint8), ink, place=True)[0]) is turned


@pytest.mark.parametrize("border", [(0, 0), (255, 0), (120, 50)])
def test_colour_is_never_inverted(make_model, border):
    assert Model(make_model(shape=(3, 4, 4), about=bordered(*border)).path).about.ink is None


@pytest.mark.parametrize("processes", [False, True])
def test_images_are_inverted_where_their_border_is_the_negatives(make_model, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(stream_module, "FEW", 0)
    made = make_model(about=bordered(3, 2))
    images = made.drawings(6)
    images[::2] = 255 - images[::2]
    items = saved(tmp_path, images)
    model = Model(made.path)

    def run(invert):
        batches = list(stream(model, items, batch_size=2, workers=2, invert=invert, processes=processes))
        return np.concatenate([b.images_BCHW for b in batches]), ["inverted" in did for b in batches for did in b.did]

    found, turned = run("auto")
    assert turned == [True, False] * 3
    np.testing.assert_array_equal(found, made.drawings(6))
    for invert, expected in (("no", images), ("yes", 255 - images)):
        found, turned = run(invert)
        assert turned == [invert == "yes"] * 6
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not reading.Readers.available, reason="no processes are forked here")
def test_large_images_are_left_to_this_process(made, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "FEW", 0)
    monkeypatch.setattr(reading, "SMALL", 100)
    here = []
    read_picture = reading.read_picture
    monkeypatch.setattr(reading, "read_picture", lambda s, use, **how: here.append(s) or read_picture(s, use, **how))
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
    parent, read_picture = os.getpid(), reading.read_picture

    def fatal(source, use, **how):
        if os.getpid() != parent and os.fspath(source).endswith("/3.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        return read_picture(source, use, **how)

    monkeypatch.setattr(reading, "read_picture", fatal)
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
            yield Item(str(i), from_array(pixels))

    batches = list(stream(Model(made.path), items(), batch_size=1))
    assert [batch.items[0].name for batch in batches] == list("012345")
