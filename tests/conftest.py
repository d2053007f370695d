from __future__ import annotations

import gzip
import os

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # bit-identity is promised on a CPU; test_cuda.py looks at a GPU
os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded

import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, Ended

# A shell that starts tests in the background lets them ignore Ctrl-C, nohup a hangup, and with them their commands.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
REAL_DATA = Path(os.environ.get("FFSTUDY_REAL_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command in this process: cli("fftrain", "pretrain", ...) -> Ended."""
    import importlib

    from ffserve import console

    def run(program: str, *arguments: object) -> Ended:
        main = importlib.import_module(f"{program}.cli").main
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        monkeypatch.setattr(console, "_debug", False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return Ended(end.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with two small finished runs on the digits, `ff` and `bp`, probed: read it, never write to it."""
    from fftrain import EvaluationConfig, evaluate_run
    from fftrain.training import pretrain
    from tests.fftrain.training import settings

    root = tmp_path_factory.mktemp("trained")
    for method in ("ff", "bp"):
        small = {"dataset": "digits", "width": 48, "batch_size": 64, "lr": 3e-3, "epochs": 3, "threads": 1}
        pretrain(settings(method, **small, threshold=48.0), root / method)
        evaluate_run(root / method, EvaluationConfig(evaluation={"name": "linear", "epochs": 8}, threads=1))
    return root


@pytest.fixture
def run_copy(trained, tmp_path):
    """A copy of the small `ff` run, to be changed or broken."""
    return Path(shutil.copytree(trained / "ff", tmp_path / "run"))


@pytest.fixture(scope="session")
def real_mnist(tmp_path_factory) -> Path:
    """A data folder with the real MNIST, or a skip."""
    source = REAL_DATA / "MNIST" / "raw"
    if not source.is_dir():
        pytest.skip(f"no MNIST in {REAL_DATA}: set FFSTUDY_REAL_DATA")
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the Hugging Face Hub that programs and this process take for it, with a cache of its own."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    from tests.hub import environment, serving

    with serving() as hub:
        home = tmp_path / "hf"
        for name, value in environment(hub, home).items():
            monkeypatch.setenv(name, value)
        for name, value in {  # read from the environment when it is imported
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield hub


@pytest.fixture
def unused_port() -> int:
    """A port of this machine that nothing listens on."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of Ray: a head that does nothing and two nodes of one core."""
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        found.add_node(num_cpus=1)
    yield found
    found.shutdown()
