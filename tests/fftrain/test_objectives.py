"""What a loss may reach: shown by perturbing, not by reading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ffmodels.backbone import BackboneConfig
from fftrain.config import PretrainConfig
from fftrain.evaluate import default_slot
from fftrain.negatives import draw_hybrids, hybrids
from fftrain.objectives import Batch, make_batch
from fftrain.registry import METHODS, TASKS

K = 4


def make(method, depth=3, **settings):
    config = PretrainConfig(method=method, width=16, depth=depth, threshold=16.0, **settings)
    shape = BackboneConfig(shape=(1, 6, 6), width=16, depth=depth, normalisation=config.normalisation)
    backbone = shape.build(seed=1)
    return METHODS.load(method)(backbone, K, config), backbone


def batch(rows=9):
    """A batch with what every objective draws."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(K, size=rows))
    images, partners = torch.from_numpy(rng.random((2, rows, 1, 6, 6), dtype=np.float32))
    drawn = {name: torch.from_numpy(values) for name, values in draw_hybrids(rows, 36, rng).items()}
    return Batch(images, labels, {"wrong": (labels + 1) % K, **drawn}, partners)


def first(data, rows):
    return Batch(
        data.images[:rows],
        data.labels[:rows],
        {name: values[:rows] for name, values in data.drawn.items()},
        data.partners[:rows],
    )


def labelled(images, labels):
    pixels = images.clone()
    pixels[:, 0, 0, :K] = torch.eye(K)[labels]
    return pixels


def pairs(method, data):
    """The positives and the negatives that a method reads, flattened: float64 [2B, P]."""
    if method == "ff-unsupervised":
        other = hybrids(data.images, data.partners, data.drawn["bits"], data.drawn["blurs"])
        return torch.cat([data.images, other]).flatten(1).double()
    both = [labelled(data.images, labels) for labels in (data.labels, data.drawn["wrong"])]
    return torch.cat(both).flatten(1).double()


def numpy_goodness(backbone, x):
    """The sum of squares of each layer, float64 [L, B], written apart from the code under test."""
    x, found = x.numpy(), []
    for layer in backbone.layers:
        weight, bias = (p.detach().numpy().astype(np.float64) for p in layer.linear.parameters())
        x = np.maximum(x / np.sqrt((x**2).mean(-1, keepdims=True)) @ weight.T + bias, 0)
        found.append((x**2).sum(-1))
    return np.stack(found)


def numpy_losses(backbone, x, threshold=16.0):
    """The FF loss of each layer, float64 [L, B], positives first."""
    positive, negative = np.split(numpy_goodness(backbone, x), 2, axis=1)
    return np.logaddexp(0, threshold - positive) + np.logaddexp(0, negative - threshold)


def gradients(objective, backbone, data):
    backbone.zero_grad()
    for _, losses in objective.losses(data):
        losses.sum().backward()
    return [[p.grad.clone() for p in layer.parameters()] for layer in backbone.layers]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", ["ff", "ff-unsupervised"])
def test_no_gradient_crosses_a_layer_in_ff(method):
    objective, backbone = make(method)
    before = gradients(objective, backbone, batch())
    with torch.no_grad():
        for p in backbone.layers[2].parameters():
            p.copy_(torch.randn(p.shape) * 10)
    after = gradients(objective, backbone, batch())
    assert same(before[0], after[0])
    assert same(before[1], after[1])
    assert not same(before[2], after[2])


@pytest.mark.parametrize("method", ["bp", "bp-goodness-last", "bp-goodness-all"])
def test_gradients_cross_every_layer_in_bp(method):
    objective, backbone = make(method)
    before = gradients(objective, backbone, batch())
    with torch.no_grad():
        backbone.layers[2].linear.weight.add_(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    after = gradients(objective, backbone, batch())
    assert not same(before[0], after[0])


@pytest.mark.parametrize("method", ["ff", "ff-unsupervised"])
def test_each_graph_is_gone_before_the_next_layer_begins(method):
    objective, _ = make(method, depth=6)
    alive = []
    for _, losses in objective.losses(batch()):
        assert all(reference() is None or reference().grad_fn is None for reference in alive)
        losses.sum().backward()
        import weakref

        alive.append(weakref.ref(losses))
        del losses
    assert len(alive) == 6


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_one_value_a_sample_and_no_sample_touches_another(method):
    objective, _ = make(method)
    data = batch()
    whole = dict(objective.losses(data))
    part = dict(objective.losses(first(data, 4)))
    for name, losses in whole.items():
        assert losses.shape == (9,)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses[:4], part[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_share_gives_gradients_of_zero(method):
    objective, backbone = make(method)
    found = gradients(objective, backbone, first(batch(), 0))
    assert len(found) == 3
    assert all(not g.any() for layer in found for g in layer)


def test_ff_scores_are_the_goodness_of_each_label_in_turn():
    objective, backbone = make("ff", depth=4)
    images = batch().images
    scores = objective.scores(images)
    assert list(scores) == ["layer1", "layer2", "layer3", "layer4", "layers2-4-mean"]
    for k in range(K):
        x = labelled(images, torch.full((9,), k)).flatten(1)
        goodness = []
        for layer in backbone.layers:
            x = layer(x)
            goodness.append((x**2).sum(1))
        for i, g in enumerate(goodness, start=1):
            torch.testing.assert_close(scores[f"layer{i}"][:, k], g, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores["layers2-4-mean"][:, k], torch.stack(goodness[1:]).mean(0))


def test_bp_scores_are_the_logits_that_its_loss_reads():
    objective, _ = make("bp")
    data = batch()
    [(_, losses)] = objective.losses(data)
    expected = -objective.scores(data.images)["head"].log_softmax(-1)[torch.arange(9), data.labels]
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("method", ["ff", "ff-unsupervised"])
def test_ff_losses_of_each_layer_match_numpy(method):
    objective, backbone = make(method)
    data = batch()
    found = dict(objective.losses(data))
    assert list(found) == ["layer1", "layer2", "layer3"]
    for losses, expected in zip(found.values(), numpy_losses(backbone, pairs(method, data)), strict=True):
        np.testing.assert_allclose(losses.detach(), expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["bp-goodness-last", "bp-goodness-all"])
@pytest.mark.parametrize("depth", [1, 3])
def test_goodness_losses_through_all_layers_match_numpy(method, depth):
    objective, backbone = make(method, depth=depth)
    data = batch()
    of_layers = numpy_losses(backbone, pairs(method, data))
    [(name, losses)] = objective.losses(data)
    wanted = {"bp-goodness-last": ("last_layer", of_layers[-1]), "bp-goodness-all": ("all_layers", of_layers.sum(0))}
    assert name == wanted[method][0]
    np.testing.assert_allclose(losses.detach(), wanted[method][1], rtol=1e-5)


@pytest.mark.parametrize("method", ["bp-goodness-last", "bp-goodness-all"])
def test_goodness_gradients_through_all_layers_match_finite_differences_of_numpy(method):
    objective, backbone = make(method)
    data, step = batch(), 1e-4
    found = gradients(objective, backbone, data)
    rng = np.random.default_rng(2)
    # Float64 parameters: the difference of two losses of float32 parameters would drown in their rounding.
    backbone.double()

    def loss():
        of_layers = numpy_losses(backbone, pairs(method, data))
        return (of_layers[-1] if method == "bp-goodness-last" else of_layers).sum()

    for layer, expected in zip(backbone.layers, found, strict=True):
        for p, gradient in zip(layer.parameters(), expected, strict=True):
            direction = torch.from_numpy(rng.normal(size=p.shape))
            sides = []
            for sign in (1, -2):
                with torch.no_grad():
                    p.add_(direction, alpha=sign * step)
                sides.append(loss())
            with torch.no_grad():
                p.add_(direction, alpha=step)
            slope = (sides[0] - sides[1]) / (2 * step)
            assert (gradient.double() * direction).sum().item() == pytest.approx(slope, rel=2e-3, abs=1e-3)


def test_goodness_of_lower_layers_is_in_the_loss_of_all_layers_alone():
    """A layer of twice the length passes on the same direction: its own goodness is all that changes."""
    change = {}
    for method in ("bp-goodness-last", "bp-goodness-all"):
        objective, backbone = make(method)
        [(_, before)] = objective.losses(batch())
        with torch.no_grad():
            for p in backbone.layers[0].parameters():
                p.mul_(2)
        [(_, after)] = objective.losses(batch())
        change[method] = (after - before).abs()
    assert change["bp-goodness-last"].max() < 1e-4
    assert change["bp-goodness-all"].min() > 0.1


def test_unsupervised_ff_reads_no_label():
    objective, _ = make("ff-unsupervised")
    data = batch()
    before = dict(objective.losses(data))
    after = dict(objective.losses(replace(data, labels=(data.labels + 1) % K)))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert default_slot("ff-unsupervised") == "pixels"
    one, other = (objective.draw(np.full(9, k), np.random.default_rng(0)) for k in (0, 3))
    assert one.keys() == {"partner", "bits", "blurs"}
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_unsupervised_ff_calls_an_image_what_lies_above_the_threshold(depth):
    objective, backbone = make("ff-unsupervised", depth=depth)
    images = batch(60).images
    goodness = numpy_goodness(backbone, images.flatten(1).double())
    objective.threshold = float(np.median(goodness))  # so that both are called
    with torch.no_grad():
        scores = objective.scores(images)
    readers = [*goodness, goodness[-3:].mean(0)]
    assert list(scores)[:-1] == [f"layer{i}" for i in range(1, depth + 1)]
    assert list(scores)[-1] == {1: "layer1-mean", 2: "layers1-2-mean", 4: "layers2-4-mean"}[depth]
    for found, expected in zip(scores.values(), readers, strict=True):
        np.testing.assert_allclose(found[:, 1], expected - objective.threshold, rtol=1e-4, atol=1e-4)
        clear = np.abs(expected - objective.threshold) > 1e-3
        np.testing.assert_array_equal(found.argmax(1)[clear], (expected > objective.threshold)[clear])
    called = torch.cat([found.argmax(1) for found in scores.values()])
    assert set(called.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("method", "reader"),
    [
        ("ff", "layers2-4-mean"),
        ("ff-unsupervised", "layers2-4-mean"),
        ("bp-goodness-all", "layers2-4-mean"),
        ("bp-goodness-last", "layer4"),
        ("bp", "head"),
    ],
)
def test_the_reader_that_predicts_stands_last(method, reader):
    assert [*make(method, depth=4)[0].scores(batch().images)][-1] == reader


@pytest.mark.parametrize("method", ["bp-goodness-last", "bp-goodness-all"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_every_reader_of_goodness_scores_as_ff_does(method, depth):
    images = batch().images
    found, expected = (make(m, depth=depth)[0].scores(images) for m in (method, "ff"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("method", METHODS)
def test_wrapped_modules_hold_every_parameter_once(method):
    """What is not in them would not be trained, nor saved in a checkpoint."""
    objective, backbone = make(method)
    held = [id(p) for module in objective.modules for p in module.parameters()]
    wanted = [id(p) for module in (backbone, *objective.parts.values()) for p in module.parameters()]
    assert sorted(held) == sorted(wanted)


def test_a_batch_holds_the_partners_that_were_drawn():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 6, 6)
    index, partner = torch.tensor([4, 0, 5]), torch.tensor([1, 5, 2])
    task = TASKS.load("hybrid")(("a", "b"))
    made = make_batch(task, images, index, torch.ones(3, dtype=torch.int64), {"partner": partner})
    assert (made.images[:, 0, 0, 0] * 255).round().tolist() == [4, 0, 5]
    assert (made.partners[:, 0, 0, 0] * 255).round().tolist() == [1, 5, 2]
    assert made.partners.dtype == torch.float32
    assert make_batch(task, images, index, torch.ones(3, dtype=torch.int64), {}).partners is None


@pytest.mark.parametrize("normalisation", ["rms", "layer", "none"])
def test_positives_and_negatives_share_the_first_product_and_nothing_else_changes(monkeypatch, normalisation):
    """Losses and gradients in float64 are those of the two batches side by side."""
    found = []
    for shared in (True, False):
        objective, backbone = make("ff", normalisation=normalisation)
        backbone.double()
        data = batch()
        data = Batch(data.images.double(), data.labels, data.drawn)
        if not shared:
            monkeypatch.setattr(objective, "inputs", lambda b, o=objective: (o.backbone.stem(o.pairs(b)),))
        assert len(objective.inputs(data)) == (2 if shared else 1)
        losses = [value.detach() for _, value in objective.losses(data)]
        found.append((losses, gradients(objective, backbone, data)))
    (losses, shared_gradients), (expected, plain_gradients) = found
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shared_gradients, plain_gradients, rtol=1e-10, atol=1e-12)


def test_a_batch_smaller_than_its_labels_shares_nothing():
    objective, _ = make("ff")
    assert len(objective.inputs(batch(K))) == 1
    assert len(objective.inputs(batch(K + 1))) == 2
