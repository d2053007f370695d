"""Models under names: loaded, warmed up, asked, and taken up anew. REST, gRPC and the page come through here."""

from __future__ import annotations

import asyncio
import logging
import re
import reprlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ffcore.errors import ImageError, UsageError
from ffcore.folders import Item
from ffcore.images import MAX_PIXELS
from ffcore.machine import cores
from ffserve import hub
from ffserve.account import Account
from ffserve.http.batching import Batcher, Outputs
from ffserve.http.metrics import Metrics
from ffserve.http.protocol import STAGES, VERSION, Asked, Refused, config, shape_of
from ffserve.metadata import MANIFEST
from ffserve.output import record
from ffserve.predict import Classifier
from ffserve.reading import read
from ffserve.session import BUNDLED, Model, find_model
from ffserve.stream import Batch, wanted_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
STATS = "stats"  # no name of a model: /v2/models/stats tells of all
CARDS = ("card.md", hub.CARD)  # an export's, and a repository's of the Hub
HELD = 256 * 2**20  # bytes of all that is being answered
log = logging.getLogger("ffserve.http")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are run.

    Args:
        threads: CPU threads of a run, and of reading images; None means as many as there are cores.
        device: `auto`, `cpu` or `cuda`.
        provider_options: of the CUDA provider.
        most: images of a run.
        delay: seconds that a request waits for others.
        max_pixels: larger images are refused.
    """

    threads: int | None = None
    device: str = "auto"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    most: int = 64
    delay: float = 0.0
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class Live:
    """A file that was loaded, and what runs it: a request is answered by one of them from beginning to end."""

    model: Model
    classifier: Classifier | None
    batcher: Batcher
    bytes: int
    card: str | None


class Served:
    """A name, its file, and what of it is live."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.stamp = stamp(path)
        self.stale: str | None = None
        """Why a newer file was refused; None where the file is what answers."""
        self.live: Live


def named(given: Sequence[str | None]) -> dict[str, Path]:
    """Returns the files of NAME=FILE, or of FILE alone, which is called as it or its folder is.

    Raises:
        UsageError: for a name that is not legal, `stats`, or given twice.
        ModelNotFound: where there is no such file.
    """
    found: dict[str, Path] = {}
    for text in given or [None]:
        name, sign, file = (text or "").partition("=")
        if sign and NAME.fullmatch(name):
            path = find_model(file)
        else:
            name, path = "", find_model(text)
        name = name or _name_of(path)
        if name == STATS:
            raise UsageError(
                f"--model {path} is called {STATS}, and /v2/models/{STATS} tells of all models: write NAME={path}"
            )
        if name in found:
            raise UsageError(f"--model {name} is given twice: name them apart with NAME=FILE")
        found[name] = path
    return found


def _name_of(path: Path) -> str:
    """Returns what a file is called: as its run, where it has the name of every export."""
    place = hub.called(path)
    name = place.stem
    if name.split(".")[0] == "model":
        folder = place.parent.parent if place.parent.name == "export" else place.parent
        name = f"{folder.name}{name.removeprefix('model')}"
    if path != BUNDLED and not NAME.fullmatch(name):
        raise UsageError(f"--model {path} makes {name!r}, which is no name of a model: write NAME={path}")
    return name


def _words(card: str) -> str:
    """Returns a card without the metadata that stand before it."""
    return re.sub(r"\A---\n.*?\n---\n+", "", card, flags=re.DOTALL)


def stamp(path: Path) -> tuple[Any, ...]:
    """Returns what changes where a file or its manifest is renamed into place or written."""
    found: list[Any] = []
    for place in (path, path.parent / MANIFEST):
        try:
            status = place.stat()
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def _waiting(served: Served) -> float:
    return served.live.batcher.rows


class Service:
    """Models that answer.

    Args:
        files: by name.
        settings: how they are run.

    Raises:
        FFStudyError: where one cannot be loaded or run.
    """

    def __init__(self, files: Mapping[str, Path], settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.held = 0
        """Bytes of what is being answered."""
        self.ending = False
        """Whether it takes no more requests."""
        self._reading = ThreadPoolExecutor(settings.threads or cores(), "reading")
        self._running = ThreadPoolExecutor(len(files), "running")
        self.models = {name: Served(name, path) for name, path in files.items()}
        for served in self.models.values():
            served.live = self._load(served)
            self.metrics.loads.labels(served.name, "ok").inc()
            self.metrics.stale.labels(served.name).set(0)
            self.metrics.waiting.labels(served.name).set_function(partial(_waiting, served))

    def hold(self, count: int) -> None:
        """Adds to `held`, which is lowered when a request is answered. Raises Refused where that is too much."""
        self.held += count
        if self.held > HELD:
            raise Refused("busy: too much is being sent at once, ask again later", 503)

    def count(self, protocol: str, route: str, status: str, seconds: float) -> None:
        """Counts a request that was answered."""
        self.metrics.in_flight.dec()
        self.metrics.requests.labels(protocol, route, status).inc()
        self.metrics.seconds.labels(protocol, route).observe(seconds)

    def served(self, name: str, version: str = "") -> Served:
        """Returns a model. Raises Refused where there is none of this name and version."""
        if name not in self.models:
            raise Refused(f"model {reprlib.repr(name)} is unknown: there are {', '.join(self.models)}", 404)
        if version not in ("", VERSION):
            raise Refused(f"model {name} has no version {reprlib.repr(version)}: it has {VERSION}", 404)
        return self.models[name]

    def index(self) -> list[dict[str, str]]:
        """Returns the models, each with why it is not that of its file, if so."""
        return [
            {"name": served.name, "version": VERSION, "state": "READY", "reason": served.stale or ""}
            for served in self.models.values()
        ]

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """Returns a model as Triton's clients configure themselves by it."""
        live = self.served(name, version).live
        return config(name, live.model, live.batcher.most, live.batcher.delay)

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Returns what was asked of a model, or of all, since the start."""
        models = [self.served(name, version).name] if name else [*self.models]
        return {"model_stats": [{"name": each, "version": VERSION, **self.metrics.statistics(each)} for each in models]}

    def about(self, name: str) -> dict[str, Any]:
        """Returns what a model says of itself, as `ffserve info` does, and its card."""
        live = self.served(name).live
        values = {key: value for key, value in live.model.about.values.items() if key != "golden"}
        ends = {"device": live.model.device, "bytes": live.bytes, **live.model.ends}
        return {"name": name, **ends, **values, "card": live.card}

    async def infer(self, live: Live, asked: Asked) -> Outputs:
        """Returns the outputs for the images of a request."""
        return await live.batcher.run(asked.images_BCHW)

    async def predict(
        self,
        name: str,
        items: list[Item],
        *,
        top_k: int = 5,
        invert: str = "auto",
        place: str = "auto",
        pixels: bool = False,
    ) -> dict[str, Any]:
        """Classifies images as `ffserve predict` does, and says what it says.

        Args:
            name: of the model.
            items: the images.
            top_k: how many classes of each.
            invert: as for `Classifier.predict`.
            place: likewise.
            pixels: whether the images as the model sees them are told.

        Returns:
            {"model", "device", "predictions": as JSON of `ffserve predict` has them, "notes": what is to be said}; with
            pixels each prediction has "pixels": [C, H, W] numbers.

        Raises:
            Refused, UsageError, ModelError: where that cannot be.
        """
        live = self.served(name).live
        if live.classifier is None:
            raise Refused(f"model {name} has no classes: it gives features alone, by /v2/models/{name}/infer")
        wanted = wanted_of(live.model, invert=invert, place=place, max_pixels=self.settings.max_pixels)
        found = await asyncio.get_running_loop().run_in_executor(self._reading, read, items, wanted)
        images = found.images_NCHW
        outputs = await live.batcher.run(images) if len(images) else live.model.run(images)
        batch = Batch(items=items, errors=found.errors, did=found.did, images_BCHW=images, outputs=outputs)
        account = Account()
        predictions = live.classifier.predictions(batch, top_k, account)
        seen = iter(images)
        return {
            "model": name,
            "device": live.model.device,
            "predictions": [
                record(item, prediction)
                | ({"pixels": next(seen).tolist()} if pixels and not isinstance(prediction, ImageError) else {})
                for item, prediction in predictions
            ],
            "notes": [*account.notes(quiet=("inverted",) if invert == "yes" else ())],
        }

    async def watch(self, seconds: float) -> None:
        """Takes up files that are renamed into place, for ever. One that cannot be served leaves the old one."""
        while True:
            await asyncio.sleep(seconds)
            for served in self.models.values():
                if (now := stamp(served.path)) != served.stamp:
                    served.stamp = now
                    await self._take_up(served)

    async def _take_up(self, served: Served) -> None:
        try:
            live = await asyncio.get_running_loop().run_in_executor(None, self._load, served)
        except Exception as error:
            served.stale = " ".join(str(error).replace(str(served.path), served.name).split())
            log.error("a new file is refused, the old one answers", extra={"model": served.name, "why": served.stale})
        else:
            served.live, served.stale = live, None
            log.info("a new file is taken up", extra={"model": served.name})
        self.metrics.loads.labels(served.name, "refused" if served.stale else "ok").inc()
        self.metrics.stale.labels(served.name).set(1 if served.stale else 0)

    def _load(self, served: Served) -> Live:
        """Loads a file, and runs it once as full as it will be."""
        settings = self.settings
        model = Model(
            served.path,
            threads=settings.threads,
            device=settings.device,
            provider_options=settings.provider_options,
            spinning=False,
        )
        if model.notice:
            log.warning(model.notice, extra={"model": served.name})
        cards = (served.path.parent / name for name in CARDS)
        card = next((path for path in cards if path.is_file()), None)
        size = served.path.stat().st_size
        model.path = Path(served.name)  # what answers call it: no place of this machine
        # INT8 with ranges of each batch would let strangers' images change each other's answers.
        most = 1 if model.about.values.get("int8") == "dynamic" else settings.most
        model.run(np.zeros((most, *shape_of(model)), dtype=np.uint8))
        spent = {stage: self.metrics.spent.labels(served.name, stage).observe for stage in STAGES}
        return Live(
            model=model,
            classifier=None if model.about.class_names is None else Classifier(model),
            batcher=Batcher(
                model.run,
                self._running,
                most=most,
                delay=settings.delay,
                told=self.metrics.batch.labels(served.name).observe,
                spent=lambda stage, seconds: spent[stage](seconds),
            ),
            bytes=size,
            card=None if card is None else _words(card.read_text(encoding="utf-8", errors="replace")),
        )
