"""What stands before every request of HTTP: its id, who asks, how much and how long it may send; and what is logged."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import reprlib
import time
import uuid
import zlib
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ffcore.errors import FFStudyError
from ffserve.http.protocol import Refused
from ffserve.http.service import Service

BODY = 32 * 2**20  # bytes of a request, packed or not
REQUESTS = 1024  # that are being answered
SLOW = 30.0  # seconds that a client may take to send a request
ID = re.compile(r"[\x21-\x7e]{1,128}")
WANTED_TOKEN = re.compile(rb"[\x21-\x7e]{8,1024}")
OPEN = ("/v2/health/live", "/v2/health/ready")  # to who has no token
LOCKED = ("/v1/", "/v2", "/metrics")
TOKEN = "this server wants its token: Authorization: Bearer TOKEN"
SECURE = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
}
log = logging.getLogger("ffserve.http")


def refused(error: Exception) -> tuple[int, str]:
    """Returns the status of HTTP and the line that a client gets for an error."""
    if isinstance(error, Refused):
        return error.status, str(error)
    if isinstance(error, HTTPException):
        nothing = "there is nothing here: /openapi.json says what is served"
        return error.status_code, nothing if error.status_code == 404 else error.detail
    if isinstance(error, FFStudyError):  # of what was sent; a model that cannot be run is the server's fault
        return (400 if getattr(error, "exit_code", 1) == 2 else 500), " ".join(str(error).split())
    return 500, "internal error: the log has it under this request's id"


def allowed(given: str | None, token: bytes | None) -> bool:
    """Returns whether an Authorization header holds the token, in constant time."""
    kind, _, value = (given or "").partition(" ")
    right = hmac.compare_digest(value.strip().encode("utf-8", "surrogateescape"), token or b"")
    return token is None or (kind.lower() == "bearer" and right)


class Guard:
    """An ASGI application behind limits; every error ends as the protocol has it: {"error": one line}."""

    def __init__(self, app: ASGIApp, service: Service, *, token: bytes | None = None, body: int = BODY) -> None:
        self.app, self.service, self.token, self.body = app, service, token, body
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, headers = time.perf_counter(), Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if ID.fullmatch(given) else uuid.uuid4().hex
        told: dict[str, Any] = {}
        scope["app"] = self  # so that routes raise what they refuse
        scope["told"], scope["room"] = told, (room := Room(self, receive, headers))
        status, sent = 500, False

        async def sending(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = request_id
                for name, value in SECURE.items():
                    answer[name] = value
            await send(message)

        self.requests += 1
        self.service.metrics.in_flight.inc()
        try:
            self._check(scope["path"], headers)
            await self.app(scope, receive, sending)
        except Exception as error:
            code, text = refused(error)
            if code == 500 and not isinstance(error, FFStudyError):
                log.exception("internal error", extra={"request": request_id})
            told["error"] = text
            if sent:
                raise
            await room.drain()
            body = orjson.dumps({"error": text})
            more = [(name.encode(), value.encode()) for name, value in (getattr(error, "headers", None) or {}).items()]
            start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
            await sending({"type": "http.response.start", "status": code, "headers": start})
            await sending({"type": "http.response.body", "body": body})
        finally:
            room.close()
            self.requests -= 1
            took = time.perf_counter() - began
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self.service.count("http", route, str(status), took)
            log.info(
                "request",
                extra={
                    "request": request_id,
                    "client": (scope.get("client") or [None])[0],
                    "method": scope["method"],
                    "path": scope["path"][:200],
                    "status": status,
                    "ms": round(1000 * took, 2),
                    **told,
                },
            )

    def _check(self, path: str, headers: Headers) -> None:
        if self.requests > REQUESTS:
            raise Refused(f"busy: {REQUESTS:,} requests are being answered, ask again later", 503)
        if path in OPEN or not path.startswith(LOCKED):
            return
        if not allowed(headers.get("authorization"), self.token):
            raise HTTPException(401, TOKEN, {"www-authenticate": "Bearer"})


class Room:
    """The body of a request, in memory that all requests share."""

    def __init__(self, guard: Guard, receive: Receive, headers: Headers) -> None:
        self._guard, self._receive, self._headers = guard, receive, headers
        self._held = 0
        self._whole = False

    async def read(self) -> bytes:
        """Returns the body, unpacked. Raises Refused where it is too large, too slow, or not whole."""
        length = self._headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._guard.body:
            raise Refused(f"the body has {length[:20]} bytes: at most {self._guard.body:,} are taken", 413)
        parts = []
        try:
            async with asyncio.timeout(SLOW):
                while not self._whole:
                    part = await self._next()
                    self._take(len(part))
                    parts.append(part)
        except TimeoutError:
            raise Refused(f"the body did not come within {SLOW:g} s", 408) from None
        return self._unpacked(b"".join(parts))

    async def drain(self) -> None:
        """Lets a client send what is left of a refused request, within bounds: else it may not see why."""
        left = 0 if "expect" in self._headers else 2 * self._guard.body
        try:
            async with asyncio.timeout(SLOW / 10):
                while not self._whole and left > 0:
                    left -= len(await self._next())
        except (TimeoutError, Refused):
            return

    def close(self) -> None:
        """Gives the memory back."""
        self._guard.service.held -= self._held
        self._held = 0

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._whole = True
            raise Refused("the client left before its request was whole", 400)
        self._whole = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    def _take(self, count: int) -> None:
        self._held += count
        self._guard.service.hold(count)
        if self._held > self._guard.body:
            raise Refused(f"the body has more than {self._guard.body:,} bytes", 413)

    def _unpacked(self, body: bytes) -> bytes:
        packed = self._headers.get("content-encoding", "identity").lower()
        if packed == "identity":
            return body
        if packed not in ("gzip", "deflate"):
            raise Refused(f"content-encoding {reprlib.repr(packed)} is unknown: send gzip, deflate, or none", 415)
        unpacker = zlib.decompressobj(wbits=47)  # gzip and zlib, by their heads
        try:
            plain = unpacker.decompress(body, self._guard.body)
        except zlib.error as error:
            raise Refused(f"the body is no {packed} ({error})") from error
        self._take(len(plain))
        if unpacker.unconsumed_tail:
            raise Refused(f"the body unpacks to more than {self._guard.body:,} bytes", 413)
        if not unpacker.eof:
            raise Refused(f"the body is cut off: its {packed} does not end")
        return plain
