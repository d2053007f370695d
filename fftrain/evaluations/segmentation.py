"""Semantic segmentation: a linear head tells of each pixel of a scene which class it shows.

Letters: B scenes of a batch, H W pixels, P of them that are told, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ffcore.settings import setting
from fftrain.dense import Dense
from fftrain.scenes import UNTOLD, Scenes

# The ground's weight in the loss, beside 1 for each class: it is most of a scene.
GROUND = 0.3


class Segmentation(Dense):
    """mIoU of a linear head on the features of each place of scenes; validation chooses its learning rate."""

    data: Literal["made", "voc", "pet"] = setting(
        "made", description="Scenes: made of images, or pictures of PASCAL VOC 2012 or Oxford-IIIT Pet, with masks."
    )

    def outputs(self, classes: int) -> int:
        """Returns a logit for each class and the ground."""
        return classes + 1

    def places(self, scenes: Scenes) -> tuple[int, int]:
        """Returns a scene's pixels."""
        height, width = scenes.classes.shape[1:]
        return height, width

    def loss(self, told_BKhw: Tensor, scenes: Scenes) -> Tensor:
        """Returns the mean cross-entropy over the pixels that are told, those of the ground weighing less."""
        weight_K, classes_BHW = told_BKhw.new_ones(told_BKhw.shape[1]), scenes.classes.long()
        weight_K[:1] = GROUND
        total = functional.cross_entropy(told_BKhw, classes_BHW, weight=weight_K, ignore_index=UNTOLD, reduction="sum")
        return total / (weight_K[classes_BHW] * (classes_BHW != UNTOLD)).sum().clamp(min=GROUND)

    def scores(self, told: Iterable[Tensor], scenes: Scenes, classes: int) -> dict[str, float]:
        """Returns mIoU over the classes that the scenes show, without the ground, and the share of right pixels."""
        K, counts = classes + 1, torch.zeros((classes + 1) ** 2, dtype=torch.int64)
        truth = iter(torch.split(scenes.classes.long(), 1))
        for logits_BKHW in told:
            for predicted_HW in logits_BKHW.argmax(1).cpu():
                truth_HW = next(truth)[0]
                pairs_P = (truth_HW * K + predicted_HW)[truth_HW != UNTOLD]
                counts += torch.bincount(pairs_P, minlength=K * K)
        return agreement(counts.view(K, K))


def agreement(counts_KK: Tensor) -> dict[str, float]:
    """Returns mean intersection over union and pixel accuracy of a confusion matrix, truth down, told across.

    The first row is the ground, which the mean leaves out, with each class that is nowhere.
    """
    right_K, truth_K = counts_KK.diagonal().double(), counts_KK.sum(1).double()
    either_K = truth_K + counts_KK.sum(0) - right_K
    there = truth_K[1:] > 0
    shares = right_K[1:][there] / either_K[1:][there]
    mean = shares.mean().item() if len(shares) else 0.0
    return {"mIoU": mean, "pixel accuracy": (right_K.sum() / truth_K.sum().clamp(min=1)).item()}
