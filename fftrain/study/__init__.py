"""A study: a grid of runs in one folder, each trained, measured and compared, that goes on wherever it was stopped.

`spec.py` says what a study is; `planning.py` and `grid.py` make one of a TOML file; `sketch.py` and `cost.py` say what
its cells come to and take, `folder.py` how far they are; `steps.py` and `work.py` do what is left, `cluster.py` and
`task.py` by Ray. This loads no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffcore.errors import SettingError
from ffcore.lazy import lazily
from ffcore.settings import read_toml
from fftrain.recipes import listed

STUDY_FILE = "study.json"
# Of the plan in it; version 0.1 had 1.
STUDY_FORMAT = 2
FOLDER = Path(__file__).parent / "presets"
_HOME = {
    "Cell": "fftrain.study.spec",
    "Spec": "fftrain.study.spec",
    "Shard": "fftrain.study.folder",
    "Study": "fftrain.study.folder",
    "choose": "fftrain.study.planning",
    "plan": "fftrain.study.planning",
    "run_study": "fftrain.study.work",
}
__all__ = sorted(["PRESETS", "STUDY_FILE", "STUDY_FORMAT", "read_preset", *_HOME])
__getattr__ = lazily(__name__, _HOME)
# The studies that come along, and what each is.
PRESETS = listed(FOLDER)


def read_preset(name: str) -> dict[str, Any]:
    """Reads a preset. Raises SettingError for an unknown name."""
    if name not in PRESETS:
        raise SettingError(f"--preset is {name!r}: choose one of {', '.join(PRESETS)}")
    return read_toml(FOLDER / f"{name}.toml", "--preset")
