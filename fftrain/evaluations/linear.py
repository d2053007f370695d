"""Linear probes: classifiers of the frozen features, each of which an export can take up."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence

from pydantic import field_validator

from ffcore.errors import SettingError
from ffcore.files import write_json
from ffcore.settings import setting
from ffmodels.evaluated import Record
from ffmodels.run import save_weights
from fftrain.data import Facts
from fftrain.evaluations.base import Subject
from fftrain.features import block_choices, name_of
from fftrain.probe import Probe

MEASURE = "probe accuracy"


class Linear(Probe):
    """Accuracy of linear probes; validation chooses learning rate and weight decay, unless they are given."""

    blocks: str | None = setting(
        None,
        description="Blocks that are read, by name: block4, or block4,blocks2-4. [default: each, and the last three "
        "together]",
    )
    standardise: bool = setting(True, description="Standardise each feature by the training split before the probe.")

    @field_validator("blocks")
    @classmethod
    def _each_once(cls, value: str | None) -> str | None:
        """Names in one order and each once: the same blocks are the same measurement."""
        names = {name.strip() for name in (value or "").split(",")}
        return None if value is None else ",".join(sorted(names, key=lambda name: (len(name), name)))

    @property
    def measured(self) -> str:
        """`probe accuracy`, and what of its protocol is given."""
        given = {"lr": self.lr, "weight decay": self.weight_decay}
        words = [f"{name} {value:g}" for name, value in given.items() if value is not None]
        words += [] if self.schedule == "cosine" else [self.schedule]
        words += self.wanted
        words += ["not standardised"] if words and not self.standardise else []
        return ", ".join([MEASURE, *words])

    def check_facts(self, facts: Facts, blocks: int) -> None:
        """Raises SettingError for a name that none of the choices among so many blocks has."""
        known = [*map(name_of, block_choices(blocks))]
        for name in self.wanted:
            if name not in known:
                raise SettingError(f"linear.blocks has {name!r}: choose among {', '.join(known)}")

    @property
    def wanted(self) -> list[str]:
        """The names of the blocks that are read; none means all choices."""
        return [] if self.blocks is None else self.blocks.split(",")

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of all settings' steps, of the blocks that are read."""
        names = map(name_of, block_choices(max(1, len(widths) - 1)))
        read = [F for name, F in zip(names, widths, strict=True) if not self.wanted or name in self.wanted]
        return super().products(facts, read)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the accuracy on validation and test of each choice of blocks; keeps the classifiers of the run's own.

        PROBES/BLOCKS.safetensors reads the features as they are: the standardisation is folded into its weights. What
        is given of the protocol is part of the folder's name.
        """
        given = re.sub("[ ,]+", "-", self.measured.removeprefix(MEASURE))
        probes = subject.probes.with_name(subject.probes.name + given)
        if subject.trained:  # a probe that an interrupted call leaves is of no evaluation
            if subject.main:
                shutil.rmtree(probes, ignore_errors=True)
            subject.accelerator.wait_for_everyone()
        for choice in subject.choices(self.wanted):
            features = choice.features.standardised() if self.standardise else choice.features
            head, reached = self.probe(subject, choice, features)
            if subject.trained:
                path = probes / f"{choice.name}.safetensors"
                about = {**subject.about, "blocks": list(choice.blocks), "source": subject.source, **reached}
                write_json(path.with_suffix(".json"), about)
                subject.files += [p.relative_to(subject.run.path).as_posix() for p in (path.with_suffix(".json"), path)]
                save_weights(head, path)
            for split in ("validation", "test"):
                about = {"measure": self.measured, "split": split, "blocks": choice.name}
                yield {**about, "value": reached[split], **reached["settings"]}
