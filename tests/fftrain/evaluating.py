"""What the tests of evaluations share."""

from __future__ import annotations

import torch

from ffmodels.evaluated import evaluations
from ffmodels.run import load_encoder, save_weights
from fftrain import EVALUATIONS
from fftrain.data import ImageData, Split
from fftrain.progress import Reporter
from tests.fftrain.training import evaluation
from tests.parts import small

NAMES = ["block1", "block2", "block3", "block4", "blocks2-4"]
LINEAR = evaluation("linear", epochs=2)
# Every evaluation there is, in small.
ALL = {name: {key: value for key, value in small("evaluation", name).items() if key != "name"} for name in EVALUATIONS}


class Counting(Reporter):
    """Remembers what was done."""

    def __init__(self):
        self.done = []

    def track(self, items, total, what, ahead=0.0):
        self.done.append(what)
        yield from items

    @property
    def probes(self):
        return [what.removeprefix("probe ") for what in self.done if what.startswith("probe ")]


def contents(run):
    """Every file of a run with what it holds and when it was written."""
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()}


def told(run):
    """The evaluations of a run, by name; of those that are there more than once, a list."""
    found = {}
    for one in evaluations(run):
        found.setdefault(one.name, []).append(one)
    return {name: ones[0] if len(ones) == 1 else ones for name, ones in found.items()}


def of_source(found, *sources):
    """What an evaluation tells of these sources, but for their name."""
    return [{**record, "source": ""} for record in found.records if record["source"] in sources]


def arrays(name="beans", seed=0):
    """Noise of the shape of the digits."""
    generator = torch.Generator().manual_seed(seed)

    def split(count):
        images = torch.randint(0, 256, (count, 1, 28, 28), generator=generator).to(torch.uint8)
        return Split(images, torch.arange(count) % 3)

    return ImageData(name=name, train=split(90), validation=split(30), test=split(30), class_names=("a", "b", "c"))


def changed_weights(run):
    """Gives a run other weights."""
    network = load_encoder(run).backbone
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.neg_()
    save_weights(network, run / "backbone.safetensors")
