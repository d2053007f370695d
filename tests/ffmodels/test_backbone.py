from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.backbone import Activations, BackboneConfig, last_layers, layer_normalise, layers_name, rms_normalise


def build(seed=0, **settings):
    return BackboneConfig(shape=(1, 4, 4), **{"width": 12, "depth": 3, **settings}).build(seed)


def test_rms_normalise_keeps_the_direction_and_sets_the_length():
    x = np.random.default_rng(0).normal(size=(4, 50)) * np.array([[1e-2], [1], [10], [1e4]])
    found = rms_normalise(torch.from_numpy(x))
    np.testing.assert_allclose(found, x / np.sqrt((x**2).mean(-1, keepdims=True)), rtol=1e-12)


def test_layer_normalise_is_layer_norm_without_parameters():
    x = torch.randn(4, 50, dtype=torch.float64)
    torch.testing.assert_close(layer_normalise(x), torch.nn.functional.layer_norm(x, (50,), eps=0.0))


@pytest.mark.parametrize("normalise", [rms_normalise, layer_normalise])
def test_a_row_of_zeros_stays_zero_with_a_finite_gradient(normalise):
    x = torch.zeros(2, 8, requires_grad=True)
    found = normalise(x)
    found.sum().backward()
    assert torch.equal(found, torch.zeros(2, 8))
    assert torch.isfinite(x.grad).all()


def test_only_the_direction_of_the_image_reaches_the_features():
    backbone, images = build(), torch.rand(3, 1, 4, 4) + 0.1
    torch.testing.assert_close(backbone.features(images), backbone.features(7 * images))


def test_permuting_the_units_of_a_layer_permutes_its_features_alone():
    backbone, images = build(), torch.rand(5, 1, 4, 4)
    before = backbone.features(images)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in (backbone.layers[1].linear.weight, backbone.layers[1].linear.bias):
            p.copy_(p[order])
        backbone.layers[2].linear.weight.copy_(backbone.layers[2].linear.weight[:, order])
    after = backbone.features(images)
    torch.testing.assert_close(after[:, 12:24], before[:, 12:24][:, order])
    torch.testing.assert_close(after[:, :12], before[:, :12])
    torch.testing.assert_close(after[:, 24:], before[:, 24:])


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = build(1), build(1), build(2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.layers[0].linear.weight, other.layers[0].linear.weight)


def test_features_of_chosen_layers_stand_side_by_side():
    backbone, images = build(), torch.rand(2, 1, 4, 4)
    everything = backbone.features(images)
    assert everything.shape == (2, 36)
    torch.testing.assert_close(
        backbone.features(images, [2, 0]), torch.cat([everything[:, 24:], everything[:, :12]], 1)
    )


def test_activations_as_a_module_are_those_of_the_backbone_and_train_it():
    backbone, images = build(), torch.rand(4, 1, 4, 4)
    x, module = images.flatten(1), Activations(backbone)
    for found, layer in zip(module(images), backbone.layers, strict=True):
        x = layer(x)
        torch.testing.assert_close(found, x)
    module(images)[-1].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert [*map(id, module.parameters())] == [*map(id, backbone.parameters())]


@pytest.mark.parametrize(
    ("depth", "layers", "name"), [(1, (0,), "layer1"), (2, (0, 1), "layers1-2"), (4, (1, 2, 3), "layers2-4")]
)
def test_the_last_three_layers_all_of_them_below_depth_three(depth, layers, name):
    assert last_layers(depth) == layers
    assert layers_name(layers) == name


@pytest.mark.parametrize(
    "settings", [{"width": 0}, {"depth": 0}, {"backbone": "cnn"}, {"normalisation": "batch"}, {"width": 2.5}]
)
def test_settings_that_are_not_legal_name_their_value(settings):
    with pytest.raises(SettingError, match=str(*settings.values())):
        build(**settings)
