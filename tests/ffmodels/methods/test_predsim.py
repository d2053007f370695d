from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.methods.predsim import similarity_loss
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import heads_of, make_units
from tests.ffmodels.making import SHAPE, K, batch, losses_of, make


def numpy_similarity(seen, labels):
    """The loss of what is alike by its definition, pair by pair."""
    if seen.ndim > 2 and seen.shape[2:] == (1, 1):
        seen = seen[:, :, 0, 0]
    elif seen.ndim > 2:
        seen = np.sqrt(seen.reshape(*seen.shape[:2], -1).var(-1) + 1e-8)

    def cosine(x, y):
        x, y = x - x.mean(), y - y.mean()
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    targets = np.eye(K)[labels]
    pairs = [(i, j) for i in range(len(seen)) for j in range(len(seen))]
    return np.mean([(cosine(seen[i], seen[j]) - cosine(targets[i], targets[j])) ** 2 for i, j in pairs])


def numpy_cross_entropy(logits, labels):
    logits = logits - logits.max(1, keepdims=True)
    return -np.mean(logits[np.arange(len(labels)), labels] - np.log(np.exp(logits).sum(1)))


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 3, 4), (7, 6, 1, 1)])
def test_what_is_alike_is_its_definition(shape):
    seen = np.random.default_rng(0).normal(size=shape) + 0.4
    labels = np.arange(7) % K
    found = similarity_loss(torch.from_numpy(seen), torch.eye(K, dtype=torch.float64)[labels])
    np.testing.assert_allclose(found, numpy_similarity(seen, labels), rtol=1e-10)


def test_it_is_0_where_images_of_a_class_are_one_and_classes_are_as_far_apart_as_they_can_be():
    labels = torch.arange(9) % K
    target = torch.eye(K, dtype=torch.float64)[labels]
    assert similarity_loss(3 * target + 0.5, target) < 1e-12
    assert similarity_loss(target.roll(1, 0), target) > 0.1


@pytest.mark.parametrize("seen", [torch.zeros(4, 5), torch.ones(4, 5), torch.ones(4, 3, 2, 2), torch.rand(1, 5)])
def test_images_in_which_nothing_varies_give_gradients_that_are_finite(seen):
    seen.requires_grad_()
    loss = similarity_loss(seen, torch.eye(4)[: len(seen)])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(seen.grad).all()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("backbone", ["mlp", "convnet"])
def test_each_block_has_the_loss_of_both_parts(beta, backbone):
    method = METHODS.load("predsim")(beta=beta)
    small = {"width": 12, "depth": 2} if backbone == "mlp" else {"channels": (5, 6)}
    net = BACKBONES.load(backbone)(**small).build(SHAPE, 0)
    units, data = make_units(method, net, K), batch()
    generator = torch.Generator().manual_seed(3)
    for head in heads_of(units).values():
        for name, parameter in head.named_parameters():
            if name.startswith("linear"):  # which begins at 0
                parameter.data = torch.randn(parameter.shape, generator=generator)
    found = losses_of(method, units, data)
    for index, h in enumerate(net(data.views[0])):
        [head] = [unit.heads[str(index)] for unit in units if str(index) in unit.heads]
        labels, expected = data.labels.numpy(), 0.0
        if beta < 1:
            expected += (1 - beta) * numpy_cross_entropy(head.logits(h).detach().double().numpy(), labels)
        if beta > 0:
            seen = head.alike(net.normalise(h)).detach().double().numpy()
            expected += beta * numpy_similarity(seen, labels)
        assert found[f"block{index + 1}"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("beta", "parts"), [(0.0, {"linear"}), (0.5, {"linear", "alike"}), (1.0, {"alike"})])
def test_what_is_not_asked_for_is_not_there(beta, parts):
    method, _, units = make("predsim", beta=beta)
    for head in heads_of(units).values():
        assert {name.partition(".")[0] for name, _ in head.named_parameters()} == parts
    assert method.needs().labels


def test_it_tells_by_its_classifiers_where_it_has_some():
    method, backbone, units = make("predsim")
    data = batch()
    losses_of(method, units, data)
    readers = method.readout(backbone, None, heads_of(units), K).readers(data.views[0])
    assert [*readers] == ["block1", "block2", "block3"]
    assert all(not scores.any() for scores in readers.values())  # they begin at 0
    alone, backbone, units = make("predsim", beta=1.0)
    assert alone.readout(backbone, None, heads_of(units), K) is None
