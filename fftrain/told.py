"""How well a readout tells labels: on every image, under every class.

Letters: N images of a split, B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ffmodels.batch import Batch
from ffmodels.methods.base import Method, Readout
from fftrain.loader import scaled
from fftrain.memory import rows_of
from fftrain.progress import Reporter
from fftrain.stored import Pictures
from fftrain.views.base import View


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Has a module in evaluation mode in the block, and each part of it as it was afterwards."""
    was = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in was.items():
            part.training = training


@torch.no_grad()
def with_told(batch: Batch, method: Method, readout: Readout | None, classes: int) -> Batch:
    """Returns a batch with what the readout tells of its first view now, where the method asks for it."""
    if not method.needs().told:
        return batch
    assert readout is not None
    images = batch.views[0]
    with evaluating(readout):
        parts = torch.split(images, max(1, rows_of(images.shape[1:]) // classes))
        return replace(batch, told=torch.cat([readout(part) for part in parts]))


@torch.no_grad()
def accuracy(
    readout: Readout,
    view: View,
    classes: int,
    images: Pictures,
    labels: Tensor,
    accelerator: Accelerator,
    reporter: Reporter | None = None,
) -> dict[str, float]:
    """Scores every image in every way that the view asks.

    Args:
        readout: in evaluation mode, on the accelerator's device.
        view: what was seen of the images.
        classes: K.
        images: uint8 [N, C, H, W], on any device or outside memory; shared out over the processes.
        labels: of their classes, int64 [N].
        accelerator: where it runs.
        reporter: what a person sees.

    Returns:
        The accuracy of each of the readout's readers, 0 to 1.
    """
    reporter = reporter or Reporter()
    _, channels, height, width = images.shape
    # Whole chunks are shared out, so that every batch is the same on any number of processes. There are as many as
    # processes at least, empty ones too: every process sums the same readers.
    chunk = max(1, rows_of((channels, height, width)) // classes)
    chunks = max(-(-len(labels) // chunk), accelerator.num_processes)
    mine = range(accelerator.process_index, chunks, accelerator.num_processes)
    right: dict[str, float] = {}
    rows = 0
    for start in reporter.track((chunk * i for i in mine), len(mine), "evaluating"):
        part, of_part = (values[start : start + chunk].to(accelerator.device) for values in (images, labels))
        for seen, labels_B in view.variants(part, of_part):
            rows += len(labels_B)
            for reader, scores_BK in readout.readers(scaled(seen)).items():
                right[reader] = right.get(reader, 0.0) + (scores_BK.argmax(-1) == labels_B).sum().item()
    *hits, total = over_processes([*right.values(), rows], accelerator)
    return {reader: hit / total for reader, hit in zip(right, hits, strict=True)}


def over_processes(values: list[float], accelerator: Accelerator) -> list[float]:
    """Returns the sums over all processes. One process needs no float64 on its device, which not all have."""
    if accelerator.num_processes == 1:
        return values
    summed: list[float] = accelerator.reduce(
        torch.tensor(values, dtype=torch.float64, device=accelerator.device), "sum"
    ).tolist()
    return summed
