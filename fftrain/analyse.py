"""What each block keeps of an image, and how alike the blocks of two backbones are.

A linear decoder reads the image back from the features of a block, t-SNE shows them in the plane, and linear CKA
compares two networks. Raw pixels and the backbone before training stand beside the trained one, as in probes.

Letters: N images, C channels, H W pixels, D features of a block, F G features.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
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
from ffmodels.encoder import Encoder
from ffmodels.linear import blocks_name
from ffmodels.run import BACKBONE_FILE, Run
from fftrain.config import AnalysisConfig
from fftrain.data import ImageData, load_data, sample
from fftrain.decoder import decode
from fftrain.features import Features, choices, columns_of, extract, feature_memory, name_of, rows_at_once
from fftrain.loader import scaled
from fftrain.own import data_of, recognised
from fftrain.probe import place_name
from fftrain.progress import Reporter
from fftrain.run import RunFolder

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
    """Decodes the pixels from every block and from the last three together, and embeds every block in the plane.

    Writes analysis/DATASET-READING.npz (block1 ... blockL float32 [N, 2], labels int64 [N]) unless `config.points` is
    0, and adds its result to the run's results.json. With several processes the main one works.

    Args:
        run: a run folder.
        config: how the pixels are read, how many images, and the settings of t-SNE.
        accelerator: where the features are computed; None means the CPU and this process. The rest is float64 on CPUs.
        data: the run's data set, where it is loaded already.
        dataset: its name or place now; None means where it was when the run was trained, or `config.data_dir`.
        reporter: what a person sees.

    Returns:
        {"dataset", "reading", "images", "points": those embedded, "config", "seconds", "decoder": [{"source", "blocks",
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
    folder, found = RunFolder(run), Run.load(run)
    encoder = found.encoder(config.reading)
    config = config.changed(reading=encoder.reading)
    place = f"{place_name(data.name)}-{encoder.reading}"
    drawn = replace(data, train=sample(data.train, config.images))
    pixels = Features.of_pixels(drawn)

    rows = [{"source": "raw", "blocks": name_of(()), **decode(pixels, pixels)}]
    untrained = found.encoder(encoder.reading, untrained=True)
    for source, read in {"random": untrained, folder.read_config().label: encoder}.items():
        with extract(read, drawn, device, reporter, memory=feature_memory(None), folder=run) as features:
            chosen = choices(read)
            for blocks in reporter.track(chosen, len(chosen), f"decoding {source}"):
                kept = decode(features.columns(columns_of(read, blocks)), pixels)
                rows.append({"source": source, "blocks": name_of(blocks), **kept})
        del features
    points = sample(data.validation, config.points) if config.points else data.validation.at(slice(0))
    if len(points) >= FEWEST_POINTS:
        blocks_ND = block_features(encoder, points.images, device)
        arrays = {
            blocks_name([i]): embed(x.numpy(), config.perplexity, config.seed)
            for i, x in enumerate(reporter.track(blocks_ND, len(blocks_ND), "t-SNE"))
        }
        with replacing(run / "analysis" / f"{place}.npz") as partial, partial.open("wb") as file:
            np.savez_compressed(file, labels=points.labels.numpy(), **arrays)  # type: ignore[arg-type]
    result = {
        "dataset": data.name,
        "reading": encoder.reading,
        "images": len(drawn.train),
        "points": len(points) if len(points) >= FEWEST_POINTS else 0,
        "config": config.to_dict(),
        "seconds": time.perf_counter() - began,
        "decoder": rows,
    }
    folder.add_result(("analysis", place), result)
    return result


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
def block_features(encoder: Encoder, images_NCHW: Tensor, device: torch.device) -> list[Tensor]:
    """Returns each block's features of uint8 images, float32 [N, D] on the CPU."""
    encoder.to(device)
    at_once = rows_at_once(encoder)
    parts = [
        [features.cpu() for features in encoder(scaled(images.to(device)))]
        for images in torch.split(images_NCHW, at_once)
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
        "blocks_of_b", "cka": [La x Lb] every block of a against every block of b, "cka_untrained": [[La], [Lb]] each
        block against itself before training, "cka_floor": [La x Lb] the two backbones before training}.

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
    data = data_of(a, data, dataset=dataset, data_dir=data_dir, load=partial(load_data, training=False))
    recognised(b, data)
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
        "methods": [RunFolder(run).read_config().label for run in (a, b)],
        "readings": readings,
        "weights": [sha256(run / BACKBONE_FILE) for run in (a, b)],
        "images": len(points),
        "blocks": [blocks_name([i]) for i in range(len(trained_a))],
        "blocks_of_b": [blocks_name([i]) for i in range(len(trained_b))],
        "cka": [[_alike(x, y) for y in trained_b] for x in trained_a],
        "cka_untrained": [[_alike(x, y) for x, y in zip(*of, strict=True)] for of in grams],
        "cka_floor": [[_alike(x, y) for y in untrained_b] for x in untrained_a],
    }
