"""The method's own readout as a graph: the classes that it was trained to tell apart, in one call."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json, write_json
from ffexport.graph import DeployedModel, with_dead_block
from ffexport.registry import load_format
from ffexport.subject import load_subject, temperature
from ffmodels.backbones.mlp import MLP
from ffmodels.conditions import LabelSlot, with_label
from ffmodels.encoder import Encoder
from ffmodels.evaluated import evaluations
from ffmodels.goodness import GOODNESS
from ffmodels.methods.forward_forward import LabelGoodness
from ffmodels.run import Run
from ffserve import Classifier
from fftrain import evaluate_run
from tests.ffexport.checks import metadata, reference
from tests.fftrain.training import evaluation


@pytest.mark.parametrize("between", ["rms", "layer"])
@pytest.mark.parametrize("goodness", GOODNESS)
def test_the_graph_scores_every_label_as_each_by_itself_does(between, goodness):
    backbone = MLP(width=24, depth=3, between=between).build((2, 6, 6), 0).requires_grad_(False)
    encoder = Encoder(LabelSlot(5, (2, 6, 6)), backbone).eval()
    readout = LabelGoodness(backbone, 5, goodness, [1, 2])
    model = DeployedModel(encoder, readout, blocks=[1, 2], classes=5)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 2, 6, 6), dtype=np.uint8))
    images[0], images[1] = 0, 255
    features, logits, probabilities = model(images)
    exact = copy.deepcopy(model).double()
    for k in range(5):
        for found, network, pixels, limit in (
            (logits, backbone, images.float() / 255, 1e-4),
            (exact(images)[1], exact.encoder.backbone, images.double() / 255, 1e-9),
        ):
            activations = network(with_label(pixels, torch.full((7,), k), 5))
            expected = (GOODNESS[goodness].of(activations[1]) + GOODNESS[goodness].of(activations[2])) / 2
            torch.testing.assert_close(found[:, k], expected, rtol=limit, atol=limit)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(7))
    assert {output.dtype for output in exact(images)} == {torch.float64}
    torch.testing.assert_close(features, torch.cat(encoder(images.float() / 255)[1:], dim=1))
    dead = with_dead_block(model)
    assert torch.isfinite(torch.cat(dead(images), dim=1)).all()
    assert (dead.encoder.backbone(images.float())[0] == 0).all()
    assert (dead.head.backbone(images.float())[0] == 0).all()
    assert (model.encoder.backbone(images.float())[0] != 0).any()


@pytest.mark.parametrize(("method", "reading"), [("ff", "neutral"), ("bp", "pixels")])
def test_the_file_scores_labels_as_training_does(trained, exported, method, reading):
    run = Run.load(trained / method)
    images, _ = run.samples
    expected = run.readout()(torch.from_numpy(images).float() / 255)
    features, logits, probabilities = load_format("onnx").load(exported[method] / "model.readout.onnx")(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert (probabilities.argmax(1) == logits.argmax(1)).all()
    np.testing.assert_allclose(features, reference(run.path, [1, 2, 3], reading, images), atol=1e-4)


def test_the_network_is_in_a_file_once(exported):
    for suffix, code in ((".onnx", 2**15), (".ts", 2**15), (".pt2", 2**17)):
        readout, probe = (exported["ff"] / f"model{head}{suffix}" for head in (".readout", ""))
        assert readout.stat().st_size < probe.stat().st_size + code


def test_what_trained_its_last_block_alone_is_read_there(run_copy):
    config = read_json(run_copy / "config.json")
    config["config"] |= {"cut": "never", "at": "last"}
    write_json(run_copy / "config.json", config)
    run = Run.load(run_copy)
    images = torch.from_numpy(run.samples[0])
    scores = run.readout().readers(images.float() / 255)
    torch.testing.assert_close(load_subject(run, "readout").model(images)[1], scores["block4"])


def test_the_probabilities_are_as_sure_as_they_are_right(trained, exported):
    images, _ = Run.load(trained / "ff").samples
    [told] = [one for one in evaluations(trained / "ff") if one.name == "readout"]
    right, count = told.value(measure="pretext accuracy"), told.records[0]["images"]
    predicted = Classifier(exported["ff"] / "model.readout.onnx").predict(list(images), top_k=1)
    assert predicted[0].label in ("0", "90", "180", "270")
    sure = np.mean([p.probabilities[0] for p in predicted])
    assert sure == pytest.approx((right * count + 1) / (count + 2), abs=2e-3)
    about = metadata(exported["ff"] / "model.readout.onnx")
    assert about["class_names"] == ["0", "90", "180", "270"]
    assert about["target"] == "pretext"
    assert about["accuracy"] == {"validation": right}
    assert about["readout"].keys() == {"temperature"}


@given(
    st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=8),
    st.floats(0.4, 0.99),
)
def test_any_temperature_keeps_the_order_and_is_a_number(rows, confidence):
    logits = np.array(rows, dtype=np.float32)
    found = temperature(logits, confidence)
    assert 0 < found < np.inf
    if np.diff(np.sort(logits, axis=1), axis=1)[:, -1].min() > 1:  # else no temperature makes them sure
        below = (logits - logits.max(1, keepdims=True)).astype(np.float64)
        assert (1 / np.exp(below / found).sum(1)).mean() == pytest.approx(confidence, abs=0.01)


def test_equal_scores_have_a_temperature_too():
    assert temperature(np.full((3, 4), 7, dtype=np.float32), 0.9) == 1.0


def test_who_tells_nothing_is_told_so(trained, run_copy):
    with pytest.raises(SettingError, match="--probe digits-neutral/block1 goes with --head probe, not readout"):
        load_subject(Run.load(trained / "ff"), "readout", "digits-neutral/block1")
    for told in (run_copy / "evaluations").glob("readout-*.jsonl"):
        told.unlink()
    said = r"lacks the accuracy on validation.*run `fftrain evaluate .* readout`"
    with pytest.raises(RunError, match=said):
        load_subject(Run.load(run_copy), "readout")
    evaluate_run(run_copy, evaluation("readout", split="test"))
    with pytest.raises(RunError, match=said):
        load_subject(Run.load(run_copy), "readout")
    evaluate_run(run_copy, evaluation("readout"))
    assert load_subject(Run.load(run_copy), "readout").accuracy.keys() == {"validation", "test"}
    config = read_json(run_copy / "config.json")
    config["config"]["method"] = {"name": "hybrid-forward-forward"}
    write_json(run_copy / "config.json", config)
    told = r"--head readout is for methods that tell labels apart, and .* hybrid-forward-forward: use --head probe or"
    with pytest.raises(SettingError, match=told):
        load_subject(Run.load(run_copy), "readout")
