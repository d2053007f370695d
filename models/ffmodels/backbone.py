"""The backbone: layers that normalise their input, multiply, and rectify.

Letters: B batch, C channels, H W pixels, P = C*H*W, D features of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import SettingError
from ffmodels.registry import BACKBONES, NORMALISATIONS

# A floor, not a summand: the ONNX optimiser drops tiny summands, and a row of zeros then gives NaN.
# Its square is still a number in half precision.
EPS = 1e-3


def rms_normalise(x_BD: Tensor) -> Tensor:
    """Divides each row by max(RMS, EPS): only its direction passes on (Hinton 2022, section 2.1); at least float32."""
    x_BD = x_BD.to(torch.promote_types(x_BD.dtype, torch.float32))
    return x_BD * x_BD.square().mean(-1, keepdim=True).clamp(min=EPS**2).rsqrt()


def layer_normalise(x_BD: Tensor) -> Tensor:
    """LayerNorm without parameters: each row is centred, then divided by its deviation; at least float32."""
    x_BD = x_BD.to(torch.promote_types(x_BD.dtype, torch.float32))
    return rms_normalise(x_BD - x_BD.mean(-1, keepdim=True))


def as_it_is(x_BD: Tensor) -> Tensor:
    """Returns the rows as they are, at least float32: a plain MLP, as BP needs no more."""
    return x_BD.to(torch.promote_types(x_BD.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """All that is needed to build a backbone before its weights are loaded.

    Args:
        backbone: a name in `BACKBONES`.
        shape: channels, height and width of the images.
        width: features of each layer, at least 1.
        depth: number of layers, at least 1.
        normalisation: a name in `NORMALISATIONS`.

    Raises:
        SettingError: for a value outside these ranges.
    """

    backbone: str = "mlp"
    shape: tuple[int, int, int]
    width: int = 2000
    depth: int = 4
    normalisation: str = "rms"

    def __post_init__(self) -> None:
        BACKBONES.check(self.backbone)
        NORMALISATIONS.check(self.normalisation)
        object.__setattr__(self, "shape", tuple(self.shape))
        whole = [self.width, self.depth, *self.shape]
        if len(self.shape) != 3 or any(not isinstance(n, int) or n < 1 for n in whole):
            raise SettingError(
                f"width {self.width}, depth {self.depth} and shape {self.shape} must be whole numbers of at least 1"
            )

    def build(self, seed: int) -> MLP:
        """Returns the untrained backbone: the same weights for the same seed, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone: MLP = BACKBONES.load(self.backbone)(self)
        return backbone

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-ready values."""
        return {**asdict(self), "shape": list(self.shape)}


class Layer(nn.Module):
    """Normalise, multiply, rectify: x_BD -> h_BD, float32. A layer is what one FF loss trains."""

    def __init__(self, inputs: int, width: int, normalisation: str) -> None:
        super().__init__()
        self.normalise = NORMALISATIONS.load(normalisation)
        self.linear = nn.Linear(inputs, width)

    def forward(self, x_BD: Tensor, moved_BK: Tensor | None = None) -> Tensor:
        """Returns the activations h_BD of the inputs x_BD.

        With `moved_BK` float [B, K] also those of the inputs whose first K values are changed by it, below the others:
        [2B, D]. Each row must hold one -1 and one 1, and x_BD a 1 and a 0 there: a one-hot label that moves. The row's
        scale stays as it is, so the two share their product, and K more rows give the columns that they differ by.
        """
        x_BD = self.normalise(x_BD)
        if moved_BK is None:
            return functional.relu(self.linear(x_BD))
        B, K = moved_BK.shape
        columns_KD = torch.eye(K, x_BD.shape[1], dtype=x_BD.dtype, device=x_BD.device)
        z_BD, columns_KD = self.linear(torch.cat([x_BD, columns_KD])).split([B, K])
        scale_B1 = -(moved_BK * x_BD[:, :K]).sum(1, keepdim=True)  # what a 1 lies above a 0 after normalising
        moved_BD = (moved_BK * scale_B1).to(z_BD.dtype) @ columns_KD
        return functional.relu(torch.cat([z_BD, z_BD + moved_BD]))


class MLP(nn.Module):
    """The study's backbone: `depth` layers of `width` ReLU units over flattened pixels in [0, 1].

    A backbone has `layers` (modules, each trainable by itself), `stem` (images -> the input of the first
    layer) and `features`; whatever has these can be registered and trained by every method.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [math.prod(config.shape)] + [config.width] * (config.depth - 1)
        self.layers = nn.ModuleList(Layer(n, config.width, config.normalisation) for n in inputs)
        self.normalise = NORMALISATIONS.load(config.normalisation)

    def stem(self, images_BCHW: Tensor) -> Tensor:
        """Returns the input of the first layer, x_BP."""
        return images_BCHW.flatten(1)

    def activations(self, images_BCHW: Tensor) -> list[Tensor]:
        """Returns every layer's activations h_BD, the first layer's first; float32, at least 0."""
        x, activations = self.stem(images_BCHW), []
        for layer in self.layers:
            x = layer(x)
            activations.append(x)
        return activations

    def features(self, images_BCHW: Tensor, layers: Sequence[int] | None = None) -> Tensor:
        """Returns the normalised activations of the chosen layers side by side, float32 [B, D * len(layers)].

        Args:
            images_BCHW: float32 pixels in [0, 1].
            layers: indices from 0, in the order wanted; None means all.
        """
        activations = self.activations(images_BCHW)
        chosen = range(len(activations)) if layers is None else layers
        return torch.cat([self.normalise(activations[i]) for i in chosen], dim=-1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns the last layer's features: what a linear head reads."""
        return self.features(images_BCHW, [len(self.layers) - 1])


class Activations(nn.Module):
    """A backbone's activations as a forward pass: images -> [h_BD of each layer], for a loss on several layers."""

    def __init__(self, backbone: MLP) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Returns every layer's activations."""
        return self.backbone.activations(images_BCHW)


def last_layers(depth: int) -> tuple[int, ...]:
    """Returns the layers whose goodness and features are read by default: the last 3, all below depth 3."""
    return tuple(range(max(0, depth - 3), depth))


def layers_name(layers: Sequence[int]) -> str:
    """Names a choice of layers as people count them: (1,) -> 'layer2', (1, 2, 3) -> 'layers2-4'."""
    first, last = layers[0] + 1, layers[-1] + 1
    return f"layer{first}" if first == last else f"layers{first}-{last}"
