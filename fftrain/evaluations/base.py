"""What an evaluation is: frozen features, and the data that they are of -> flat records, a number each.

A new one is a file beside this. Letters: N images, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt
from accelerate import Accelerator

from ffcore.settings import Part
from ffmodels.encoder import Encoder
from ffmodels.evaluated import Record
from ffmodels.run import Run
from fftrain.data import Facts, ImageData
from fftrain.features import Features, choices, columns_of, copied, extract, name_of
from fftrain.parts import BASELINES
from fftrain.progress import Reporter
from fftrain.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Features that are read together: of one block, of the last ones, or the pixels.

    Args:
        name: what they are called.
        blocks: their indices, from 0; none for pixels.
        columns: where they stand among the features of all blocks.
        features: [N, F] of each split; `gather_rows` and `chunks` give float32, of pixels too.
        ahead: the work of the choices that come after it here, in its own.
    """

    name: str
    blocks: tuple[int, ...]
    columns: slice
    features: Features
    ahead: float


@dataclass(kw_only=True)
class Subject:
    """What is measured: a frozen network, or the pixels, and the images that they are asked about.

    Args:
        run: the run.
        source: whose features they are: `raw` (the pixels), `random` (the network before training), or what people
            call the run's method.
        encoder: the frozen network, in evaluation mode; None for pixels.
        data: the data set, with the labels that are to be told.
        target: what these are: `class` or `pretext`.
        accelerator: devices and processes.
        reporter: what a person sees.
        memory: bytes that features may take.
        probes: where classifiers are kept that an export may take up.
        about: what is recorded of them.
        arrays: what is kept beside the records, by name: an evaluation adds its own.
        files: that it writes into the run folder, by their place there.
        folder: where data sets are kept.
    """

    run: Run
    source: str
    encoder: Encoder | None
    data: ImageData
    target: str
    accelerator: Accelerator
    reporter: Reporter
    memory: float
    probes: Path
    about: Mapping[str, Any]
    held: ExitStack
    folder: Path
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    @property
    def trained(self) -> bool:
        """Whether the features are the run's own."""
        return self.source not in BASELINES

    @property
    def main(self) -> bool:
        """Whether this process is the one that does what is done once."""
        return bool(self.accelerator.is_main_process)

    @cached_property
    def features(self) -> Features:
        """The features of all blocks side by side, computed once for all evaluations; the pixels where they are that.

        Raises:
            MemoryError, RunError: where they fit neither into memory nor on the run folder's disk.
        """
        if self.encoder is None:
            return self.pixels
        device, folder = self.accelerator.device, self.run.path
        made = extract(self.encoder, self.data, device, self.reporter, memory=self.memory, folder=folder)
        return self.held.enter_context(made)

    @cached_property
    def pixels(self) -> Features:
        """The pixels as features.

        Raises:
            MemoryError, RunError: as for `features`.
        """
        if not isinstance(self.data.train.images, Stored):
            return Features.of_pixels(self.data)
        made = copied(self.data, self.reporter, memory=self.memory, folder=self.run.path)
        return self.held.enter_context(made)

    def blocks(self, wanted: Collection[str] = ()) -> list[tuple[int, ...]]:
        """Returns what this process reads: of each block by itself, and the last three together, its share.

        Args:
            wanted: names of those that are read alone; of pixels there is one choice whatever is named.
        """
        found = choices(self.encoder)
        if wanted and self.encoder is not None:
            found = [blocks for blocks in found if name_of(blocks) in wanted]
        return found[self.accelerator.process_index :: self.accelerator.num_processes]

    def choices(self, wanted: Collection[str] = ()) -> Iterator[Choice]:
        """Yields the features of `blocks`."""
        mine = self.blocks(wanted)
        features = [self.features.columns(columns_of(self.encoder, blocks)) for blocks in mine]
        widths = [part.train.shape[1] for part in features]
        for i, blocks in enumerate(mine):
            yield Choice(
                name=name_of(blocks),
                blocks=blocks,
                columns=columns_of(self.encoder, blocks),
                features=features[i],
                ahead=sum(widths[i + 1 :]) / widths[i],
            )


class Evaluation(Part):
    """A measurement of frozen features; its settings are what it is."""

    labels: ClassVar[bool] = True
    """Whether it tells labels: a study then asks it of every data set, reading and target."""

    baselines: ClassVar[bool] = True
    """Whether it is measured of the pixels and of the network before training too."""

    training: ClassVar[bool] = True
    """Whether it reads training images."""

    @property
    def measured(self) -> str:
        """What it tells, in words: other words for settings with which it may stand beside itself."""
        return self.called

    def check(self, run: Run, data: ImageData, reading: str) -> None:
        """Raises SettingError or RunError where it cannot be measured of a run on these images, read so."""

    def check_facts(self, facts: Facts, blocks: int) -> None:
        """Raises SettingError where it cannot be measured of such images or so many blocks: before a study begins."""

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns about how many floating-point operations it takes of one source; a study plans by it.

        Args:
            facts: what is known of the data set.
            widths: F of each choice of blocks.
        """
        return 0.0

    def passes(self, facts: Facts) -> float:
        """Returns how many images it takes through the network, beside once for the features; a study plans by it.

        Args:
            facts: what is known of the data set.
        """
        return 0.0

    def place(self, dataset: str, target: str) -> dict[str, str]:
        """Returns whose labels it tells, `dataset` and `target`; "" where it tells none."""
        return {"dataset": dataset, "target": target if self.labels else ""}

    def fetch(self, folder: Path) -> None:
        """Downloads what it reads beside the run's images, where it is not in the folder where data sets are kept.

        Raises:
            DataError: where that cannot be had.
        """

    def depends(self, folder: Path) -> Mapping[str, str]:
        """Returns what else its result depends on, beside settings, weights and data, as digests by name.

        Args:
            folder: where data sets are kept.
        """
        return {}

    @abstractmethod
    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields records: `measure` (what), `value` (a number), and where they apply `split` and `blocks`.

        A value is a share of 1, which reports show in %, unless the record names its `unit`; `low` and `high` are an
        interval of it.

        Every process calls this, for its own `subject.choices()` or `subject.blocks`; what is no choice's is yielded
        where `subject.main`.
        """
