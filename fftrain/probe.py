"""Linear probes: features of the frozen backbone, extracted once, and linear classifiers trained on them.

All settings of a probe are trained in one pass over the features; validation chooses one; the test split is read
once, by that one. The baselines `raw` (pixels) and `random` (the backbone before training) are probed alike.

Letters: N images, B batch, F features, K classes, S settings.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ffmodels.backbone import MLP, last_layers, layers_name
from ffmodels.checkpoint import BACKBONE_FILE, load_backbone, read_config, save_weights
from ffmodels.files import sha256, write_json
from ffmodels.heads import LinearHead, Standardisation
from ffmodels.labels import fill
from fftrain.config import ProbeConfig
from fftrain.data import FOLDER, ImageData, Split, file_name, load_data
from fftrain.evaluate import check_shape, default_slot
from fftrain.progress import Reporter
from fftrain.run import RunFolder

ROWS = 2048
# What validation chooses from: learning rate and decoupled weight decay.
GRID = tuple({"lr": lr, "weight_decay": decay} for lr, decay in itertools.product((1e-3, 1e-4), (0.0, 0.1, 1.0)))


@dataclass(frozen=True)
class Features:
    """Features float32 [N, F] and class labels int64 [N] of the three splits."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def columns(self, start: int, stop: int) -> Features:
        """Returns a view of some features."""
        return Features(self.train[:, start:stop], self.validation[:, start:stop], self.test[:, start:stop])


def probe_run(
    run: Path, config: ProbeConfig, *, device: torch.device | None = None, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Probes every layer of a run's frozen backbone and its last three together, beside the two baselines.

    Writes probes/DATASET-SLOT/LAYERS.safetensors with LAYERS.json, results.json beside them, and the run's
    results.json.

    Args:
        run: a run folder.
        config: the data set (its shape must be the run's) and the probe's settings.
        device: where the features are computed and the probes trained; None means the CPU.
        reporter: what a person sees.

    Returns:
        {"dataset", "slot", "rows": [{"source", "layers", "validation", "test", "settings"}]}, accuracies 0 to 1.

    Raises:
        SettingError, DataError, ImageError, RunError: as the parts that read the run and the data do.
    """
    reporter = reporter or Reporter()
    device = device or torch.device("cpu")
    folder = RunFolder(run)
    trained = folder.read_config()
    backbone, untrained = load_backbone(run), load_backbone(run, untrained=True)
    data = load_data(config)
    check_shape(run, data)
    slot = config.slot or default_slot(trained.method)
    config = replace(config, slot=slot)
    slot_classes = len(read_config(run)["task"]["class_names"])
    out = run / "probes" / f"{place_name(data.name)}-{slot}"

    weights = sha256(run / BACKBONE_FILE)
    rows: list[dict[str, Any]] = []
    for source, network in (("raw", None), ("random", untrained), (trained.method, backbone)):
        features = extract(network, data, slot, slot_classes, device, reporter)
        standardisation = Standardisation.of(features.train)
        for values in (features.train, features.validation, features.test):
            standardisation.apply_(values)
        for layers in [None] if network is None else choices(network.config.depth):
            start, stop = (0, features.train.shape[1])
            if network is not None and layers is not None:
                start, stop = layers[0] * network.config.width, (layers[-1] + 1) * network.config.width
            name = "pixels" if layers is None else layers_name(layers)
            head, found = fit(features.columns(start, stop), data, config, device, reporter, f"{source} {name}")
            row = {"source": source, "layers": name, **found}
            rows.append(row)
            if network is backbone and layers is not None:
                part = Standardisation(standardisation.mean_F[start:stop], standardisation.std_F[start:stop])
                folded = LinearHead.folded(head.linear.weight, head.linear.bias, part)
                described = {
                    "dataset": data.name,
                    "slot": slot,
                    "slot_classes": slot_classes,
                    "layers": list(layers),
                    "backbone_sha256": weights,
                }
                write_json(out / f"{name}.json", {**described, "class_names": list(data.class_names), **found})
                save_weights(folded, out / f"{name}.safetensors")
    result = {"dataset": data.name, "slot": slot, "config": asdict(config), "rows": rows}
    write_json(out / "results.json", result)
    folder.add_result(("probes", out.name), result)
    return result


def place_name(dataset: str) -> str:
    """Returns a data set's name as a folder's; image folders of one name are told apart by a digest of their path."""
    digest = f"-{hashlib.sha256(dataset.encode()).hexdigest()[:6]}" if dataset.startswith(FOLDER) else ""
    return file_name(dataset) + digest


def choices(depth: int) -> list[tuple[int, ...]]:
    """Returns the choices of layers that are probed: each by itself, and the last three together."""
    single: list[tuple[int, ...]] = [(i,) for i in range(depth)]
    return [*single, last_layers(depth)] if depth > 1 else single


@torch.no_grad()
def extract(
    backbone: MLP | None,
    data: ImageData,
    slot: str,
    slot_classes: int,
    device: torch.device,
    reporter: Reporter,
) -> Features:
    """Computes the normalised activations of all layers side by side, or the pixels where there is no backbone."""
    what = "reading pixels" if backbone is None else "extracting features"

    def of(split: Split) -> Tensor:
        def rows(start: int) -> Tensor:
            images = split.images[start : start + ROWS].to(device).float() / 255
            return images.flatten(1) if backbone is None else backbone.features(fill(images, slot_classes, slot))

        # Filled in place: the list of chunks and its concatenation would take twice the memory.
        features = torch.empty(0)
        starts = range(0, len(split), ROWS)
        for start in reporter.track(starts, len(starts), what):
            chunk = rows(start)
            if start == 0:
                features = torch.empty(len(split), chunk.shape[1])
            features[start : start + len(chunk)] = chunk
        return features

    if backbone is not None:
        backbone.to(device)
    return Features(of(data.train), of(data.validation), of(data.test))


def fit(
    features: Features,
    data: ImageData,
    config: ProbeConfig,
    device: torch.device,
    reporter: Reporter,
    what: str,
    grid: Sequence[dict[str, float]] = GRID,
) -> tuple[LinearHead, dict[str, Any]]:
    """Trains a linear classifier for each setting of the grid at once; validation chooses; test is read once.

    Args:
        features: standardised features of the three splits.
        data: the class labels.
        config: epochs, batch size and seed.
        device: where the classifiers are trained.
        reporter: what a person sees.
        what: the name of this probe.
        grid: the settings, of AdamW with a cosine from `lr` to 0.

    Returns:
        The chosen head, and {"validation", "test": accuracies 0 to 1, "settings", "grid": validation of each}.
    """
    F, K = features.train.shape[1], len(data.class_names)
    weights = [torch.zeros(K, F, device=device, requires_grad=True) for _ in grid]
    biases = [torch.zeros(K, device=device, requires_grad=True) for _ in grid]
    groups = [{"params": [w, b], **setting} for w, b, setting in zip(weights, biases, grid, strict=True)]
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)
    rng = np.random.default_rng(config.seed)
    for _ in reporter.track(range(config.epochs), config.epochs, f"probe {what}"):
        order = torch.from_numpy(rng.permutation(len(data.train)))
        for index in torch.split(order, config.batch_size):
            x, labels = features.train[index].to(device), data.train.labels[index].to(device)
            logits_BSK = functional.linear(x, torch.cat(weights), torch.cat(biases)).view(len(x), len(grid), K)
            # Summed over the settings, so that each has the gradient that it would have alone.
            loss = functional.cross_entropy(logits_BSK.flatten(0, 1), labels.repeat_interleave(len(grid))) * len(grid)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        validation = [
            accuracy(w, b, features.validation, data.validation.labels, device)
            for w, b in zip(weights, biases, strict=True)
        ]
        best = int(np.argmax(validation))
        head = LinearHead(F, K)
        head.load_state_dict({"linear.weight": weights[best].cpu(), "linear.bias": biases[best].cpu()})
        test = accuracy(weights[best], biases[best], features.test, data.test.labels, device)
    found = {
        "validation": validation[best],
        "test": test,
        "settings": grid[best],
        "grid": [{**setting, "validation": v} for setting, v in zip(grid, validation, strict=True)],
    }
    reporter.note(f"probe {what}: validation {validation[best]:.4f}  test {test:.4f}  ({grid[best]})")
    return head, found


def accuracy(weight_KF: Tensor, bias_K: Tensor, features_NF: Tensor, labels_N: Tensor, device: torch.device) -> float:
    """Returns the share of right classes, 0 to 1."""
    predicted = [
        functional.linear(x.to(device), weight_KF, bias_K).argmax(-1).cpu() for x in torch.split(features_NF, ROWS)
    ]
    return (torch.cat(predicted) == labels_N).double().mean().item()
