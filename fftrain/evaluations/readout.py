"""What a method itself tells of the labels that it was trained on: on every image, in every way that the view asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ffcore.errors import RunError, SettingError
from ffcore.settings import setting
from ffmodels.evaluated import Record
from ffmodels.run import Run
from fftrain.data import ImageData
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.loading import view_of
from fftrain.told import accuracy


class ReadOut(Evaluation):
    """Accuracy of the method's own readout on the labels that it was trained on."""

    labels = False
    baselines = False
    training = False

    split: Literal["validation", "test"] = setting("validation", description="Test is read for the final number.")

    @property
    def measured(self) -> str:
        """Its name and the split."""
        return f"{self.called} on {self.split}"

    def check(self, run: Run, data: ImageData, reading: str) -> None:
        """Raises RunError for a method that tells nothing, and for images or a reading that are not the run's own."""
        if run.told is None:
            name = run.config["method"]["name"]
            raise RunError(
                f"{run.path} has nothing that tells labels ({name}): name what shall be measured, such as linear"
            )
        if reading != run.readings[0]:
            raise SettingError("readout reads as its method does: leave --reading out")
        if data.name != run.data["name"]:
            raise RunError(
                f"{run.path} was trained on {run.data['name']}, and {data.name} is not that: its held-out images or "
                "classes are others; name what it was trained on"
            )

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the accuracy of what predicts, of each reader, and of how many images."""
        run = subject.run
        assert run.told is not None
        part = subject.data.split(self.split)
        by = accuracy(
            run.told.to(subject.accelerator.device),
            view_of(run),
            len(run.classes),
            part.images,
            part.labels,
            subject.accelerator,
            subject.reporter,
        )
        if subject.main:
            about = {"split": self.split, "images": len(part)}
            yield {"measure": "pretext accuracy", **about, "value": [*by.values()][-1]}
            for reader, value in by.items():
                yield {"measure": "pretext accuracy by reader", **about, "blocks": reader, "value": value}
