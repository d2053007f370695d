from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import onnx

from ffcore.files import read_json
from ffexport.subject import choose_probe
from ffmodels.run import Run

# The probe of `ff` reads every block but the first; that of `bp` is the best.
PROBE = "digits-neutral/blocks2-4"


def probe_of(trained, method):
    """The probe in the exported files."""
    return choose_probe(Run.load(trained / method), PROBE if method == "ff" else None)


def reference(run, blocks, reading, images, precision=np.float64, normalise=True):
    """What the features are, in NumPy float64 from the run's weights, and the probe's or None's logits."""
    from safetensors.numpy import load_file

    weights = load_file(run / "backbone.safetensors")
    x = images.reshape(len(images), -1) / 255.0
    if reading == "neutral":
        classes = len(read_json(run / "config.json")["classes"])
        x[:, :classes] = 1 / classes
    elif reading.startswith("label:"):
        classes = len(read_json(run / "config.json")["classes"])
        x[:, :classes] = np.arange(classes) == int(reading.removeprefix("label:"))
    features = []
    for i in range(4):
        x = normalised(x)
        weight, bias = (weights[f"blocks.{i}.0.{part}"] for part in ("weight", "bias"))
        x = np.maximum(x @ weight.astype(precision).astype(np.float64).T + bias.astype(np.float64), 0)
        features.append(normalised(x) if normalise else x)
    return np.concatenate([features[i] for i in blocks], axis=1)


def samples(run, count=64):
    """Images that float32 knows: black, and the run's own. Noise may leave a block one barely active unit, by luck."""
    images, _ = Run.load(run).samples
    images = np.resize(images, (count, *images.shape[1:]))
    images[0] = 0
    return images


def normalised(x):
    return x / np.maximum(np.sqrt((x**2).mean(-1, keepdims=True)), 1e-3)


def softmax(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def metadata(path):
    """What a file of any format says of itself, decoded."""
    if path.suffix == ".onnx":
        stored = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    else:
        with zipfile.ZipFile(path) as archive:
            stored = json.loads(archive.read("model/extra/ffstudy.json"))
    return {key.removeprefix("ffstudy."): json.loads(value) for key, value in stored.items()}


def content(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def untraced(path):
    """Stands for tracing: gives the graph of a file that was written before."""

    def trace(model, opset):
        proto = onnx.load(path)
        assert proto.opset_import[0].version == opset
        return proto

    return trace
