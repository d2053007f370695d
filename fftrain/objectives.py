"""What is trained, and on which loss. Every objective has one signature; the trainer knows none by name.

An objective yields its losses one at a time, one for each of its modules, and the trainer runs backward and takes the
module's step before it asks for the next. So the graph and the gradients of a layer that is trained by itself are gone
before the next layer's begin; and since each module is wrapped by itself, several processes reduce each one's gradients
in its own backward.

Letters: B batch, C channels, H W pixels, D features of a layer, K classes, L layers, N images of a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ffmodels.backbone import MLP, Activations, last_layers, layers_name
from ffmodels.goodness import Goodness, ff_loss
from ffmodels.heads import Classifier
from ffmodels.labels import embed, embed_label
from ffmodels.registry import GOODNESS
from fftrain.config import PretrainConfig
from fftrain.negatives import draw_hybrids, hybrids, wrong_labels
from fftrain.pretext import Task

Drawn = dict[str, npt.NDArray[Any]]
# What an objective draws under this name is an index; Batch.partners are the images there.
PARTNER = "partner"


@dataclass(frozen=True)
class Batch:
    """Transformed images float32 [B, C, H, W] in [0, 1], their labels int64 [B], and what the objective drew.

    `partners` are other images float32 [B, C, H, W], where the objective drew which.
    """

    images: Tensor
    labels: Tensor
    drawn: dict[str, Tensor]
    partners: Tensor | None = None


def make_batch(task: Task, images_NCHW: Tensor, index_B: Tensor, labels_B: Tensor, drawn: dict[str, Tensor]) -> Batch:
    """Returns the batch of some images of a data set.

    Args:
        task: what transforms them.
        images_NCHW: uint8, the whole split, on any device.
        index_B: which of them, int64.
        labels_B: their pretext labels, int64, on the device that the batch shall be on.
        drawn: what the objective drew for them, on that device.
    """

    def at(index: Tensor) -> Tensor:
        return images_NCHW[index.to(images_NCHW.device)].to(labels_B.device)

    partners = at(drawn[PARTNER]).float() / 255 if PARTNER in drawn else None
    return Batch(task.apply(at(index_B), labels_B).float() / 255, labels_B, drawn, partners)


class Objective(Protocol):
    """One way to train a backbone."""

    modules: list[nn.Module]
    """What Accelerate wraps, each by itself, with an optimizer of its own; training goes forward through these."""

    parts: dict[str, nn.Module]
    """What is saved beside the backbone, as NAME.safetensors."""

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> Drawn:
        """Draws what the losses need beside the labels, for every image of the data set."""

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, loss_B float32), the i-th to train the i-th module; the graph before each is already gone."""

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns scores_BK of every class by each reader, the one that predicts last; by the plain modules."""


class ForwardForward:
    """FF with labels (Hinton 2022; arXiv 2309.11955): in each layer, on detached input, the FF loss.

    The positive carries its right label in the label pixels, the negative a wrong one.
    """

    def __init__(self, backbone: MLP, classes: int, config: PretrainConfig) -> None:
        self.backbone = backbone
        self.classes = classes
        self.goodness: Goodness = GOODNESS.load(config.goodness)
        assert config.threshold is not None
        self.threshold = config.threshold
        self.modules: list[nn.Module] = list(backbone.layers)
        self.parts: dict[str, nn.Module] = {}

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> Drawn:
        """Draws a wrong label for every image."""
        return {"wrong": wrong_labels(labels_N, self.classes, rng)}

    def pairs(self, batch: Batch) -> Tensor:
        """Returns the positives, then the negatives: float32 [2B, C, H, W]."""
        labels = torch.cat([batch.labels, batch.drawn["wrong"]])
        return embed_label(batch.images.repeat(2, 1, 1, 1), labels, self.classes)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Returns what the first layer takes: the pairs, or where that is less, the positives and how labels move."""
        if self.classes >= len(batch.labels):
            return (self.backbone.stem(self.pairs(batch)),)
        right_BK, wrong_BK = (
            functional.one_hot(labels, self.classes).float() for labels in (batch.labels, batch.drawn["wrong"])
        )
        return self.backbone.stem(embed(batch.images, right_BK)), wrong_BK - right_BK

    def loss(self, h_BD: Tensor) -> Tensor:
        """Returns the FF loss of a layer's activations, positives first: float32 [B]."""
        positive_B, negative_B = self.goodness.of(h_BD).chunk(2)
        return ff_loss(positive_B, negative_B, self.threshold)

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields each layer's FF loss."""
        inputs = self.inputs(batch)
        for i, layer in enumerate(self.modules, start=1):
            h = layer(*inputs)
            yield f"layer{i}", self.loss(h)
            inputs = (h.detach(),)

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns the goodness of every label: of each layer, and averaged over the last 3."""
        B, K = len(images_BCHW), self.classes
        labels = torch.arange(K, device=images_BCHW.device).repeat(B)
        activations = self.backbone.activations(embed_label(images_BCHW.repeat_interleave(K, 0), labels, K))
        return self._read([self.goodness.of(h).view(B, K) for h in activations])

    def _read(self, scores_LBK: list[Tensor]) -> dict[str, Tensor]:
        """Returns the scores of each layer, and averaged over the last 3."""
        by_layer = {f"layer{i}": scores for i, scores in enumerate(scores_LBK, start=1)}
        last = last_layers(len(scores_LBK))
        return {**by_layer, f"{layers_name(last)}-mean": torch.stack([scores_LBK[i] for i in last]).mean(0)}


class ForwardForwardUnsupervised(ForwardForward):
    """FF without labels (Hinton 2022, section 3.2): the positive is the image, the negative a hybrid of two."""

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> Drawn:
        """Draws the partner and the mask of every image's hybrid."""
        _, height, width = self.backbone.config.shape
        return draw_hybrids(len(labels_N), height * width, rng)

    def pairs(self, batch: Batch) -> Tensor:
        """Returns the images, then their hybrids: float32 [2B, C, H, W]."""
        assert batch.partners is not None
        drawn = batch.drawn
        return torch.cat([batch.images, hybrids(batch.images, batch.partners, drawn["bits"], drawn["blurs"])])

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Returns the pairs as the first layer takes them."""
        return (self.backbone.stem(self.pairs(batch)),)

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns how far the goodness lies below (hybrid) and above (image) the threshold, as the labels' is read."""
        above = [self.goodness.of(h) - self.threshold for h in self.backbone.activations(images_BCHW)]
        return self._read([torch.stack([-a, a], dim=1) for a in above])


class GoodnessAll(ForwardForward):
    """The study's ablation: the FF loss summed over all layers, gradients through all layers."""

    def __init__(self, backbone: MLP, classes: int, config: PretrainConfig) -> None:
        super().__init__(backbone, classes, config)
        self.modules = [Activations(backbone)]

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields the sum of the layers' FF losses."""
        yield "all_layers", torch.stack([self.loss(h) for h in self.modules[0](self.pairs(batch))]).sum(0)


class GoodnessLast(GoodnessAll):
    """The study's ablation: the FF loss of the last layer alone, gradients through all layers."""

    def losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """Yields the last layer's FF loss."""
        yield "last_layer", self.loss(self.modules[0](self.pairs(batch))[-1])

    def scores(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns the goodness of every label, the last layer's last: no other was trained to tell."""
        read = [*super().scores(images_BCHW).items()]
        return dict([*read[:-2], *reversed(read[-2:])])


class Backprop:
    """BP: cross-entropy on a linear head, gradients through all layers of the same backbone."""

    def __init__(self, backbone: MLP, classes: int, config: PretrainConfig) -> None:
        self.classifier = Classifier(backbone, classes, config.seed)
        self.modules: list[nn.Module] = [self.classifier]
        self.parts: dict[str, nn.Module] = {"head": self.classifier.head}

    def draw(self, labels_N: npt.NDArray[np.int64], rng: np.random.Generator) -> Drawn:
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
