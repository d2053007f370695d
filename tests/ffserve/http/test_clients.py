"""What clients do to a server: slow, half-closed, rude ones, a token, signals, and files that are replaced."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.client import HTTPResponse

import numpy as np
import pytest

from ffserve.http import guard
from ffserve.http import server as serving
from ffserve.http import service as serving_of
from ffserve.http.server import Place, _bound, _serve
from ffserve.http.service import Service, Settings
from tests.ffserve.conftest import write_model
from tests.ffserve.http.conftest import Server, refused, started
from tests.ffserve.http.test_rest import said
from tests.helpers import ROOT, one_line


@contextmanager
def within(service, token=None, body=guard.BODY, watch=False):
    """Runs a server in a thread of this process."""
    place = Place(host="127.0.0.1", port=0, grpc_port=None, token_file=None, body=body, watch=watch, log="off")
    bound = _bound(place.host, place.port)
    port = bound.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(_serve(service, place, token, bound)))
    bound.listen()
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{port}", None, [])
    finally:
        service.ending = True
        thread.join(30)
        assert not thread.is_alive()


def connected(found):
    host, _, port = found.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def infer_as_bytes(images, path="/v2/models/gray/infer"):
    body = json.dumps(said(images)).encode()
    return f"POST {path} HTTP/1.1\r\nhost: here\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def until(condition):
    """Waits for what comes soon."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def read_answer(connection):
    """Returns the status and the body of one answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_who_closes_its_half_gets_its_answer(server, models):
    with connected(server) as connection:
        connection.sendall(infer_as_bytes(models["gray"].images(1)))
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_who_leaves_harms_no_other(server, models):
    for cut in (10, 60, 200):
        with connected(server) as connection:
            connection.sendall(infer_as_bytes(models["gray"].images(3))[:cut])
    assert server.infer("gray", said(models["gray"].images(1))).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02 nonsense\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: here\r\ncontent-length: x\r\n\r\n",
        b"POST /v2/models/gray/infer HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2 HTTP/1.1\r\nhost: here\r\nlong: " + b"x" * 80_000,
    ],
)
def test_what_is_no_http_is_refused(server, sent):
    with connected(server) as connection:
        connection.sendall(sent)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]


def test_a_body_in_pieces_is_taken_and_an_endless_one_is_not(models, monkeypatch):
    monkeypatch.setattr(guard, "SLOW", 3.0)
    service = Service({"gray": models["gray"].path}, Settings())
    with within(service, body=5000) as found, connected(found) as connection:
        request = infer_as_bytes(models["gray"].images(1))
        for i in range(0, len(request), 50):
            connection.sendall(request[i : i + 50])
        assert read_answer(connection)[0] == 200
        connection.sendall(b"POST /v2/models/gray/infer HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(12):
            connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert read_answer(connection)[0] == 413


def test_who_sends_too_slowly_is_refused_and_who_says_nothing_is_left(models, monkeypatch):
    monkeypatch.setattr(guard, "SLOW", 0.3)
    monkeypatch.setattr(serving, "SLOW", 0.3)
    service = Service({"gray": models["gray"].path}, Settings())
    with within(service) as found, connected(found) as slow, connected(found) as silent, connected(found) as heading:
        slow.sendall(infer_as_bytes(models["gray"].images(1))[:150])
        heading.sendall(b"GET /v2 HTTP/1.1\r\nhost:")
        assert read_answer(slow)[0] == 408
        assert read_all(silent) == b""
        assert read_all(heading) == b""
        assert found.infer("gray", said(models["gray"].images(1))).status == 200


def test_all_that_is_sent_at_once_is_bounded(models, monkeypatch):
    monkeypatch.setattr(serving_of, "HELD", 100)
    service = Service({"gray": models["gray"].path}, Settings())
    with within(service) as found:
        refused(found.infer("gray", said(models["gray"].images(1))), 503, "ask again later")
        until(lambda: service.held == 0)
        monkeypatch.setattr(serving_of, "HELD", 10**6)
        assert found.infer("gray", said(models["gray"].images(1))).status == 200
        monkeypatch.setattr(guard, "REQUESTS", 0)
        refused(found.ask("/v2"), 503, "ask again later")


def test_a_token_opens(models):
    service = Service({"gray": models["gray"].path}, Settings())
    with within(service, token=b"open sesame".replace(b" ", b"-")) as found:
        for path in ("/v2/models/gray", "/v1/models", "/metrics", "/v2"):
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic open-sesame"}):
                answer = found.ask(path, **given)
                refused(answer, 401, "token")
                assert answer.headers["www-authenticate"] == "Bearer"
            assert found.ask(path, authorization="Bearer open-sesame").status == 200
        for path in ("/v2/health/live", "/v2/health/ready", "/", "/openapi.json"):
            assert found.ask(path).status == 200


def test_no_other_origin_may_read(server):
    answer = server.ask("/v2", origin="http://elsewhere.example")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_sigterm_lets_end_what_has_begun(models):
    with started("--model", f"gray={models['gray'].path}", "--max-delay-ms", "900", "--no-grpc") as found:
        with connected(found) as idle, connected(found) as busy:
            idle.sendall(b"GET /v2 HTTP/1.1\r\nhost: here\r\n\r\n")
            assert read_answer(idle)[0] == 200
            busy.sendall(infer_as_bytes(models["gray"].images(1)))
            time.sleep(0.2)
            found.process.send_signal(signal.SIGTERM)
            assert read_all(busy).startswith(b"HTTP/1.1 200 ")
            assert read_all(idle) == b""
        assert found.process.wait(30) == 0
    assert found.log[-1]["event"] == "ended: what had begun was answered"


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_nothing_up(models):
    """Three times what a pipe holds."""
    command = [sys.executable, "-m", "ffserve", "http", "--port", "0", "--no-grpc", "--model", models["gray"].path]
    with subprocess.Popen([*map(str, command)], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = Server(json.loads(process.stderr.readline())["http"], None, [])
            with connected(found) as connection:
                for _ in range(900):
                    connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: here\r\n\r\n")
                    assert read_answer(connection)[0] == 200
            process.send_signal(signal.SIGTERM)
            lines = [json.loads(line) for line in process.stderr]
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert sum(line["event"] == "request" for line in lines) == 900


def test_a_start_that_fails_is_one_line(cli, models, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "empty").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one_line(cli("ffserve", "http", "--port", port), 1, f"127.0.0.1 port {port}", "--port")
        one_line(cli("ffserve", "http", "--port", 0, "--grpc-port", port), 1, f"port {port}", "--grpc-port")
    file = models["gray"].path
    for code, arguments, *words in (
        (1, ["--model", tmp_path / "none.onnx"], "none.onnx does not exist"),
        (1, ["--model", f"a={tmp_path / 'bad.onnx'}"], "bad.onnx"),
        (2, ["--model", file, "--model", file], "gray", "twice"),
        (
            2,
            ["--model", f"stats={file}"],
            f"is called stats, and /v2/models/stats tells of all models: write NAME={file}",
        ),
        (2, ["--max-batch", "0"], "--max-batch"),
        (1, ["--token-file", tmp_path / "none"], "--token-file"),
        (2, ["--token-file", tmp_path / "empty"], "--token-file", "one token"),
        (1, ["--host", "no.such.host.invalid"], "no.such.host.invalid"),
    ):
        one_line(cli("ffserve", "http", "--port", 0, *arguments), code, *words)


def test_without_its_packages_the_command_names_them_all():
    program = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("starlette", "uvicorn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
sys.argv = ["ffserve", "http"]
from ffserve.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == (
        "ffserve: error: ffserve http needs starlette, uvicorn: run pip install starlette uvicorn\n"
    )


def test_a_file_that_is_renamed_into_place_is_taken_up(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "EACH", 0.05)
    weights = [np.random.default_rng(seed).normal(size=(16, 3)) for seed in (1, 2)]
    old, new = (write_model(tmp_path / f"{i}.onnx", weight=weight) for i, weight in enumerate(weights))
    place = tmp_path / "model.onnx"
    shutil.copy(old.path, place)
    service = Service({"digits": place}, Settings())
    images = old.images(2)
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(found.infer("digits", said(images)))

    def logits():
        outputs = found.infer("digits", said(images)).json["outputs"]
        return np.reshape(next(each["data"] for each in outputs if each["name"] == "logits"), (2, 3))

    with within(service, watch=True) as found:
        asking = [threading.Thread(target=ask) for _ in range(3)]
        for thread in asking:
            thread.start()
        (tmp_path / "bad").write_bytes(b"no model")
        (tmp_path / "bad").rename(place)
        until(lambda: found.ask("/v2/health/ready").json["stale"])
        assert "digits is no ONNX model" in found.ask("/v2/health/ready").json["stale"]["digits"]
        assert str(tmp_path) not in found.ask("/v2/health/ready").content.decode()
        assert found.ask("/v2/health/ready").status == 200
        assert found.ask("/v2/models/digits/ready").json["reason"]
        assert 'ffserve_model_stale{model="digits"} 1.0' in found.ask("/metrics").content.decode()
        np.testing.assert_allclose(logits(), old.expected(images)["logits"], atol=1e-5)
        new.path.rename(place)
        until(lambda: not found.ask("/v2/health/ready").json["stale"])
        np.testing.assert_allclose(logits(), new.expected(images)["logits"], atol=1e-5)
        stop.set()
        for thread in asking:
            thread.join()
    assert len(answers) > 3
    expected = [model.expected(images)["logits"] for model in (old, new)]
    for answer in answers:
        assert answer.status == 200
        given = np.reshape(next(e["data"] for e in answer.json["outputs"] if e["name"] == "logits"), (2, 3))
        assert any(np.allclose(given, each, atol=1e-5) for each in expected)
