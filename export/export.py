"""From a run folder to runs/NAME/export/: the file, its manifest, its card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ffexport.card import card
from ffexport.graph import choose_probe, describe, load_deployed, with_dead_layer
from ffexport.parity import cases, check_parity
from ffexport.registry import ATOL, FORMATS
from ffmodels.checkpoint import BACKBONE_FILE, CONFIG_FILE, read_config, read_samples
from ffmodels.errors import RunError, SettingError
from ffmodels.files import read_json, replacing, sha256, write_json, write_text


def newest_run(root: Path = Path("runs")) -> Path:
    """Returns the run below a folder whose backbone was written last.

    Raises:
        RunError: where there is none.
    """
    found = [p for p in root.rglob("backbone.safetensors") if (p.parent / CONFIG_FILE).is_file()]
    if not found:
        raise RunError(
            f"there is no finished run under {root}/: name a run folder, or make one with `fftrain pretrain`"
        )
    return max(found, key=lambda p: p.stat().st_mtime).parent


def export_run(
    run: Path,
    formats: Sequence[str] = ("onnx",),
    *,
    probe: str | None = None,
    out: Path | None = None,
    atol: float = ATOL,
) -> dict[str, Any]:
    """Exports a run's frozen backbone with a probe, each file checked against the eager model before it is in place.

    Args:
        run: a run folder.
        formats: names in `FORMATS`.
        probe: `DATASET-SLOT/LAYERS`; None takes the best on validation, `none` the bare backbone.
        out: where the files go; None means `run/export`.
        atol: the largest difference from the eager model, plus as much relative to an output's largest value.

    Returns:
        The manifest: files with SHA-256, bytes and parity figures, inputs, outputs.

    Raises:
        RunError, SettingError: where the run, the probe or the format is not there or is damaged.
        ExportError: where a file would not compute what was trained; nothing of it is left.
    """
    if not atol > 0:
        raise SettingError(f"--atol is {atol}: it must be above 0")
    for name in formats:
        FORMATS.check(name)
    out = out or run / "export"
    config = read_config(run)
    chosen = choose_probe(run, probe)
    model = load_deployed(run, chosen)
    samples, _ = read_samples(run)
    metadata = describe(run, model, chosen, torch.from_numpy(samples))
    batches = cases(model.backbone.config.shape, samples)
    about = {key.removeprefix("ffstudy."): json.loads(value) for key, value in metadata.items()}
    weights = {"backbone": sha256(run / BACKBONE_FILE), "probe": sha256(chosen.path) if chosen else None}
    head = {
        "probe": chosen.name if chosen else None,
        "weights_sha256": weights,
        "inputs": _inputs(model),
        "outputs": _outputs(model),
    }
    manifest: dict[str, Any] = {**head, "files": {}}
    if (out / "manifest.json").exists():
        before = read_json(out / "manifest.json")
        # Files of other weights or another probe are not described by this manifest.
        if isinstance(before, dict) and {k: before.get(k) for k in head} == head:
            manifest["files"] = {n: f for n, f in before["files"].items() if (out / n).is_file()}
    for name in formats:
        form = FORMATS.load(name)
        with replacing(out / form.file_name) as partial:
            form.write(model, partial, metadata)
            parity = check_parity(model, form.load(partial), batches, atol)
            dead, dead_path = with_dead_layer(model), partial.with_suffix(".dead")
            try:
                form.write(dead, dead_path, metadata)
                case = {"samples": batches["samples"][:2]}
                parity["dead layer"] = check_parity(dead, form.load(dead_path), case, atol)["samples"]
            finally:
                dead_path.unlink(missing_ok=True)
            manifest["files"][form.file_name] = {
                "bytes": partial.stat().st_size,
                "sha256": sha256(partial),
                "atol": atol,
                "largest_difference": max(figures["largest_difference"] for figures in parity.values()),
                "same_class": parity["samples"].get("same_class"),
                "parity": parity,
            }
    write_json(out / "manifest.json", manifest)
    write_text(out / "card.md", card(about, config, manifest))
    return {"run": str(run), "out": str(out), **manifest}


def _inputs(model: Any) -> list[dict[str, Any]]:
    return [{"name": "images", "dtype": "uint8", "shape": ["batch", *model.backbone.config.shape]}]


def _outputs(model: Any) -> list[dict[str, Any]]:
    widths = [len(model.layers) * model.backbone.config.width]
    if model.head is not None:
        widths += [model.head.linear.out_features] * 2
    return [
        {"name": name, "dtype": "float32", "shape": ["batch", width]}
        for name, width in zip(model.output_names, widths, strict=True)
    ]
