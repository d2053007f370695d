"""What a backbone has: a stem, and blocks of which each may be trained by itself.

A new one is a file beside this: settings that build the stem and the blocks. All that others know of it they read off
its activations: widths, shapes, how many blocks there are.

Letters: B batch, C channels, H W pixels, D features of a block, h an activation of any shape [B, ...].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.settings import Part, setting

# A floor, not a summand: the ONNX optimiser drops tiny summands, and a row of zeros then gives NaN.
# Its square is still a number in half precision.
EPS = 1e-3

Between = Literal["rms", "layer", "group", "triangle", "none"]
Shape = tuple[int, int, int]


def as_it_is(h: Tensor) -> Tensor:
    """Returns the activation, at least float32: a plain network."""
    return h.to(torch.promote_types(h.dtype, torch.float32))


Pool = Callable[[Tensor], Tensor]
Sides = int | tuple[int | None, int | None] | None


def mean(h: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """Returns the mean over some axes, which is torch's, with a gradient that takes up no memory and has no layout.

    Torch's own gradient is written out with channels before pixels, which everything below then copies into maps of
    channels last: steps took 1.3 to 2 times as long.
    """
    found: Tensor = _Mean.apply(h, axes, keepdim) if h.requires_grad else h.mean(axes, keepdim=keepdim)
    return found


class _Mean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, axes: list[int], keepdim: bool) -> Tensor:
        return h.mean(axes, keepdim=keepdim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, list[int], bool], output: Tensor) -> None:
        h, axes, keepdim = inputs
        ctx.shape = h.shape
        ctx.axes = sorted(axis % h.ndim for axis in axes)
        ctx.missing = [] if keepdim else ctx.axes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        for axis in ctx.missing:
            gradient = gradient.unsqueeze(axis)
        return (gradient / size([ctx.shape[axis] for axis in ctx.axes])).expand(ctx.shape), None, None


def own(h: Tensor) -> list[int]:
    """Returns the axes of an image's own numbers, which are not flattened: that would copy a map of channels last."""
    return [*range(1, h.ndim)]


def parts(maps_BCHW: Tensor, sides: Sides) -> Tensor:
    """Returns means over so many parts of a map, down and across, as torch takes them, [B, C, sides]."""
    if sides in (1, (1, 1)):
        return mean(maps_BCHW, [2, 3], keepdim=True)
    return functional.adaptive_avg_pool2d(maps_BCHW, sides)


def rms(h: Tensor, pool: Pool = as_it_is) -> Tensor:
    """Divides each image's activation by max(RMS, EPS): only its direction passes on (Hinton 2022, section 2.1).

    Args:
        h: an activation [B, ...].
        pool: what of it is given back divided, by default all: means, which are the same before and behind a division.
    """
    h = as_it_is(h)
    scale_B = mean(h.square(), own(h)).clamp(min=EPS**2).rsqrt()
    found = pool(h)
    return found * scale_B[..., *[None] * (found.ndim - 1)]


def layer(h: Tensor, pool: Pool = as_it_is) -> Tensor:
    """LayerNorm without parameters: each image's activation is centred, then divided by its deviation."""
    h = as_it_is(h)
    return rms(h - mean(h, own(h), keepdim=True), pool)


def group(h: Tensor, groups: int, pool: Pool = as_it_is) -> Tensor:
    """LayerNorm without parameters of each group of channels (DeeperForward, ICLR 2025; HCL-FF, CVPR 2026)."""
    h = as_it_is(h)
    centred = h - _like(of_groups(h, groups), h)
    found = pool(centred)
    return found * _like(of_groups(centred.square(), groups).clamp(min=EPS**2).rsqrt(), found)


def _like(values_BG: Tensor, h: Tensor) -> Tensor:
    """Returns values of groups as those of channels of an activation, [B, C, 1, ...], or of features [B, D]."""
    values_BC = values_BG[..., None].expand(-1, -1, h.shape[1] // values_BG.shape[1]).flatten(1)
    return values_BC[..., *[None] * (h.ndim - 2)]


def of_groups(h: Tensor, groups: int) -> Tensor:
    """Returns the mean of each group of channels over all space, [B, groups]; groups divide the C of [B, C, ...]."""
    h_BC = h if h.ndim == 2 else mean(h, own(h)[1:])
    return mean(h_BC.reshape(h.shape[0], groups, h.shape[1] // groups), [2])


def above_mean(h: Tensor) -> Tensor:
    """relu(h - mean of h over channels): a unit speaks where it is above the others (Coates et al. 2011)."""
    return (h - mean(h, [1], keepdim=True)).relu()


def triangle(h: Tensor, pool: Pool = as_it_is) -> Tensor:
    """`above_mean`, then `layer`: for blocks whose activation is linear."""
    return layer(above_mean(as_it_is(h)), pool)


def plain(h: Tensor, pool: Pool = as_it_is) -> Tensor:
    """Leaves an activation as it is, at least float32."""
    return pool(as_it_is(h))


NORMALISE: dict[str, Callable[..., Tensor]] = {"rms": rms, "layer": layer, "triangle": triangle, "none": plain}


@dataclass(frozen=True)
class BlockInfo:
    """What is known of a block.

    Args:
        index: from 0.
        last: whether it is the last of its unit.
        stage: the stage that it belongs to; where a backbone has none, its index.
        shape: of its activation, without the batch.
        dim: D, of its features.
        normalise: its activation [B, *shape] -> the same as the next block reads it, at least float32.
        features: its activation -> its features float32 [B, D], normalised so, then pooled.
    """

    index: int
    last: bool
    stage: int
    shape: tuple[int, ...]
    dim: int
    normalise: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]


class Backbone(nn.Module):
    """A network in blocks, each of which normalises its input.

    Args:
        stem: images float [B, C, H, W] in [0, 1] -> h.
        blocks: h -> h, one tensor of any shape.
        shape: channels, height and width of the images.
        between: how each block's input is normalised: rms, layer, group or triangle (of what the stem gives: layer) or
            none.
        groups: of channels, where it is group.
        keeps: pixels a side of a map that features keep: 1 is the mean over space.
        stages: of each block, the stage that it belongs to; None: each is its own.
        pools: of each block, what is done to its input before it is normalised, such as pooling and dropout, which no
            loss below sees; None: nothing.

    Raises:
        SettingError: where it does not fit: a block gives no float tensor of its batch, rows of an image depend on
            others in evaluation, features are no [B, D], or keep more of a map than it has, or groups do not share
            its channels.
    """

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        *,
        shape: Shape,
        between: Between,
        groups: int = 10,
        keeps: int = 1,
        stages: Sequence[int] | None = None,
        pools: Sequence[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.pools = nn.ModuleList(pools or [nn.Identity() for _ in blocks])
        self.shape = shape
        self.between = between
        self.groups = groups
        self.keeps = keeps
        self.normalise = partial(group, groups=groups) if between == "group" else NORMALISE[between]
        self.info = self._look(range(len(blocks)) if stages is None else stages)
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        if not any(map(_overruns, convolutions)):
            for convolution in convolutions:  # so are its maps, then: 1.2 to 1.4 times as many steps a second on a CPU
                convolution.to(memory_format=torch.channels_last)

    def pool(self, h: Tensor) -> Tensor:
        """Returns an activation's features, [B, D]: means of [B, C, ...] over space, of a map over some parts of it."""
        if h.ndim == 4:
            return parts(h, self.keeps).flatten(1)
        return h if h.ndim == 2 else mean(h, own(h)[1:])

    def grid(self, h: Tensor) -> Tensor:
        """Returns an activation as a map, [B, D, h, w], for dense tasks.

        Raises:
            SettingError: where it has none.
        """
        if h.ndim != 4:
            raise SettingError(
                f"activations of shape {[*h.shape[1:]]} are no map: dense tasks need a convolutional one"
            )
        return h

    def read(self, index: int, h: Tensor) -> Tensor:
        """Returns what a block reads of the activation of the one below it, or the stem's, at least float32."""
        if self.between == "triangle":
            return layer(self.pools[index](above_mean(as_it_is(h)) if index else h))
        h = self.pools[index](h)
        return layer(h) if self.between == "group" and index == 0 else self.normalise(h)

    def block(self, index: int, h: Tensor) -> Tensor:
        """Returns the activation of one block, given that of the one below it, or the stem's."""
        found: Tensor = self.blocks[index](self.read(index, h))
        return found

    def features(self, h: Tensor) -> Tensor:
        """Returns an activation as it is read: normalised, then pooled, at least float32 [B, D]."""
        if getattr(self.pool, "__func__", None) is not Backbone.pool:  # somebody's own: no mean, perhaps
            return self.pool(self.normalise(h))
        found: Tensor = self.normalise(h, pool=self.pool)  # the same, and nothing of a map's size is divided
        return found

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Returns every block's activation h, the first block's first."""
        h, activations = self.stem(images_BCHW), []
        for index in range(len(self.blocks)):
            h = self.block(index, h)
            activations.append(h)
        return activations

    @torch.no_grad()
    def _look(self, stages: Sequence[int]) -> tuple[BlockInfo, ...]:
        """Returns what the activations of two images tell of each block."""
        if not len(self.blocks) or len(stages) != len(self.blocks):
            raise SettingError(f"a backbone of {len(self.blocks)} blocks in {len(stages)} stages: give each block one")
        was = self.training
        self.eval()
        h, info = self.stem(torch.zeros(2, *self.shape)), []
        for index, stage in enumerate(stages):
            h = self.block(index, h)
            fits = isinstance(h, Tensor) and h.ndim > 1 and len(h) == 2 and h.is_floating_point()
            if fits and self.between == "group":
                self._check_groups(f"block {index + 1}", h)
            features = self.features(h) if fits else None
            if features is None or features.ndim != 2 or len(features) != 2:
                gave = [*h.shape] if isinstance(h, Tensor) else type(h).__name__
                raise SettingError(
                    f"block {index + 1} gives {gave} for 2 images: it must give one float tensor [2, ...], and pool "
                    "must make [2, D] of it"
                )
            if h.ndim == 4 and self.keeps > min(h.shape[2:]):
                raise SettingError(
                    f"backbone.keeps is {self.keeps}, but the maps of block {index + 1} are {h.shape[2]}x{h.shape[3]}: "
                    "features keep no more pixels than that"
                )
            info.append(
                BlockInfo(
                    index=index,
                    last=index == len(stages) - 1,
                    stage=stage,
                    shape=tuple(h.shape[1:]),
                    dim=features.shape[1],
                    normalise=self.normalise,
                    features=self.features,
                )
            )
        self.train(was)
        return tuple(info)

    def _check_groups(self, of: str, h: Tensor) -> None:
        """Raises SettingError where channels cannot be shared out evenly, or a group would be a single number."""
        channels, numbers = h.shape[1], size(h.shape[1:])
        if channels % self.groups:
            raise SettingError(
                f"backbone.groups is {self.groups}, and {of} has {channels} channels: choose what divides them"
            )
        if numbers == self.groups:
            raise SettingError(
                f"backbone.groups is {self.groups}, and {of} has {numbers} numbers: one by itself is nothing where its "
                "mean is taken off; choose fewer groups"
            )


class BackboneSettings(Part):
    """The settings of a backbone; what they build is the same for the same seed, whatever was drawn before."""

    between: Between = setting("rms", description="How a block normalises its input.")
    groups: int = setting(
        10,
        ge=1,
        description="Groups that share channels evenly, each normalised by itself, of between=group.",
    )

    @abstractmethod
    def make(self, shape: Shape) -> Backbone:
        """Returns the network for images of a shape. Raises SettingError where they do not fit."""

    def build(self, shape: Shape, seed: int) -> Backbone:
        """Returns the untrained network: its weights are a function of the seed alone.

        Raises SettingError where the settings do not fit the images, or each other.
        """
        if self.between != "group" and self.groups != type(self).model_fields["groups"].default:
            raise SettingError(
                f"backbone.groups is {self.groups}, and backbone.between is {self.between}: choose group, or leave "
                "groups out"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(shape)


def size(shape: Sequence[int]) -> int:
    """Returns how many numbers a shape holds."""
    return math.prod(shape)


def _overruns(module: nn.Conv2d) -> bool:
    """Returns whether oneDNN's gradient of the weights writes beyond its buffer where channels are last.

    Fewer channels than a vector holds (8 of AVX2, 16 of AVX-512) in a strided 1x1 convolution: it crashes, hangs or
    is wrong by half (uxlfoundation/oneDNN issue 6035; torch 2.14.1). Such a network keeps the usual layout.
    """
    return module.in_channels // module.groups < 16 and module.kernel_size == (1, 1) and module.stride != (1, 1)
