"""Nearest neighbours: the classes of the training images that lie nearest vote, by the cosine of their features.

The weighted vote of Wu et al. 2018 (Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
section 3.4), which many later papers report. Letters: N training images, B images of a chunk, F features, K classes,
Q neighbours at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ffcore.settings import setting
from ffmodels.evaluated import Record
from fftrain.data import Facts
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import Features


class KNN(Evaluation):
    """Accuracy of a vote of the nearest training images by cosine; validation chooses how many."""

    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = setting(
        (1, 5, 20), min_length=1, description="Numbers of neighbours that are tried."
    )
    temperature: float = setting(0.07, gt=0, description="A vote weighs exp(cosine / temperature).")

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of all cosines."""
        return 2.0 * facts.train * (facts.validation + facts.test) * sum(widths)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the accuracy on validation and test of each choice of blocks."""
        data, device = subject.data, subject.accelerator.device
        for choice in subject.choices():
            reached: dict[str, list[float]] = {}
            for split in ("validation", "test"):
                votes = _votes(choice.features, split, data.train.labels, len(data.class_names), self, device)
                labels = data.split(split).labels
                reached[split] = [(of.argmax(-1) == labels).double().mean().item() for of in votes]
            best = max(range(len(self.neighbours)), key=reached["validation"].__getitem__)
            for split, values in reached.items():
                about = {"measure": "knn accuracy", "split": split, "blocks": choice.name}
                yield {**about, "value": values[best], "neighbours": self.neighbours[best]}


def _votes(
    features: Features, split: str, labels_N: Tensor, classes: int, settings: KNN, device: torch.device
) -> list[Tensor]:
    """Returns the votes for each class of a split's images, float32, for each number of neighbours."""
    # Made before the chunks: what is kept of each would lie between them, and no room of one be had for the next.
    found = [torch.zeros(len(getattr(features, split)), classes) for _ in settings.neighbours]
    done = 0
    labels_N = labels_N.to(device)
    most = min(max(settings.neighbours), len(labels_N))
    for x_BF in features.chunks(split):
        x_BF = functional.normalize(x_BF.to(device), dim=1)
        near_BQ, who_BQ = x_BF.new_empty(len(x_BF), 0), labels_N.new_empty(len(x_BF), 0)
        start = 0
        for other_NF in features.chunks("train"):
            cosine = x_BF @ functional.normalize(other_NF.to(device), dim=1).T
            index = torch.arange(start, start := start + len(other_NF), device=device).expand_as(cosine)
            cosine, index = torch.cat([near_BQ, cosine], 1), torch.cat([who_BQ, index], 1)
            near_BQ, at_BQ = cosine.topk(min(most, cosine.shape[1]))
            who_BQ = index.gather(1, at_BQ)
        weight_BQ = ((near_BQ - near_BQ[:, :1]) / settings.temperature).exp()  # the nearest weighs 1
        for of, count in zip(found, settings.neighbours, strict=True):
            votes_BK = x_BF.new_zeros(len(x_BF), classes)
            of[done : done + len(x_BF)] = votes_BK.scatter_add_(1, labels_N[who_BQ[:, :count]], weight_BQ[:, :count])
        done += len(x_BF)
    return found
