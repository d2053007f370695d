"""Small networks, batches and gradients, and the study's MLP in NumPy."""

from __future__ import annotations

import numpy as np
import torch

from ffmodels.backbones.base import EPS
from ffmodels.batch import Batch
from ffmodels.draws import Draws
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import make_units

K, SHAPE = 4, (2, 4, 4)


def make(name, *, cut="block", at="all", depth=3, between="rms", width=16, seed=1, **settings):
    """A method, its network and its units."""
    method = METHODS.load(name)(**settings)
    backbone = BACKBONES.load("mlp")(width=width, depth=depth, between=between).build(SHAPE, seed)
    return method, backbone, make_units(method, backbone, K, cut=cut, at=at, seed=seed)


def batch(rows=9, seed=0, classes=K, dtype=torch.float32, views=1):
    """A batch with what every method may ask for."""
    rng = np.random.default_rng(seed)
    images, other = torch.from_numpy(rng.random((2, rows, *SHAPE))).to(dtype)
    labels = torch.from_numpy(rng.integers(classes, size=rows))
    more = torch.from_numpy(rng.random((views - 1, rows, *SHAPE))).to(dtype)
    told = torch.from_numpy(rng.random((rows, classes))).float()
    return Batch((images, *more), labels, Draws(0, 1, torch.arange(rows)), other, told)


def losses_of(method, units, data):
    """Every loss, with gradients left in the parameters."""
    found, h = {}, method.inputs(data, K)
    for unit in units:
        h, losses = unit(h, data)
        torch.stack([*losses.values()]).sum().backward()
        found |= {name: loss.item() for name, loss in losses.items()}
    return found


def gradients(method, backbone, units, data):
    backbone.zero_grad()
    losses_of(method, units, data)
    return [[p.grad.clone() for p in block.parameters()] for block in backbone.blocks]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def normalised(x, between):
    """Each row as a block reads it."""
    if between == "layer":
        x = x - x.mean(-1, keepdims=True)
    return x if between == "none" else x / np.maximum(np.sqrt((x**2).mean(-1, keepdims=True)), EPS)


def weights_of(block):
    return [p.detach().numpy().astype(np.float64) for p in block.parameters()]


def numpy_activations(backbone, pixels, between="rms"):
    """What each block reads and gives, float64, of flattened pixels [N, P]."""
    found, h = [], pixels
    for block in backbone.blocks:
        weight, bias = weights_of(block)
        x = normalised(h, between)
        h = np.maximum(x @ weight.T + bias, 0)
        found.append((x, h))
    return found


def projections(backbone, units, data):
    """Each block's name, and what its projector makes of the two views, in float64."""
    views = [backbone(view) for view in data.views]
    for index, unit in enumerate(units):
        rows = torch.cat([backbone.normalise(view[index]) for view in views])
        one, other = unit.heads[str(index)].projector(rows).detach().double().chunk(2)
        yield f"block{index + 1}", one.numpy(), other.numpy()
