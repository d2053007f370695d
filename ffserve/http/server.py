"""The process of `ffserve http`: its ports, its signals, its log."""

from __future__ import annotations

import asyncio
import logging
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ffcore.errors import FFStudyError, UsageError
from ffserve.http.app import make_app
from ffserve.http.guard import SLOW, WANTED_TOKEN
from ffserve.http.rpc import start_rpc
from ffserve.http.service import Service

CONNECTIONS = 1000
HEAD = 64 * 2**10  # bytes of a request's line and headers
GRACE = 30.0  # seconds that requests get to end which have begun
IDLE = 65  # seconds that a connection is kept without a request: longer than proxies keep theirs
LINES = 10_000  # of the log that may wait to be written
EACH = 1.0  # seconds between two looks at the models' files
log = logging.getLogger("ffserve.http")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a server listens, and to whom.

    Args:
        host: an address or a name.
        port: of HTTP; 0 takes a free one.
        grpc_port: of gRPC, likewise; None: it is not served.
        token_file: holds what clients must show; None: nothing.
        body: bytes of a request, at most.
        watch: whether model files that are renamed into place are taken up.
        log: `json` or `text` for a line of each request, `off` for errors alone.
    """

    host: str
    port: int
    grpc_port: int | None
    token_file: Path | None
    body: int
    watch: bool
    log: str


def serve(make: Callable[[], Service], place: Place) -> None:
    """Serves until a signal ends it.

    Args:
        make: loads the models, when the port is known to be free.
        place: where.

    Raises:
        FFStudyError: where that cannot be.
    """
    token = None if place.token_file is None else _token(place.token_file)
    with _logging(place.log), _bound(place.host, place.port) as bound:
        service = make()
        loop = None
        if find_spec("uvloop"):
            import uvloop

            loop = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(_serve(service, place, token, bound))


async def _serve(service: Service, place: Place, token: bytes | None, bound: socket.socket) -> None:
    config = uvicorn.Config(
        make_app(service, token=token, body=place.body),
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        backlog=CONNECTIONS,
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=int(GRACE),
    )
    host, port = bound.getsockname()[:2]
    ports = {"http": f"http://{f'[{host}]' if ':' in host else host}:{port}"}
    rpc = None
    if place.grpc_port is not None:
        rpc, rpc_port = await start_rpc(service, place.host, place.grpc_port, token=token, body=place.body)
        ports["grpc"] = ports["http"].removeprefix("http://").removesuffix(str(port)) + str(rpc_port)
    if token is None and not ip_address(host).is_loopback:
        log.warning("anyone who reaches this address is answered: --token-file asks for a token")
    watching = asyncio.ensure_future(service.watch(EACH)) if place.watch else None
    await _Server(config, service, {**ports, "models": [*service.models]}).serve(sockets=[bound])
    if watching:
        watching.cancel()
    if rpc is not None:
        await rpc.stop(GRACE)
    log.info("ended: what had begun was answered")


class _Server(uvicorn.Server):
    """Ends in peace by the first signal: what has begun is answered. By the second at once."""

    def __init__(self, config: uvicorn.Config, service: Service, told: dict[str, Any]) -> None:
        super().__init__(config)
        self._service, self._told = service, told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("ready", extra=self._told)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self._service.ending
        self._service.ending = True

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._service.ending


class _Connection(HttpToolsProtocol):
    """HTTP/1.1 with a limit of what a request's head may hold, and of how long a request may take to come."""

    _late: asyncio.TimerHandle | None = None
    _heading = False
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._heading:
            self._head += len(data)
            if self._head > HEAD:
                self.send_400_response(f"the head of the request has more than {HEAD:,} bytes")

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keeps the connection of who has said all and waits for the answer."""
        waits = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if waits:
            self.cycle.keep_alive = False
        return waits

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading, self._head = True, 0
        self._begin()

    def on_headers_complete(self) -> None:
        self._heading = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._end()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        body = orjson.dumps({"error": msg})
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _begin(self) -> None:
        self._end()
        self._late = self.loop.call_later(2 * SLOW, self.transport.close)

    def _end(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket that has its address, and does not listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise FFStudyError(f"{host} port {port} cannot be had ({why}): choose others with --host and --port") from error
    return found


def _token(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise FFStudyError(f"--token-file {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not WANTED_TOKEN.fullmatch(token):
        raise UsageError(f"--token-file {path} must hold one token: 8 to 1024 visible characters without spaces")
    return token


_KNOWN = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"}


class _Line(logging.Formatter):
    """A record as one line: JSON, or for people."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._json = kind != "text"

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in _KNOWN},
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        if self._json:
            return orjson.dumps(told, default=str).decode()
        when, _, event, *rest = told.items()
        return " ".join([when[1][11:19], event[1], *(f"{key}={value}" for key, value in rest)])


class _Behind(logging.Handler):
    """Writes lines on standard error in a thread: who does not read them holds no request up.

    Lines that find too many before them are lost, and counted in the next that is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(LINES)
        self._lost = 0
        self._writing = threading.Thread(target=self._write, name="log", daemon=True)
        self._writing.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._lost:
            record.lost, self._lost = self._lost, 0
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._lost += 1 + getattr(record, "lost", 0)

    def close(self) -> None:
        """Waits until all is written, but not for ever."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=1)
            self._writing.join(5)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # nobody is there to read
                sys.stderr.write(line + "\n")
                sys.stderr.flush()


@contextmanager
def _logging(kind: str) -> Iterator[None]:
    """Lets this package, and what it runs on, write lines of a kind in the block."""
    handler = _Behind()
    handler.setFormatter(_Line(kind))
    own = logging.WARNING if kind == "off" else logging.INFO
    levels = {"ffserve": own, "uvicorn": logging.ERROR, "asyncio": logging.ERROR, "python_multipart": logging.CRITICAL}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for name in levels:
            logging.getLogger(name).handlers = []
        handler.close()
