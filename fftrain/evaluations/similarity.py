"""How alike the blocks of a network are to those of another: linear CKA (Kornblith et al. 2019)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import field_validator

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.evaluated import Record
from ffmodels.linear import blocks_name
from ffmodels.run import Run, weights_digest
from fftrain.data import ImageData, sample
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.run import RunFolder
from fftrain.similar import block_features, compare_runs, linear_cka


class Similarity(Evaluation):
    """Linear CKA of each block with itself before training, or with every block of another run."""

    labels = False
    baselines = False
    training = False

    images: int = setting(1000, ge=2, description="Validation images that both are shown, drawn by class.")
    against: str | None = setting(None, description="Another run's folder. [default: the network before training]")

    @field_validator("against")
    @classmethod
    def _from_the_root(cls, against: str | None) -> str | None:
        return None if against is None else os.path.abspath(os.path.expanduser(against))

    def check(self, run: Run, data: ImageData, reading: str) -> None:
        """Raises SettingError for a reading that is not the run's own beside another run."""
        if self.against is not None and reading != run.readings[0]:
            raise SettingError("similarity.against compares runs as their methods read: leave --reading out")

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the similarity, 0 to 1, of pairs of blocks."""
        if not subject.main:
            return
        if self.against is None:
            points, device = sample(subject.data.validation, self.images).images, subject.accelerator.device
            assert subject.encoder is not None
            before = subject.run.encoder(subject.encoder.reading, untrained=True)
            pairs = zip(*(block_features(e, points, device) for e in (subject.encoder, before)), strict=True)
            for block, (x, y) in enumerate(pairs):
                about = {"measure": "cka to untrained", "split": "validation", "blocks": blocks_name([block])}
                yield {**about, "value": linear_cka(x, y)}
            return
        found = compare_runs(
            subject.run.path,
            self.against,
            images=self.images,
            data=subject.data,
            device=subject.accelerator.device,
            reporter=subject.reporter,
        )
        to = "/".join(Path(self.against).parts[-2:])
        for key, what in (("cka", f"cka to {to}"), ("cka_floor", f"cka to {to}, both untrained")):
            for block, line in zip(found["blocks"], found[key], strict=True):
                for its, value in zip(found["blocks_of_b"], line, strict=True):
                    yield {"measure": what, "split": "validation", "blocks": f"{block} and {its}", "value": value}

    def depends(self, folder: Path) -> dict[str, str]:
        """Returns the weights of the other run."""
        if self.against is None:
            return {}
        RunFolder(self.against).read_config()  # that there is one
        return {"against": weights_digest(Path(self.against))}
