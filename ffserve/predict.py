"""Classes of images, by an exported model with a probe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffserve.errors import ModelError, UsageError
from ffserve.images import read_image
from ffserve.session import Model, find_model

Image = str | os.PathLike[str] | npt.NDArray[np.uint8]
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image, the first the most; probabilities 0 to 1."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.classes[0]


class Classifier:
    """Classifies images with an exported model. Safe to share between threads.

    Args:
        model: an .onnx file, a run folder, a loaded `Model`, or None for FFSERVE_MODEL or the newest export.
        threads: CPU threads of a run; None means all cores.

    Raises:
        ModelError: where the model is missing, damaged, or has no probe.
    """

    def __init__(self, model: str | os.PathLike[str] | Model | None = None, *, threads: int | None = None) -> None:
        self.model = model if isinstance(model, Model) else Model(find_model(model), threads=threads)
        if self.model.about.class_names is None:
            raise ModelError(
                f"{self.model.path} has no probe, it gives features alone: "
                "`fftrain probe RUN` and `ffexport RUN` make one with classes, or name another with --model"
            )
        self.class_names = self.model.about.class_names

    def predict(self, images: Sequence[Image], *, top_k: int = 5) -> list[Prediction]:
        """Returns a prediction for each image, in order.

        Args:
            images: paths of image files, or uint8 arrays [C, H, W] of the model's size.
            top_k: how many classes of each image, at least 1.

        Raises:
            ImageError: where a file cannot be read.
            UsageError: where `top_k` is below 1.
        """
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}: it must be at least 1")
        predictions: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            batch = np.stack([self._pixels(image) for image in images[start : start + BATCH]])
            for probabilities_K in self.model.run(batch)["probabilities"]:
                best = np.argsort(-probabilities_K, kind="stable")[:top_k]
                predictions.append(
                    Prediction(
                        classes=tuple(self.class_names[k] for k in best),
                        probabilities=tuple(float(probabilities_K[k]) for k in best),
                    )
                )
        return predictions

    def _pixels(self, image: Image) -> npt.NDArray[np.uint8]:
        if isinstance(image, np.ndarray):
            self.model.check(image[None])
            return image
        about = self.model.about
        return read_image(image, height=about.height, width=about.width, channels=about.channels)
