"""Few labels: a linear classifier on some labelled images of each class, over many draws of which these are.

With all labels, small data sets cannot tell good features from raw pixels; with few they can. Every source is asked
with the same draws: accuracies may be compared draw by draw. Letters: N images, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from ffcore.settings import setting
from ffmodels.evaluated import Record
from ffmodels.run import Run
from fftrain.data import Facts, ImageData, check_per_class, labelled
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import Features

# What validation chooses from: the penalty of ridge regression on the classes, for each feature.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
LEVEL = 0.95


class FewLabels(Evaluation):
    """Accuracy with few labels a class, over many draws of them, with an interval of the mean."""

    per_class: tuple[Annotated[int, setting(ge=1)], ...] = setting(
        (10,), min_length=1, description="Labelled training images of each class; several numbers, one after another."
    )
    draws: int = setting(20, ge=2, description="How often they are drawn.")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the draws.")

    @field_validator("per_class", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """One number is a list of it."""
        return (value,) if isinstance(value, int) else value

    def check_facts(self, facts: Facts, blocks: int) -> None:
        """Raises SettingError where not every class can have as many training images as are asked for."""
        check_per_class(max(self.per_class), facts.train // facts.classes, self.called)

    def check(self, run: Run, data: ImageData, reading: str) -> None:
        """Raises SettingError where a class has fewer training images than are asked for."""
        for n in self.per_class:
            labelled(data, n, [self.seed, 0], "few-labels")

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of all fits, by the smaller side of the features, and of what the classifiers are asked."""
        asked = 2.0 * facts.classes * (len(PENALTIES) * facts.validation + facts.test)
        fits = [(n * facts.classes, F) for n in self.per_class for F in widths]
        return self.draws * sum(2.0 * (len(PENALTIES) + 1) * N * F * min(N, F) + asked * F for N, F in fits)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the mean accuracy on validation and test of each choice of blocks, its 95 % interval, and each draw's.

        Features are standardised by all training images, which takes no label. Validation chooses one penalty for all
        draws. The interval is that of the mean over draws (Student's t), for these held-out images.
        """
        drawn = {n: self.drawn(n, subject.data) for n in self.per_class}
        for choice in subject.choices():
            standardised = choice.features.standardised()
            for n, index in drawn.items():
                what = f"{n} labels a class {subject.source} {choice.name}"
                for found in self._told(standardised, index, subject, what):
                    yield {"measure": f"accuracy with {n} label{'s' * (n > 1)} a class", "blocks": choice.name, **found}

    def _told(
        self, features: Features, drawn: Sequence[npt.NDArray[np.int64]], subject: Subject, what: str
    ) -> Iterator[Record]:
        """Yields what is told of some features with the images of each draw, on validation and test."""
        from scipy import stats

        data = subject.data
        scores: dict[float, list[float]] = {penalty: [] for penalty in PENALTIES}
        for index in subject.reporter.track(drawn, len(drawn), what):
            reached = _accuracies(features, index, data, "validation", PENALTIES)
            for penalty, value in zip(PENALTIES, reached, strict=True):
                scores[penalty].append(value)
        best = max(PENALTIES, key=lambda penalty: (np.mean(scores[penalty]), penalty))
        tested = [value for index in drawn for value in _accuracies(features, index, data, "test", [best])]
        for split, reached in (("validation", scores[best]), ("test", tested)):
            mean, sem = float(np.mean(reached)), float(stats.sem(reached))
            reach = sem * float(stats.t.ppf((1 + LEVEL) / 2, self.draws - 1))
            yield {
                "split": split,
                "value": mean,
                "low": mean - reach,
                "high": mean + reach,
                "draws": [float(value) for value in reached],
                "penalty": best,
            }

    def drawn(self, per_class: int, data: ImageData) -> list[npt.NDArray[np.int64]]:
        """Returns the indices of the labelled images of each draw. Raises SettingError where a class has fewer."""
        return [labelled(data, per_class, [self.seed, draw], "few-labels") for draw in range(self.draws)]


def _accuracies(
    features: Features, index: npt.NDArray[np.int64], data: ImageData, split: str, penalties: Sequence[float]
) -> list[float]:
    """Returns the accuracy on a split for each penalty of what some training images teach; a draw is held at once."""
    from sklearn.linear_model import RidgeClassifier

    x_BF, labels = features.gather_rows(index).numpy(), data.train.labels.numpy()[index]
    models = [RidgeClassifier(alpha=penalty * x_BF.shape[1]).fit(x_BF, labels) for penalty in penalties]
    wanted, done = data.split(split).labels.numpy(), 0
    right = np.zeros(len(models))
    for chunk_BF in features.chunks(split):
        part = wanted[done : done + len(chunk_BF)]
        right += [(model.predict(chunk_BF.numpy()) == part).sum() for model in models]
        done += len(chunk_BF)
    return [float(count) / len(wanted) for count in right]
