"""What counts as done of a cell."""

from __future__ import annotations

import shutil
from pathlib import Path

from ffmodels.evaluated import evaluations
from fftrain import evaluate_run
from fftrain.study.steps import of
from tests.fftrain.evaluating import LINEAR, changed_weights
from tests.fftrain.training import evaluation


def test_an_evaluation_is_of_the_settings_the_weights_and_what_it_depends_on(trained, run_copy, tmp_path):
    other = Path(shutil.copytree(trained / "bp", tmp_path / "bp"))
    usual = {"dataset": "digits", "reading": "neutral"}
    probes, beside = LINEAR.changed(**usual), evaluation("similarity", images=40, against=str(other), **usual)
    linear, similar = evaluate_run(run_copy, probes, beside)

    def there(config):
        return of(run_copy, evaluations(run_copy), config)

    assert there(probes) == linear
    assert there(evaluation("linear", epochs=3, **usual)) is None
    assert there(beside) == similar
    changed_weights(other)
    assert there(beside) is None
    assert there(probes) == linear
    changed_weights(run_copy)
    assert there(probes) is None
