from __future__ import annotations

import pytest

from ffexport.export import export_run
from tests.ffexport.checks import PROBE, untraced


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """Folders with exports of the small runs: `ff`, with every head and precision, and `bp`, of another opset."""
    folders = {method: tmp_path_factory.mktemp(method) for method in ("ff", "bp")}
    export_run(trained / "ff", ["all"], probe=PROBE, out=folders["ff"])
    export_run(trained / "ff", ["onnx", "torchscript"], precision="fp16", probe=PROBE, out=folders["ff"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffexport.onnx_format._trace", untraced(folders["ff"] / "model.onnx"))
        export_run(trained / "ff", precision="int8", probe=PROBE, out=folders["ff"])
    export_run(trained / "ff", ["all"], head="readout", out=folders["ff"])
    export_run(trained / "bp", opset=22, out=folders["bp"])
    export_run(trained / "bp", head="readout", out=folders["bp"])
    return folders


@pytest.fixture
def traced(exported, monkeypatch):
    """Spares the seconds of tracing the graph of `ff` with its probe again."""
    monkeypatch.setattr("ffexport.onnx_format._trace", untraced(exported["ff"] / "model.onnx"))
