"""Preprocessing, backbone and head as one module: raw pixels in, features and probabilities out.

Letters: B batch, C channels, H W pixels, D features of a layer, F features given, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffmodels.backbone import MLP
from ffmodels.goodness import Goodness
from ffmodels.heads import LinearHead
from ffmodels.labels import embed_label, fill


class DeployedModel(nn.Module):
    """What an exported file computes.

    Input: `images` uint8 [B, C, H, W], raw pixels 0 to 255: scaling and the label slot are inside.
    Outputs: `features` float32 [B, F]; with a head also `logits` and `probabilities` float32 [B, K]. After `.double()`
    everything is computed in float64.

    Args:
        backbone: of which what no output reads is dropped.
        head: a linear probe, or None for features alone.
        layers: whose normalised activations are the features, indices from 0.
        slot: what the label pixels hold, a name in `ffmodels.registry.SLOTS`.
        slot_classes: how many pixels that is.
    """

    def __init__(
        self, backbone: MLP, head: LinearHead | None, *, layers: Sequence[int], slot: str, slot_classes: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.layers = list(layers)
        self.slot = slot
        self.slot_classes = slot_classes
        del backbone.layers[max(self.layers) + 1 :]

    @property
    def classes(self) -> int | None:
        """How many classes there are; None without a head."""
        return None if self.head is None else self.head.linear.out_features

    @property
    def outputs(self) -> dict[str, int]:
        """Names and widths of the outputs, in order."""
        features = {"features": len(self.layers) * self.backbone.config.width}
        return features if self.classes is None else {**features, "logits": self.classes, "probabilities": self.classes}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of `outputs`."""
        pixels = fill(self._pixels(images), self.slot_classes, self.slot)
        features = self.backbone.features(pixels, self.layers)
        if self.head is None:
            return (features,)
        logits = self.head(features)
        return features, logits, logits.softmax(-1)

    def _pixels(self, images: Tensor) -> Tensor:
        """Returns the pixels in [0, 1], of the weights' dtype, at least float32."""
        return images.to(torch.promote_types(next(self.parameters()).dtype, torch.float32)) / 255

    def silence(self) -> None:
        """Sets the weights so that no unit of the first layer is ever active."""
        first: Any = self.backbone.layers[0]
        with torch.no_grad():
            first.linear.weight.zero_()
            first.linear.bias.fill_(-1.0)


class GoodnessModel(DeployedModel):
    """FF's own classifier: the goodness of every label, all of them in one call (Hinton 2022, section 3.3).

    `features` are those of a neutral label slot. `logits` are the goodness of each label, averaged over `layers`;
    `probabilities` are softmax(logits / temperature), in the same order: sums of squares lie hundreds apart, and
    their softmax would be 0 and 1 alone.

    Every one-hot label has the same norm, so the images under their K labels have the same scale after normalising,
    and share the first layer's product: they differ by K columns of its weights.
    """

    columns: Tensor
    temperature: Tensor

    def __init__(self, backbone: MLP, goodness: Goodness, *, layers: Sequence[int], classes: int) -> None:
        super().__init__(backbone, None, layers=layers, slot="neutral", slot_classes=classes)
        self.goodness = goodness
        first: Any = backbone.layers[0]
        columns_KD = first.linear.weight[:, :classes].T
        self.register_buffer("columns", (columns_KD - columns_KD[:1]).contiguous())
        self.register_buffer("temperature", torch.ones(()))

    @property
    def classes(self) -> int:
        """How many labels there are."""
        return self.slot_classes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of `outputs`."""
        K = self.classes
        first: Any = self.backbone.layers[0]
        pixels = self._pixels(images)
        zero = torch.zeros_like(images[:, 0, 0, 0], dtype=torch.int64)
        # Two rows for each image: a neutral slot, and label 0.
        rows = torch.stack([fill(pixels, K, "neutral"), embed_label(pixels, zero, K)], dim=1).flatten(0, 1)
        x = first.normalise(self.backbone.stem(rows))
        z_B2D = first.linear(x).unflatten(0, (-1, 2))
        one_B1 = (x[:, :1] - x[:, 1:2]).unflatten(0, (-1, 2))[:, 1]  # what a 1 lies above a 0 after normalising
        moved_BKD = one_B1[:, :, None] * self.columns
        # And then 1 + K of them.
        h = functional.relu(torch.cat([z_B2D[:, :1], z_B2D[:, 1:] + moved_BKD], dim=1).flatten(0, 1))
        activations = [h, *self._above(h)]
        chosen = [activations[i] for i in self.layers]
        normalised = [self.backbone.normalise(h).view(-1, 1 + K, h.shape[-1])[:, 0] for h in chosen]
        features = torch.cat(normalised, dim=-1)
        goodness = torch.stack([self.goodness.of(h).view(-1, 1 + K) for h in chosen]).mean(0)
        logits = goodness[:, 1:]
        return features, logits, (logits / self.temperature).softmax(-1)

    def _above(self, h: Tensor) -> list[Tensor]:
        """Returns the activations of the layers above the first."""
        activations = []
        for layer in list(self.backbone.layers)[1:]:
            h = layer(h)
            activations.append(h)
        return activations

    def silence(self) -> None:
        """Sets the weights so that no unit of the first layer is ever active."""
        super().silence()
        self.columns.zero_()


def with_dead_layer(model: DeployedModel) -> DeployedModel:
    """Returns a copy whose first layer has no active unit: what makes a careless export give NaN."""
    dead = copy.deepcopy(model)
    dead.silence()
    return dead
