"""Precisions: what becomes of the weights, and how near the file must stay to the trained model.

The head stays in float32 in all of them: a probe's weights have the standardisation folded into them, so that one of a
unit that is hardly ever active is ten thousand times another, and eight bits, or half's range, do not hold both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from ffexport.graph import DeployedModel


@dataclass(frozen=True)
class Precision:
    """A precision.

    Args:
        prepare: the trained model -> the module to export.
        exact: whether the file shall compute the trained model's numbers; else it comes near, and is measured.
        schemes: whether the graph is quantised too, by a scheme of `ffexport.registry.SCHEMES`.
    """

    prepare: Callable[[DeployedModel], DeployedModel]
    exact: bool
    schemes: bool = False


class HalfLinear(nn.Module):
    """A linear layer with its weights in half; the product is in the type of its input.

    `.float()` on the module turns them back, so that they are not converted at each call.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().half(), requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x @ weight.T + bias."""
        return functional.linear(x, self.weight.to(x.dtype), self.bias)


def half(model: DeployedModel) -> DeployedModel:
    """Returns a copy with the backbone's weights in half. Nothing is computed in half, so nothing overflows."""
    halved = copy.deepcopy(model)
    for layer in halved.backbone.layers:
        assert isinstance(layer.linear, nn.Linear)
        layer.linear = HalfLinear(layer.linear)
    return halved


FP32 = Precision(lambda model: model, exact=True)
FP16 = Precision(half, exact=False)
INT8 = Precision(lambda model: model, exact=False, schemes=True)
