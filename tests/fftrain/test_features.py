from __future__ import annotations

import shutil
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ffmodels.backbones.mlp import MLP
from ffmodels.conditions import Condition
from ffmodels.encoder import Encoder
from fftrain import EVALUATIONS, evaluate_run
from fftrain.data import ImageData, Split
from fftrain.evaluations.linear import Linear
from fftrain.features import Features, choices, extract
from fftrain.parts import make_part
from fftrain.progress import Reporter
from tests.fftrain.evaluations.subjects import subject_of
from tests.fftrain.training import evaluation
from tests.helpers import Ended, one_line, python
from tests.parts import small

CPU = torch.device("cpu")
STATUS = Path("/proc/self/status")
in_linux = pytest.mark.skipif(not STATUS.exists(), reason="memory is read from Linux's /proc")
OF_PIXELS = [name for name in EVALUATIONS if EVALUATIONS.load(name).baselines]


def encoder(width=12, depth=4, shape=(1, 4, 4)):
    return Encoder(Condition(), MLP(width=width, depth=depth).build(shape, 0).requires_grad_(False)).eval()


def noise(counts, side):
    """Images of three classes that have nothing in them."""
    rng = np.random.default_rng(0)
    splits = [
        Split(torch.from_numpy(rng.integers(256, size=(n, 1, side, side), dtype=np.uint8)), torch.arange(n) % 3)
        for n in counts
    ]
    return ImageData(name="x", train=splits[0], validation=splits[1], test=splits[2], class_names=("a", "b", "c"))


def anonymous():
    """Memory of this process that is no file's, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))


@contextmanager
def watched():
    """Gives a list whose first entry is how many bytes the block takes at most."""
    start, taken, ended = anonymous(), [0], threading.Event()

    def watch():
        while not ended.wait(0.01):
            taken[0] = max(taken[0], anonymous() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield taken
    finally:
        ended.set()
        watcher.join()


def test_choices_are_each_block_and_the_last_three():
    assert choices(encoder(depth=4)) == [(0,), (1,), (2,), (3,), (1, 2, 3)]
    assert choices(encoder(depth=1)) == [(0,)]
    assert choices(None) == [()]


def test_pixels_are_read_as_their_features_would_be():
    data = noise((50, 20, 20), 4)
    pixels = Features.of_pixels(data)
    floats = Features(*(split.float() / 255 for split in (pixels.train, pixels.validation, pixels.test)))
    index = np.random.default_rng(1).permutation(50)[:30]
    for found, wanted in ((pixels, floats), (pixels.standardised(), floats.standardised())):
        for split in ("train", "validation", "test"):
            torch.testing.assert_close(torch.cat([*found.chunks(split)]), torch.cat([*wanted.chunks(split)]))
        torch.testing.assert_close(found.gather_rows(index), wanted.gather_rows(index))
        some = [features.rows(index).columns(slice(3, 9)).gather_rows(np.arange(30)) for features in (found, wanted)]
        assert some[0].shape == (30, 6)
        torch.testing.assert_close(*some)
        torch.testing.assert_close(some[0], found.gather_rows(index)[:, 3:9])
    assert pixels.train.data_ptr() == data.train.images.data_ptr()
    assert torch.equal(pixels.train, data.train.images.flatten(1))  # what was read is as it was


def test_features_in_a_mapped_file_give_the_same_figures_bit_for_bit(run_copy, tmp_path):
    other = Path(shutil.copytree(run_copy, tmp_path / "mapped"))
    configs = [
        evaluation("linear", epochs=2),
        evaluation("knn"),
        evaluation("decoder", images=200),
        evaluation("few-labels", draws=2),
    ]
    in_memory = evaluate_run(run_copy, *configs)
    mapped = evaluate_run(other, *(config.changed(feature_memory=0) for config in configs))
    assert [found.records for found in mapped] == [found.records for found in in_memory]
    assert all(found.records for found in mapped)
    assert {path.relative_to(other) for path in other.rglob("*")} == {
        path.relative_to(run_copy) for path in run_copy.rglob("*")
    }
    for path in (other / "probes").rglob("*.*"):
        assert path.read_bytes() == (run_copy / path.relative_to(other)).read_bytes()
    assert in_memory[0].about["value"] > 0


@in_linux
def test_features_in_a_mapped_file_take_little_memory(tmp_path):
    counts, width = (24_000, 2000, 2000), 1000
    data, deep = noise(counts, 4), encoder(width)
    with watched() as taken, extract(deep, data, CPU, Reporter(), memory=1e6, folder=tmp_path) as features:
        assert not list(tmp_path.iterdir())  # the file has no name
        features = features.standardised().columns(slice(width, 4 * width))
        Linear(epochs=1, lr=1e-3, weight_decay=0.0).fit(features, data, CPU, Reporter(), "x")
    size = 4 * sum(counts) * 4 * width
    assert size > 400e6
    assert taken[0] < size / 2


@in_linux
@pytest.mark.parametrize("name", OF_PIXELS)
def test_pixels_are_read_in_parts(name):
    """All of them as float32 would take four times as much as the images do."""

    def measure(data):
        subject = replace(subject_of(None, data))  # which reads its features itself
        return list(make_part("evaluation", small("evaluation", name)).measure(subject))

    measure(noise((60, 30, 30), 4))  # what is imported takes memory too
    data = noise((50_000, 90, 90), 64)
    with watched() as taken:
        assert measure(data)
    size = data.train.images.nbytes
    assert size > 200e6  # beside it what is worked on at once is small
    assert taken[0] < 2 * size


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
def test_a_disk_without_room_for_the_features_is_one_line_and_leaves_nothing(run_copy):
    before = {p: p.stat().st_mtime_ns for p in run_copy.rglob("*")}
    words = ["fftrain", "evaluate", str(run_copy), "linear", "linear.epochs=1", "--feature-memory", "0"]
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000)); import fftrain.cli; "
    ended = python("-c", code + f"sys.argv = {words}; fftrain.cli.main()")
    one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 1, "GiB of features cannot", "raise --feature-memory")
    assert {p: p.stat().st_mtime_ns for p in run_copy.rglob("*")} == before
