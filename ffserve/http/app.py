"""The routes of HTTP: the Open Inference Protocol, /v1/predict, the page, and what tools read."""

from __future__ import annotations

import reprlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from ffcore.folders import Item
from ffserve.http.guard import BODY, Guard
from ffserve.http.openapi import document
from ffserve.http.protocol import EXTENSIONS, Refused, metadata, read_request, write_answer
from ffserve.http.service import Service

PAGE = Path(__file__).parent / "page"
HEADER_LENGTH = "inference-header-content-length"
FILES = 64  # images of a form, at most
NAMELESS = "image"  # what an image is called that comes without a name
Answer = Callable[[Request], Awaitable[Response]]


def make_app(service: Service, *, token: bytes | None = None, body: int = BODY) -> Guard:
    """Returns the ASGI application of a service.

    Args:
        service: what answers.
        token: what clients must show; None: nothing.
        body: bytes of a request, at most.
    """
    routes = Routes(service)
    served = Router(
        [
            Route("/v2", routes.server),
            Route("/v2/health/live", routes.live),
            Route("/v2/health/ready", routes.ready),
            Route("/v2/repository/index", routes.index, methods=["POST"]),
            Route("/v2/models/stats", routes.statistics),
            *(
                route
                for place in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
                for route in (
                    Route(place, routes.model),
                    Route(place + "/ready", routes.model_ready),
                    Route(place + "/config", routes.config),
                    Route(place + "/stats", routes.statistics),
                    Route(place + "/infer", routes.infer, methods=["POST"]),
                )
            ),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name}", routes.about),
            Route("/v1/predict", routes.predict, methods=["POST"]),
            Route("/metrics", routes.metrics),
            Route("/openapi.json", routes.openapi),
            Route("/", routes.page),
            Mount("/page", StaticFiles(directory=PAGE)),
        ]
    )
    return Guard(served, service, token=token, body=body)


def reply(value: Any, status: int = 200) -> Response:
    """Returns JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


class Routes:
    """What each route answers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._document = document(service.models)

    async def live(self, request: Request) -> Response:
        """Whether the process answers."""
        return reply({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether requests are taken; and which models are not those of their files, and why."""
        stale = {served["name"]: served["reason"] for served in self.service.index() if served["reason"]}
        ready = not self.service.ending
        return reply({"ready": ready, "stale": stale}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        """What the server is."""
        return reply({"name": "ffserve", "version": version("ffstudy"), "extensions": EXTENSIONS})

    async def index(self, request: Request) -> Response:
        """Which models there are."""
        await request.scope["room"].read()
        return reply(self.service.index())

    async def model(self, request: Request) -> Response:
        """What a model takes and gives."""
        served = self._served(request)
        return reply(metadata(served.name, served.live.model))

    async def model_ready(self, request: Request) -> Response:
        """Whether a model answers."""
        served = self._served(request)
        reason = {"reason": served.stale} if served.stale else {}
        return reply({"name": served.name, "ready": not self.service.ending, **reason})

    async def config(self, request: Request) -> Response:
        """A model as Triton's clients configure themselves by it."""
        return reply(self.service.config(**request.path_params))

    async def statistics(self, request: Request) -> Response:
        """How often a model, or each, was asked, and how long that took."""
        return reply(self.service.statistics(**request.path_params))

    async def infer(self, request: Request) -> Response:
        """The outputs of a model for images."""
        served = self._served(request)
        live = served.live
        body = await request.scope["room"].read()
        asked = read_request(body, request.headers.get(HEADER_LENGTH), live.model)
        request.scope["told"] |= {"model": served.name, "images": len(asked.images_BCHW)}
        found = await self.service.infer(live, asked)
        content, head = write_answer(served.name, asked, found, live.model.about.class_names)
        if head is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER_LENGTH: str(head)}, media_type="application/octet-stream")

    async def models(self, request: Request) -> Response:
        """The models in short."""
        return reply({"models": [*self.service.models]})

    async def about(self, request: Request) -> Response:
        """What a model says of itself, with its card."""
        return reply(self.service.about(request.path_params["name"]))

    async def predict(self, request: Request) -> Response:
        """The classes of images, by the code of `ffserve predict`."""
        asked = request.query_params
        if strange := set(asked) - {"model", "top_k", "invert", "place", "pixels"}:
            raise Refused(f"{reprlib.repr(min(strange))} is unknown: there are model, top_k, invert, place and pixels")
        name = asked.get("model", next(iter(self.service.models)))
        self.service.served(name)
        top_k = asked.get("top_k", "5")
        if not (top_k.isascii() and top_k.isdigit() and 1 <= len(top_k) <= 6 and int(top_k)):
            raise Refused(f"top_k is {reprlib.repr(top_k)}: it must be a whole number of at least 1")
        if (pixels := asked.get("pixels", "false")) not in ("true", "false"):
            raise Refused(f"pixels is {reprlib.repr(pixels)}: it must be true or false")
        items = await _items(request)
        request.scope["told"] |= {"model": name, "images": len(items)}
        found = await self.service.predict(
            name,
            items,
            top_k=int(top_k),
            invert=asked.get("invert", "auto"),
            place=asked.get("place", "auto"),
            pixels=pixels == "true",
        )
        errors = [each["error"] for each in found["predictions"] if "error" in each]
        if len(errors) == len(items):
            return reply({"error": errors[0], **found}, 400)
        return reply(found)

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(self.service.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        """What this server answers, as OpenAPI has it."""
        return reply(self._document)

    async def page(self, request: Request) -> Response:
        """The page."""
        return FileResponse(PAGE / "index.html")

    def _served(self, request: Request) -> Any:
        return self.service.served(request.path_params["name"], request.path_params.get("version", ""))


async def _items(request: Request) -> list[Item]:
    """Returns the images of a request: its body, or the files of a form."""
    body: bytes = await request.scope["room"].read()
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        if not body:
            raise Refused("the body is empty: send an image file, or a form with some")
        return [Item(NAMELESS, body)]

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, whole(), max_files=FILES, max_fields=0)
    parser.spool_max_size = len(body)  # in memory, as it is already
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(f"the form is not right ({error.message}): it may hold {FILES} files, nothing else") from error
    files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
    if not files:
        raise Refused("the form holds no file: send an image with a file name")
    return [Item((file.filename or NAMELESS)[-200:], await file.read()) for file in files]
