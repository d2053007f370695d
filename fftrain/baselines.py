"""The baselines of a study, `raw` and `random`, probed once for all cells that share them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ffcore.errors import RunError
from ffcore.files import read_json, write_json
from ffmodels.run import Run
from fftrain.config import ProbeConfig, keyed
from fftrain.data import ImageData
from fftrain.features import name_of
from fftrain.run import describe

# What a row holds.
ROW = {"source", "blocks", "validation", "test", "settings", "grid"}


class Baselines:
    """Rows of `raw` and `random`, each in a file that is named by a digest of everything that the row depends on."""

    def __init__(
        self,
        folder: Path,
        run: Run,
        data: ImageData,
        config: ProbeConfig,
        grid: Sequence[Mapping[str, float]],
    ) -> None:
        pixels = hashlib.sha256()
        for split in (data.train, data.validation, data.test):
            for values in (split.images, split.labels):
                pixels.update(np.ascontiguousarray(values.numpy()).data)
        settings = {key: value for key, value in keyed(config).items() if key != "reading"}
        self.folder = folder
        self.raw = {
            "ffstudy": version("ffstudy"),
            "data": describe(data),
            "pixels": pixels.hexdigest(),
            "probe": settings,
            "grid": list(grid),
        }
        self.random = {
            "backbone": run.config["backbone"],
            "seed": run.config["seed"],
            "reading": config.reading,
            # No pixel is filled, whatever the labels.
            "classes": None if config.reading == "pixels" else len(run.classes),
        }

    def _key(self, source: str, name: str) -> tuple[Path, dict[str, Any]]:
        """Returns where a row is kept, and what it depends on."""
        key = {"source": source, "blocks": name, **self.raw, **(self.random if source == "random" else {})}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{source}-{name}-{digest[:16]}.json", key

    def read(self, source: str, blocks: Sequence[int]) -> dict[str, Any] | None:
        """Returns a row; None where it is not kept, or its file is damaged."""
        path, key = self._key(source, name_of(blocks))
        try:
            kept = read_json(path)
        except RunError:
            return None
        if not isinstance(kept, dict) or kept.get("of") != key or not isinstance(kept.get("row"), dict):
            return None
        row: dict[str, Any] = kept["row"]
        accuracies = [row.get("validation"), row.get("test")]
        return row if row.keys() >= ROW and all(isinstance(a, float) and 0 <= a <= 1 for a in accuracies) else None

    def write(self, blocks: Sequence[int], row: Mapping[str, Any]) -> None:
        """Keeps a row. Raises RunError where the folder cannot be written."""
        path, key = self._key(row["source"], name_of(blocks))
        write_json(path, {"of": key, "row": dict(row)})
