"""Few labels: a linear classifier on some labelled images of each class, over many draws of which these are.

With all labels, small data sets cannot tell good features from raw pixels; with few they can. Every source is asked
with the same draws: accuracies may be compared draw by draw. Letters: N images, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.evaluated import Record
from fftrain.data import ImageData
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import Features

# What validation chooses from: the penalty of ridge regression on the classes, for each feature.
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
LEVEL = 0.95


class FewLabels(Evaluation):
    """Accuracy with few labels a class, over many draws of them, with an interval of the mean."""

    per_class: int = setting(10, ge=1, description="Labelled training images of each class.")
    draws: int = setting(20, ge=2, description="How often they are drawn.")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the draws.")

    @property
    def measured(self) -> str:
        """The accuracy, and how few they are."""
        return f"accuracy with {self.per_class} labels a class"

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the mean accuracy on validation and test of each choice of blocks, its 95 % interval, and each draw's.

        Features are standardised by all training images, which takes no label. Validation chooses one penalty for all
        draws. The interval is that of the mean over draws (Student's t), for these held-out images.
        """
        from scipy import stats

        data, labels_N = subject.data, subject.data.train.labels.numpy()
        drawn = self.drawn(labels_N, len(data.class_names))
        for choice in subject.choices():
            standardised = choice.features.standardised()
            scores: dict[float, list[float]] = {penalty: [] for penalty in PENALTIES}
            for index in subject.reporter.track(drawn, len(drawn), f"few labels {subject.source} {choice.name}"):
                reached = _accuracies(standardised, index, data, "validation", PENALTIES)
                for penalty, value in zip(PENALTIES, reached, strict=True):
                    scores[penalty].append(value)
            best = max(PENALTIES, key=lambda penalty: (np.mean(scores[penalty]), penalty))
            tested = [value for index in drawn for value in _accuracies(standardised, index, data, "test", [best])]
            for split, reached in (("validation", scores[best]), ("test", tested)):
                mean, sem = float(np.mean(reached)), float(stats.sem(reached))
                reach = sem * float(stats.t.ppf((1 + LEVEL) / 2, self.draws - 1))
                yield {
                    "measure": self.measured,
                    "split": split,
                    "blocks": choice.name,
                    "value": mean,
                    "low": mean - reach,
                    "high": mean + reach,
                    "draws": [float(value) for value in reached],
                    "penalty": best,
                }

    def drawn(self, labels_N: npt.NDArray[np.int64], count: int) -> list[npt.NDArray[np.int64]]:
        """Returns the indices of the labelled images of each draw: `per_class` of each of `count` classes.

        Raises:
            SettingError: where a class has fewer.
        """
        found = []
        classes, counts = np.arange(count), np.bincount(labels_N, minlength=count)
        if counts.min() < self.per_class:
            raise SettingError(
                f"few-labels.per_class is {self.per_class}, and a class has {counts.min()} training images: ask for "
                "no more"
            )
        for draw in range(self.draws):
            rng = np.random.default_rng([self.seed, draw])
            of = [rng.choice(np.flatnonzero(labels_N == k), self.per_class, replace=False) for k in classes]
            found.append(np.concatenate(of))
        return found


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
