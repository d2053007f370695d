"""What is trained, and on which loss. Every objective has one signature; the trainer knows none by name.

An objective yields its losses one at a time, and the trainer runs backward on each before it asks for the next.
So the graph of a layer that is trained by itself is gone before the next layer's begins; and since each module in
`modules` is wrapped by itself, several processes reduce each one's gradients in its own backward.

Letters: B batch, C channels, H W pixels, D features of a layer, K classes, L layers, N images of a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ffmodels.backbone import MLP, last_layers, layers_name
from ffmodels.goodness import Goodness, ff_loss
from ffmodels.heads import Classifier
from ffmodels.labels import embed_label
from ffmodels.registry import GOODNESS
from fftrain.config import PretrainConfig
from fftrain.negatives import wrong_labels


@dataclass(frozen=True)
class Batch:
    """Transformed images float32 [B, C, H, W] in [0, 1], their labels int64 [B], and what the objective drew."""

    images: Tensor
    labels: Tensor
    drawn: dict[str, Tensor]


class Objective(Protocol):
    """One way to train a backbone."""

    modules: list[nn.Module]
    """What Accelerate wraps, each by itself; forward passes of training go through these."""

    parts: dict[str, nn.Module]
    """What is saved beside the backbone, as NAME.safetensors."""

    reads_label: bool
    """Whether the backbone saw labels in the pixels, and its features need the label slot filled."""

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> dict[str, npt.NDArray[np.int64]]:
        """Draws what the losses need beside the labels, for every image of the data set."""

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, loss_B float32), one for each backward pass; the graph before each is already gone."""

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns scores_BK of every class by each reader, the one that predicts last; by the plain modules."""


class ForwardForward:
    """FF with labels (Hinton 2022; arXiv 2309.11955): in each layer, on detached input, the FF loss.

    The positive carries its right label in the label pixels, the negative a wrong one.
    """

    reads_label = True

    def __init__(self, backbone: MLP, classes: int, config: PretrainConfig) -> None:
        self.backbone = backbone
        self.classes = classes
        self.goodness: Goodness = GOODNESS.load(config.goodness)
        assert config.threshold is not None
        self.threshold = config.threshold
        self.modules: list[nn.Module] = list(backbone.layers)
        self.parts: dict[str, nn.Module] = {}

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> dict[str, npt.NDArray[np.int64]]:
        """Draws a wrong label for every image."""
        return {"wrong": wrong_labels(labels_N, self.classes, rng)}

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields each layer's FF loss."""
        images = batch.images.repeat(2, 1, 1, 1)
        labels = torch.cat([batch.labels, batch.drawn["wrong"]])
        x = self.backbone.stem(embed_label(images, labels, self.classes))
        for i, layer in enumerate(self.modules, start=1):
            h = layer(x)
            goodness = self.goodness.of(h)
            yield (
                f"layer{i}",
                ff_loss(goodness[: len(batch.labels)], goodness[len(batch.labels) :], self.threshold),
            )
            x = h.detach()

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns the goodness of every label: of each layer, and averaged over the last 3."""
        B, K = len(images_BCHW), self.classes
        labels = torch.arange(K, device=images_BCHW.device).repeat(B)
        activations = self.backbone.activations(embed_label(images_BCHW.repeat_interleave(K, 0), labels, K))
        goodness_LBK = torch.stack([self.goodness.of(h).view(B, K) for h in activations])
        by_layer = {f"layer{i}": scores for i, scores in enumerate(goodness_LBK, start=1)}
        last = last_layers(len(activations))
        return {**by_layer, f"{layers_name(last)}-mean": goodness_LBK[list(last)].mean(0)}


class Backprop:
    """BP: cross-entropy on a linear head, gradients through all layers of the same backbone."""

    reads_label = False

    def __init__(self, backbone: MLP, classes: int, config: PretrainConfig) -> None:
        self.classifier = Classifier(backbone, classes, config.seed)
        self.modules: list[nn.Module] = [self.classifier]
        self.parts: dict[str, nn.Module] = {"head": self.classifier.head}

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> dict[str, npt.NDArray[np.int64]]:
        """Draws nothing."""
        return {}

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields the cross-entropy."""
        yield (
            "cross_entropy",
            functional.cross_entropy(self.modules[0](batch.images), batch.labels, reduction="none"),
        )

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns the logits."""
        return {"head": self.classifier(images_BCHW)}
