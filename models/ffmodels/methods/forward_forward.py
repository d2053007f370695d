"""Forward-Forward with labels (Hinton 2022; arXiv 2309.11955), and the study's ablations of it.

The positive carries its right label in the label slot, the negative a wrong one, uniform over the K - 1 others:
permuting the labels of a batch instead, as public implementations do, leaves about 1 in K right. In each block, with
goodness g and threshold theta,

    softplus(theta - g(positive)) + softplus(g(negative) - theta),

or a loss of the difference alone, `symba` or `swish`, or of all labels, `softmax`: cross-entropy with alpha g as
logits, where each image has a row for every label. With `wrong=goodness` the wrong label k is drawn in proportion to
sqrt(g_k), the goodness that the readout tells of it: an average over blocks, under the weights before the step.

Gradients are cut at each block (`cut=block`); never cut, this is the study's `bp-goodness-all`, and `at=last` its
`bp-goodness-last`. Letters: B batch, C channels, H W pixels, K classes, J wrong ones of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, Shape
from ffmodels.batch import Batch
from ffmodels.conditions import Condition, LabelSlot, with_label
from ffmodels.goodness import GOODNESS
from ffmodels.methods.base import Needs, Readout, with_mean
from ffmodels.pairs import PairMethod


class ForwardForward(PairMethod):
    """Goodness of right labels high, of wrong ones low: each against a threshold, or one against the other."""

    loss: Literal["softplus", "symba", "swish", "softmax"] = setting(  # type: ignore[assignment]
        "softplus",
        description="Loss of a pair: softplus holds both against a threshold, others each other; softmax, all labels.",
    )
    alpha: float | None = setting(
        None, gt=0, description="Factor of goodness in all but softplus. [default: 4 in symba and softmax, 6 in swish]"
    )
    wrong: Literal["uniform", "goodness"] = setting(
        "uniform", description="How a wrong label is drawn: uniformly, or in proportion to the root of its goodness."
    )

    @model_validator(mode="after")
    def _of_all_labels(self) -> Self:
        """Raises SettingError for a choice of wrong labels where all are taken."""
        if self.loss == "softmax" and self.wrong != "uniform":
            raise SettingError(f"wrong is {self.wrong}, and loss softmax takes every wrong label: leave it out")
        return self

    def negatives(self, classes: int) -> int:
        """Returns one, or all wrong labels."""
        return classes - 1 if self.loss == "softmax" else 1

    def needs(self) -> Needs:
        """Returns that it reads labels, and what is told of each where wrong ones are drawn by it."""
        return Needs(labels=True, told=self.wrong == "goodness")

    def check(self, backbone: Backbone, classes: int) -> None:
        """Raises SettingError, beside what pairs ask for, where no label can be wrong."""
        super().check(backbone, classes)
        if classes < 2:
            raise SettingError(f"{self.part_name} needs two classes, and there is {classes}: choose another view")

    def inputs(self, batch: Batch, classes: int) -> Tensor:
        """Returns the positives, then the negatives: float32 [2B, C, H, W], or [KB, C, H, W] of every label."""
        [images_BCHW] = batch.views
        if self.loss == "softmax":
            labels_NB = (batch.labels + torch.arange(classes, device=batch.labels.device)[:, None]) % classes
        elif self.wrong == "goodness":
            labels_NB = torch.stack([batch.labels, wrong_labels(batch, classes)])
        else:
            wrong_B = (batch.labels + batch.draws.integers("wrong", 1, classes)) % classes
            labels_NB = torch.stack([batch.labels, wrong_B])
        return with_label(images_BCHW.repeat(len(labels_NB), 1, 1, 1), labels_NB.flatten(), classes)

    def condition(self, classes: int, shape: Shape) -> LabelSlot:
        """Returns the label slot."""
        return LabelSlot(classes, shape)

    def readout(
        self, backbone: Backbone, condition: Condition, heads: Mapping[int, nn.Module], classes: int
    ) -> Readout | None:
        """Returns the goodness of every label: of each block, and averaged over the last 3 that carry a loss."""
        assert isinstance(condition, LabelSlot)
        return LabelGoodness(backbone, condition.classes, self.goodness, [*heads][-3:])


def wrong_labels(batch: Batch, classes: int) -> Tensor:
    """Returns a wrong label for each image, drawn in proportion to the root of what is told of it: int64 [B].

    Below 0 counts as 0; where all are 0 each is drawn alike.
    """
    assert batch.told is not None
    others_BJ = (batch.labels[:, None] + torch.arange(1, classes, device=batch.labels.device)) % classes
    weights_BJ = batch.told.gather(1, others_BJ).clamp(min=0).sqrt()
    sums_BJ = torch.where(weights_BJ.any(1, keepdim=True), weights_BJ, 1.0).cumsum(1)
    drawn_B1 = batch.draws.uniform("wrong", 1) * sums_BJ[:, -1:]
    passed_B1 = (sums_BJ[:, :-1] <= drawn_B1).sum(1, keepdim=True)
    return others_BJ.gather(1, passed_B1)[:, 0]


class LabelGoodness(Readout):
    """The goodness of every label, each in turn in the slot (Hinton 2022, section 3.3).

    Args:
        backbone: the network.
        classes: K.
        goodness: a name in `GOODNESS`.
        blocks: over which it is averaged, indices from 0.
    """

    def __init__(self, backbone: Backbone, classes: int, goodness: str, blocks: list[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.classes = classes
        self.goodness = GOODNESS[goodness]
        self.blocks = blocks

    def readers(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns the goodness of every label, float32 [B, K], of each block, and last what predicts."""
        B, K = images_BCHW.shape[0], self.classes
        labels = torch.arange(K, device=images_BCHW.device).repeat(B)
        activations = self.backbone(with_label(images_BCHW.repeat_interleave(K, 0), labels, K))
        scores = [self.goodness.of(h).view(-1, K) for h in activations]
        return with_mean({f"block{i}": score_BK for i, score_BK in enumerate(scores, start=1)}, self.blocks)
