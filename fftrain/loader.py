"""Data + view + what a method needs -> this process's batches.

Order, labels and draws are functions of (seed, epoch, index of the image in its split): the same for any number of
processes and any device, and wherever the images lie. Those that lie outside memory are read a batch ahead. Letters: N
images of a split, B images of a process, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ffcore.errors import SettingError
from ffmodels.batch import Batch
from ffmodels.draws import MIXED, Draws, order
from ffmodels.methods.base import Needs
from fftrain.stored import Pictures, Stored, ahead
from fftrain.views.base import View

# The epoch whose draws are those of what is measured.
FIRST = 0


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Batches of a split.

    Args:
        images: uint8 [N, C, H, W], on the device where they are used, or outside memory.
        labels: of their classes, int64 [N], on the device.
        view: what is seen of them.
        needs: what the method asks for.
        batch_size: images of a step, over all processes.
        seed: the run's.
        process: the index of this process.
        processes: how many work together.
        block: images of a block that are shuffled with others, as in `order`; None shuffles all.
    """

    images: Pictures
    labels: Tensor
    view: View
    needs: Needs
    batch_size: int
    seed: int
    process: int = 0
    processes: int = 1
    block: int | None = None

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.used // self.batch_size)

    @property
    def used(self) -> int:
        """Images of an epoch: all, but for a last batch that is not full where the method cannot use one.

        Raises:
            SettingError: where none is left then, a batch has one image alone, or there is one where it takes two.
        """
        count = len(self.labels)
        if count < 2 and (self.needs.drop_last or self.needs.partner):
            raise SettingError("there is 1 image to train on, and the method needs another beside it: give more")
        used = count - count % self.batch_size if self.needs.drop_last else count
        if self.needs.drop_last and self.batch_size < 2:
            raise SettingError("--batch-size is 1, and the method tells images of a batch apart: give 2 or more")
        if not used:
            raise SettingError(
                f"--batch-size is {self.batch_size}, but there are {count} images and the method needs full batches: "
                "make it smaller"
            )
        return used

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """Yields this process's share of each batch, and its weight: its rows times processes / rows of all."""
        order_N = order(len(self.labels), self.seed, epoch, self._where, self.block)[: self.used]
        batches = torch.split(order_N, self.batch_size)
        owns = [x[self.process :: self.processes] if len(x) > self.process else x[:1] for x in batches]
        for index, (own, images) in zip(batches, self._read(self._announced(owns, order_N)), strict=True):
            batch = self._batch(own, images, epoch)
            rows = tuple(len(range(rank, len(index), self.processes)) for rank in range(self.processes))
            if self.processes > 1:
                batch = replace(batch, shares=rows, empty=not rows[self.process])
            yield batch, rows[self.process] * self.processes / len(index)

    def once(self, rows: int) -> Iterator[tuple[Batch, float]]:
        """Yields this process's batches of the split in order, with draws that are the same every time.

        Whole batches are shared out, so that they are the same on any number of processes, and see no other's rows.
        None is larger than those of a step, and where a method needs full ones each is as large, so that losses that
        depend on a batch compare; a split that has fewer images is a batch by itself.

        Args:
            rows: of a batch, at most.

        Returns:
            Batches, and the share of their images that each is.
        """
        count, rows = len(self.labels), min(rows, self.batch_size)
        if self.needs.drop_last and count > rows:
            count -= count % rows
        batches = torch.split(torch.arange(count, device=self._where), rows)
        for index, images in self._read(batches[self.process :: self.processes]):
            yield self._batch(index, images, FIRST), len(index) / count

    @property
    def _where(self) -> torch.device:
        """Where indices are: with the images, so that no step waits for a GPU to tell them."""
        return torch.device("cpu") if isinstance(self.images, Stored) else self.labels.device

    def _announced(self, parts: Iterable[Tensor], order_N: Tensor) -> Iterator[Tensor]:
        """Yields indices; a store that is read by blocks is told of those a group of blocks ahead."""
        told, size = 0, MIXED * (self.block or 0)
        for i, index in enumerate(parts):
            while isinstance(self.images, Stored) and size and told < min(len(order_N), i * self.batch_size + 2 * size):
                self.images.expect(order_N[told : told + size])
                told += size
            yield index

    def _read(self, parts: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields indices with their images; of a store, the next are read while these are used."""
        if isinstance(self.images, Stored):
            yield from ahead(parts, self._pixels)
        else:
            yield from ((index, self._pixels(index)) for index in parts)

    def _pixels(self, index_B: Tensor) -> Tensor:
        """Returns images on the device; a GPU fetches those of a store while the host goes on."""
        images = self.images
        if not isinstance(images, Stored):
            return images[index_B]
        found, device = images[index_B.cpu()], self.labels.device
        return (found.pin_memory() if device.type == "cuda" else found).to(device, non_blocking=True)

    def _batch(self, index_B: Tensor, images: Tensor, epoch: int) -> Batch:
        index_B = index_B.to(self.labels.device)
        draws = Draws(self.seed, epoch, index_B)
        views, labels_B = self.view(images, self.labels[index_B], draws)
        partner = None
        if self.needs.partner:
            other_B = draws.others("partner", len(self.labels))
            partner = scaled(self.view(self._pixels(other_B), self.labels[other_B], draws.of(other_B))[0][0])
        return Batch(tuple(map(scaled, views)), labels_B, draws, partner)


def scaled(images: Tensor) -> Tensor:
    """Returns pixels float32 in [0, 1], of uint8 or of such already."""
    return images if images.is_floating_point() else images.float() / 255
