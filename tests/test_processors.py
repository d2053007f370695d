"""The demo on other processors: instruction sets, the libraries' kernels and threads that round otherwise.

Each trains another run, and what is ill-conditioned in it is another too: all of them are exported and served. The
recipe is the demo's with half its epochs: a minute for each of 24 runs, where no other work is done.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from ffcore.files import read_json, sha256
from tests.helpers import ROOT, python

# torch's instruction sets -> the processor's flag that they need.
INSTRUCTIONS = {"default": None, "avx2": "avx2", "avx512": "avx512f"}
# What the libraries that multiply fall back to on the oldest processors.
OLDEST = {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
EPOCHS = 20
# Runs a module as a command, once it is sure what it runs on.
COMMAND = """
import runpy, sys, torch
wanted, *sys.argv = sys.argv[1:]
found = torch.backends.cpu.get_cpu_capability()
assert found.lower() == wanted, f"torch runs on {found}, not {wanted}"
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def processors():
    """Yields (instruction set, environment, threads): what this processor can stand in for."""
    known = Path("/proc/cpuinfo")
    flags = known.read_text(encoding="utf-8").split() if known.exists() else []
    for name, flag in INSTRUCTIONS.items():
        if flag is None or flag in flags:
            yield name, {}, 2
            yield name, OLDEST, 1


def recipe(method):
    """Returns what the demo trains a method with."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(NETWORK|STUDY|LOCAL) := (.*)$", makefile, flags=re.MULTILINE))
    words = found["STUDY"] + f" --recipe {method}" if method in ("ff", "bp") else found["LOCAL"]
    return shlex.split(words.replace("$(NETWORK)", found["NETWORK"]))


def demo(run, images, instructions, environment, threads, method, seed):
    """Trains, probes, exports and serves as the demo does, each command in a process of its own."""

    def command(*arguments):
        everything = {**os.environ, "ATEN_CPU_CAPABILITY": instructions, **environment}
        ended = python("-c", COMMAND, instructions, *arguments, env=everything)
        assert ended.returncode == 0, f"{instructions}, {environment}, {threads} threads: {ended.stderr[-2000:]}"
        return ended.stdout

    limits, export = ("--threads", threads), run / "export"
    settings = (*recipe(method), "--seed", seed, "--epochs", EPOCHS)
    command("fftrain", "pretrain", *settings, *limits, "--out", run)
    command("fftrain", "evaluate", run, "linear", f"linear.epochs={EPOCHS}", *limits)
    command("ffexport", run, "--format", "all")
    command("ffexport", run, "--precision", "int8")
    files = read_json(export / "manifest.json")["files"]
    assert files.keys() == {"model.onnx", "model.ts", "model.pt2", "model.int8.onnx"}
    for name in ("model.onnx", "model.int8.onnx"):
        served = command("ffserve", "predict", images, "--model", export / name, "--json", *limits)
        classes = [found["top"][0]["class"] for found in json.loads(served)["predictions"]]
        assert classes.count("3") >= 0.6 * len(classes) > 0
        shown = ("largest_difference", "float32_difference", "validation")
        print(instructions, environment, threads, method, seed, name, {key: files[name][key] for key in shown})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", ["ff", "bp", "vicreg"])
def test_the_demo_succeeds_on_every_processor(tmp_path, method, seed):
    dumped = python("-m", "fftrain", "dump-images", "digits", tmp_path / "images")
    assert dumped.returncode == 0, dumped.stderr
    trained = {}
    for instructions, environment, threads in processors():
        run = tmp_path / f"{instructions}-{threads}"
        demo(run, tmp_path / "images" / "3", instructions, environment, threads, method, seed)
        trained.setdefault(instructions, set()).add(sha256(run / "backbone.safetensors"))
    for name, digests in trained.items():
        for other in trained.keys() - {name}:
            assert not digests & trained[other], f"{name} trains the same weights as {other}: nothing was tried"
