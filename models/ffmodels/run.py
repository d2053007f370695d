"""A run folder as it is read: settings, network, losses, readout and samples. config.json is parsed once.

    config.json             settings, data, what the labels tell, versions, hardware
    backbone.safetensors    the network's weights; heads.safetensors those of the losses, where they have any
    samples.npz             64 validation images with their classes

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.errors import RunError, SettingError
from ffcore.files import AnyPath, read_json, replacing, sha256
from ffcore.plugins import Plugins
from ffmodels.backbones.base import Backbone, Shape
from ffmodels.conditions import Condition, in_words
from ffmodels.encoder import Encoder, readings
from ffmodels.methods.base import Method, Readout
from ffmodels.norm import settle
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import heads_of, make_units

CONFIG_FILE, BACKBONE_FILE, HEADS_FILE, SAMPLES_FILE = (
    "config.json",
    "backbone.safetensors",
    "heads.safetensors",
    "samples.npz",
)
# Of what a run folder holds; read by this version alone.
LAYOUT = 2
# What every reader of a run folder may rely on.
SECTIONS = {
    "config": {"method", "backbone", "view", "cut", "at", "seed"},
    "data": {"name", "shape", "class_names"},
}


@dataclass(frozen=True)
class Run:
    """A run folder, whose settings are read.

    Args:
        path: the folder.
        record: what config.json holds.
    """

    path: Path
    record: Mapping[str, Any]

    @classmethod
    def load(cls, path: AnyPath) -> Run:
        """Reads a run's settings.

        Raises:
            RunError: where the folder or its settings are missing or damaged, or of an earlier layout.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"{path} is not a run folder: `fftrain pretrain --out {path}` makes one")
        record = read_json(path / CONFIG_FILE)
        if isinstance(record, dict) and "model" in record and "layout" not in record:
            raise RunError(f"{path} was trained with ffstudy 0.1, which reads it: train it again with this version")
        for part, keys in SECTIONS.items():
            section = record.get(part) if isinstance(record, dict) else None
            lacking = keys - section.keys() if isinstance(section, dict) else keys
            if lacking:
                raise RunError(f"{path / CONFIG_FILE} lacks {part}.{min(lacking)}: restore it, or train the run again")
        if record.get("layout") != LAYOUT or not isinstance(record.get("classes"), list):
            raise RunError(f"{path / CONFIG_FILE} is damaged, or of another version of ffstudy: train the run again")
        return cls(path, record)

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings, as they are recorded."""
        found: Mapping[str, Any] = self.record["config"]
        return found

    @property
    def data(self) -> Mapping[str, Any]:
        """What is recorded of the data set: name, shape, class_names, images, digest, train_digest, skipped, hub."""
        found: Mapping[str, Any] = self.record["data"]
        return found

    @property
    def shape(self) -> Shape:
        """Channels, height and width of the images."""
        channels, height, width = self.data["shape"]
        return channels, height, width

    @property
    def classes(self) -> tuple[str, ...]:
        """What the labels told apart that it was trained on."""
        return tuple(self.record["classes"])

    @cached_property
    def method(self) -> Method:
        """How it was trained."""
        made: Method = self._part("method", METHODS)
        return made

    @cached_property
    def condition(self) -> Condition:
        """What the pixels carry."""
        return self.method.condition(len(self.classes), self.shape)

    @property
    def readings(self) -> tuple[str, ...]:
        """The ways in which features are read; the first is the method's default."""
        return readings(self.condition)

    @cached_property
    def told(self) -> Readout | None:
        """What tells the labels that it was trained on, as `readout`, with a network of its own; made once."""
        return self.readout()

    def network(self, *, untrained: bool = False) -> Backbone:
        """Returns the backbone, frozen, in evaluation mode, on the CPU.

        Args:
            untrained: as it was before training, but for statistics of batch normalisation: those of the run's samples.

        Raises:
            RunError: where its settings or weights are missing, damaged or do not fit.
        """
        try:
            backbone: Backbone = self._part("backbone", BACKBONES).build(self.shape, self.config["seed"])
        except SettingError as error:
            raise RunError(f"{self.path / CONFIG_FILE} describes no backbone ({error}): train the run again") from error
        if untrained:
            settle(backbone, lambda: self.condition(torch.from_numpy(self.samples[0]) / 255, self.readings[0]))
        else:
            load_weights(backbone, self.path / BACKBONE_FILE)
        return backbone.eval().requires_grad_(False)

    def encoder(self, reading: str | None = None, *, untrained: bool = False) -> Encoder:
        """Returns the frozen encoder, in evaluation mode, on the CPU.

        Args:
            reading: how features are read, one of `ffmodels.encoder.readings`; None means the method's default.
            untrained: as it was before training.

        Raises:
            SettingError: for a reading that the method does not have.
            RunError: as `network` does.
        """
        if reading is not None and reading not in self.readings:
            raise SettingError(
                f"reading {reading!r} is unknown for {self.path}: choose one of {in_words(self.readings)}"
            )
        return Encoder(self.condition, self.network(untrained=untrained), reading).eval()

    def readout(self, encoder: Encoder | None = None) -> Readout | None:
        """Returns what tells the labels that it was trained on, frozen; None where there is nothing to tell.

        Args:
            encoder: the run's own, with which it shall share the network; None makes one.

        Raises:
            RunError: as `network` does.
        """
        encoder, classes = encoder or self.encoder(), len(self.classes)
        backbone = encoder.backbone
        where = {key: self.config[key] for key in ("cut", "at", "seed")}
        heads = heads_of(make_units(self.method, backbone, classes, **where))
        if any(True for head in heads.values() for _ in head.state_dict()):
            load_weights(as_module(heads), self.path / HEADS_FILE)
        readout = self.method.readout(backbone, encoder.condition, heads, classes)
        return None if readout is None else readout.eval().requires_grad_(False)

    @cached_property
    def samples(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """Validation images uint8 [N, C, H, W] and their classes int64 [N], N at least 1.

        Raises:
            RunError: where they are missing, damaged, or of another shape than the run's.
        """
        path = self.path / SAMPLES_FILE
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                images, labels = file["images"], file["labels"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise RunError(f"{path} is missing or damaged ({error}): train the run again") from error
        if images.dtype != np.uint8 or images.shape[1:] != self.shape or not 0 < len(images) == len(labels):
            raise RunError(
                f"{path} holds {images.dtype} {images.shape}, not uint8 images of {self.shape}: train the run again"
            )
        return images, labels

    def _part(self, kind: str, plugins: Plugins) -> Any:
        """Returns a part as it was recorded. Raises RunError where it cannot be made."""
        try:
            settings = {key: value for key, value in self.config[kind].items() if key not in ("name", "sha256")}
            return plugins.load(self.config[kind]["name"])(**settings)
        except (SettingError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{self.path / CONFIG_FILE} describes no {kind} ({error}): train the run again") from error


def load_encoder(run: AnyPath, reading: str | None = None, *, untrained: bool = False) -> Encoder:
    """Returns a run's frozen encoder, as `Run.encoder`: images float [B, C, H, W] in [0, 1] -> features by block."""
    return Run.load(run).encoder(reading, untrained=untrained)


def as_module(heads: Mapping[int, nn.Module]) -> nn.Module:
    """Returns heads as one module, by the index of their block: what HEADS_FILE holds."""
    return nn.ModuleDict({str(index): head for index, head in heads.items()})


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's weights as safetensors, float32 on the CPU, whole or not at all. Raises WriteError."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with replacing(path, SafetensorError) as partial:
        save_file(state, partial, metadata={"format": "pt"})


def weights_digest(run: Path) -> str:
    """Returns the SHA-256 of a run's weights; "" where there are none. A file that did not change is not read again."""
    try:
        found = (run / BACKBONE_FILE).stat()
    except OSError:
        return ""
    return _digest(run / BACKBONE_FILE, found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=4096)
def _digest(path: Path, *version: int) -> str:
    return sha256(path)


def check_weights(path: Path) -> None:
    """Raises RunError where a file is no whole safetensors file; its tensors are not read."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or no safetensors file ({error}): train or copy it again") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads weights into a module, on the CPU.

    Raises:
        RunError: where the file is missing, truncated, foreign, or holds other names or shapes.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist: is the run finished, and is this its folder?")
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or no safetensors file ({error}): train or copy it again") from error
    expected = module.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        wanted, found = (tuple(d[name].shape) if name in d else None for d in (expected, state))
        if wanted != found:
            raise RunError(
                f"{path} does not fit {CONFIG_FILE}: {name} has shape {found or 'none'}, "
                f"the settings ask for {wanted or 'none'}; both files must come from one run"
            )
    module.load_state_dict(state)
