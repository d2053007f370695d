"""Which models `ffserve compare` measures: files, and folders through their manifest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffcore.errors import ModelError, ModelNotFound, UsageError
from ffcore.files import AnyPath
from ffcore.hub import HUB
from ffserve.about import instead_of_json
from ffserve.hub import located
from ffserve.metadata import MANIFEST, SUFFIXES, Named

EAGER = "eager"
# -P: a numpy.py in the working folder is none of ours.
PYTHON = (sys.executable, "-P", "-m")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to be measured: a file, or a run folder for the eager model in it."""

    name: str
    path: Path
    kind: str
    """onnx, torchscript, pt2 or eager."""
    options: tuple[str, ...] = ()
    """What `ffexport bench` gets beside the path."""

    @property
    def needs_torch(self) -> bool:
        """Whether it runs in `python -m ffexport bench` alone."""
        return self.kind != "onnx"

    @property
    def precision(self) -> str:
        """As the file's name has it: fp32, fp16 or int8; of the eager model fp32."""
        return "fp32" if self.kind == EAGER else Named.of(self.path).precision

    @property
    def head(self) -> str:
        """As the file's name has it: probe, readout, or none (features alone); of the eager model the probe."""
        return "probe" if self.kind == EAGER else Named.of(self.path).head

    def command(self, threads: int) -> list[str]:
        """Returns the child process that measures it."""
        if self.needs_torch:
            command = ["ffexport", "bench", str(self.path), "--kind", self.kind, *self.options]
        else:
            command = ["ffserve.compare_worker", str(self.path)]
        return [*PYTHON, *command, "--threads", str(threads)]


def find_candidates(given: Sequence[AnyPath], run: Path | None) -> list[Candidate]:
    """Returns the models to measure, the eager one of `run` first; each file once.

    Args:
        given: .onnx, .ts and .pt2 files, run and export folders; empty takes what `run` has exported. Of a repository
            hf://OWNER/NAME the .onnx files alone: others hold code.
        run: a run folder, or None.

    Raises:
        UsageError: where nothing is given, or a file is of another kind.
        ModelError: where a folder has no exports, or a damaged manifest; ModelNotFound where something is not there.
    """
    if not given and run is None:
        raise UsageError("there is nothing to compare: name models (.onnx, .ts, .pt2, run or export folders) or --run")
    files: list[Path] = []
    for named in [os.fspath(path) for path in given or [run or Path()]]:
        path = located(named, every=True)
        if path.is_dir():
            files += [file for file in _in_manifest(path) if file.suffix == ".onnx" or not named.startswith(HUB)]
        elif not path.exists():
            raise ModelNotFound(f"{path} does not exist: name a model file or a run folder")
        elif path.suffix not in SUFFIXES.values():
            raise UsageError(f"{path} is no model: compare takes .onnx, .ts and .pt2 files, run and export folders")
        else:
            files.append(path)
    files = list({path.resolve(): path for path in files}.values())
    found = [
        Candidate(name=name, path=path, kind=Named.of(path).form)
        for name, path in zip(_names(files), files, strict=True)
    ]
    return found if run is None else [_eager(run, {c.head for c in found}), *found]


def _eager(run: Path, heads: set[str]) -> Candidate:
    """Returns the run's own model, with the head and the probe of what it is compared with."""
    if not (run / "config.json").is_file():
        raise ModelNotFound(f"--run {run} is no run folder: it has no config.json")
    options: tuple[str, ...] = ()
    if len(heads) == 1 and heads != {"probe"}:
        options = ("--head", *heads)
    elif (run / "export" / MANIFEST).is_file():
        probe = _manifest(run / "export" / MANIFEST).get("probe")
        options = ("--probe", str(probe)) if probe else ()
    return Candidate(name=EAGER, path=run, kind=EAGER, options=options)


def _in_manifest(folder: Path) -> list[Path]:
    """Returns the files of a folder's manifest that are there, fp32 before what is smaller, ONNX before torch's."""
    places = [path for path in (folder / "export", folder) if (path / MANIFEST).is_file()]
    if not places:
        raise ModelError(
            f"{folder} is a folder without export/manifest.json: `ffexport {folder} --format all` makes one"
        )
    place = places[0] / MANIFEST
    names = _manifest(place).get("files")
    known = SUFFIXES.values()
    if not isinstance(names, dict) or not all(Path(n).name == n and Path(n).suffix in known for n in names):
        raise ModelError(f"{place} is damaged: export again with `ffexport`")
    if not names:
        raise ModelError(f"{place} names no files: export again with `ffexport`")
    paths = sorted((place.parent / name for name in names), key=lambda path: (Named.of(path).order, path.name))
    found = [path for path in paths if path.exists()]
    if not found:
        raise ModelNotFound(f"{place} names files that are not there: export again with `ffexport`")
    return found


def _manifest(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        found = json.loads(content)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: export again with `ffexport`") from error
    except (ValueError, RecursionError) as error:
        what, mend = instead_of_json(content)
        raise ModelError(f"{path} is {what}: {mend}") from error
    return found if isinstance(found, dict) else {}


def _names(files: Sequence[Path]) -> list[str]:
    """Returns the files' paths without the folders that all share."""
    if not files:
        return []
    whole = [os.path.abspath(path) for path in files]
    shared = os.path.commonpath([os.path.dirname(path) for path in whole])
    return [os.path.relpath(path, shared) for path in whole]
