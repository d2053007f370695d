"""The model card: what an exported model is, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = """# {title}

{method} backbone, pretrained on {dataset} with the pretext task {task} (arXiv 2309.11955){probe}.

## Input and outputs
- `images`: uint8 [batch, {channels}, {height}, {width}], raw pixels 0 to 255. Scaling and the label slot ({slot}) are
  inside the model.
- Files are read so: {reading}.
{outputs}

## Accuracy
{accuracy}

## Files
| file | bytes | largest difference from the eager model | SHA-256 |
| --- | --- | --- | --- |
{files}

## Settings
{settings}

Made by ffstudy {version}. Use it with `ffserve predict --model model.onnx image.png`.
"""


def card(about: Mapping[str, Any], config: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Returns the card as Markdown.

    Args:
        about: the file's own metadata, decoded.
        config: the run's config.json.
        manifest: what manifest.json holds.
    """
    probe, classes = about.get("probe"), about.get("class_names")
    outputs = [f"- `{o['name']}`: {o['dtype']} {o['shape']}" for o in manifest["outputs"]]
    if classes:
        outputs.append(f"- Classes: {', '.join(classes)}.")
    accuracy = "No probe: the model gives features alone."
    if probe:
        accuracy = (
            f"Linear probe on {probe['dataset']}: {probe['validation']:.4f} on validation, {probe['test']:.4f} on test."
        )
    settings = ", ".join(f"{k} {v}" for k, v in config["config"].items() if k not in ("data_dir", "dataset", "threads"))
    return CARD.format(
        title=f"{about['method']} {about['task']} on {about['dataset']}",
        method=about["method"],
        dataset=about["dataset"],
        task=about["task"],
        probe=f", and a linear probe of {about['layers']} on {probe['dataset']}" if probe else "",
        slot=about["slot"],
        reading=", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about["reading"].items()),
        outputs="\n".join(outputs),
        accuracy=accuracy,
        files="\n".join(
            f"| {name} | {f['bytes']} | {f['largest_difference']:.2g} | {f['sha256']} |"
            for name, f in manifest["files"].items()
        ),
        settings=settings,
        version=about["version"],
        **about["image"],
    )
