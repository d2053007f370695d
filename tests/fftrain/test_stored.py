"""Stored images under a loader and a digest; a process that is killed while it stores them, and its memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from ffmodels.draws import MIXED
from ffmodels.methods.base import Needs
from fftrain.cache import JOURNAL
from fftrain.data import Split, digest_of
from fftrain.loader import Loader
from fftrain.parts import make_part
from fftrain.stored import Stored
from tests.fftrain.cached import load, same
from tests.helpers import ROOT, python


def images_of(folder, count):
    """Writes so many images of two classes, of two pixels each."""
    for i in range(count):
        path = folder / "ab"[2 * i // count] / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray([[i % 256, i // 256]], np.uint8)).save(path)


def loader(images, labels, **how):
    return Loader(images=images, labels=labels, view=make_part("view", "plain"), seed=3, batch_size=10, **how)


@pytest.mark.parametrize("block", [None, 1, 3])
@pytest.mark.parametrize("process", [0, 2])
def test_batches_are_those_of_memory_and_blocks_are_told_of_before_they_are_read(block, process):
    images = torch.randint(0, 256, (700, 1, 2, 2), dtype=torch.uint8)
    labels = torch.arange(700) % 3

    class Store:
        shape = (1, 2, 2)

        def __init__(self):
            self.told, self.read_of = [], []

        def read(self, rows_B):
            if block is not None:
                assert {*rows_B.tolist()} <= {row for part in self.told for row in part}
            self.read_of += rows_B.tolist()
            return images[torch.from_numpy(rows_B)]

        def expect(self, rows_B):
            batches = len(self.read_of) // len(range(process, 10, 3)) + 3  # one is read ahead, one may be unfinished
            assert len(self.told) * MIXED * block <= 10 * batches + 2 * MIXED * block
            self.told.append(rows_B.tolist())

    how = {"needs": Needs(labels=True), "process": process, "processes": 3, "block": block}
    store = Store()
    one, other = loader(images, labels, **how), loader(Stored(store, np.arange(700)), labels, **how)
    for (a, share), (b, same_share) in zip(one.epoch(2), other.epoch(2), strict=True):
        assert torch.equal(a.views[0], b.views[0])
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.draws.images, b.draws.images)
        assert (share, a.shares, a.empty) == (same_share, b.shares, b.empty)
    assert bool(store.told) == (block is not None)


def test_a_digest_is_that_of_memory_and_holds_a_part_at_once():
    images, labels, parts = torch.randint(0, 256, (20_000, 1, 2, 2), dtype=torch.uint8), torch.arange(20_000), []

    class Store:
        shape = (1, 2, 2)

        def read(self, rows_B):
            assert sum(part() is not None for part in parts) <= 1
            found = images[torch.from_numpy(rows_B)]
            parts.append(weakref.ref(found))
            return found

    assert digest_of(Split(Stored(Store(), np.arange(20_000)), labels)) == digest_of(Split(images, labels))
    assert len(parts) > 3


@pytest.mark.slow
def test_a_process_that_is_killed_at_any_moment_leaves_what_goes_on(tmp_path):
    """Killed once it has decoded some more, until one is whole."""
    images_of(tmp_path / "photos", 2000)
    code = (
        "import sys; from fftrain import cache; cache.PIECE = 64; from fftrain.data import load_data\n"
        "from fftrain.config import DataSettings\n"
        "load_data(DataSettings(dataset=sys.argv[1], data_cache=sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, f"imagefolder:{tmp_path}/photos", tmp_path / "cache"]
    killed, lengths = 0, [0]
    while True:
        with subprocess.Popen([*map(str, command)], cwd=ROOT) as process:
            while process.poll() is None:
                journals = [*tmp_path.glob(f"cache/*/{JOURNAL}")]
                length = journals[0].stat().st_size if journals else 0
                if length >= lengths[-1] + 300 * (1 + killed) and killed < 4:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.002)
            if process.returncode == 0:
                break
        killed += 1
        lengths.append(max(length, lengths[-1]))
    assert killed == 4
    how = {"image_size": None, "skip_bad": False}
    same(load(tmp_path / "photos", **how), load(tmp_path / "photos", **how, data_cache=tmp_path / "cache"))


@pytest.mark.slow
def test_the_benchmark_shows_that_memory_does_not_grow(tmp_path):
    ended = python("benchmarks/data_cache.py", "--images", 12_000, "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    whole = 12_000 * 3 * 64 * 64
    grown = found["epoch from disk, exact"]["anonymous"] - found["seconds of another start"]["anonymous"]
    assert grown < whole / 3
