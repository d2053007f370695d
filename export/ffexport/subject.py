"""What is exported of a run folder: its encoder with a probe, with the method's own readout, or bare."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ffcore.errors import FFStudyError, RunError, SettingError
from ffcore.files import read_json, sha256
from ffcore.ink import Ink, drawn
from ffexport.describe import public
from ffexport.graph import DeployedModel
from ffexport.registry import check_head
from ffmodels.conditions import DRAWN
from ffmodels.evaluated import evaluations
from ffmodels.linear import last_blocks, load_head
from ffmodels.run import BACKBONE_FILE, Run, weights_digest

# What a probe's JSON must say of it.
KEYS = {"dataset", "reading", "target", "blocks", "class_names", "validation", "test", "backbone_sha256"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe's place in a run folder and what is recorded of it."""

    path: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """How --probe names it: DATASET-READING/BLOCKS."""
        return f"{self.path.parent.name}/{self.path.stem}"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is exported.

    Args:
        run: the run.
        head: a name in `ffserve.metadata.HEADS`.
        model: what the files shall compute, float32, on the CPU.
        class_names: None without a head.
        target: `class` where these are classes of images, `pretext` where a view made them; None without a head.
        probe: where the head is one.
        about: what the metadata say of the head.
        ink: how the run's own images are drawn; None where they are no drawings.
    """

    run: Run
    head: str
    model: DeployedModel
    class_names: tuple[str, ...] | None = None
    target: str | None = None
    probe: Probe | None = None
    about: dict[str, Any] = field(default_factory=dict)
    ink: Ink | None = None

    @property
    def accuracy(self) -> dict[str, float]:
        """What was measured of the head when it was trained: split -> 0 to 1; empty without one."""
        known = self.about.get("accuracy", self.about.get("probe", {}))
        return {split: known[split] for split in ("validation", "test") if split in known}

    @property
    def predicts_the_samples(self) -> bool:
        """Whether its classes are those of the run's own data set, which the labels of the run's samples name."""
        own = self.probe is None or self.probe.about["dataset"] == self.run.data["name"]
        return own and self.target == "class" and list(self.class_names or ()) == self.run.data["class_names"]


def load_subject(run: Run, head: str | None = None, probe: str | None = None) -> Subject:
    """Builds what is exported of a run.

    Args:
        run: a run.
        head: a name in `HEADS`; None means the probe, or none where the run has no probe.
        probe: `DATASET-READING/BLOCKS`; None takes the best on validation, `none` is the head of that name.

    Raises:
        RunError, SettingError: where the run, the head or the probe is not there, or is damaged.
    """
    if head is not None:
        check_head(head)
    if probe == "none" and head in (None, "none"):
        head, probe = "none", None
    if probe is not None and head not in (None, "probe"):
        raise SettingError(f"--probe {probe} goes with --head probe, not {head}: leave one of them out")
    try:
        chosen = choose_probe(run, probe) if head in (None, "probe") else None
        if head == "probe" and chosen is None:
            raise SettingError(
                f"--head probe needs a probe, and {run.path} has none: run `fftrain evaluate {run.path} linear`"
            )
        if chosen is not None:
            subject = _with_probe(run, chosen)
        else:
            subject = _with_readout(run) if head == "readout" else _bare(run)
    except FFStudyError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RunError(f"{run.path} is damaged, a value in its files is not legal ({what}): train it again") from error
    subject.model.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    return subject


def with_ink(subject: Subject, asked: bool | None) -> Subject:
    """Returns a subject with how its run's images are drawn: as they look, or as is asked for.

    Raises:
        SettingError: where they are asked to be drawings, and `drawn` finds that they cannot be.
    """
    if asked is False:
        return subject
    found = drawn(subject.run.samples[0], sure=asked is True)
    if asked and found is None:
        raise SettingError(
            f"--ink is for gray pictures whose ink is always lighter than its ground, or always darker, and those of "
            f"{subject.run.path} are in colour, blank or of both kinds: leave it out"
        )
    return replace(subject, ink=found)


def probes_of(run: Run) -> list[Probe]:
    """Returns a run's probes, the best on validation first."""
    found = []
    for path in sorted((run.path / "probes").glob("*/*.safetensors")):
        about = read_json(path.with_suffix(".json"))
        if not isinstance(about, dict) or not about.keys() >= KEYS:
            raise RunError(f"{path.with_suffix('.json')} is damaged: run `fftrain evaluate {run.path} linear` again")
        found.append(Probe(path=path, about=about))
    return sorted(found, key=lambda probe: -probe.about["validation"])


def choose_probe(run: Run, wanted: str | None) -> Probe | None:
    """Returns the probe to export: the one named, else the best on validation on the classes of the run's own data set.

    Args:
        run: a run.
        wanted: `DATASET-READING/BLOCKS`, or None.

    Returns:
        The probe; None where none is named and the run has none.

    Raises:
        SettingError: for a probe that the run does not have or no file can hold, or where only probes on several other
            data sets exist.
    """
    found = probes_of(run)
    probes = [probe for probe in found if probe.about["reading"] != DRAWN]
    names = ", ".join(sorted(probe.name for probe in probes)) or "none: `fftrain evaluate RUN linear` makes some"
    if wanted is not None:
        for probe in probes:
            if probe.name == wanted:
                return probe
        if wanted in [probe.name for probe in found]:
            raise SettingError(
                f"--probe {wanted} reads a label drawn for each image, which no file can hold: choose {names}"
            )
        raise SettingError(f"--probe {wanted!r} is not in {run.path}, which has {names}")
    probes = [probe for probe in probes if probe.about["target"] == "class"]
    own = [probe for probe in probes if probe.about["dataset"] == run.data["name"]]
    if not own and len({probe.about["dataset"] for probe in probes}) > 1:
        raise SettingError(f"{run.path} has probes on several data sets: choose one with --probe ({names})")
    return next(iter(own or probes), None)


def _bare(run: Run) -> Subject:
    """Returns the encoder alone, with the method's default reading: it gives the features of the last three blocks."""
    encoder = run.encoder()
    return Subject(run=run, head="none", model=DeployedModel(encoder, blocks=last_blocks(len(encoder.dims))))


def _with_probe(run: Run, probe: Probe) -> Subject:
    """Returns the encoder with a probe, of the blocks and the reading that it was trained on."""
    about = probe.about
    encoder = run.encoder(about["reading"])
    if about["backbone_sha256"] != sha256(run.path / BACKBONE_FILE):
        raise RunError(f"{probe.path} was trained on other weights: run `fftrain evaluate {run.path} linear` again")
    blocks, names = about["blocks"], tuple(about["class_names"])
    if not {*blocks} <= {*range(len(encoder.dims))}:
        raise ValueError(f"blocks {blocks} of {len(encoder.dims)}")
    head = load_head(probe.path, sum(encoder.dims[i] for i in blocks), len(names))
    measured = {split: about[split] for split in ("validation", "test")}
    return Subject(
        run=run,
        head="probe",
        model=DeployedModel(encoder, head, blocks=blocks, classes=len(names)),
        class_names=names,
        target=about["target"],
        probe=probe,
        about={"probe": {"dataset": public(about["dataset"]), **measured}},
    )


def _with_readout(run: Run) -> Subject:
    """Returns the encoder with the method's own readout, on the classes that it was trained to tell apart.

    Raises:
        SettingError: for a method that has none.
        RunError: where the run's accuracy on validation is not known, which sets the temperature.
    """
    encoder = run.encoder()
    readout = run.readout(encoder)
    if readout is None:
        raise SettingError(
            f"--head readout is for methods that tell labels apart, and {run.path} was trained by "
            f"{run.config['method']['name']}: use --head probe or none"
        )
    told = [one for one in evaluations(run.path, weights_digest(run.path)) if one.name == "readout"]
    first = {one.records[0]["split"]: one.records[0] for one in told if one.records}
    if "validation" not in first:
        raise RunError(
            f"{run.path} lacks the accuracy on validation, which --head readout needs: "
            f"run `fftrain evaluate {run.path} readout`"
        )
    accuracy = {split: float(record["value"]) for split, record in first.items()}
    images = int(first["validation"]["images"])
    model = DeployedModel(encoder, readout, blocks=last_blocks(len(encoder.dims)), classes=len(run.classes))
    with torch.no_grad():
        logits = model(torch.from_numpy(run.samples[0]))[1].numpy()
    model.temperature = temperature(logits, (accuracy["validation"] * images + 1) / (images + 2))
    return Subject(
        run=run,
        head="readout",
        model=model,
        class_names=run.classes,
        target="class" if list(run.classes) == run.data["class_names"] else "pretext",
        about={"accuracy": accuracy, "readout": {"temperature": model.temperature}},
    )


def temperature(logits_NK: npt.NDArray[np.float32], confidence: float) -> float:
    """Returns the T at which softmax(logits / T) is as sure, on average, as it is right.

    Args:
        logits_NK: of N images.
        confidence: what the mean probability of the most probable class shall be, within (1/K, 1).

    Returns:
        T above 0, to four digits: above 1e-6 and below 1e6 times the deviation of the logits; 1 where all are equal.
    """
    below_NK = logits_NK.astype(np.float64)
    below_NK -= below_NK.max(1, keepdims=True)
    scale = float(below_NK.std())
    if scale == 0:
        return 1.0
    low, high = -6.0, 6.0  # of log10(T / scale): the larger T, the less sure
    for _ in range(60):
        middle = (low + high) / 2
        sure = float((1 / np.exp(below_NK / (scale * 10**middle)).sum(1)).mean())
        low, high = (middle, high) if sure > confidence else (low, middle)
    return float(f"{scale * 10**low:.4g}")
