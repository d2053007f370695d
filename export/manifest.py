"""manifest.json: what lies in an export folder, of which weights, and how near it is to what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ffexport.subject import Subject
from ffmodels.checkpoint import BACKBONE_FILE
from ffmodels.files import read_json, sha256


def make_manifest(out: Path, subject: Subject, written: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the manifest of a folder: of what was written now, and before from the same weights.

    Args:
        out: the folder, with the manifest of what was written before.
        subject: what is exported.
        written: file name -> what `Maker.make` says of it.

    Returns:
        {"version", "backbone_sha256", "probe": of the files with that head, or None, "inputs": [{"name", "dtype",
        "shape"}], "files": name -> what was measured of it, with its "outputs", "class_names", "accuracy" as
        trained, "probe" and "probe_sha256"}.
    """
    shape = list(subject.model.backbone.config.shape)
    manifest: dict[str, Any] = {
        "version": version("ffstudy"),
        "backbone_sha256": sha256(subject.run / BACKBONE_FILE),
        "probe": None,
        "inputs": [{"name": "images", "dtype": "uint8", "shape": ["batch", *shape]}],
    }
    head = {
        "probe": subject.probe.name if subject.probe else None,
        "probe_sha256": sha256(subject.probe.path) if subject.probe else None,
        "class_names": list(subject.class_names) if subject.class_names else None,
        "accuracy": subject.accuracy or None,
        "outputs": [
            {"name": name, "dtype": "float32", "shape": ["batch", width]}
            for name, width in subject.model.outputs.items()
        ],
    }
    files = {**_before(out, manifest, head), **{name: {**head, **about} for name, about in written.items()}}
    probes = [about["probe"] for about in files.values() if about["probe"] is not None]
    return {**manifest, "probe": next(iter(probes), None), "files": dict(sorted(files.items()))}


def _before(out: Path, manifest: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the files of the manifest that is there, without those of other weights or another probe."""
    place = out / "manifest.json"
    before = read_json(place) if place.exists() else None
    if not isinstance(before, dict) or before.get("backbone_sha256") != manifest["backbone_sha256"]:
        return {}
    another = None if head["probe"] is None else (head["probe"], head["probe_sha256"])
    kept = {}
    for name, about in before["files"].items():
        probe = None if about["probe"] is None else (about["probe"], about["probe_sha256"])
        if (out / name).is_file() and (probe is None or another is None or probe == another):
            kept[name] = about
    return kept
