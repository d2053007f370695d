"""A part's outputs as rows of its file, and what is summed over parts; one class for each command.

Letters: B batch, K classes.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ffcore.errors import ImageError
from ffserve.account import WORDS, Account
from ffserve.calibration import Calibration
from ffserve.confusion import Confusion
from ffserve.evaluate import class_names, labels_of
from ffserve.features import columns_of
from ffserve.parquet import feature_rows, texts
from ffserve.parts.job import Job
from ffserve.predict import Classifier
from ffserve.session import Model
from ffserve.stream import Batch


class Answers(Protocol):
    """Makes rows of batches."""

    schema: pa.Schema
    repeated: tuple[str, ...]
    """The columns whose texts recur."""

    def rows(self, batch: Batch, account: Account) -> pa.Table:
        """Returns a batch's rows; `account` is told."""

    def sums(self) -> dict[str, Any]:
        """Returns what is summed over parts, as JSON has it."""


class Features:
    """Names, folders and features of the images that could be read, as `ffserve features` writes them."""

    repeated = ("folders",)

    def __init__(self, model: Model, job: Job) -> None:
        self.schema = feature_rows(columns_of([]), np.empty((0, model.widths["features"]), np.float32)).schema

    def rows(self, batch: Batch, account: Account) -> pa.Table:
        """Returns the rows of images that could be read."""
        names = [item.name for item in account.take(batch)]
        return feature_rows(columns_of(names), batch.outputs["features"])

    def sums(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class Predictions:
    """The columns of `ffserve predict --csv`, of every image."""

    def __init__(self, model: Model, job: Job) -> None:
        self._classifier, self._job = Classifier(model), job
        self._count = min(job.top_k, len(self._classifier.class_names))
        classes = [
            pair
            for k in range(1, self._count + 1)
            for pair in ((f"class_{k}", pa.string()), (f"probability_{k}", pa.float32()))
        ]
        done = [(word, pa.bool_()) for word in WORDS]
        about = [("error", pa.string()), ("model", pa.string())]
        self.schema = pa.schema([("file", pa.string()), *classes, *done, *about])
        self.repeated = (*(name for name, kind in classes if kind == pa.string()), "model")

    def rows(self, batch: Batch, account: Account) -> pa.Table:
        """Returns a row of each image; of one that could not be read why, and nothing else."""
        found = self._classifier.predictions(batch, self._job.top_k, account)
        rows = [
            [None] * (2 * self._count + len(WORDS)) + [str(said)]
            if isinstance(said, ImageError)
            else [
                *(cell for pair in zip(said.classes, said.probabilities, strict=True) for cell in pair),
                *(word in said.did for word in WORDS),
                None,
            ]
            for _, said in found
        ]
        kinds = [field.type for field in self.schema][1:-1]
        columns = [pa.array(values, kind) for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)]
        names = texts([item.name for item, _ in found])
        return pa.table([names, *columns, texts([self._job.called] * len(found))], schema=self.schema)

    def sums(self) -> dict[str, Any]:
        """Returns nothing."""
        return {}


class Measured:
    """File, class, what it was taken for and how surely, of the images that could be read; and what is summed."""

    repeated = ("class", "predicted")

    def __init__(self, model: Model, job: Job) -> None:
        self._names = class_names(model)
        self._confusion, self._calibration = Confusion.empty(self._names), Calibration.empty()
        columns = {"file": pa.string(), "class": pa.string(), "predicted": pa.string(), "probability": pa.float32()}
        self.schema = pa.schema(columns)

    def rows(self, batch: Batch, account: Account) -> pa.Table:
        """Returns the rows of images that could be read, and counts them."""
        items, probabilities_BK = account.take(batch), batch.outputs["probabilities"]
        labels_B, predicted_B = labels_of(items), probabilities_BK.argmax(1)
        self._confusion.add(labels_B, predicted_B)
        self._calibration.add(labels_B, probabilities_BK)
        classes = ([self._names[k] for k in of] for of in (labels_B, predicted_B))
        columns = [texts([item.name for item in items]), *(pa.array(names, pa.string()) for names in classes)]
        return pa.table([*columns, pa.array(probabilities_BK.max(1, initial=0.0))], schema=self.schema)

    def sums(self) -> dict[str, Any]:
        """Returns the confusion counts that are not 0, as (class, taken for, images), and the sums of calibration."""
        counts_KK, calibration = self._confusion.counts_KK, self._calibration
        at = np.nonzero(counts_KK)
        return {
            "confusion": np.stack([*at, counts_KK[at]], 1).tolist(),
            "calibration": [calibration.bins_M3.tolist(), calibration.sums_2.tolist()],
        }


ANSWERS: dict[str, Any] = {"features": Features, "predict": Predictions, "evaluate": Measured}


def add_sums(confusion: Confusion, calibration: Calibration, sums: dict[str, Any]) -> None:
    """Adds the sums of a part of an evaluation."""
    for i, j, count in sums["confusion"]:
        confusion.counts_KK[i, j] += count
    bins, both = sums["calibration"]
    calibration.bins_M3[:] += bins
    calibration.sums_2[:] += both
