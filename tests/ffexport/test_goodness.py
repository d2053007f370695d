"""FF's own classifier as a graph: the goodness of every label in one call."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffcore.errors import RunError, SettingError
from ffcore.files import read_json, write_json
from ffexport.graph import GoodnessModel, with_dead_layer
from ffexport.registry import FORMATS
from ffexport.subject import load_subject, temperature
from ffmodels.backbone import BackboneConfig
from ffmodels.checkpoint import load_backbone, read_samples
from ffmodels.labels import embed_label
from ffmodels.registry import GOODNESS, NORMALISATIONS
from ffserve import Classifier
from tests.ffexport.checks import metadata, reference


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("goodness", GOODNESS)
def test_the_shared_product_gives_what_every_label_by_itself_does(normalisation, goodness):
    config = BackboneConfig(shape=(2, 6, 6), width=24, depth=3, normalisation=normalisation)
    backbone = config.build(0).requires_grad_(False)
    model = GoodnessModel(backbone, GOODNESS.load(goodness), layers=[1, 2], classes=5)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 2, 6, 6), dtype=np.uint8))
    images[0], images[1] = 0, 255
    features, logits, probabilities = model(images)
    for k in range(5):
        pixels = embed_label(images.float() / 255, torch.full((7,), k), 5)
        activations = backbone.activations(pixels)
        expected = (GOODNESS.load(goodness).of(activations[1]) + GOODNESS.load(goodness).of(activations[2])) / 2
        torch.testing.assert_close(logits[:, k], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(7))
    exact = copy.deepcopy(model).double()(images)
    assert {output.dtype for output in exact} == {torch.float64}
    activations = (
        copy.deepcopy(backbone).double().activations(embed_label(images.double() / 255, torch.full((7,), 4), 5))
    )
    expected = (GOODNESS.load(goodness).of(activations[1]) + GOODNESS.load(goodness).of(activations[2])) / 2
    torch.testing.assert_close(exact[1][:, 4], expected, rtol=1e-6, atol=1e-6)  # its columns were subtracted in float32
    assert features.shape == (7, 48)
    dead = with_dead_layer(model)
    assert torch.isfinite(torch.cat(dead(images), dim=1)).all()
    assert all((h == 0).all() for h in dead.backbone.activations(images.float())[:1])
    assert (model.columns != 0).any()


def test_the_file_scores_labels_as_training_does(trained, exported):
    from fftrain.objectives import ForwardForward
    from fftrain.run import RunFolder

    run = trained / "ff"
    objective = ForwardForward(load_backbone(run), 4, RunFolder(run).read_config())
    images, _ = read_samples(run)
    *_, expected = objective.scores(torch.from_numpy(images).float() / 255).values()
    features, logits, probabilities = FORMATS.load("onnx").load(exported["ff"] / "model.goodness.onnx")(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4)
    assert (np.argsort(probabilities, 1) == np.argsort(logits, 1)).all()
    np.testing.assert_allclose(features, reference(run, [1, 2, 3], "neutral", images), atol=1e-4)


def test_what_trained_its_last_layer_alone_is_read_there(run_copy):
    from fftrain.objectives import GoodnessLast
    from fftrain.run import RunFolder

    config = read_json(run_copy / "config.json")
    config["config"]["method"] = "bp-goodness-last"
    write_json(run_copy / "config.json", config)
    images, _ = read_samples(run_copy)
    objective = GoodnessLast(load_backbone(run_copy), 4, RunFolder(run_copy).read_config())
    *_, expected = objective.scores(torch.from_numpy(images).float() / 255).values()
    subject = load_subject(run_copy, "goodness")
    assert subject.about["goodness"]["layers"] == "layer4"
    torch.testing.assert_close(subject.model(torch.from_numpy(images))[1], expected, rtol=1e-4, atol=1e-4)


def test_the_probabilities_are_as_sure_as_they_are_right(trained, exported):
    images, _ = read_samples(trained / "ff")
    found = read_json(trained / "ff" / "results.json")["pretext"]["validation"]
    predicted = Classifier(exported["ff"] / "model.goodness.onnx").predict(list(images), top_k=1)
    assert predicted[0].label in ("0", "90", "180", "270")
    sure = np.mean([p.probabilities[0] for p in predicted])
    assert sure == pytest.approx((found["accuracy"] * found["images"] + 1) / (found["images"] + 2), abs=2e-3)
    about = metadata(exported["ff"] / "model.goodness.onnx")
    assert about["class_names"] == ["0", "90", "180", "270"]
    assert about["accuracy"] == {"validation": found["accuracy"]}
    assert about["goodness"].keys() == {"name", "layers", "temperature"}


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


def test_who_has_no_goodness_is_told_so(trained, run_copy):
    with pytest.raises(SettingError, match=r"--head goodness is for --method ff .* is bp: use --head probe or none"):
        load_subject(trained / "bp", "goodness")
    with pytest.raises(SettingError, match="--probe digits-neutral/layer1 goes with --head probe, not goodness"):
        load_subject(trained / "ff", "goodness", "digits-neutral/layer1")
    write_json(run_copy / "results.json", {"probes": {}})
    with pytest.raises(RunError, match=r"lacks the accuracy on validation.*run `fftrain evaluate"):
        load_subject(run_copy, "goodness")
