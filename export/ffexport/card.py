"""The model card: what the exported files are, in words, behind what the Hugging Face Hub reads (`card_data`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ffcore.images import READING
from ffexport.card_data import card_data
from ffexport.describe import public, public_settings
from ffmodels.run import Run

CARD = """---
{data}
---

# {method} on {dataset}

Backbone {backbone}, pretrained on {dataset}: method {method}, view {view}, cut {cut}, at {at}.

## Input and outputs
- `images`: uint8 [batch, {channels}, {height}, {width}], raw pixels 0 to 255. Scaling, and what the
  pixels carry beside the image, are inside the model.
- Files are read so: {reading}. {pictures}
{outputs}

## Files
{files}

Differences are the largest from the model in float64 over real, random, black, white and faint images and a dead block,
in batches of 1, 7 and 256; beside them those of the trained model in float32 on the same images. Where those are large,
float32 does not know an image (one barely active unit), and no file does. `fp32` computes the same numbers; `fp16` and
`int8` come near, and are measured on validation images:

{lossy}

## Settings
{settings}

Made by ffstudy {version}. Use a file with `ffserve predict --model model.onnx image.png`; on the Hugging Face Hub it is
`--model hf://OWNER/NAME`.
"""
HEADS = {
    "probe": "a linear probe, {probe}",
    "readout": "the method's own classes: `logits` are its scores, `probabilities` softmax(logits / temperature), the "
    "temperature set so that they are as sure as they are right",
    "none": "features alone",
}


def card(run: Run, manifest: Mapping[str, Any]) -> str:
    """Returns the card as Markdown.

    Args:
        run: the run.
        manifest: what manifest.json holds.
    """
    config, (channels, height, width) = run.config, run.shape
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    return CARD.format(
        data=card_data(run, manifest),
        dataset=public(run.data["name"]),
        **{part: public(config[part]["name"]) for part in ("view", "backbone", "method")},
        **{key: config[key] for key in ("cut", "at")},
        channels=channels,
        height=height,
        width=width,
        reading=", ".join(f"{key.replace('_', ' ')} {value}" for key, value in READING.items()),
        pictures=_pictures(next(iter(files.values())).get("ink")),
        outputs="\n".join(_heads(files, manifest["blocks"])),
        files=_table(
            ["file", "bytes", "largest difference", "float32's own", "of its size", "same class", "SHA-256"],
            [
                [
                    name,
                    f"{about['bytes']:,}",
                    f"{about['largest_difference']:.2g}",
                    f"{about['float32_difference']:.2g}" if "float32_difference" in about else "",  # not in version 0.1
                    f"{about['relative_error']:.2g}",
                    _share(about["same_class"]),
                    about["sha256"],
                ]
                for name, about in files.items()
            ],
        ),
        lossy=_lossy(files),
        settings=", ".join(_settings(config)),
        version=manifest["version"],
    )


def _pictures(ink: Mapping[str, Any] | None) -> str:
    """Returns what the images are that the model was trained on, and what `ffserve` makes of others."""
    if ink is None:
        return "They are no drawings: `ffserve` leaves images as they are, transparency over the mean of the border."
    which = "light ink on dark" if ink["ink"] > ink["ground"] else "dark ink on light"
    alike = ink["longest"] is not None
    placed = f", {ink['longest']:g} pixels long and placed alike" if alike else ""
    so = " and places it so" if alike else ""
    return f"They are drawings, {which} ground{placed}: `ffserve` takes ink off any ground{so}."


def _heads(files: Mapping[str, Mapping[str, Any]], blocks: int) -> list[str]:
    """Returns a line for each head: what its files answer, and how well."""
    lines = []
    for head in dict.fromkeys(about["head"] for about in files.values()):
        about = next(about for about in files.values() if about["head"] == head)
        named = ", ".join(f"`{name}`" for name, other in files.items() if other["head"] == head)
        outputs = "; ".join(f"`{o['name']}` {o['dtype']} [batch, {o['shape'][1]}]" for o in about["outputs"])
        accuracy = ", ".join(f"{value:.4f} on {split}" for split, value in (about["accuracy"] or {}).items())
        lines.append(f"- {named}: {HEADS[head].format(probe=about['probe'])}. {outputs}.")
        features = about["features"]
        lines.append(f"  Features of {features['blocks']} of {blocks}, reading {features['reading']}; nothing is in it")
        lines.append("  that no output reads.")
        if about["class_names"]:
            lines.append(f"  Classes: {', '.join(about['class_names'])}. Accuracy as trained: {accuracy}.")
    return lines


def _settings(config: Mapping[str, Any]) -> list[str]:
    """Returns the settings in words, those of a part behind its name; not where things lay."""
    found = []
    for key, value in public_settings(config).items():
        if isinstance(value, Mapping):
            own = ", ".join(f"{k} {v}" for k, v in value.items() if k != "name")
            found.append(f"{key} {value['name']}" + (f" ({own})" if own else ""))
        elif key != "dataset":
            found.append(f"{key} {value}")
    return found


def _lossy(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what files of lower precision answer on validation images."""
    measured = {name: about for name, about in files.items() if about["validation"]}
    if not measured:
        return "No such file was exported."
    rows = []
    for name, about in measured.items():
        figures, int8 = about["validation"], about.get("int8")
        rows.append(
            [
                name,
                f"{figures['images']:,} ({figures['source']})",
                _share(figures.get("same_class")),
                _share(figures.get("accuracy")),
                _share(figures.get("accuracy_fp32")),
                "" if int8 is None else f"{int8['scheme']}, on {int8['cpu']['model']} {_vnni(int8['cpu'])}",
            ]
        )
    return _table(["file", "images", "same class", "accuracy", "accuracy of fp32", "quantised"], rows)


def _vnni(cpu: Mapping[str, Any]) -> str:
    """Returns whether a CPU has the instructions that INT8's speed and rounding depend on, in words."""
    flags = {name: cpu[name] for name in ("avx512_vnni", "avx_vnni")}
    if None in flags.values():
        return "(VNNI unknown)"
    return f"({', '.join(name for name, there in flags.items() if there) or 'no VNNI'})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}%"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
