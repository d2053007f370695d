"""Linear probes: features of the frozen encoder, extracted once, and linear classifiers trained on them.

All settings of a probe are trained in one pass over the features; validation chooses one; the test split is read
once, by that one. The baselines `raw` (pixels) and `random` (the backbone before training) are probed alike.

Letters: N images, B batch, F features, K classes, S settings, Q = S*K classes of all settings side by side.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.files import AnyPath, sha256, write_json
from ffmodels.encoder import Encoder
from ffmodels.linear import LinearHead, Standardisation
from ffmodels.run import BACKBONE_FILE, Run, save_weights
from fftrain.baselines import Baselines
from fftrain.config import ProbeConfig
from fftrain.data import ImageData, file_name, load_data
from fftrain.evaluate import load_together, pretext_data, view_of
from fftrain.features import Features, choices, columns_of, extract, feature_memory, name_of
from fftrain.own import to_probe
from fftrain.parts import FOLDER
from fftrain.progress import Reporter
from fftrain.run import RunFolder

# What validation chooses from: learning rate and decoupled weight decay.
GRID = tuple({"lr": lr, "weight_decay": decay} for lr, decay in itertools.product((1e-3, 1e-4), (0.0, 0.1, 1.0)))


def probe_run(
    run: AnyPath,
    config: ProbeConfig,
    *,
    accelerator: Accelerator | None = None,
    data: ImageData | None = None,
    baselines: AnyPath | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Probes every block of a run's frozen backbone and its last three together, beside the two baselines.

    Writes probes/DATASET-READING/BLOCKS.safetensors with BLOCKS.json, results.json beside them, and the run's
    results.json. Several processes share out the probes: every process calls this, and the figures are those of one.

    Args:
        run: a run folder.
        config: the data set (its shape must be the run's; None means the run's own) and the probe's settings.
        accelerator: devices and processes; None means the CPU and this process.
        data: the data set, where it is loaded already. What the run was trained on counts as that under any name.
        baselines: a folder that keeps the rows of `raw` and `random`, so that runs which share them compute them once.
        reporter: what a person sees.

    Returns:
        {"dataset", "reading", "target", "config", "seconds", "rows": [{"source", "blocks", "validation", "test",
        "settings", "grid"}]}, accuracies 0 to 1.

    Raises:
        SettingError, DataError, ImageError, RunError: as the parts that read the run and the data do.
        RunError: where features that exceed the memory do not fit on the run folder's disk either.
        InUse: where another process works in the run folder.
    """
    folder = RunFolder(run)
    folder.read_config()  # a claim makes folders: not where there is no run
    rows = None if baselines is None else Path(baselines)
    with folder.claimed(accelerator):
        return _probe(folder.path, config, accelerator, data, rows, reporter or Reporter())


def _probe(
    run: Path,
    config: ProbeConfig,
    accelerator: Accelerator | None,
    data: ImageData | None,
    baselines: Path | None,
    reporter: Reporter,
) -> dict[str, Any]:
    """Does the work of `probe_run`."""
    began = time.perf_counter()
    process, processes, main = 0, 1, True
    device = torch.device("cpu")
    if accelerator is not None:
        process, processes = accelerator.process_index, accelerator.num_processes
        main, device = accelerator.is_main_process, accelerator.device
    folder, found = RunFolder(run), Run.load(run)
    trained = folder.read_config()
    encoder = found.encoder(config.reading)
    reading = encoder.reading
    networks = {"random": found.encoder(reading, untrained=True), trained.label: encoder}
    encoders: dict[str, Encoder | None] = {"raw": None, **networks}
    load = load_data if accelerator is None else partial(load_together, accelerator=accelerator)
    config, data = to_probe(run, config, data, load)
    for text in data.notes if data.name != trained.dataset else ():
        reporter.note(text)
    if config.target == "pretext":
        data = pretext_data(found, data)
    if not data.class_names:
        made = ", or on what the view makes (--target pretext)" if view_of(found).pretext else ""
        raise SettingError(
            f"{data.name} has no classes to tell apart: probe on a labelled data set of this shape (--dataset){made}"
        )
    config = config.changed(reading=reading)
    asked = "" if config.target == "class" else f"-{file_name(trained.view.part_name)}"
    out = run / "probes" / f"{place_name(data.name)}-{reading}{asked}"
    about = {
        "dataset": data.name,
        "reading": reading,
        "target": config.target,
        "backbone_sha256": sha256(run / BACKBONE_FILE),
        "class_names": list(data.class_names),
    }
    shared = Baselines(baselines, found, data, config, GRID) if baselines is not None else None
    memory = feature_memory(config.feature_memory) / processes

    jobs = [(source, blocks) for source, encoder in encoders.items() for blocks in choices(encoder)]
    widths = [sum(networks[s].dims[i] for i in blocks) if blocks else math.prod(data.shape) for s, blocks in jobs]
    rows: dict[int, dict[str, Any]] = {}
    mine = range(process, len(jobs), processes)
    if shared is not None:
        rows = {i: row for i in mine if jobs[i][0] != trained.label and (row := shared.read(*jobs[i]))}
    todo = [i for i in mine if i not in rows]

    def measure(source: str, wanted: Sequence[int]) -> None:
        encoder = encoders[source]
        with (
            nullcontext(Features.of_pixels(data))
            if encoder is None
            else extract(encoder, data, device, reporter, memory=memory, folder=run)
        ) as features:
            standardisation = Standardisation.none(features.train.shape[1])
            if config.standardise:
                features, standardisation = features.standardised()
            for i in wanted:
                blocks = jobs[i][1]
                columns, name = columns_of(encoder, blocks), name_of(blocks)
                what = f"{todo.index(i) + 1}/{len(todo)} {out.name}, {source} {name}"
                part = features.columns(columns)
                # A probe takes as long as its features are wide.
                ahead = sum(widths[j] for j in todo if j > i) / widths[i]
                head, reached = fit(part, data, config, device, reporter, what, ahead=config.epochs * ahead)
                rows[i] = {"source": source, "blocks": name, **reached}
                if source == trained.label:
                    folding = Standardisation(standardisation.mean_F[columns], standardisation.std_F[columns])
                    folded = LinearHead.folded(head.linear.weight, head.linear.bias, folding)
                    write_json(out / f"{name}.json", {**about, "blocks": list(blocks), "source": source, **reached})
                    save_weights(folded, out / f"{name}.safetensors")
                elif shared is not None:
                    shared.write(blocks, rows[i])

    for source in encoders:
        if wanted := [i for i in todo if jobs[i][0] == source]:
            measure(source, wanted)
    if processes > 1:
        rows = dict(gather_object([*rows.items()]))
    result = {
        "dataset": data.name,
        "reading": reading,
        "target": config.target,
        "config": config.to_dict(),
        "seconds": time.perf_counter() - began,
        "rows": [rows[i] for i in range(len(jobs))],
    }
    if main:
        write_json(out / "results.json", result)
        folder.add_result(("probes", out.name), result)
    if accelerator is not None:
        accelerator.wait_for_everyone()
    return result


def place_name(dataset: str) -> str:
    """Returns a data set's name as a folder's; image folders of one name are told apart by a digest of their path."""
    digest = f"-{hashlib.sha256(dataset.encode()).hexdigest()[:6]}" if dataset.startswith(FOLDER) else ""
    return file_name(dataset) + digest


def fit(
    features: Features,
    data: ImageData,
    config: ProbeConfig,
    device: torch.device,
    reporter: Reporter,
    what: str,
    grid: Sequence[dict[str, float]] = GRID,
    ahead: float = 0.0,
) -> tuple[LinearHead, dict[str, Any]]:
    """Trains a linear classifier for each setting of the grid at once; validation chooses; test is read once.

    A step gathers its rows into one small buffer that stays in the processor's cache for both products.

    Args:
        features: of the three splits, standardised where that is wanted, or the pixels.
        data: the class labels.
        config: epochs, batch size and seed.
        device: where the classifiers are trained.
        reporter: what a person sees.
        what: the name of this probe.
        grid: the settings, of AdamW with a cosine from `lr` to 0.
        ahead: the work that comes after this probe, in its epochs: for the time that is left.

    Returns:
        The chosen head, and {"validation", "test": accuracies 0 to 1, "settings", "grid": validation of each}.
    """
    F, K, S = features.train.shape[1], len(data.class_names), len(grid)
    weight_QF, bias_Q = torch.zeros(S * K, F, device=device), torch.zeros(S * K, device=device)
    weight_grad_QF, bias_grad_Q = torch.zeros_like(weight_QF), torch.zeros_like(bias_Q)
    weights, biases = torch.split(weight_QF, K), torch.split(bias_Q, K)
    grads = [*torch.split(weight_grad_QF, K), *torch.split(bias_grad_Q, K)]
    for part, grad in zip([*weights, *biases], grads, strict=True):
        part.grad = grad
    groups = [{"params": [w, b], **setting} for w, b, setting in zip(weights, biases, grid, strict=True)]
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)
    rng = np.random.default_rng(config.seed)
    buffer_BF = torch.empty(min(config.batch_size, len(data.train)), F)
    with torch.no_grad():
        for _ in reporter.track(range(config.epochs), config.epochs, f"probe {what}", ahead):
            order = torch.from_numpy(rng.permutation(len(data.train)))
            for index in torch.split(order, config.batch_size):
                x_BF = features.gather(index, buffer_BF[: len(index)]).to(device)
                labels_BK = functional.one_hot(data.train.labels[index].to(device), K)
                logits_SKB = torch.addmm(bias_Q[:, None], weight_QF, x_BF.T).view(S, K, -1)
                # The gradient of each setting's mean cross-entropy: (softmax - one-hot) / B.
                error_QB = logits_SKB.softmax(1).sub_(labels_BK.T).div_(len(index)).flatten(0, 1)
                torch.mm(error_QB, x_BF, out=weight_grad_QF)
                torch.sum(error_QB, 1, out=bias_grad_Q)
                optimizer.step()
            schedule.step()
        validation = [
            accuracy(w, b, features.chunks("validation"), data.validation.labels, device)
            for w, b in zip(weights, biases, strict=True)
        ]
        best = int(np.argmax(validation))
        head = LinearHead(F, K)
        head.load_state_dict({"linear.weight": weights[best].cpu(), "linear.bias": biases[best].cpu()})
        test = accuracy(weights[best], biases[best], features.chunks("test"), data.test.labels, device)
    found = {
        "validation": validation[best],
        "test": test,
        "settings": grid[best],
        "grid": [{**setting, "validation": v} for setting, v in zip(grid, validation, strict=True)],
    }
    chosen = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in grid[best].items())
    reporter.note(f"probe {what}: validation {validation[best]:.4f} ({chosen})")
    return head, found


def accuracy(
    weight_KF: Tensor, bias_K: Tensor, chunks_BF: Iterable[Tensor], labels_N: Tensor, device: torch.device
) -> float:
    """Returns the share of right classes, 0 to 1, of a split's features, given some rows at once."""
    predicted = [functional.linear(x.to(device), weight_KF, bias_K).argmax(-1).cpu() for x in chunks_BF]
    return (torch.cat(predicted) == labels_N).double().mean().item()
