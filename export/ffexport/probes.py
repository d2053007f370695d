"""The probes in a run folder, and which of them is exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json
from ffmodels.checkpoint import read_config

# What a probe's JSON must say of it.
KEYS = {"dataset", "slot", "slot_classes", "layers", "class_names", "validation", "test", "backbone_sha256"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe's place in a run folder and what is recorded of it."""

    path: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """How --probe names it: DATASET-SLOT/LAYERS."""
        return f"{self.path.parent.name}/{self.path.stem}"


def probes_of(run: Path) -> list[Probe]:
    """Returns a run's probes, the best on validation first."""
    found = []
    for path in sorted((run / "probes").glob("*/*.safetensors")):
        about = read_json(path.with_suffix(".json"))
        if not isinstance(about, dict) or not about.keys() >= KEYS:
            raise RunError(f"{path.with_suffix('.json')} is damaged: run `fftrain probe {run}` again")
        found.append(Probe(path=path, about=about))
    return sorted(found, key=lambda probe: -probe.about["validation"])


def choose_probe(run: Path, wanted: str | None) -> Probe | None:
    """Returns the probe to export: the one named, else the best on validation on the classes of the run's own data set.

    Args:
        run: a run folder.
        wanted: `DATASET-SLOT/LAYERS`, or None.

    Returns:
        The probe; None where none is named and the run has none.

    Raises:
        SettingError: for a probe that the run does not have, or where only probes on several other data sets exist.
    """
    probes = probes_of(run)
    names = ", ".join(sorted(probe.name for probe in probes)) or "none: `fftrain probe` makes some"
    if wanted is not None:
        for probe in probes:
            if probe.name == wanted:
                return probe
        raise SettingError(f"--probe {wanted!r} is not in {run}, which has {names}")
    probes = [probe for probe in probes if probe.about.get("target", "class") == "class"]
    own = [probe for probe in probes if probe.about["dataset"] == read_config(run)["data"]["name"]]
    if not own and len({probe.about["dataset"] for probe in probes}) > 1:
        raise SettingError(f"{run} has probes on several data sets: choose one with --probe ({names})")
    return next(iter(own or probes), None)
