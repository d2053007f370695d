"""`ffserve compare` with real children on both sides: eager torch, TorchScript, pt2 and ONNX Runtime."""

from __future__ import annotations

import json

import pytest

from tests.helpers import python

RUN = """
import sys
from pathlib import Path
from ffserve.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_every_kind_of_a_run_beside_its_eager_model(trained, tmp_path):
    out, chart = tmp_path / "export", tmp_path / "chart.png"
    exported = python("-m", "ffexport", trained / "ff", "--format", "all", "--out", out)
    assert exported.returncode == 0, exported.stderr
    given = (out, "--run", trained / "ff", "--rounds", 2, "--batch-size", 1, "--batch-size", 7, "--chart", chart)
    ended = python("-c", RUN, "compare", *given, "--json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["reference"] == "eager"
    assert result["images"]["labelled"] == 64
    assert [model["kind"] for model in result["models"]] == ["eager", "onnx", "torchscript", "pt2"]
    assert result["versions"].keys() >= {"torch", "onnxruntime", "numpy", "python", "ffstudy"}
    assert len({model["accuracy"] for model in result["models"]} - {None}) == 1
    for model in result["models"]:
        assert model["error"] is None
        assert model["same_class"] == 1
        assert max(model["largest_difference"].values()) < 1e-3
        assert [speed["batch"] for speed in model["batches"]] == [1, 7]
        assert model["peak_memory_bytes"] > 10 * 2**20
        assert 0 < model["load_s"] < model["cold_start_s"]
    assert chart.read_bytes().startswith(b"\x89PNG")
