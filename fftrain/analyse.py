"""What each layer keeps of an image, and how alike the layers of two backbones are.

A linear decoder reads the image back from the features of a layer, t-SNE shows them in the plane, and linear CKA
compares two networks. Raw pixels and the backbone before training stand beside the trained one, as in probes.

Letters: N images, C channels, H W pixels, P = C*H*W, D features of a layer, F G features, R = min(N, F).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ffcore.errors import DataError, RunError
from ffcore.files import AnyPath, replacing, sha256
from ffmodels.backbone import MLP, layers_name
from ffmodels.checkpoint import BACKBONE_FILE, load_backbone, read_config
from ffmodels.labels import fill
from fftrain.config import AnalysisConfig
from fftrain.data import ImageData, sample
from fftrain.evaluate import default_slot
from fftrain.features import Features, choices, extract, feature_memory, name_of
from fftrain.own import data_of, recognised
from fftrain.probe import place_name
from fftrain.progress import Reporter
from fftrain.run import RunFolder

ROWS = 1024
# What validation chooses from: lambda of |Y - XW|^2 / N + lambda |W|^2, for centred X of a mean square of 1.
PENALTIES = tuple(10.0**k for k in range(-5, 0))
# Below it t-SNE has no neighbours to keep.
FEWEST_POINTS = 4


def analyse_run(
    run: AnyPath,
    config: AnalysisConfig,
    *,
    accelerator: Accelerator | None = None,
    data: ImageData | None = None,
    dataset: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Decodes the pixels from every layer and from the last three together, and embeds every layer in the plane.

    Writes analysis/DATASET-SLOT.npz (layer1 ... layerL float32 [N, 2], labels int64 [N]) unless `config.points` is 0,
    and adds its result to the run's results.json. With several processes the main one works.

    Args:
        run: a run folder.
        config: the label slot, how many images, and the settings of t-SNE.
        accelerator: where the features are computed; None means the CPU and this process. The rest is float64 on CPUs.
        data: the run's data set, where it is loaded already.
        dataset: its name or place now; None means where it was when the run was trained, or `config.data_dir`.
        reporter: what a person sees.

    Returns:
        {"dataset", "slot", "images", "points": those embedded, "config", "seconds", "decoder": [{"source", "layers",
        "validation", "test", "penalty"}]}, shares of the pixels' variance that are explained: at most 1.

    Raises:
        SettingError, DataError, ImageError, RunError: as the parts that read the run and the data do.
        InUse: where another process works in the run folder.
    """
    result: list[Any] = [None]
    run = Path(run)
    folder = RunFolder(run)
    folder.read_config()  # a claim makes folders: not where there is no run
    with folder.claimed(accelerator):
        if accelerator is None or accelerator.is_main_process:
            device = torch.device("cpu") if accelerator is None else accelerator.device
            data = data_of(run, data, dataset=dataset, data_dir=config.data_dir)
            result = [_analyse(run, config, device, data, reporter or Reporter())]
        if accelerator is not None and accelerator.num_processes > 1:
            broadcast_object_list(result)
    found: dict[str, Any] = result[0]
    return found


def _analyse(
    run: Path, config: AnalysisConfig, device: torch.device, data: ImageData, reporter: Reporter
) -> dict[str, Any]:
    """Does the work of `analyse_run`."""
    began = time.perf_counter()
    folder = RunFolder(run)
    trained = folder.read_config()
    backbone = load_backbone(run)
    networks = {"raw": None, "random": load_backbone(run, untrained=True), trained.method: backbone}
    config = replace(config, slot=config.slot or default_slot(trained.method))
    slot_classes = len(read_config(run)["task"]["class_names"])
    place = f"{place_name(data.name)}-{config.slot}"
    drawn = replace(data, train=sample(data.train, config.images))
    flat = [split.images.flatten(1) for split in (drawn.train, drawn.validation, drawn.test)]
    pixels = Features(flat[0], flat[1], flat[2])

    rows = []
    for source, network in networks.items():
        memory = feature_memory(None)
        with extract(
            network, drawn, str(config.slot), slot_classes, device, reporter, memory=memory, folder=run
        ) as features:
            # One scale for all: a unit that is active on a single training image would explode on others.
            features.standardise_(each=False)
            chosen = choices(network.config.depth) if network else [()]
            for layers in reporter.track(chosen, len(chosen), f"decoding {source}"):
                columns = features
                if network is not None:
                    columns = features.columns(*(n * network.config.width for n in (layers[0], layers[-1] + 1)))
                rows.append({"source": source, "layers": name_of(layers), **decode(columns, pixels)})
        del features, columns
    points = sample(data.validation, config.points) if config.points else data.validation.at(slice(0))
    if len(points) >= FEWEST_POINTS:
        layers_ND = layer_features(backbone, points.images, str(config.slot), slot_classes, device)
        arrays = {
            layers_name([i]): embed(x.numpy(), config.perplexity, config.seed)
            for i, x in enumerate(reporter.track(layers_ND, len(layers_ND), "t-SNE"))
        }
        with replacing(run / "analysis" / f"{place}.npz") as partial, partial.open("wb") as file:
            np.savez_compressed(file, labels=points.labels.numpy(), **arrays)  # type: ignore[arg-type]
    result = {
        "dataset": data.name,
        "slot": config.slot,
        "images": len(drawn.train),
        "points": len(points) if len(points) >= FEWEST_POINTS else 0,
        "config": asdict(config),
        "seconds": time.perf_counter() - began,
        "decoder": rows,
    }
    folder.add_result(("analysis", place), result)
    return result


def decode(features: Features, pixels: Features) -> dict[str, float]:
    """Fits ridge regression from features to pixels in closed form; validation chooses the penalty.

    W = (X'X + N lambda)^-1 X'(Y - mean Y) = X'(XX' + N lambda)^-1 (Y - mean Y), by the smaller of the two matrices, in
    float64.

    Args:
        features: centred, of a mean square of about 1, float32 [N, F].
        pixels: the whole images, uint8 [N, P] of 0 to 255.

    Returns:
        {"validation", "test", "penalty"}: 1 - squared error / squared deviation from the training mean, over all pixels
        together; at most 1, and 0 where no pixel ever deviates.
    """
    N, F = features.train.shape
    mean_P = pixels.train.sum(0).double() / (255 * N)

    def chunks(name: str) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(*(torch.split(getattr(part, name), ROWS) for part in (features, pixels)), strict=True):
            yield x.double(), y.double() / 255 - mean_P

    if F <= N:
        gram_RR, right_RP = torch.zeros(F, F, dtype=torch.float64), torch.zeros(F, len(mean_P), dtype=torch.float64)
        for x, y in chunks("train"):
            gram_RR.addmm_(x.T, x)
            right_RP.addmm_(x.T, y)
    else:
        x_NF, right_RP = (torch.cat(parts) for parts in zip(*chunks("train"), strict=True))
        gram_RR = x_NF @ x_NF.T

    def solve(penalty: float) -> Tensor:
        shifted = gram_RR.clone()
        shifted.diagonal().add_(N * penalty)
        return torch.cholesky_solve(right_RP, torch.linalg.cholesky(shifted))

    def explained(name: str, solved_RP: Tensor) -> float:
        errors = deviations = 0.0
        for x, y in chunks(name):
            # Of few images the weights [F, P] are not formed: they may be larger than all that they are made of.
            errors += (y - (x if F <= N else x @ x_NF.T) @ solved_RP).square().sum().item()
            deviations += y.square().sum().item()
        return 1 - errors / deviations if deviations else 0.0

    best, validation, solved_RP = PENALTIES[0], -math.inf, torch.empty(0)
    for penalty in PENALTIES:
        tried_RP = solve(penalty)
        if (reached := explained("validation", tried_RP)) >= validation:
            best, validation, solved_RP = penalty, reached, tried_RP
    return {"validation": validation, "test": explained("test", solved_RP), "penalty": best}


def embed(features_ND: npt.NDArray[np.float32], perplexity: float, seed: int) -> npt.NDArray[np.float32]:
    """Returns t-SNE's points in the plane, float32 [N, 2], N at least 4; zeros where all rows are alike.

    The perplexity is capped below a third of the points; the same input and seed give the same points.
    """
    from sklearn.manifold import TSNE  # takes a second to import

    N, D = features_ND.shape
    if np.ptp(features_ND, axis=0).max() < 1e-6:
        return np.zeros((N, 2), dtype=np.float32)
    tsne = TSNE(init="pca" if D > 1 else "random", perplexity=min(perplexity, (N - 1) / 3), random_state=seed)
    points: npt.NDArray[np.float32] = tsne.fit_transform(features_ND).astype(np.float32)
    return points


@torch.no_grad()
def layer_features(
    backbone: MLP, images_NCHW: Tensor, slot: str, slot_classes: int, device: torch.device
) -> list[Tensor]:
    """Returns each layer's normalised activations of uint8 images, float32 [N, D] on the CPU."""
    backbone.to(device)
    parts = [
        backbone.features(fill(images.to(device).float() / 255, slot_classes, slot)).cpu()
        for images in torch.split(images_NCHW, ROWS)
    ]
    return [*torch.split(torch.cat(parts), backbone.config.width, dim=1)]


def linear_cka(x_NF: Tensor, y_NG: Tensor) -> float:
    """Returns how alike two representations of the same images are, 0 to 1 (Kornblith et al. 2019, linear CKA).

    |Y'X|^2 / (|X'X| |Y'Y|) for centred columns and Frobenius norms, in float64. It is computed as <XX', YY'> /
    (|XX'| |YY'|), the same number, so that wide features cost little. A constant representation gives 0.0.

    Raises:
        DataError: where the rows are not of the same images.
    """
    if len(x_NF) != len(y_NG):
        raise DataError(f"representations of {len(x_NF)} and of {len(y_NG)} images: give both of the same images")
    return _alike(_centred_gram(x_NF), _centred_gram(y_NG))


def _centred_gram(x_NF: Tensor) -> Tensor:
    """Returns the products of centred rows scaled to norm 1, float64 [N, N]; zeros for a constant representation."""
    x = x_NF.to(torch.float64, copy=True)
    size = x.square().sum()
    x -= x.mean(0)
    # What is left of a constant is the rounding of its mean.
    if x.square().sum() <= 1e-24 * size:
        return torch.zeros(len(x), len(x), dtype=torch.float64)
    gram: Tensor = x @ x.T
    return gram.div_(gram.norm())


def _alike(a_NN: Tensor, b_NN: Tensor) -> float:
    """Returns the product of two Gram matrices of norm 1, 0 to 1."""
    return min(1.0, max(0.0, (a_NN * b_NN).sum().item()))


def compare_runs(
    a: AnyPath,
    b: AnyPath,
    *,
    images: int = 1000,
    data: ImageData | None = None,
    dataset: str | None = None,
    data_dir: str | None = None,
    device: torch.device | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Compares the layers of two runs by linear CKA on the same validation images, each run with its own label slot.

    Args:
        a: a run folder.
        b: a run folder of the same data set, whatever its name.
        images: validation images, drawn by class; all of them where there are fewer.
        data: the data set, where it is loaded already.
        dataset: its name or place now; None means where it was when `a` was trained.
        data_dir: where data sets are kept, or an image folder lies, now; None means where they were.
        device: where the features are computed; None means the CPU.
        reporter: what a person sees.

    Returns:
        {"runs", "methods", "slots", "weights" (SHA-256): of a and b, "images", "layers": names of a's, "layers_of_b",
        "cka": [La x Lb] every layer of a against every layer of b, "cka_untrained": [[La], [Lb]] each layer against
        itself before training, "cka_floor": [La x Lb] the two backbones before training}.

    Raises:
        RunError: where a run cannot be read, or the two are not of the same data set and shape.
        DataError, ImageError: where the data cannot be read.
    """
    a, b = Path(a), Path(b)
    reporter = reporter or Reporter()
    device = device or torch.device("cpu")
    configs = [RunFolder(run).read_config() for run in (a, b)]
    described = [read_config(run) for run in (a, b)]
    told = "digest" if all(found["data"].get("digest") for found in described) else "name"
    for key in ("shape", "class_names", told):
        one, other = (found["data"][key] for found in described)
        if one != other:
            names = " and ".join(found["data"]["name"] for found in described)
            raise RunError(
                f"{a} and {b} ({names}) differ in the data's {key} ({one}, {other}): compare runs of one data set"
            )
    data = data_of(a, data, dataset=dataset, data_dir=data_dir)
    recognised(b, data)
    points = sample(data.validation, images)
    slots = [default_slot(config.method) for config in configs]
    grams: list[list[list[Tensor]]] = []  # of each run: trained, untrained
    for run, found, slot in zip((a, b), described, slots, strict=True):
        classes = len(found["task"]["class_names"])
        networks = [load_backbone(run), load_backbone(run, untrained=True)]
        tracked = reporter.track(networks, 2, f"comparing {run.name}")
        grams.append(
            [[_centred_gram(x) for x in layer_features(n, points.images, slot, classes, device)] for n in tracked]
        )
    (trained_a, untrained_a), (trained_b, untrained_b) = grams
    return {
        "runs": [run.resolve().name for run in (a, b)],
        "methods": [config.method for config in configs],
        "slots": slots,
        "weights": [sha256(run / BACKBONE_FILE) for run in (a, b)],
        "images": len(points),
        "layers": [layers_name([i]) for i in range(len(trained_a))],
        "layers_of_b": [layers_name([i]) for i in range(len(trained_b))],
        "cka": [[_alike(x, y) for y in trained_b] for x in trained_a],
        "cka_untrained": [[_alike(x, y) for x, y in zip(*of, strict=True)] for of in grams],
        "cka_floor": [[_alike(x, y) for y in untrained_b] for x in untrained_a],
    }
