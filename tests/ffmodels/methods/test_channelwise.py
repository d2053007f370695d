"""Goodness by channel group, its loss and every gradient against NumPy in float64; what is refused; how it predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.backbones.base import NORMALISE, group
from ffmodels.contrast import nce_loss
from ffmodels.methods.channelwise import group_means
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import heads_of, make_units
from tests.ffmodels.making import SHAPE, K, batch, losses_of, make, numpy_activations

SMALL = {"contrast": 0.5, "projector": 8}
# Networks with channels that 4 and 10 classes share evenly; of pixels there are too few.
ON = {
    "mlp": {"width": 20},
    "convnet": {"channels": [20, 40]},
    "resnet": {"width": 0.3125},
    "vit": {"width": 20, "heads": 2},
    "pixels": None,
}


def numpy_goodness(h, classes=K):
    """The mean over each class's channels and all space, group by group."""
    size = h.shape[1] // classes
    return np.stack([h[:, k * size : (k + 1) * size].reshape(len(h), -1).mean(1) for k in range(classes)], 1)


def numpy_cross_entropy(g, labels):
    """The loss, and its slope over the goodness."""
    p = np.exp(g - g.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -np.log(p[np.arange(len(g)), labels]).mean(), (p - np.eye(g.shape[1])[labels]) / len(g)


def flat(data):
    return data.views[0].numpy().astype(np.float64).reshape(len(data.labels), -1)


@pytest.mark.parametrize("shape", [(5, 8), (5, 12, 3, 2), (5, 4, 6), (1, 4, 1, 1)])
def test_goodness_is_its_definition(shape):
    h = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(group_means(torch.from_numpy(h), K), numpy_goodness(h), rtol=1e-12)
    kept = torch.from_numpy(h).to(torch.bfloat16)
    assert group_means(kept, K).dtype == torch.float32
    assert torch.equal(group_means(kept, K), group_means(kept.float(), K))


def test_an_invariance_permuting_channels_of_a_class_or_places_changes_nothing_and_classes_their_order():
    h = torch.randn(6, 12, 3, 3, dtype=torch.float64)
    g = group_means(h, K)
    within = torch.cat([k * 3 + torch.randperm(3) for k in range(K)])
    torch.testing.assert_close(group_means(h[:, within], K), g)
    torch.testing.assert_close(group_means(h.flatten(2)[..., torch.randperm(9)], K), g)
    torch.testing.assert_close(group_means(h.roll(3, 1), K), g.roll(1, 1))
    torch.testing.assert_close(group_means(7 * h, K), 7 * g)


@pytest.mark.parametrize("between", ["layer", "rms"])
def test_every_loss_and_gradient_of_a_step(between):
    method, backbone, units = make("channelwise", between=between)
    data = batch()
    losses, labels = losses_of(method, units, data), data.labels.numpy()
    assert [*losses] == ["block1", "block2", "block3"]
    for (name, found), block, (x, h) in zip(
        losses.items(), backbone.blocks, numpy_activations(backbone, flat(data), between), strict=True
    ):
        loss, slope = numpy_cross_entropy(numpy_goodness(h), labels)
        assert found == pytest.approx(loss, rel=1e-5), name
        delta = slope.repeat(h.shape[1] // K, 1) / (h.shape[1] // K) * (h > 0)
        weight, bias = block.parameters()
        np.testing.assert_allclose(weight.grad, delta.T @ x, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(bias.grad, delta.sum(0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("backbone", "settings", "grids"),
    [
        ("mlp", {"width": 16, "depth": 2}, [1, 1]),
        ("convnet", {"channels": (100, 104, 404), "pooling": ("none",)}, [4, 2, 1]),
    ],
)
def test_supcon_reads_what_is_passed_on_as_hcl_ff_does(backbone, settings, grids):
    """Of one view; parts of a 4x4 map that are kept are its means over equal squares."""
    net = BACKBONES.load(backbone)(between="layer", **settings).build(SHAPE, 0)
    data = batch()
    losses = {}
    for contrast, of_supcon in ((0, {}), (0.3, {"temperature": 0.5, "projector": 8})):
        method = METHODS.load("channelwise")(contrast=contrast, **of_supcon)
        units = make_units(method, net, K)
        losses[contrast] = losses_of(method, units, data)
    for (index, head), h, grid in zip(heads_of(units).items(), net(data.views[0]), grids, strict=True):
        a = h.detach().double().numpy()
        a = a - a.reshape(9, -1).mean(1).reshape(9, *[1] * (a.ndim - 1))
        a = a / np.sqrt((a.reshape(9, -1) ** 2).mean(1)).reshape(9, *[1] * (a.ndim - 1))
        if a.ndim > 2:
            a = a.reshape(9, -1, grid, 4 // grid, grid, 4 // grid).mean((3, 5))
        weight = head.projector[-2].weight.detach().double().numpy()
        assert weight.shape == (8, h.shape[1] * grid**2 if h.ndim > 2 else h.shape[1])
        z = a.reshape(9, -1) @ weight.T
        z = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
        expected = 0.3 * nce_loss(torch.from_numpy(z), data.labels, 0.5).item()
        name = f"block{index + 1}"
        assert losses[0.3][name] - losses[0][name] == pytest.approx(expected, rel=1e-4)


def test_what_is_not_asked_for_is_not_there():
    for contrast, there in ((0, False), (1, True)):
        method, _, units = make("channelwise", contrast=contrast)
        assert all(bool([*head.parameters()]) == there for head in heads_of(units).values())
        needs = method.needs()
        assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (True, 1, False, False)


@pytest.mark.parametrize("images", [torch.zeros(9, *SHAPE), torch.ones(9, *SHAPE), torch.rand(1, *SHAPE)])
def test_images_in_which_nothing_varies_and_one_alone_give_gradients_that_are_finite(images):
    method, _, units = make("channelwise", contrast=1, between="layer")
    for unit in units:
        unit.train()
    data = batch(len(images))
    losses = losses_of(method, units, type(data)((images,), data.labels, data.draws))
    assert np.isfinite([*losses.values()]).all()
    for unit in units:
        assert all(torch.isfinite(p.grad).all() for p in unit.parameters())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near_float32(kind):
    method, _, units = make("channelwise", contrast=1, between="layer")
    expected = losses_of(method, units, batch())
    with torch.autocast("cpu", kind):
        found = losses_of(method, units, batch())
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "blocks", "predict", "name"),
    [
        ({"depth": 1}, [0], [0], "block1"),
        ({"depth": 4}, [0, 1, 2, 3], [0, 1, 2, 3], "blocks1-4-mean"),
        ({"depth": 4, "last": 3}, [0, 1, 2, 3], [1, 2, 3], "blocks2-4-mean"),
        ({"depth": 4, "last": 1}, [0, 1, 2, 3], [3], "block4"),
        ({"depth": 2, "last": 3}, [0, 1], [0, 1], "blocks1-2-mean"),
        ({"depth": 4, "cut": "never", "at": "last"}, [3], [3], "block4"),
        ({"depth": 5, "cut": "2", "at": "last", "last": 2}, [1, 3, 4], [3, 4], "blocks4-5-mean"),
    ],
)
def test_it_tells_by_the_mean_goodness_of_the_last_blocks_that_carry_a_loss(settings, blocks, predict, name):
    method, backbone, units = make("channelwise", **settings)
    told, data = method.readout(backbone, None, heads_of(units), K), batch()
    scores = told.readers(data.views[0])
    goodness = [numpy_goodness(h) for _, h in numpy_activations(backbone, flat(data))]
    assert [*scores] == list(dict.fromkeys([*(f"block{i + 1}" for i in blocks), name]))
    for i in blocks:
        np.testing.assert_allclose(scores[f"block{i + 1}"].detach(), goodness[i], rtol=1e-4)
    expected = np.mean([goodness[i] for i in predict], 0)
    np.testing.assert_allclose(told(data.views[0]).detach(), expected, rtol=1e-4)
    assert torch.equal(told(data.views[0]), scores[name])


@pytest.mark.parametrize("backbone", ON)
@pytest.mark.parametrize("classes", [4, 10])
def test_it_takes_networks_whose_channels_classes_share(backbone, classes):
    method, settings = METHODS.load("channelwise")(), ON[backbone]
    net = BACKBONES.load(backbone)(**(settings or {"between": "rms"})).build((1, 28, 28), 0)
    if settings is None:
        with pytest.raises(SettingError, match=rf"^block 1 has 1 channels, which {classes} classes cannot share"):
            make_units(method, net, classes)
    else:
        assert len(make_units(method, net, classes)) == len(net.info)


def test_it_refuses_channels_that_classes_cannot_share_and_a_network_that_hands_its_length_on():
    method = METHODS.load("channelwise")()
    net = BACKBONES.load("convnet")(channels=(20, 64)).build(SHAPE, 0)
    with pytest.raises(SettingError) as error:
        make_units(method, net, 10)
    assert str(error.value) == (
        "block 2 has 64 channels, which 10 classes cannot share evenly: give each block a multiple of 10, here 70"
    )
    with pytest.raises(SettingError, match=r"backbone\.between is none, and channelwise would read its goodness off"):
        make("channelwise", between="none")


@pytest.mark.parametrize("given", [{"temperature": 0.5}, {"projector": 64}])
def test_a_setting_of_supcon_is_refused_where_it_changes_nothing(given):
    [(name, value)] = given.items()
    with pytest.raises(SettingError, match=f"^{name} is {value}, and contrast is 0: leave it out, or give"):
        METHODS.load("channelwise")(**given)
    assert METHODS.load("channelwise")(contrast=1.0, **given)


def test_groups_that_are_normalised_are_those_whose_goodness_it_is():
    """Else a block would see which class the one below preferred."""
    net = BACKBONES.load("mlp")(width=20, between="group", groups=10).build(SHAPE, 0)
    with pytest.raises(SettingError, match=r"^backbone\.groups is 10, and goodness is of 4 groups of channels.*=4$"):
        make_units(METHODS.load("channelwise")(), net, 4)
    h = torch.rand(9, 200, dtype=torch.float64)  # twenty numbers a group: a few may be nearly alike
    assert (group_means(group(h, 10), 10).abs() < 1e-9).all()
    images = torch.rand(9, 20, 2, 2)  # are normalised whole, as its authors do
    torch.testing.assert_close(net.read(0, images), NORMALISE["layer"](images))
