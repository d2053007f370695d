"""Forward-Forward and backprop pretraining on pretext tasks, and linear probes on the frozen backbone.

The commands are `fftrain pretrain`, `probe`, `evaluate`, `analyse`, `study`, `report` and `dump-images`; the functions
`pretrain`, `probe_run`, `evaluate_run`, `analyse_run`, `compare_runs`, `run_study` and `write_report` do the work.
"""

from __future__ import annotations

from ffcore.lazy import lazily

_HOME = {
    "RunConfig": "fftrain.config",
    "ProbeConfig": "fftrain.config",
    "AnalysisConfig": "fftrain.config",
    "DATASETS": "fftrain.parts",
    "VIEWS": "fftrain.parts",
    "load_data": "fftrain.data",
    "pretrain": "fftrain.training",
    "probe_run": "fftrain.probe",
    "evaluate_run": "fftrain.evaluate",
    "analyse_run": "fftrain.analyse",
    "compare_runs": "fftrain.analyse",
    "linear_cka": "fftrain.analyse",
    "plan": "fftrain.study",
    "Study": "fftrain.study",
    "run_study": "fftrain.study",
    "write_report": "fftrain.report.page",
}
__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)
