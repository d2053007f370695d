"""manifest.json: what lies in an export folder, of which weights, and how near it is to what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ffcore.errors import RunError
from ffcore.files import read_json, sha256
from ffexport.describe import public
from ffexport.subject import Subject
from ffmodels.linear import blocks_name
from ffmodels.run import BACKBONE_FILE
from ffserve.metadata import MANIFEST


def make_manifest(
    out: Path,
    subject: Subject,
    written: Mapping[str, Mapping[str, Any]],
    before: Mapping[str, Any],
    license: str | None = None,
) -> dict[str, Any]:
    """Returns the manifest of a folder: of what was written now, and before from the same weights.

    Args:
        out: the folder.
        subject: what is exported.
        written: file name -> what `Maker.make` says of it.
        before: what `read_before` gives.
        license: of the weights; None means what was said before.

    Returns:
        {"version", "license", "backbone_sha256", "blocks": how many were trained, "probe": of the files with that head,
        or None, "inputs": [{"name", "dtype", "shape"}], "files": name -> what was measured of it, with its "outputs",
        "class_names", the "dataset" and "target" that they are of, "accuracy" as trained, "features" (their "blocks"
        and "reading"), "ink" of its run's images,
        "probe" and "probe_sha256"}.
    """
    manifest: dict[str, Any] = {
        "version": version("ffstudy"),
        "license": license or before.get("license"),
        "backbone_sha256": sha256(subject.run.path / BACKBONE_FILE),
        "blocks": len(subject.model.encoder.dims),
        "probe": None,
        "inputs": [{"name": "images", "dtype": "uint8", "shape": ["batch", *subject.run.shape]}],
    }
    head = {
        "probe": subject.probe.name if subject.probe else None,
        "probe_sha256": sha256(subject.probe.path) if subject.probe else None,
        "class_names": list(subject.class_names) if subject.class_names else None,
        "dataset": public(subject.probe.about["dataset"] if subject.probe else subject.run.data["name"]),
        "target": subject.target,
        "accuracy": subject.accuracy or None,
        "features": {"blocks": blocks_name(subject.model.blocks), "reading": subject.model.encoder.reading},
        "ink": subject.ink and subject.ink.to_dict(),
        "outputs": [
            {"name": name, "dtype": "float32", "shape": ["batch", width]}
            for name, width in subject.model.outputs.items()
        ],
    }
    files = {**_kept(out, before, manifest, head), **{name: {**head, **about} for name, about in written.items()}}
    probes = [about["probe"] for about in files.values() if about["probe"] is not None]
    return {**manifest, "probe": next(iter(probes), None), "files": dict(sorted(files.items()))}


def read_before(out: Path) -> dict[str, Any]:
    """Returns the manifest of what was written to a folder before, empty where there is none.

    Raises:
        RunError: where it is damaged, or of another program.
    """
    place = out / MANIFEST
    if not place.exists():
        return {}
    before = read_json(place)
    files = before.get("files") if isinstance(before, dict) else None
    if not isinstance(files, dict) or not all(isinstance(f, dict) and f.keys() >= {"probe"} for f in files.values()):
        raise RunError(f"{place} is no manifest that `ffexport` wrote: delete it, or name another folder with --out")
    return dict(before)


def _kept(out: Path, before: Mapping[str, Any], manifest: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the files that were there before, without those of other weights or another probe."""
    if before.get("backbone_sha256") != manifest["backbone_sha256"]:
        return {}
    another = None if head["probe"] is None else (head["probe"], head["probe_sha256"])
    kept = {}
    for name, about in before["files"].items():
        probe = None if about["probe"] is None else (about["probe"], about.get("probe_sha256"))
        if (out / name).is_file() and (probe is None or another is None or probe == another):
            kept[name] = about
    return kept
