"""What settings come to on images of a shape: units, widths, readings, products. No image is read, no weight drawn.

Networks are made and stepped through on the meta device, which has shapes and no numbers; what cannot be there is taken
to the CPU. Letters: D features of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from ffcore.errors import FFStudyError
from ffmodels.backbones.base import Shape
from ffmodels.encoder import Encoder, readings
from ffmodels.units import heads_of, make_units, shifted
from fftrain.config import RunConfig
from fftrain.data import Facts
from fftrain.loader import Loader, scaled
from fftrain.loop import step
from fftrain.optimise import by_unit
from fftrain.told import with_told

T = TypeVar("T")
# View, method, backbone, cut, at and order: what a sketch is of, beside shape and classes.
Point = tuple[Any, Any, Any, str, Any, str]
IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """What is known of a run before its images are.

    Args:
        units: the blocks of each unit, and those of them that carry a loss.
        dims: D of each block.
        readings: how the pixels may be filled where features are read; the first is the default.
        tells: whether the method tells the labels that it was trained on.
        weights: numbers that are trained.
        learning: units that have some.
    """

    units: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    dims: tuple[int, ...]
    readings: tuple[str, ...]
    tells: bool
    weights: int
    learning: int


@dataclass(frozen=True, kw_only=True)
class Products:
    """Floating-point operations in matrix products and convolutions, of one image.

    Args:
        step: of a step of training.
        told: of telling its label.
        features: of its features.
    """

    step: float
    told: float
    features: float


def sketch(config: RunConfig, facts: Facts) -> Sketch:
    """Returns what settings come to on a data set.

    Raises:
        SettingError: where they do not go together.
    """
    found = _without_numbers(lambda: _sketch(*_point(config), facts.shape, _classes(config, facts)))
    by_unit(config, found.learning if config.epochs else 0)
    return found


def products(config: RunConfig, facts: Facts) -> Products:
    """Returns what is counted of one image. Raises as `sketch` does."""
    return _without_numbers(lambda: _products(*_point(config), facts.shape, _classes(config, facts)))


def _point(config: RunConfig) -> Point:
    return config.view, config.method, config.backbone, config.cut, config.at, config.order


def _classes(config: RunConfig, facts: Facts) -> int:
    return len(config.class_names(facts.shape, ("",) * facts.classes))


def _without_numbers(work: Callable[[], T]) -> T:
    try:
        with torch.device("meta"):
            return work()
    except FFStudyError:
        raise
    except Exception:  # code outside the package may ask for numbers
        return work()


def _made(
    view: Any, method: Any, backbone: Any, cut: str, at: Any, order: str, shape: Shape, classes: int
) -> tuple[Any, ...]:
    network = backbone.build(shape, 0)
    units = make_units(method, network, classes, cut=cut, at=at)
    if order == "overlap":
        shifted(units, network)  # which refuses what has no cut to shift
    condition = method.condition(classes, shape)
    return network, units, condition, method.readout(network, condition, heads_of(units), classes)


@lru_cache(maxsize=256)
def _sketch(*point: Any) -> Sketch:
    network, units, condition, readout = _made(*point)
    return Sketch(
        units=tuple((tuple(range(u.first, u.first + len(u.blocks))), tuple(heads_of([u]))) for u in units),
        dims=tuple(block.dim for block in network.info),
        readings=readings(condition),
        tells=readout is not None,
        weights=sum(p.numel() for unit in units for p in unit.parameters() if p.requires_grad),
        learning=sum(any(p.requires_grad for p in unit.parameters()) for unit in units),
    )


@lru_cache(maxsize=256)
def _products(*point: Any) -> Products:
    view, method, _, _, _, order, shape, classes = point
    network, units, condition, readout = _made(*point)
    images, labels = torch.zeros(IMAGES, *shape, dtype=torch.uint8), torch.zeros(IMAGES, dtype=torch.int64)
    loader = Loader(images=images, labels=labels, view=view, needs=method.needs(), batch_size=IMAGES, seed=0)
    [(batch, _)] = loader.epoch(1)
    parameters = [[p for p in unit.parameters() if p.requires_grad] for unit in units]
    optimizers = [torch.optim.SGD(own, lr=0.0) if own else None for own in parameters]
    turns = [(units, optimizers)]
    if order == "greedy":
        turns = [(units[: i + 1], [*[None] * i, one]) for i, one in enumerate(optimizers) if one] or turns
    with FlopCounterMode(display=False) as asked:
        batch = with_told(batch, method, readout, classes)
    with FlopCounterMode(display=False) as stepped:
        for at_once, stepping in turns:
            for unit in at_once[:-1] if order == "greedy" else ():
                unit.freeze()
            step(method, classes, at_once, stepping, batch, backward=torch.Tensor.backward, watch=lambda *told: None)
    for unit in units:
        unit.eval()
    variants, told = [*view.variants(images, labels)], 0.0
    with torch.no_grad():
        if readout is not None:
            with FlopCounterMode(display=False) as scored:
                readout.readers(scaled(variants[0][0]))
            told = len(variants) * scored.get_total_flops()
        with FlopCounterMode(display=False) as read:
            Encoder(condition, network)(scaled(images))
    return Products(
        step=(asked.get_total_flops() + stepped.get_total_flops() / len(turns)) / IMAGES,
        told=told / IMAGES,
        features=read.get_total_flops() / IMAGES,
    )
