"""Preprocessing, backbone and probe as one module: raw pixels in, features and probabilities out.

Letters: B batch, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ffmodels.backbone import MLP, last_layers, layers_name
from ffmodels.checkpoint import BACKBONE_FILE, load_backbone, load_head, read_config
from ffmodels.errors import RunError, SettingError
from ffmodels.files import read_json, sha256
from ffmodels.heads import LinearHead
from ffmodels.labels import fill

# What a probe's JSON must say of it.
KEYS = {"dataset", "slot", "slot_classes", "layers", "class_names", "validation", "test", "backbone_sha256"}


class DeployedModel(nn.Module):
    """What an exported file computes.

    Input: `images` uint8 [B, C, H, W], raw pixels 0 to 255: scaling and the label slot are inside.
    Outputs: `features` float32 [B, F]; with a probe also `logits` and `probabilities` float32 [B, K].
    """

    def __init__(
        self, backbone: MLP, head: LinearHead | None, *, layers: list[int], slot: str, slot_classes: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.layers = layers
        self.slot = slot
        self.slot_classes = slot_classes

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return ["features"] if self.head is None else ["features", "logits", "probabilities"]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of `output_names`."""
        pixels = fill(images.float() / 255, self.slot_classes, self.slot)
        features = self.backbone.features(pixels, self.layers)
        if self.head is None:
            return (features,)
        logits = self.head(features)
        return features, logits, logits.softmax(-1)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe's place in a run folder and what is recorded of it."""

    path: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """How --probe names it: DATASET-SLOT/LAYERS."""
        return f"{self.path.parent.name}/{self.path.stem}"


def probes_of(run: Path) -> list[Probe]:
    """Returns a run's probes, the best on validation first."""
    found = []
    for path in sorted((run / "probes").glob("*/*.safetensors")):
        about = read_json(path.with_suffix(".json"))
        if not isinstance(about, dict) or not about.keys() >= KEYS:
            raise RunError(f"{path.with_suffix('.json')} is damaged: run `fftrain probe {run}` again")
        found.append(Probe(path=path, about=about))
    return sorted(found, key=lambda probe: -probe.about["validation"])


def choose_probe(run: Path, wanted: str | None) -> Probe | None:
    """Returns the probe to export: the one named, else the best on validation on the classes of the run's own data set.

    Args:
        run: a run folder.
        wanted: `DATASET-SLOT/LAYERS`, `none` for the bare backbone, or None.

    Raises:
        SettingError: for a probe that the run does not have, or where only probes on several other data sets exist.
    """
    probes = probes_of(run)
    names = ", ".join(sorted(probe.name for probe in probes)) or "none: `fftrain probe` makes some"
    if wanted == "none":
        return None
    if wanted is not None:
        for probe in probes:
            if probe.name == wanted:
                return probe
        raise SettingError(f"--probe {wanted!r} is not in {run}, which has {names}")
    probes = [probe for probe in probes if probe.about.get("target", "class") == "class"]
    own = [probe for probe in probes if probe.about["dataset"] == read_config(run)["data"]["name"]]
    if not own and len({probe.about["dataset"] for probe in probes}) > 1:
        raise SettingError(f"{run} has probes on several data sets: choose one with --probe ({names})")
    return next(iter(own or probes), None)


def load_deployed(run: Path, probe: Probe | None) -> DeployedModel:
    """Builds the module that a run and a probe stand for, in evaluation mode.

    Without a probe the features of the last three layers are given; the label slot is `neutral` where the backbone
    was trained with labels in the pixels, else the image is left as it is.
    """
    config = read_config(run)
    backbone = load_backbone(run)
    if probe is None:
        layers, head = list(last_layers(len(backbone.layers))), None
        slot, slot_classes = config["task"]["slot"], len(config["task"]["class_names"])
    else:
        if probe.about["backbone_sha256"] != sha256(run / BACKBONE_FILE):
            raise RunError(f"{probe.path} was trained on other weights: run `fftrain probe {run}` again")
        layers, slot, slot_classes = (probe.about[key] for key in ("layers", "slot", "slot_classes"))
        features = len(layers) * backbone.config.width
        head = load_head(probe.path, features, len(probe.about["class_names"]))
    del backbone.layers[max(layers) + 1 :]  # what no output reads is neither computed nor shipped
    return DeployedModel(backbone, head, layers=layers, slot=slot, slot_classes=slot_classes).eval()


def with_dead_layer(model: DeployedModel) -> DeployedModel:
    """Returns a copy whose first layer has no active unit: what makes a careless export give NaN."""
    import copy

    dead = copy.deepcopy(model)
    first: Any = dead.backbone.layers[0]
    with torch.no_grad():
        first.linear.weight.zero_()
        first.linear.bias.fill_(-1.0)
    return dead


def describe(run: Path, model: DeployedModel, probe: Probe | None, images: Tensor) -> dict[str, str]:
    """Returns what an exported file says of itself: `ffstudy.` keys, JSON values.

    Args:
        run: the run folder.
        model: what is exported.
        probe: the probe in it.
        images: uint8 [N, C, H, W], N at least 1; the first is the golden image.
    """
    import base64
    from importlib.metadata import version

    from ffserve.images import READING

    config = read_config(run)
    channels, height, width = config["data"]["shape"]
    golden = images[:1]
    with torch.no_grad():
        outputs = dict(zip(model.output_names, model(golden), strict=True))
    about: dict[str, Any] = {
        "format": 1,
        "version": version("ffstudy"),
        "image": {"channels": channels, "height": height, "width": width},
        "reading": READING,
        "dataset": config["data"]["name"],
        "task": config["task"]["name"],
        "method": config["config"]["method"],
        "layers": layers_name(model.layers),
        "slot": model.slot,
        "golden": {
            "image": base64.b64encode(golden.numpy().tobytes()).decode(),
            "features": [round(v, 6) for v in outputs["features"][0, :16].tolist()],
        },
    }
    if probe is not None:
        about["class_names"] = probe.about["class_names"]
        about["probe"] = {key: probe.about[key] for key in ("dataset", "validation", "test")}
        about["golden"]["probabilities"] = [round(v, 6) for v in outputs["probabilities"][0].tolist()]
    return {f"ffstudy.{key}": json.dumps(value, ensure_ascii=False) for key, value in about.items()}
