"""Planted faults: a file that computes something else is refused, whether float32 knows the run well or not."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ffcore.errors import ExportError
from ffexport import onnx_format
from ffexport.export import export_run
from ffexport.reference import REAL, cases, references
from ffexport.registry import load_format
from ffexport.subject import load_subject
from ffmodels.run import Run
from ffserve import Model
from tests.ffexport.checks import PROBE

BARELY = 1e-5  # how active the only active unit is


def reading(model):
    model.encoder.reading = "zeros"


def scale(model):
    model._pixels = lambda images: images.float()


def order(model):
    model.blocks = model.blocks[::-1]


def swapped(model):
    blocks = model.encoder.backbone.blocks
    blocks[1], blocks[2] = blocks[2], blocks[1]


def normalisation(model):
    backbone = model.encoder.backbone
    right = backbone.block
    backbone.block = lambda index, h: backbone.blocks[index](h) if index == 1 else right(index, h)


def transposed(model):
    weight = model.encoder.backbone.blocks[1][0].weight
    weight.data = weight.data.T.contiguous()


def another_block(model):
    model.blocks = [0, *model.blocks[1:]]


FAULTS = (reading, scale, order, swapped, normalisation, transposed, another_block)


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Two runs: `ff`, and a copy with a bias so low in the first block that noise leaves it one unit."""
    from fftrain import evaluate_run
    from tests.fftrain.training import evaluation

    ill = Path(shutil.copytree(trained / "ff", tmp_path_factory.mktemp("ill") / "run"))
    weights = load_file(ill / "backbone.safetensors")
    weights["blocks.0.0.bias"] -= lowered(ill)
    save_file(weights, ill / "backbone.safetensors")
    evaluate_run(ill, evaluation("linear", epochs=2))
    return {"well": trained / "ff", "ill": ill}


def noise_and_real(run):
    samples, _ = Run.load(run).samples
    found = cases(samples.shape[1:], samples)
    return {name: found[name] for name in ("random", REAL)}


def lowered(run):
    """By how much the bias must fall, so that an image of noise has one barely active unit and float32 is far off."""
    model = load_subject(Run.load(run), "none").model
    images = noise_and_real(run)
    exact, far = copy.deepcopy(model).double().encoder, {}
    pixels = exact.condition(torch.from_numpy(images["random"]).double() / 255, exact.reading)
    h = exact.backbone.normalise(exact.backbone.stem(pixels))
    for largest in exact.backbone.blocks[0][0](h).max(1).values.tolist():
        ill = copy.deepcopy(model)
        ill.encoder.backbone.blocks[0][0].bias -= largest - BARELY
        case, _ = references(ill, images, copies=0)
        far[largest - BARELY] = case.eager[0].max()
    return max(far, key=far.get)  # on this processor: on another it is another image


def test_float32_itself_is_far_off_on_some_images_of_the_ill_conditioned_run(runs):
    for name, run in runs.items():
        noise, real = references(load_subject(Run.load(run), None, PROBE).model, noise_and_real(run))
        if name == "ill":
            assert noise.eager[0].max() > 1e-3
        for case in (noise, real):
            assert all((spread_N >= eager_N).all() for spread_N, eager_N in zip(case.spread, case.eager, strict=True))
            # Images are judged one by one: those that float32 does not know do not loosen the others.
            assert np.median(case.spread[0]) < 1e-3


@pytest.fixture(scope="module")
def traces():
    """Graphs of ONNX by fault: both runs have the same, but for their weights."""
    return {}


@pytest.mark.parametrize("conditioned", ["well", "ill"])
def test_the_right_files_pass(runs, conditioned, tmp_path):
    files = export_run(runs[conditioned], ["onnx", "torchscript"], probe=PROBE, out=tmp_path)["files"]
    if conditioned == "ill":
        assert all(about["float32_difference"] > 1e-3 for about in files.values())
    export_run(runs[conditioned], ["torchscript"], precision="fp16", probe=PROBE, out=tmp_path)
    Model(tmp_path / "model.onnx")


@pytest.mark.parametrize("conditioned", ["well", "ill"])
@pytest.mark.parametrize(
    ("form", "precision"), [("torchscript", "fp32"), ("torchscript", "fp16"), ("onnx", "fp32"), ("onnx", "int8")]
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused(runs, traces, tmp_path, monkeypatch, conditioned, form, precision, fault):
    writer, trace = load_format(form), onnx_format._trace
    right = writer.write

    def wrong(self, model, path, settings):
        broken = copy.deepcopy(model)
        fault(broken)
        right(self, broken, path, settings)

    def traced(model, opset):
        if fault not in traces:
            traces[fault] = trace(model, opset)
        return traces[fault]

    monkeypatch.setattr(writer, "write", wrong)
    monkeypatch.setattr(onnx_format, "_trace", traced)
    with pytest.raises(ExportError, match=r"differs by .* from the model in float64"):
        export_run(runs[conditioned], [form], precision=precision, probe=PROBE, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
