"""`ffserve http` under load: throughput and latency with and without batches, over bare ONNX Runtime, beside others.

Each server is a process of its own on this machine's loopback; one client process holds its connections and asks again
as soon as it is answered, always with the same request (an image as JSON, or as a binary tensor), so client and server
share the cores. All are measured in turn, round by round; ratios are medians over rounds. LitServe and MLServer get the
same file, the same request and batches of the same size (`--peer-python` names a Python that has one, and may be given
again; else they are left out).

    python benchmarks/serve_load.py                              # 4x2000, 3 rounds of 5 s
    python benchmarks/serve_load.py --soak 300                   # then 5 minutes from 64 connections
    python benchmarks/serve_load.py --processes 2                # and beside one server two that share its cores
    python benchmarks/serve_load.py --model runs/ff-rot/export/model.onnx --peer-python ../peers/bin/python --json

Exit code 1 where a request fails, batches give less than --least times the throughput without, less than --least-peer
times that of a peer (or a worse p99), or memory grows by more than 5 % in a soak.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from deploy_speed import command, make_run

LITSERVE = """
import sys
import litserve, numpy, onnxruntime

class Api(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(sys.argv[2])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    def decode_request(self, request):
        given = request["inputs"][0]
        return numpy.array(given["data"], dtype=numpy.uint8).reshape(given["shape"][1:])
    def predict(self, images):
        return self.session.run(["probabilities"], {"images": images})[0]
    def encode_response(self, output):
        return {"outputs": [{"name": "probabilities", "data": output.tolist()}]}

if __name__ == "__main__":
    api = Api(max_batch_size=64, batch_timeout=float(sys.argv[3]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[4]), host="127.0.0.1", log_level="error", generate_client_file=False)
"""


MLSERVER = """
import os

import numpy, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Peer(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        name = os.environ["PEER_MODEL"]
        self.session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
        return True
    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0]).astype(numpy.uint8)
        outputs = self.session.run(["probabilities"], {"images": images})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", outputs)])
"""
START = "import sys; from mlserver.cli import main; sys.argv[1:] = ['start', sys.argv[1]]; main()"


def peer(name: str, python: str, folder: Path, model: Path, threads: int, delay: float) -> list[object] | None:
    """Returns the command of a peer, the port of which follows, or None where this Python does not have it."""
    if subprocess.run([python, "-c", f"import {name.lower()}"], capture_output=True, check=False).returncode:
        return None
    place = folder / name
    place.mkdir()
    if name == "LitServe":
        (place / "server.py").write_text(LITSERVE, encoding="utf-8")
        return [python, place / "server.py", model, threads, delay]
    (place / "peer.py").write_text(MLSERVER, encoding="utf-8")
    about = {"name": "model", "implementation": "peer.Peer", "max_batch_size": 64, "max_batch_time": delay}
    (place / "model-settings.json").write_text(json.dumps(about), encoding="utf-8")
    settings = {"host": "127.0.0.1", "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0}
    (place / "settings.json").write_text(json.dumps({**settings, "debug": False}), encoding="utf-8")
    own = f'PEER_MODEL="{model.resolve()}" PEER_THREADS={threads} MLSERVER_HTTP_PORT=$1'
    return ["sh", "-c", f'cd "{place}" && {own} exec "{python}" -c "{START}" .', "sh"]


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def request(path: str, body: bytes, head: int | None = None) -> bytes:
    """Returns a request of HTTP, as bytes."""
    length = "" if head is None else f"inference-header-content-length: {head}\r\n"
    kind = "application/json" if head is None else "application/octet-stream"
    lines = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{length}content-length: {len(body)}\r\n"
    )
    return lines.encode() + b"\r\n" + body


async def ask(port: int, sent: bytes, until: float, times: list[float], failed: list[str]) -> None:
    """Asks over one connection until a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (began := time.perf_counter()) < until:
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await reader.readexactly(int(length))
            times.append(time.perf_counter() - began)
            if not head.startswith(b"HTTP/1.1 200"):
                failed.append(body.decode())
    except (OSError, asyncio.IncompleteReadError) as error:
        failed.append(str(error))
    finally:
        writer.close()


def load(ports: list[int], sent: bytes, connections: int, seconds: float) -> dict[str, Any]:
    """Returns requests a second, latencies in ms, and how many failed; each server has its share of the connections."""
    times: list[float] = []
    failed: list[str] = []

    async def all_at_once() -> None:
        until = time.perf_counter() + seconds
        own = (ports[i % len(ports)] for i in range(connections))
        await asyncio.gather(*(ask(port, sent, until, times, failed) for port in own))

    began = time.perf_counter()
    try:
        import uvloop

        uvloop.run(all_at_once())
    except ImportError:
        asyncio.run(all_at_once())
    took = time.perf_counter() - began
    p50, p95, p99 = np.percentile(1e3 * np.array(times), [50, 95, 99])
    return {
        "per_s": len(times) / took,
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "requests": len(times),
        "failed": len(failed),
        "why": failed[:1],
    }


def memory(pid: int) -> float:
    """Returns what a process and those that it started hold, in MiB."""
    process = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


@contextmanager
def served(arguments: list[object], port: int, sent: bytes, log: Path):
    """Runs a server in the block, once it has answered."""
    with log.open("ab") as file:
        process = subprocess.Popen([*map(str, arguments)], stdout=file, stderr=file, start_new_session=True)
    try:
        for _ in range(600):
            try:
                if not load([port], sent, 1, 0.01)["failed"]:
                    break
            except (OSError, IndexError):
                time.sleep(0.1)
            if process.poll() is not None:
                print(log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
                raise typer.Exit(1)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def main(
    model: Annotated[Path | None, typer.Option(help="An .onnx file. [default: one is made]")] = None,
    width: Annotated[int, typer.Option(help="Units of a block of the model that is made.")] = 2000,
    depth: Annotated[int, typer.Option(help="Its number of blocks.")] = 4,
    connections: Annotated[int, typer.Option(help="Of the client.", min=1)] = 64,
    seconds: Annotated[float, typer.Option(help="Of each server in a round.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Rounds in which all are measured in turn.", min=1)] = 3,
    soak: Annotated[float, typer.Option(help="Seconds of sustained load at the end.")] = 0.0,
    processes: Annotated[int, typer.Option(help="Servers that share cores and connections, beside one.")] = 1,
    delay: Annotated[float, typer.Option(help="--max-delay-ms of ffserve.")] = 0.0,
    peer_python: Annotated[list[str] | None, typer.Option(help="A Python that has litserve or mlserver.")] = None,
    peer_delay: Annotated[float, typer.Option(help="Seconds that the peers wait for a batch.")] = 0.005,
    least: Annotated[float, typer.Option(help="Batches beside none, throughput.")] = 2.0,
    least_peer: Annotated[float, typer.Option(help="ffserve beside each peer, throughput.")] = 1.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a server under load."""
    from ffcore.machine import cores, machine
    from ffserve import Model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model is None:
            command("ffexport", make_run(folder, width, depth), "--out", folder / "export")
            model = folder / "export" / "model.onnx"
        session, model_bytes = Model(model, device="cpu", spinning=False), model.stat().st_size
        shape = [1, session.about.channels, session.about.height, session.about.width]
        image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        given = {"name": "images", "datatype": "UINT8", "shape": shape}
        wanted = {"outputs": [{"name": "probabilities"}]}
        head = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": image.size}}], **wanted}).encode()
        path = "/v2/models/model/infer"
        body = json.dumps({"inputs": [{**given, "data": image.ravel().tolist()}], **wanted}).encode()
        as_text, as_tensor = request(path, body), request(path, head + image.tobytes(), len(head))
        own = [sys.executable, "-m", "ffserve", "http", "--model", f"model={model}", "--no-grpc", "--device", "cpu"]
        own += ["--max-delay-ms", delay, "--port"]
        turns: dict[str, tuple[list[object], bytes, int]] = {
            "ffserve, JSON": (own, as_text, 1),
            "ffserve, binary": (own, as_tensor, 1),
            "ffserve, binary, one by one": ([*own[:-1], "--max-batch", 1, "--port"], as_tensor, 1),
        }
        if processes > 1:
            share = max(1, cores() // processes)
            several = f"ffserve, binary, {processes} processes"
            turns[several] = ([*own[:-1], "--threads", share, "--port"], as_tensor, processes)
        for python in peer_python or [sys.executable]:
            for known, place in (("LitServe", "/predict"), ("MLServer", path)):
                if start := peer(known, python, folder, model, cores(), peer_delay):
                    turns[f"{known}, JSON"] = (start, request(place, body), 1)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
        alone: list[float] = []
        bare: list[float] = []
        for number in range(rounds):
            for name, (arguments, sent, count) in turns.items():
                ports = [free_port() for _ in range(count)]
                with ExitStack() as held:
                    pids = [held.enter_context(served([*arguments, p], p, sent, folder / "log")) for p in ports]
                    load(ports, sent, connections, 0.5)
                    reached = load(ports, sent, connections, seconds)
                    found[name].append({**reached, "mib": sum(map(memory, pids))})
                    if name == "ffserve, binary":
                        alone.append(load(ports, sent, 1, seconds / 2)["p50_ms"])
            times = []
            for _ in range(300):
                began = time.perf_counter()
                session.run(image)
                times.append(1e3 * (time.perf_counter() - began))
            bare.append(statistics.median(times))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
        long = {}
        if soak:
            port = free_port()
            with served([*own, port], port, as_tensor, folder / "log") as pid:
                load([port], as_tensor, connections, min(30.0, soak))
                parts = []
                for _ in range(10):
                    before = memory(pid)
                    parts.append({**load([port], as_tensor, connections, soak / 10), "mib": before})
                long = {
                    "requests": sum(part["requests"] for part in parts),
                    "failed": sum(part["failed"] for part in parts),
                    "p50_ms": statistics.median(part["p50_ms"] for part in parts),
                    "p99_ms_worst_tenth": max(part["p99_ms"] for part in parts),
                    "mib_first": parts[0]["mib"],
                    "mib_last": memory(pid),
                }

    def median(name: str, key: str) -> float:
        return statistics.median(each[key] for each in found[name])

    def ratio(name: str, other: str) -> float:
        pairs = zip(found[name], found[other], strict=True)
        return statistics.median(a["per_s"] / b["per_s"] for a, b in pairs)

    keys = ("per_s", "p50_ms", "p95_ms", "p99_ms", "mib", "failed")
    ratios = {"batches / one by one": ratio("ffserve, binary", "ffserve, binary, one by one")}
    if processes > 1:
        ratios[f"{processes} processes / one"] = ratio(several, "ffserve, binary")
    peers = [name for name in found if not name.startswith("ffserve")]
    ratios |= {f"ffserve / {name}": ratio("ffserve, JSON", name) for name in peers}
    result = {
        "machine": {**machine(), "load": os.getloadavg()[0]},
        "settings": f"{connections} connections, {rounds} rounds of {seconds:g} s, {shape[1:]} pixels",
        "bytes": model_bytes,
        "servers": {name: {key: round(median(name, key), 2) for key in keys} for name in found},
        "ratios": {name: round(value, 2) for name, value in ratios.items()},
        "one_connection_ms": {"ffserve": round(statistics.median(alone), 3), "bare": round(statistics.median(bare), 3)},
        "soak": {key: round(value, 2) for key, value in long.items()},
    }
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    missed = [f"{name}: {each['why']}" for name in found for each in found[name] if each["failed"]]
    if ratios["batches / one by one"] < least:
        missed.append(f"batches give {ratios['batches / one by one']:.2f} times the throughput, not {least:g}")
    for name in peers:
        if ratios[f"ffserve / {name}"] < least_peer:
            missed.append(f"ffserve has {ratios[f'ffserve / {name}']:.2f} times the throughput of {name}")
        if median("ffserve, JSON", "p99_ms") > median(name, "p99_ms"):
            missed.append(f"ffserve has a worse p99 than {name}")
    if long and (long["failed"] or long["mib_last"] > 1.05 * long["mib_first"]):
        missed.append(f"a soak of {soak:g} s: {long}")
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
