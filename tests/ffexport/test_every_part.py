"""Every method and network there is, by the listing of their directories, in every format with every head."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import load_file

from ffcore.errors import SettingError
from ffexport.export import export_run
from ffexport.registry import FORMATS, load_format
from ffexport.subject import load_subject
from ffmodels.linear import last_blocks
from ffmodels.run import Run
from ffserve import Model
from ffserve.metadata import HEADS, Named
from fftrain import evaluate_run, pretrain
from tests.fftrain.training import evaluation
from tests.parts import ALL, DEEP, small_run

# The suite takes the readout of two methods on one network, and a probe on each network, in the format that is served;
# the slow marker has them all.
METHOD, BACKBONE = "forward-forward", "mlp"
TOLD = (METHOD, "channelwise")  # by goodness with each label in the pixels, and by one pass
QUICK = {(method, BACKBONE, "readout") for method in TOLD} | {(METHOD, backbone, "probe") for _, backbone in ALL}
EVERY = [(*pair, head) for pair in ALL for head in HEADS]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Gives a small run of a method on a network, made once, with its probes where they are asked for."""
    root = tmp_path_factory.mktemp("runs")

    def run(method, backbone, head):
        place = root / f"{method}-{backbone}"
        if not place.exists():
            pretrain(small_run(method, backbone), place)
        if head == "probe" and not (place / "probes").exists():
            evaluate_run(place, evaluation("linear", limit=100, epochs=2))
        return place

    return run


def eager(run, head):
    """What a run gives for its samples, and the blocks of the features: by its own network and losses."""
    found, pixels = Run.load(run), torch.from_numpy(Run.load(run).samples[0]).float() / 255
    reading, blocks = None, last_blocks(len(found.encoder().dims))
    if head == "probe":
        path = load_subject(found, "probe").probe.path
        about = json.loads(path.with_suffix(".json").read_text())
        reading, blocks = about["reading"], about["blocks"]
    features = found.encoder(reading)(pixels)
    outputs = [torch.cat([features[i] for i in blocks], dim=1)]
    if head == "probe":
        weights = load_file(path)
        outputs.append(torch.nn.functional.linear(outputs[0], weights["linear.weight"], weights["linear.bias"]))
    elif head == "readout":
        outputs.append(found.readout()(pixels))
    return found.samples[0], outputs


def forms(method, backbone, head):
    """Yields a part with the formats that it is exported in, and what is left for the slow marker."""
    quick = (method, backbone, head) in QUICK and backbone not in DEEP
    if quick and (method, backbone) != (METHOD, BACKBONE):
        yield pytest.param(method, backbone, head, ["onnx"])
        quick = False
    yield pytest.param(method, backbone, head, [*FORMATS], marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize(("method", "backbone", "head", "formats"), [each for part in EVERY for each in forms(*part)])
def test_every_file_gives_what_the_run_does(run_of, tmp_path, method, backbone, head, formats):
    run = run_of(method, backbone, head)
    if head == "readout" and Run.load(run).readout() is None:
        with pytest.raises(SettingError, match="--head readout is for methods that tell labels apart"):
            export_run(run, formats, head=head, out=tmp_path)
        return
    export_run(run, formats, head=head, out=tmp_path)
    images, expected = eager(run, head)
    for form in formats:
        path = tmp_path / Named(head, form, "fp32").file
        outputs = load_format(form).load(path, threads=1)(images)
        assert len(outputs) == (1 if head == "none" else 3)
        for got, want in zip(outputs, expected, strict=False):
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
    assert Model(tmp_path / Named(head, "onnx", "fp32").file).about.head == head


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(backbone, marks=[] if backbone == BACKBONE else pytest.mark.slow)
        for backbone in sorted({backbone for _, backbone in ALL})
    ],
)
def test_every_network_is_halved_and_quantised(run_of, tmp_path, backbone):
    run = run_of(METHOD, backbone, "none")
    bare = {"head": "none", "out": tmp_path}  # classes of so small a network change with any rounding
    export_run(run, ["torchscript"], precision="fp16", **bare)
    with pytest.warns((FutureWarning, DeprecationWarning)):
        halved = torch.jit.load(str(tmp_path / "model.features.fp16.ts"))
    assert torch.float16 in {weight.dtype for weight in halved.parameters()}
    export_run(run, precision="int8", **bare)
    quantised = onnx.load(tmp_path / "model.features.int8.onnx").graph.initializer
    assert TensorProto.INT8 in {weight.data_type for weight in quantised if len(weight.dims) > 1}
