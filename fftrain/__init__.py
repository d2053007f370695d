"""Forward-Forward and backprop pretraining on pretext tasks, and evaluations of the frozen backbone.

The commands are `fftrain pretrain`, `evaluate`, `study`, `report`, `list` and `dump-images`; the functions `pretrain`,
`evaluate_run`, `compare_runs`, `run_study` and `write_report` do the work.
"""

from __future__ import annotations

from ffcore.lazy import lazily

_HOME = {
    "RunConfig": "fftrain.config",
    "EvaluationConfig": "fftrain.config",
    "DATASETS": "fftrain.parts",
    "EVALUATIONS": "fftrain.parts",
    "VIEWS": "fftrain.parts",
    "load_data": "fftrain.data",
    "pretrain": "fftrain.training",
    "evaluate_run": "fftrain.evaluate",
    "compare_runs": "fftrain.similar",
    "linear_cka": "fftrain.similar",
    "plan": "fftrain.study",
    "Study": "fftrain.study",
    "run_study": "fftrain.study",
    "write_report": "fftrain.report.page",
}
__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)
