"""Weights that travel: safetensors beside the settings that build the network, checked on load.

backbone.safetensors + config.json["model"], and probes/DATASET-SLOT/LAYERS.safetensors + LAYERS.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ffcore.errors import FFStudyError, RunError
from ffcore.files import AnyPath, read_json, replacing
from ffmodels.backbone import MLP, BackboneConfig
from ffmodels.heads import LinearHead

BACKBONE_FILE = "backbone.safetensors"
CONFIG_FILE = "config.json"
# What every reader of a run folder may rely on.
SECTIONS = {
    "config": {"method", "task", "seed"},
    "model": {"backbone", "shape", "width", "depth", "normalisation"},
    "data": {"name", "shape", "class_names"},
    "task": {"name", "class_names", "slot"},
}


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's weights as safetensors, float32 on the CPU, whole or not at all. Raises WriteError."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with replacing(path, SafetensorError) as partial:
        save_file(state, partial, metadata={"format": "pt"})


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


def read_config(run: Path) -> dict[str, Any]:
    """Reads a run folder's config.json.

    Raises:
        RunError: where the folder or the file is missing or damaged.
    """
    if not run.is_dir():
        raise RunError(f"{run} is not a run folder: `fftrain pretrain --out {run}` makes one")
    config = read_json(run / CONFIG_FILE)
    for part, keys in SECTIONS.items():
        section = config.get(part) if isinstance(config, dict) else None
        lacking = keys - section.keys() if isinstance(section, dict) else keys
        if lacking:
            raise RunError(f"{run / CONFIG_FILE} lacks {part}.{min(lacking)}: restore it, or train the run again")
    found: dict[str, Any] = config
    return found


def load_backbone(run: AnyPath, *, untrained: bool = False) -> MLP:
    """Loads a run's frozen backbone, in evaluation mode, on the CPU.

    Args:
        run: a run folder.
        untrained: give the same backbone as it was before training: the `random` baseline.

    Raises:
        RunError: where the folder, its settings or its weights are missing, damaged or do not fit.
    """
    run = Path(run)
    config = read_config(run)
    try:
        backbone = BackboneConfig(**config["model"]).build(config["config"]["seed"])
    except (FFStudyError, TypeError, KeyError) as error:
        raise RunError(f"{run / CONFIG_FILE} describes no backbone ({error}): train the run again") from error
    if not untrained:
        load_weights(backbone, run / BACKBONE_FILE)
    return backbone.eval().requires_grad_(False)


def load_head(path: AnyPath, features: int, classes: int) -> LinearHead:
    """Loads a probe, in evaluation mode, on the CPU.

    Raises:
        RunError: where the file is missing, damaged, or of another shape.
    """
    head = LinearHead(features, classes)
    load_weights(head, Path(path))
    return head.eval().requires_grad_(False)


def read_samples(run: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads a run's validation images uint8 [N, C, H, W] and their class labels int64 [N], N at least 1.

    Raises:
        RunError: where they are missing, damaged, or of another shape than the run's.
    """
    path, shape = run / "samples.npz", tuple(read_config(run)["data"]["shape"])
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(f"{path} is missing or damaged ({error}): train the run again") from error
    if images.dtype != np.uint8 or images.shape[1:] != shape or not 0 < len(images) == len(labels):
        raise RunError(f"{path} holds {images.dtype} {images.shape}, not uint8 images of {shape}: train the run again")
    return images, labels
