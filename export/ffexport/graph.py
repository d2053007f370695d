"""Preprocessing, encoder and head as one module: raw pixels in, features and probabilities out.

Letters: B batch, C channels, H W pixels, F features given, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffmodels.backbones.base import Shape
from ffmodels.encoder import Encoder
from ffmodels.linear import LinearHead
from ffmodels.methods.base import Readout


class DeployedModel(nn.Module):
    """What an exported file computes.

    Input: `images` uint8 [B, C, H, W], raw pixels 0 to 255: scaling, and what the pixels carry beside the image, are
    inside. Outputs: `features` float32 [B, F]; with a head also `logits` and `probabilities` float32 [B, K]. After
    `.double()` everything is computed in float64.

    Args:
        encoder: of which what no output reads is dropped.
        head: a linear probe on the features, or the method's own readout, which shares the encoder's network; None for
            features alone.
        blocks: whose features are given, indices from 0.
        classes: K; None without a head.

    Attributes:
        outputs: names and widths of the outputs, in order.
    """

    white: Tensor

    def __init__(
        self,
        encoder: Encoder,
        head: LinearHead | Readout | None = None,
        *,
        blocks: Sequence[int],
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.blocks = list(blocks)
        self.outputs = {"features": sum(encoder.dims[i] for i in blocks)}
        if classes is not None:
            self.outputs |= {"logits": classes, "probabilities": classes}
        self.temperature = 1.0
        self.register_buffer("white", torch.tensor(255.0), persistent=False)
        if not isinstance(head, Readout):
            del encoder.backbone.blocks[max(self.blocks) + 1 :]

    @property
    def shape(self) -> Shape:
        """Channels, height and width of the images."""
        shape: Shape = self.encoder.backbone.shape
        return shape

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of `outputs`."""
        pixels = self._pixels(images)
        features = torch.cat(self.encoder(pixels, self.blocks), dim=-1)
        if self.head is None:
            return (features,)
        logits = self.head(pixels if isinstance(self.head, Readout) else features)
        return features, logits, (logits / self.temperature).softmax(-1)

    def _pixels(self, images: Tensor) -> Tensor:
        """Returns the pixels in [0, 1]."""
        return images.to(self.white.dtype) / self.white


def with_dead_block(model: DeployedModel) -> DeployedModel:
    """Returns a copy whose first block has no active unit, where units can be so: a careless export gives NaN there."""
    dead = copy.deepcopy(model)
    with torch.no_grad():
        for name, weights in dead.encoder.backbone.blocks[0].named_parameters():
            weights.fill_(-1.0 if name.endswith("bias") else 0.0)
    return dead


def halved(model: DeployedModel) -> DeployedModel:
    """Returns a copy with the weights of the backbone's products in half.

    Nothing is computed in half, so nothing overflows; `.float()` turns the weights back, so that they are not converted
    at each call. The head stays in float32: a probe's weights have the standardisation folded into them, so that one of
    a unit that is hardly ever active is ten thousand times another, and half's range does not hold both.
    """
    model = copy.deepcopy(model)
    for module in model.encoder.backbone.modules():
        if type(module) is nn.Linear:
            module.__class__ = _HalfLinear
        elif type(module) is nn.Conv2d:
            module.__class__ = _HalfConv2d
        else:  # a subclass may do other things with its weights, and keeps them
            continue
        module.weight = nn.Parameter(module.weight.detach().half(), requires_grad=False)
    return model


class _HalfLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype), self.bias)


class _HalfConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(x, self.weight.to(x.dtype), self.bias)
        return convolved
