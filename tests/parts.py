"""The parts there are, by the listing of their directories, and each in small."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from fftrain.config import RunConfig
from fftrain.parts import BACKBONES, METHODS, VIEWS, merged

KINDS = {"method": METHODS, "backbone": BACKBONES, "view": VIEWS}
HOMES = {
    "method": "ffmodels.methods",
    "backbone": "ffmodels.backbones",
    "view": "fftrain.views",
    "evaluation": "fftrain.evaluations",
}
# The suite takes each method on one network and each network under one method; the slow marker has them all.
METHOD, BACKBONE = "barlow", "convnet"
# Networks of many layers, which take long where they are exported, or trained in full size.
DEEP = {"resnet", "vit"}


def tested_by(kind: str, name: str) -> ModuleType:
    """The test of a part, test_NAME.py."""
    return import_module(f"tests.{HOMES[kind]}.test_{name.replace('-', '_')}")


def small(kind: str, name: str) -> dict[str, Any]:
    """The settings with which a part is tried: SMALL of its test."""
    return {"name": name, **getattr(tested_by(kind, name), "SMALL", {})}


def on(method: str, backbone: str) -> dict[str, Any] | None:
    """The settings of a network that a method asks for: ON of its test. None: it refuses this network."""
    found: dict[str, Any] | None = getattr(tested_by("method", method), "ON", {}).get(backbone, {})
    return found


ALL = [(method, backbone) for method in METHODS for backbone in BACKBONES if on(method, backbone) is not None]
SOME = [(method, backbone) for method, backbone in ALL if method == METHOD or backbone == BACKBONE]


def view_for(method: dict[str, Any]) -> str:
    """A view that a method takes: the plain image, or the first that gives as many views as it needs."""
    needs = METHODS.load(method["name"])(**{k: v for k, v in method.items() if k != "name"}).needs()
    return next(name for name in ("plain", *VIEWS) if VIEWS.load(name).views == needs.views)


def small_run(method: str, backbone: str, /, **values: Any) -> RunConfig:
    """The settings of a small run on the digits; `values` are others, those of parts by their kind."""
    chosen = small("method", method)
    point = {
        "method": chosen,
        "backbone": {**small("backbone", backbone), **(on(method, backbone) or {})},
        "view": view_for(chosen),
        "dataset": "digits",
        "limit": 100,
        "batch_size": 32,
        "lr": 3e-3,
        "epochs": 2,
        "threads": 1,
        "eval_images": 20,
    }
    return RunConfig(**merged(point, values))
