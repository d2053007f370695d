"""What is exported of a run folder: its backbone with a probe, with FF's own classifier, or bare."""

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
from ffexport.graph import DeployedModel, GoodnessModel
from ffexport.probes import Probe, choose_probe
from ffexport.registry import HEADS
from ffmodels.backbone import last_layers, layers_name
from ffmodels.checkpoint import BACKBONE_FILE, load_backbone, load_head, read_config, read_samples
from ffmodels.registry import GOODNESS, public_name

# The methods that tell labels apart by their goodness -> over how many of the last layers it is averaged.
GOODNESS_METHODS = {"ff": 3, "bp-goodness-all": 3, "bp-goodness-last": 1}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is exported.

    Args:
        run: the run folder.
        head: a name in `ffexport.registry.HEADS`.
        model: what the files shall compute, float32, on the CPU.
        class_names: None without a head.
        probe: where the head is one.
        about: what the metadata say of the head.
        ink: how the run's own images are drawn; None where they are no drawings.
    """

    run: Path
    head: str
    model: DeployedModel
    class_names: tuple[str, ...] | None = None
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
        data = read_config(self.run)["data"]
        if self.class_names is None or list(self.class_names) != data["class_names"]:
            return False
        if self.probe is not None:
            about = self.probe.about
            return bool(about["dataset"] == data["name"] and about.get("target", "class") == "class")
        return bool(read_config(self.run)["task"]["name"] == "supervised")


def load_subject(run: Path, head: str | None = None, probe: str | None = None) -> Subject:
    """Builds what is exported of a run.

    Args:
        run: a run folder.
        head: a name in `HEADS`; None means the probe, or none where the run has no probe.
        probe: `DATASET-SLOT/LAYERS`; None takes the best on validation, `none` is the head of that name.

    Raises:
        RunError, SettingError: where the run, the head or the probe is not there, or is damaged.
    """
    if head is not None:
        HEADS.check(head)
    if probe == "none" and head in (None, "none"):
        head, probe = "none", None
    if probe is not None and head not in (None, "probe"):
        raise SettingError(f"--probe {probe} goes with --head probe, not {head}: leave one of them out")
    read_config(run)
    try:
        chosen = choose_probe(run, probe) if head in (None, "probe") else None
        if head == "probe" and chosen is None:
            raise SettingError(f"--head probe needs a probe, and {run} has none: run `fftrain probe {run}` first")
        name = head or ("none" if chosen is None else "probe")
        subject: Subject = HEADS.load(name)(run, chosen)
    except FFStudyError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RunError(f"{run} is damaged, a value in its files is not legal ({what}): train it again") from error
    subject.model.eval().requires_grad_(False)
    return subject


def with_ink(subject: Subject, asked: bool | None) -> Subject:
    """Returns a subject with how its run's images are drawn: as they look, or as is asked for.

    Raises:
        SettingError: where they are asked to be drawings, and `drawn` finds that they cannot be.
    """
    if asked is False:
        return subject
    found = drawn(read_samples(subject.run)[0], sure=asked is True)
    if asked and found is None:
        raise SettingError(
            f"--ink is for gray pictures whose ink is always lighter than its ground, or always darker, and those of "
            f"{subject.run} are in colour, blank or of both kinds: leave it out"
        )
    return replace(subject, ink=found)


def bare(run: Path, _: Probe | None = None) -> Subject:
    """Returns the backbone alone.

    It gives the features of the last three layers; the label slot is `neutral` where the backbone was trained with
    labels in the pixels, else the image is left as it is.
    """
    config, backbone = read_config(run), load_backbone(run)
    model = DeployedModel(
        backbone,
        None,
        layers=last_layers(len(backbone.layers)),
        slot=config["task"]["slot"],
        slot_classes=len(config["task"]["class_names"]),
    )
    return Subject(run=run, head="none", model=model)


def with_probe(run: Path, probe: Probe) -> Subject:
    """Returns the backbone with a probe, reading the layers and the label slot that it was trained on."""
    backbone = load_backbone(run)
    if probe.about["backbone_sha256"] != sha256(run / BACKBONE_FILE):
        raise RunError(f"{probe.path} was trained on other weights: run `fftrain probe {run}` again")
    layers, slot, slot_classes = (probe.about[key] for key in ("layers", "slot", "slot_classes"))
    if not {*layers} <= {*range(len(backbone.layers))}:
        raise ValueError(f"layers {layers} of {len(backbone.layers)}")
    head = load_head(probe.path, len(layers) * backbone.config.width, len(probe.about["class_names"]))
    return Subject(
        run=run,
        head="probe",
        model=DeployedModel(backbone, head, layers=layers, slot=slot, slot_classes=slot_classes),
        class_names=tuple(probe.about["class_names"]),
        probe=probe,
        about={
            "probe": {
                "dataset": public_name(probe.about["dataset"]),
                **{split: probe.about[split] for split in ("validation", "test")},
            }
        },
    )


def with_goodness(run: Path, _: Probe | None = None) -> Subject:
    """Returns the backbone with FF's own classifier on the classes of its pretext task.

    Raises:
        SettingError: for a method that does not tell labels apart by their goodness.
        RunError: where the run's accuracy on validation is not known, which sets the temperature.
    """
    config = read_config(run)
    method = config["config"]["method"]
    if method not in GOODNESS_METHODS:
        raise SettingError(
            f"--head goodness is for --method {' and '.join(GOODNESS_METHODS)}, and {run} is {method}: "
            "use --head probe or none"
        )
    backbone, classes = load_backbone(run), tuple(config["task"]["class_names"])
    goodness = config["config"]["goodness"]
    layers = last_layers(len(backbone.layers))[-GOODNESS_METHODS[method] :]
    model = GoodnessModel(backbone, GOODNESS.load(goodness), layers=layers, classes=len(classes))
    results = read_json(run / "results.json") if (run / "results.json").exists() else {}
    try:
        accuracy = {split: float(found["accuracy"]) for split, found in results["pretext"].items()}
        images = int(results["pretext"]["validation"]["images"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run / 'results.json'} lacks the accuracy on validation, which --head goodness needs: "
            f"run `fftrain evaluate {run} --split validation`"
        ) from error
    samples, _labels = read_samples(run)
    with torch.no_grad():
        logits = model(torch.from_numpy(samples))[1].numpy()
    found = temperature(logits, (accuracy["validation"] * images + 1) / (images + 2))
    model.temperature.fill_(found)
    return Subject(
        run=run,
        head="goodness",
        model=model,
        class_names=classes,
        about={
            "accuracy": accuracy,
            "goodness": {"name": goodness, "layers": layers_name(layers), "temperature": found},
        },
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
