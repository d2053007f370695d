from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import make_units
from tests.ffmodels.making import SHAPE, K, batch, losses_of, make, normalised, weights_of


def softplus(x):
    return np.logaddexp(0, x)


def triangle(z):
    return normalised(np.maximum(z - z.mean(1, keepdims=True), 0), "layer")


def papers_losses(backbone, views, other, again, passed, positive=4.0, negative=6.0, penalty=1e-4):
    """Losses as the paper's code has them: z = W a + W b + 2 bias of a pair, W y + bias of what is passed on."""
    found = {}
    own, view = views[0], views[-1]
    pairs = [(own, view), (own, other)]
    for index, block in enumerate(backbone.blocks):
        weight, bias = weights_of(block)

        def product(a, b, weight=weight, bias=bias, first=index == 0):
            sides = [normalised(x, "layer") if first else passed(x) for x in (a, b) if x is not None]
            return sum(side @ weight.T + bias for side in sides)

        high, low = (product(*pair) for pair in pairs)
        y, y_negative = ((np.maximum(z, 0) ** 2).mean(1) for z in (high, low))
        at = (positive, negative, penalty) if index == 0 else (1.0, 1.0, 0.0)
        loss = softplus(at[0] - y).mean() + softplus(y_negative - at[1]).mean() + at[2] * y.mean()
        found[f"block{index + 1}"] = loss
        other = product(other, other)
        paired = again[min(index + 1, len(again) - 1)]
        pairs = [(high, high), (high, other)] if paired else [(high, None), (low, None)]
    return found


@pytest.mark.parametrize("again", [(False,), (True,), (False, True)])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(
    ("network", "passed"),
    [
        ({"between": "triangle", "activation": "linear"}, triangle),
        ({"between": "layer"}, lambda z: normalised(np.maximum(z, 0), "layer")),
    ],
)
def test_losses_are_those_of_pairs_side_by_side_with_shared_weights(network, passed, again, views):
    method = METHODS.load("self-contrastive")(views=views, again=again)
    backbone = BACKBONES.load("mlp")(width=16, depth=3, **network).build(SHAPE, 1)
    units, data = make_units(method, backbone, K), batch(views=views)
    found = losses_of(method, units, data)
    flat = [x.flatten(1).numpy().astype(np.float64) for x in (*data.views, data.partner)]
    for name, expected in papers_losses(backbone, flat[:-1], flat[-1], again, passed).items():
        assert found[name] == pytest.approx(expected, rel=1e-4), name


def test_on_a_map_goodness_is_of_each_place():
    method, _, _ = make("self-contrastive", penalty=(0.5,))
    net = BACKBONES.load("convnet")(channels=(3,)).build(SHAPE, 0)
    head = make_units(method, net, K)[0].heads["0"]
    h = torch.rand(18, 3, 2, 2, dtype=torch.float64)
    y = ((2 * h.numpy()) ** 2).mean(1)
    expected = softplus(4 - y[:9]).mean() + softplus(y[9:] - 6).mean()
    expected += 0.5 * np.sqrt((y[:9] ** 2).sum((1, 2))).mean()
    assert head(h, batch()).item() == pytest.approx(expected, rel=1e-10)


def test_settings_of_blocks_stand_for_those_that_follow():
    _, _, units = make("self-contrastive", depth=4, positive=(1.0, 2.0, 3.0), negative=(5.0,))
    heads = [unit.heads[str(index)] for index, unit in enumerate(units)]
    assert [head.positive for head in heads] == [1.0, 2.0, 3.0, 3.0]
    assert [head.negative for head in heads] == [5.0] * 4


@pytest.mark.parametrize(("name", "value"), [("positive", (1.0, 2.0, 3.0)), ("again", (False, True, True))])
def test_values_of_blocks_that_there_are_not_are_refused(name, value):
    with pytest.raises(SettingError, match=f"^{name} has 3 values, and there are 2 blocks: give no more$"):
        make("self-contrastive", depth=2, **{name: value})
    make("self-contrastive", depth=1)  # the defaults are of two


def test_a_penalty_is_no_reward():
    with pytest.raises(SettingError, match=r"^penalty\.1 is -1\.0: it must be at least 0"):
        make("self-contrastive", penalty=(1e-3, -1.0))


def test_a_network_without_normalisation_is_refused():
    with pytest.raises(SettingError, match="between is none, and self-contrastive would read its goodness off"):
        make("self-contrastive", between="none")


def test_it_reads_no_label_and_asks_for_another_image():
    for views in (1, 2):
        needs = make("self-contrastive", views=views)[0].needs()
        assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (False, views, True, False)
