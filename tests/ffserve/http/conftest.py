from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.ffserve.conftest import Handmade, write_model
from tests.helpers import ROOT


@dataclass(frozen=True)
class Answered:
    """What a server answers."""

    status: int
    headers: Any
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


class Server:
    """A server that runs, and what it says."""

    def __init__(self, url: str, rpc: str | None, log: list[dict[str, Any]], process: Any = None) -> None:
        self.url, self.rpc, self.log, self.process = url, rpc, log, process

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> Answered:
        """Asks as any client does: POST where there is a body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.url + path, data=body, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=30) as found:
                return Answered(found.status, found.headers, found.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answered(error.code, error.headers, error.read())

    def infer(self, name: str, value: Any) -> Answered:
        return self.ask(f"/v2/models/{name}/infer", json.dumps(value).encode())


def refused(answer: Answered, status: int, *words: str) -> None:
    """Checks that a request was refused as the protocol has it: one line."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    text = answer.json["error"]
    assert "\n" not in text
    assert "internal" not in text
    for word in words:
        assert word in text, text


@contextmanager
def started(*arguments: object, **more: str):
    """Runs `ffserve http` in the block, on free ports."""
    command = [sys.executable, "-m", "ffserve", "http", "--port", "0", "--grpc-port", "0", *map(str, arguments)]
    environment = {**os.environ, **more}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        log: list[dict[str, Any]] = []
        try:
            ready = json.loads(process.stderr.readline())
            reading = threading.Thread(target=lambda: log.extend(map(json.loads, process.stderr)), daemon=True)
            reading.start()
            yield Server(ready["http"], ready.get("grpc"), log, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log[-3:]
            reading.join()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Handmade]:
    """Models that are served: one with classes, one in colour, one without."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "gray": write_model(folder / "gray.onnx"),
        "colour": write_model(folder / "colour.onnx", shape=(3, 5, 4)),
        "bare": write_model(folder / "bare.onnx", classes=None),
    }


@pytest.fixture(scope="session")
def server(models):
    """A server of these, and of the model that ships."""
    named = [word for name, model in models.items() for word in ("--model", f"{name}={model.path}")]
    from ffserve.session import BUNDLED

    with started(*named, "--model", f"mnist={BUNDLED}") as found:
        yield found
