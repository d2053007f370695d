"""The picture of a comparison: latency at each batch size, size, cold start and memory, a bar for each model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffserve.picture import check_picture, drawn

# Okabe and Ito's palette, safe for colour-blind readers; the kind also stands in every name's second line.
COLOURS = {"eager": "#999999", "torchscript": "#E69F00", "pt2": "#CC79A7", "onnx": "#0072B2"}
ACROSS = 3
LONGEST = 30


def draw_chart(result: Mapping[str, Any], path: Path) -> None:
    """Draws what `compare_models` found into an .svg, .png or .pdf.

    Raises:
        UsageError: where the name ends otherwise.
        ModuleNotFoundError: where matplotlib is not installed.
        FFStudyError: where the file cannot be written.
    """
    check_picture("--chart", path)
    models = result["models"]
    panels = _panels(models)
    rows = -(-len(panels) // ACROSS)
    across = -(-len(panels) // rows)
    height = rows * (0.75 + 0.36 * len(models)) + 0.7
    with drawn(path, 8.0, figsize=(1.6 + 2.5 * across, height), layout="constrained") as figure:
        axes = figure.subplots(rows, across, squeeze=False, sharey=True)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, values) in zip(axes.flat, panels.items(), strict=False):
            _draw(ax, title, values, models)
        axes[0, 0].set_yticks(range(len(models)), [_label(model) for model in models])
        axes[0, 0].set_ylim(len(models) - 0.4, -0.6)
        figure.suptitle(_title(result), fontsize=8.0, x=0.01, ha="left")


def _panels(models: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Returns title -> the value of each model, None where it has none."""

    def latency(model: Mapping[str, Any], size: int) -> float | None:
        return next((1e3 * speed["p50_s"] for speed in model["batches"] if speed["batch"] == size), None)

    def scaled(key: str, unit: float) -> list[float | None]:
        return [None if model[key] is None else model[key] / unit for model in models]

    sizes = sorted({speed["batch"] for model in models for speed in model["batches"]})
    return {
        **{f"latency of a batch of {size}, ms": [latency(model, size) for model in models] for size in sizes},
        "size of the file, MB": scaled("bytes", 1e6),
        "cold start of the process, s": scaled("cold_start_s", 1),
        "peak memory, MiB": scaled("peak_memory_bytes", 2**20),
    }


def _draw(ax: Any, title: str, values: Sequence[float | None], models: Sequence[Mapping[str, Any]]) -> None:
    largest = max((value for value in values if value is not None), default=1.0)
    for i, (model, value) in enumerate(zip(models, values, strict=True)):
        if value is None:
            text, colour = ("failed", "#B00020") if model["error"] else ("-", "#222222")
            ax.text(0.02 * largest, i, text, va="center", color=colour, fontsize=7.0)
            continue
        ax.barh(i, value, 0.62, color=COLOURS[model["kind"]])
        ax.text(value + 0.02 * largest, i, _three_digits(value), va="center", fontsize=7.0)
    ax.set_xlim(0, 1.22 * largest)  # room for the numbers
    ax.set_title(title, fontsize=8.0, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="x", color="#DDDDDD", linewidth=0.5)
    ax.set_axisbelow(True)


def _label(model: Mapping[str, Any]) -> str:
    name = model["name"].encode("utf-8", "backslashreplace").decode()
    name = re.sub(r"\s", " ", name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}")
    return f"{name}\n{model['kind']} {model['precision']}"


def _title(result: Mapping[str, Any]) -> str:
    threads, rounds = (result["settings"][key] for key in ("threads", "rounds"))
    return (
        f"{result['machine']['cpu']}, {threads} thread{'s' * (threads != 1)}; "
        f"latency: median of {rounds} interleaved round{'s' * (rounds != 1)}"
    )


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
