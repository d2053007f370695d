"""Forward-Forward and backprop pretraining on pretext tasks, and linear probes on the frozen backbone.

The commands are `fftrain pretrain`, `probe`, `evaluate`, `analyse`, `study`, `report` and `dump-images`; the functions
`pretrain`, `probe_run`, `evaluate_run`, `analyse_run`, `compare_runs`, `run_study` and `write_report` do the work.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "PretrainConfig": "config",
    "ProbeConfig": "config",
    "AnalysisConfig": "config",
    "DATASETS": "registry",
    "TASKS": "registry",
    "METHODS": "registry",
    "load_data": "data",
    "pretrain": "trainer",
    "probe_run": "probe",
    "evaluate_run": "evaluate",
    "analyse_run": "analyse",
    "compare_runs": "analyse",
    "linear_cka": "analyse",
    "plan": "spec",
    "Study": "grid",
    "run_study": "study",
    "write_report": "report",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import fftrain`` costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
