"""Data + view + what a method needs -> this process's batches.

Order, labels and draws are functions of (seed, epoch, index of the image in its split): the same for any number of
processes and any device. Letters: N images of a split, B images of a process, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ffcore.errors import SettingError
from ffmodels.batch import Batch
from ffmodels.draws import Draws, order
from ffmodels.methods.base import Needs
from fftrain.views.base import View

# The epoch whose draws are those of what is measured.
FIRST = 0


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Batches of a split.

    Args:
        images: uint8 [N, C, H, W], on the device where they are used.
        labels: of their classes, int64 [N], on that device.
        view: what is seen of them.
        needs: what the method asks for.
        batch_size: images of a step, over all processes.
        seed: the run's.
        process: the index of this process.
        processes: how many work together.
    """

    images: Tensor
    labels: Tensor
    view: View
    needs: Needs
    batch_size: int
    seed: int
    process: int = 0
    processes: int = 1

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.used // self.batch_size)

    @property
    def used(self) -> int:
        """Images of an epoch: all, but for a last batch that is not full where the method cannot use one.

        Raises:
            SettingError: where none is left then.
        """
        count = len(self.labels)
        used = count - count % self.batch_size if self.needs.drop_last else count
        if not used:
            raise SettingError(
                f"--batch-size is {self.batch_size}, but there are {count} images and the method needs full batches: "
                "make it smaller"
            )
        return used

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """Yields this process's share of each batch, and its weight: its rows times processes / rows of all."""
        order_N = order(len(self.labels), self.seed, epoch, self.labels.device)[: self.used]
        for index in torch.split(order_N, self.batch_size):
            own = index[self.process :: self.processes]
            batch = self._batch(own if len(own) else index[:1], epoch)
            if self.processes > 1:
                shares = tuple(len(range(rank, len(index), self.processes)) for rank in range(self.processes))
                batch = replace(batch, shares=shares, empty=not len(own))
            yield batch, len(own) * self.processes / len(index)

    def once(self, rows: int) -> Iterator[tuple[Batch, float]]:
        """Yields this process's batches of the split in order, with draws that are the same every time.

        Whole batches are shared out, so that they are the same on any number of processes, and see no other's rows.

        Args:
            rows: of a batch, at most.

        Returns:
            Batches, and the share of all images that each is.
        """
        count = len(self.labels)
        batches = torch.split(torch.arange(count, device=self.labels.device), rows)
        for index in batches[self.process :: self.processes]:
            yield self._batch(index, FIRST), len(index) / count

    def _batch(self, index_B: Tensor, epoch: int) -> Batch:
        draws = Draws(self.seed, epoch, index_B)
        views, labels_B = self.view(self.images[index_B], self.labels[index_B], draws)
        partner = None
        if self.needs.partner:
            other_B = draws.others("partner", len(self.labels))
            partner = scaled(self.view(self.images[other_B], self.labels[other_B], draws.of(other_B))[0][0])
        return Batch(tuple(map(scaled, views)), labels_B, draws, partner)


def scaled(images: Tensor) -> Tensor:
    """Returns pixels float32 in [0, 1], of uint8 or of such already."""
    return images if images.is_floating_point() else images.float() / 255
