"""How alike the blocks of two networks are: linear CKA (Kornblith et al. 2019).

Letters: N images, F G features.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ffcore.errors import DataError, RunError
from ffcore.files import AnyPath
from ffmodels.encoder import Encoder
from ffmodels.linear import blocks_name
from ffmodels.run import Run, weights_digest
from fftrain.data import ImageData, load_data, sample
from fftrain.features import rows_at_once
from fftrain.loader import scaled
from fftrain.own import data_of, recognised
from fftrain.progress import Reporter
from fftrain.run import settings_of
from fftrain.stored import Pictures, in_parts


@torch.no_grad()
def block_features(encoder: Encoder, images_NCHW: Pictures, device: torch.device) -> list[Tensor]:
    """Returns each block's features of uint8 images, float32 [N, D] on the CPU."""
    encoder.to(device)
    parts = [
        [features.cpu() for features in encoder(scaled(images.to(device)))]
        for images in in_parts(images_NCHW, rows_at_once(encoder))
    ]
    return [torch.cat(of_block) for of_block in zip(*parts, strict=True)]


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
    """Compares the blocks of two runs by linear CKA on the same validation images, each as its method reads them.

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
        {"runs", "methods", "readings", "weights" (SHA-256): of a and b, "images", "blocks": names of a's,
        "blocks_of_b", "cka": [La x Lb] every block of a against every block of b, "cka_floor": [La x Lb] the two
        backbones before training}.

    Raises:
        RunError: where a run cannot be read, or the two are not of the same data set and shape.
        DataError, ImageError: where the data cannot be read.
    """
    a, b = Path(a), Path(b)
    reporter = reporter or Reporter()
    device = device or torch.device("cpu")
    found = [Run.load(run) for run in (a, b)]
    for key in ("shape", "class_names", "digest"):
        one, other = (run.data.get(key) for run in found)
        if one != other:
            names = " and ".join(run.data["name"] for run in found)
            raise RunError(
                f"{a} and {b} ({names}) differ in the data's {key} ({one}, {other}): compare runs of one data set"
            )
    data = data_of(found[0], data, dataset=dataset, data_dir=data_dir, load=partial(load_data, training=False))
    recognised(found[1], data)
    points = sample(data.validation, images)
    readings: list[str] = []
    grams: list[list[list[Tensor]]] = []  # of each run: trained, untrained
    for run in found:
        encoders = [run.encoder(), run.encoder(untrained=True)]
        readings.append(encoders[0].reading)
        tracked = reporter.track(encoders, 2, f"comparing {run.path.name}")
        grams.append([[_centred_gram(x) for x in block_features(e, points.images, device)] for e in tracked])
    (trained_a, untrained_a), (trained_b, untrained_b) = grams
    return {
        "runs": [run.resolve().name for run in (a, b)],
        "methods": [settings_of(run).label for run in found],
        "readings": readings,
        "weights": [weights_digest(run) for run in (a, b)],
        "images": len(points),
        "blocks": [blocks_name([i]) for i in range(len(trained_a))],
        "blocks_of_b": [blocks_name([i]) for i in range(len(trained_b))],
        "cka": [[_alike(x, y) for y in trained_b] for x in trained_a],
        "cka_floor": [[_alike(x, y) for y in untrained_b] for x in untrained_a],
    }
