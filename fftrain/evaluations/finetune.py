"""Fine-tuning: a copy of the network is trained on, end to end, with a linear classifier on its last block.

Beside it the same from the network before training, and of the pixels the classifier alone. The run's weights stay as
they are. Letters: N images, B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import TrainingError
from ffcore.settings import setting
from ffmodels.batch import alone
from ffmodels.draws import key, order
from ffmodels.encoder import Encoder
from ffmodels.evaluated import Record
from ffmodels.linear import LinearHead
from ffmodels.run import Run
from fftrain.data import Facts, ImageData, Split, check_per_class, labelled
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import name_of, rows_at_once
from fftrain.loader import scaled
from fftrain.memory import rows_of
from fftrain.stored import in_parts


class FineTune(Evaluation):
    """Accuracy of the network trained on, end to end, from the run's weights; validation chooses rate and epoch."""

    epochs: int = setting(10, ge=1, description="Passes over the labelled images, at each rate.")
    lr: tuple[Annotated[float, setting(gt=0)], ...] = setting(
        (1e-2, 1e-3, 1e-4), min_length=1, description="Learning rates of Adam that are tried, each with a cosine to 0."
    )
    batch_size: int = setting(128, ge=1, description="Images of a step.")
    per_class: int | None = setting(None, ge=1, description="Labelled training images of each class. [default: all]")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the labelled images, of their order, of dropout.")

    @property
    def measured(self) -> str:
        """The accuracy, and with how many labels."""
        of = "" if self.per_class is None else f" with {self.per_class} label{'s' * (self.per_class > 1)} a class"
        return f"fine-tuned accuracy{of}"

    def check_facts(self, facts: Facts, blocks: int) -> None:
        """Raises SettingError where not every class can have as many training images as are asked for."""
        check_per_class(self.per_class or 0, facts.train // facts.classes, self.called)

    def check(self, run: Run, data: ImageData, reading: str) -> None:
        """Raises SettingError where a class has fewer training images than are asked for."""
        self._labelled(data)

    def passes(self, facts: Facts) -> float:
        """Returns the training images, three times for a step, and those that validation and test are read on."""
        images = min(facts.train, (self.per_class or facts.train) * facts.classes)
        return len(self.lr) * self.epochs * (3.0 * images + facts.validation) + facts.test

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the accuracy on validation and test. Several processes share out the rates.

        Raises:
            TrainingError: where no rate gives a loss that is finite.
        """
        part, processes = self._labelled(subject.data), subject.accelerator.num_processes
        mine = [*dict.fromkeys(self.lr)][subject.accelerator.process_index :: processes]
        with alone(), torch.random.fork_rng(devices=[]):
            tried = [found for lr in mine if (found := self._tuned(subject, part, lr)) is not None]
        best = max(tried, key=_Tuned.rank, default=None)
        ranks: list[Any] = [] if best is None else [best.rank()]
        ranks = gather_object(ranks) if processes > 1 else ranks
        if not ranks:
            raise TrainingError(f"finetune.lr is {[*self.lr]}, and no loss of {subject.source} is finite: try smaller")
        if best is None or best.rank() != max(ranks):
            return
        tested = _accuracy(best.network, subject.data.test, subject.accelerator.device)
        for split, value in (("validation", best.validation), ("test", tested)):
            about = {"measure": self.measured, "split": split, "blocks": best.network.blocks}
            yield {**about, "value": value, "lr": best.lr, "epoch": best.epoch}

    def _labelled(self, data: ImageData) -> Split:
        """Returns the training images whose labels are told."""
        return (
            data.train
            if self.per_class is None
            else data.train.at(labelled(data, self.per_class, [self.seed], "finetune"))
        )

    def _tuned(self, subject: Subject, part: Split, lr: float) -> _Tuned | None:
        """Returns the network as it is after its best epoch at a rate; None where no epoch has a finite loss."""
        device, best = subject.accelerator.device, None
        network = _Network(subject).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        torch.manual_seed(key(self.seed, "finetune"))
        what = f"fine-tuning {subject.source}, rate {lr:g}"
        for epoch in subject.reporter.track(range(1, self.epochs + 1), self.epochs, what):
            network.train()
            total = torch.zeros((), device=device)
            for index_B in torch.split(order(len(part), self.seed, epoch, torch.device("cpu")), self.batch_size):
                images, labels_B = (values[index_B].to(device) for values in (part.images, part.labels))
                loss = functional.cross_entropy(network(scaled(images)), labels_B)
                torch.autograd.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += loss.detach()
            schedule.step()
            reached = _accuracy(network, subject.data.validation, device)
            if not math.isfinite(total.item() + reached):
                break
            if best is None or reached > best.validation:
                best = _Tuned(reached, lr, epoch, copy.deepcopy(network))
        return best


class _Network(nn.Module):
    """Images [B, C, H, W] in [0, 1] -> logits [B, K]: a copy of a subject's network, if it has one, and a head."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.encoder: Encoder | None = copy.deepcopy(subject.encoder)
        if self.encoder is not None:
            self.encoder.requires_grad_(True)
        width = self.encoder.dims[-1] if self.encoder else math.prod(subject.data.shape)
        self.blocks = name_of((len(self.encoder.dims) - 1,) if self.encoder else ())
        self.rows = rows_at_once(self.encoder) if self.encoder else rows_of(subject.data.shape)
        self.head = LinearHead(width, len(subject.data.class_names))
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        encoder, features_BF = self.encoder, images_BCHW.flatten(1)
        if encoder is not None:
            [features_BF] = encoder(images_BCHW, [-1])
        logits_BK: Tensor = self.head(features_BF)
        return logits_BK


@dataclass(frozen=True)
class _Tuned:
    """A network as it was after an epoch, and what it reaches on validation."""

    validation: float
    lr: float
    epoch: int
    network: _Network

    def rank(self) -> tuple[float, float]:
        """What is larger is better: of rates that reach the same, the smaller."""
        return self.validation, -self.lr


@torch.no_grad()
def _accuracy(network: _Network, split: Split, device: torch.device) -> float:
    """Returns the share of right classes, 0 to 1, in evaluation mode; nan where a logit is not finite."""
    network.eval()
    logits_NK = torch.cat([network(scaled(x.to(device))).cpu() for x in in_parts(split.images, network.rows)])
    if not torch.isfinite(logits_NK).all():
        return math.nan
    return (logits_NK.argmax(-1) == split.labels).double().mean().item()
