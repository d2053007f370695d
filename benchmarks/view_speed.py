"""How much of a training on two views the making of them takes, and what it takes with the libraries that people use.

- bare: an epoch of the trainer in which every step is given the same views, which are ready.
- views: the same epoch with views made for each step, as a run makes them.
- torchvision: the same with torchvision.transforms.v2, an image at a time in as many DataLoader processes as there are
  threads, which stay; of Pillow's images, which are faster than tensors at this size.
- kornia: the same with kornia's augmentations, a batch at a time, where kornia is installed; it is none of this
  project's dependencies.

`two-shifts` of gray images 28x28, `two-crops` of colour images 32x32, each with its defaults; the libraries are given
the same ranges: what lies beyond an edge and how hues are turned differs, and theirs draw an order for the colours. A
convolutional network of four blocks, a loss at each. All are run in turn, forwards and backwards, and after each epoch
its views are made once more without steps ("alone"); ratios are of the same round, medians and quartiles of them.

    python benchmarks/view_speed.py                               # Barlow Twins, batch 256
    python benchmarks/view_speed.py --method info-nce --batch-size 512 --json
    python benchmarks/view_speed.py --projector 64                # a step three times as short

Exit code 1 where an epoch with views runs at less of the bare epoch's speed than is asked for.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded

import torch
from step_speed import cpu_facts, ratios, tell
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ffmodels.batch import Batch
from ffmodels.draws import Draws
from fftrain.config import RunConfig
from fftrain.data import ImageData, Split
from fftrain.launcher import make_accelerator
from fftrain.loader import Loader, scaled
from fftrain.progress import Reporter
from fftrain.training import Training

CASES = {"two-shifts": (1, 28, 28), "two-crops": (3, 32, 32)}
CHANNELS = (16, 32, 64, 128)


def torchvisions(view: Any, size: int) -> Callable[[Tensor], Tensor]:
    """Returns torchvision's transformation of a uint8 image [C, H, W] into one view, float32."""
    if hasattr(view, "shift"):
        sizes = {"translate": (view.shift, view.shift), "scale": (1 - view.scale, 1 + view.scale)}
        changes = [v2.RandomAffine(view.rotate, **sizes, interpolation=v2.InterpolationMode.BILINEAR)]
    else:
        colours = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        changes = [
            v2.RandomResizedCrop(size, scale=(view.smallest, 1)),
            v2.RandomHorizontalFlip(view.mirror),
            v2.RandomApply([colours], view.jitter),
            v2.RandomGrayscale(view.gray),
        ]
    return v2.Compose([v2.ToPILImage(), *changes, v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])


def kornias(view: Any, size: int) -> Callable[[Tensor], Tensor]:
    """Returns kornia's transformation of float images [B, C, H, W] into one view. Raises ImportError without kornia."""
    from kornia import augmentation as k

    if hasattr(view, "shift"):
        sizes = {"translate": (view.shift, view.shift), "scale": (1 - view.scale, 1 + view.scale)}
        return k.RandomAffine(view.rotate, **sizes, padding_mode="border", p=1.0)
    return k.AugmentationSequential(
        k.RandomResizedCrop((size, size), scale=(view.smallest, 1)),
        k.RandomHorizontalFlip(p=view.mirror),
        k.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue, p=view.jitter),
        k.RandomGrayscale(p=view.gray),
    )


@dataclass
class Ready:
    """A loader that gives one batch again and again."""

    loader: Loader

    @cached_property
    def batch(self) -> tuple[Batch, float]:
        """Its views, made once."""
        return next(self.loader.epoch(1))

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """Yields it as often as an epoch has steps."""
        for _ in range(self.steps):
            yield self.batch

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.loader.steps

    @property
    def used(self) -> int:
        """Images of an epoch."""
        return self.loader.used


@dataclass
class Seen:
    """Images of which torchvision makes two views."""

    loader: Loader
    change: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.loader.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Returns two views of an image, its label, and its index."""
        image = self.loader.images[index]
        return self.change(image), self.change(image), self.loader.labels[index], index


class InProcesses(Ready):
    """A loader whose views torchvision makes, in processes that stay."""

    def __init__(self, loader: Loader, processes: int) -> None:
        super().__init__(loader)
        seen: Any = Seen(loader, torchvisions(loader.view, loader.images.shape[-1]))
        given: Any = {"num_workers": processes, "persistent_workers": True, "multiprocessing_context": "forkserver"}
        self.ready: Any = DataLoader(seen, loader.batch_size, shuffle=True, drop_last=True, **given)

    def epoch(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """Yields batches."""
        for one, other, labels, index in self.ready:
            yield Batch((one, other), labels, Draws(self.loader.seed, epoch, index)), 1.0


def with_kornia(loader: Loader) -> Loader:
    """Returns a loader whose views kornia makes."""
    change = kornias(loader.view, loader.images.shape[-1])

    def view(images: Tensor, labels: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], Tensor]:
        images = scaled(images)
        return (change(images), change(images)), labels

    return replace(loader, view=view)  # type: ignore[arg-type]


def make_training(view: str, method: dict[str, Any], batch_size: int, steps: int, threads: int, out: Path) -> Training:
    """Returns a training on random images, so many that an epoch has these steps."""
    config = RunConfig(
        dataset="random",
        view={"name": view},
        method=method,
        backbone={"name": "convnet", "channels": CHANNELS, "norm": "batch"},
        batch_size=batch_size,
        lr=1e-6,
    )
    count = steps * batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *CASES[view]), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(count) % 10)
    few = split.at(slice(10))
    data = ImageData(name="random", train=split, validation=few, test=few, class_names=tuple("0123456789"))
    return Training(config, out, False, make_accelerator(threads), data, Reporter())


def measured(training: Training, loaders: dict[str, Any], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns the seconds of each loader's epochs, with steps and alone, round by round; a first one is not counted."""
    times: dict[str, dict[str, list[float]]] = {what: {name: [] for name in loaders} for what in ("epoch", "alone")}
    for round_ in range(-1, rounds):
        for name in [*loaders][:: 1 if round_ % 2 else -1]:
            training.loader = loaders[name]
            began = time.perf_counter()
            training.train_epoch(1)
            stepped = time.perf_counter()
            for _ in training.loader.epoch(1):
                pass
            if round_ >= 0:
                times["epoch"][name].append(stepped - began)
                times["alone"][name].append(time.perf_counter() - stepped)
    return times


def main(
    method: Annotated[str, typer.Option(help="What is trained, on two views.")] = "barlow",
    projector: Annotated[int, typer.Option(help="Width of its projector.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 256,
    steps: Annotated[int, typer.Option(help="Steps of an epoch.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=2)] = 7,
    threads: Annotated[int, typer.Option(help="CPU threads, and processes of torchvision.")] = 2,
    least_gray: Annotated[float, typer.Option(help="Least speed of an epoch of gray images, bare is 1.")] = 0.9,
    least_colour: Annotated[float, typer.Option(help="Least speed of an epoch of colour images, bare is 1.")] = 0.8,
    libraries: Annotated[bool, typer.Option(help="Measure torchvision and kornia too.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure epochs on two views beside epochs whose views are ready, on random images."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    load_before = os.getloadavg()[0]
    speed: dict[str, dict[str, float]] = {}
    ms: dict[str, float] = {}
    missed = []
    for view, least in (("two-shifts", least_gray), ("two-crops", least_colour)):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"name": method, "projector": projector}
            training = make_training(view, settings, batch_size, steps, threads, Path(folder) / "run")
            own = training.loader
            loaders: dict[str, Any] = {"bare": Ready(own), "views": own}
            if libraries:
                loaders["torchvision"] = InProcesses(own, threads)
                try:
                    loaders["kornia"] = with_kornia(own)
                except ImportError as error:
                    print(f"kornia is not measured: {error}", file=sys.stderr)
            times = measured(training, loaders, rounds)
        made = [name for name in loaders if name != "bare"]
        for name in made:
            speed[f"{view}: an epoch with {name}, bare 1"] = ratios(times["epoch"]["bare"], times["epoch"][name])
        for name in made[1:]:
            speed[f"{view}: views alone, {name} 1"] = ratios(times["alone"][name], times["alone"]["views"])
        for what, names in (("epoch", [*loaders]), ("alone", made)):
            for name in names:
                ms[f"{view}, {what}, {name}, a step"] = round(1000 * statistics.median(times[what][name]) / steps, 1)
        found = speed[f"{view}: an epoch with views, bare 1"]["median"]
        if found < least:
            missed.append(f"{view}: {found}, less than {least}")
    result = {
        "settings": f"{method}, projector {projector}, convnet {CHANNELS}, batch {batch_size}, "
        f"{rounds} rounds of {steps} steps",
        "machine": f"{cpu_facts()[0]}, {platform.machine()}, {torch.get_num_threads()} threads",
        "load_average": f"{load_before:.2f} before, {os.getloadavg()[0]:.2f} after",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "ms": ms,
        "speed": speed,
    }
    tell(result, missed, as_json)


if __name__ == "__main__":
    typer.run(main)
