"""What is installed, what works here, and what mends what does not.

Each execution provider is tried in a process of its own (`ffserve.trial`), with a time limit: one that crashes or
hangs is a line of the report.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from ffcore.errors import FFStudyError, ModelNotFound
from ffcore.machine import cpu_quota, frozen, machine
from ffserve import trial
from ffserve.timing import exit_words, last_words

TRIAL = Path(__file__).with_name("trial.py")
LIMIT = 60.0
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DISTRIBUTION = "ffstudy"
SHOWN = ("numpy", "pillow", "typer", "rich")
MODULES = {"pillow": "PIL", "onnxruntime-gpu": "onnxruntime"}
GPU_LINE = f"pip install '{DISTRIBUTION}[gpu]'"


def examine(*, limit: float = LIMIT) -> dict[str, Any]:
    """Looks at this machine.

    Args:
        limit: seconds that each provider may take.

    Returns:
        {"ok": whether there is no problem,
        "problems": what is broken, with what mends it, "notes": what could be had and is not,
        "versions": of Python and of what serves models, None where it is not installed,
        "extras": {extra of ffstudy: what it lacks, nothing where it is whole},
        "machine": CPU, instructions, cores, system, and "cpu_quota": how many cores a container may keep busy, or None,
        "onnxruntime": {"packages", "cuda": the version that it is built for, or "", "error"},
        "providers": {name: {"works", "seconds", "error"}},
        "cuda": {"libraries": {file name: why it cannot be loaded, or None}, "gpus"}, None where it is built without,
        "model": {"path", "error", "broken"}: which model answers where none is named, and whether it is whole}
    """
    packages = sorted(set(metadata.packages_distributions().get("onnxruntime", []))) or ["onnxruntime"] * frozen()
    runtime, error = ask("providers", limit)
    available = runtime["available"] if runtime else []
    if frozen():  # where what breaks would break this process
        available = [name for name in available if name == CPU]
    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(ask, "cuda", limit) if CUDA in available else None
        answers = [*pool.map(lambda name: ask(name, limit), available)]
    providers = {
        name: {"works": bool(found and found["works"]), "seconds": found and found["seconds"], "error": why}
        for name, (found, why) in zip(available, answers, strict=True)
    }
    facts = {
        "versions": {"python": platform.python_version()} | {n: version(n) for n in (DISTRIBUTION, *SHOWN, *packages)},
        "extras": {name: [text for _, text in unmet(DISTRIBUTION, name)] for name in extras()},
        "machine": {**machine(), "cpu_quota": cpu_quota()},
        "onnxruntime": {"packages": packages, "cuda": runtime["cuda"] if runtime else "", "error": error},
        "providers": providers,
        "cuda": looking and (looking.result()[0] or {"libraries": {}, "gpus": [], "error": looking.result()[1]}),
        "model": default_model() if providers.get(CPU, {}).get("works") else None,
    }
    problems, notes = judge(facts)
    return {"ok": not problems, "problems": problems, "notes": notes, **facts}


def judge(facts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns what is broken, with what mends it, and what could be had and is not."""
    problems: list[str] = []
    notes: list[str] = []
    packages, error = facts["onnxruntime"]["packages"], facts["onnxruntime"]["error"]
    cpu = facts["providers"].get(CPU, {"works": False, "error": "it is not there"})
    runtime = wanted_runtime(packages)
    if len(packages) > 1:
        problems.append(
            f"{' and '.join(packages)} are installed at once and overwrite each other: "
            f"run pip uninstall -y {' '.join(packages)} && pip install {runtime}"
        )
    elif error:
        problems.append(f"onnxruntime cannot be used ({error}): run pip install --force-reinstall {runtime}")
    elif not cpu["works"]:
        problems.append(f"{CPU} does not work ({cpu['error']}): run pip install --force-reinstall {runtime}")
    for wanted, text in unmet(DISTRIBUTION):
        if not wanted.startswith("onnxruntime"):  # any of its packages will do
            problems.append(f"{text}: run pip install '{wanted}'")
    if facts["cuda"] and not facts["providers"][CUDA]["works"]:
        broken, text = about_cuda(facts["cuda"], facts["providers"][CUDA]["error"])
        (problems if broken else notes).append(text)
    if facts["model"] and facts["model"]["error"]:
        (problems if facts["model"]["broken"] else notes).append(facts["model"]["error"])
    return problems, notes


def ask(what: str, limit: float) -> tuple[dict[str, Any] | None, str]:
    """Returns what `ffserve.trial` answers in a process of its own, or None and why it does not, in one line.

    A frozen program has no Python to start: there it answers in this process.
    """
    if frozen():
        try:
            return trial.answer(what), ""
        except Exception as error:  # ONNX Runtime raises many kinds, and shares no base with them
            return None, " ".join(str(error).split())[:200]
    command = [sys.executable, "-P", str(TRIAL), what]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {limit:g} s"
    if not ended.returncode:
        return json.loads(ended.stdout), ""
    said = ended.stderr.decode(errors="replace")
    # What ONNX Runtime logs of a library says more than the error that it raises afterwards.
    library = re.search(r"with error: ([^\x1b\n]+)", said)
    return None, library[1].strip() if library else last_words(ended.stderr) or exit_words(ended.returncode)


def about_cuda(cuda: dict[str, Any], error: str) -> tuple[bool, str]:
    """Returns whether CUDA is broken here, not merely not there, and what is to be said of it."""
    if not cuda["libraries"]:
        return True, f"CUDA's libraries cannot be looked for: {cuda['error']}"
    driver, *_ = cuda["libraries"]
    missing = [name for name, why in cuda["libraries"].items() if why and name != driver]
    needed = f"{', '.join(missing)} cannot be loaded: {GPU_LINE} brings what is missing" if missing else ""
    if cuda["libraries"][driver]:
        return False, f"no NVIDIA driver ({driver}): models run on the CPU" + (f"; {needed}" if needed else "")
    if not cuda["gpus"]:
        return False, "the NVIDIA driver gives no GPU to this process: models run on the CPU"
    if missing:
        return False, f"{cuda['gpus'][0]} is not used, {needed}"
    return True, f"CUDA does not work on {cuda['gpus'][0]} though its libraries are there: {error}"


def default_model() -> dict[str, Any]:
    """Returns {"path", "error"} of the model that answers where none is named, and whether that is "broken"."""
    from ffserve.session import Model, find_model

    path = None
    try:
        path = find_model()
        Model(path, device="cpu")
    except FFStudyError as error:
        missing = isinstance(error, ModelNotFound) and not os.environ.get("FFSERVE_MODEL")
        return {"path": path and str(path), "error": str(error), "broken": not missing}
    return {"path": str(path), "error": "", "broken": False}


def version(name: str) -> str | None:
    """Returns the version of an installed distribution; in a frozen program that of what is packed, if it tells."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        module = MODULES.get(name, name)
        if not frozen() or importlib.util.find_spec(module) is None:
            return None
        return str(getattr(importlib.import_module(module), "__version__", "packed"))


def extras() -> list[str]:
    """Returns what can be installed with ffstudy, but for its own development."""
    if version(DISTRIBUTION) is None or frozen():  # which is whole, or nothing can be added to it
        return []
    return [name for name in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or [] if name != "dev"]


def unmet(distribution: str, extra: str = "") -> Iterator[tuple[str, str]]:
    """Yields (requirement, what is wrong) of all that a distribution, or an extra of it, asks for and lacks here."""
    from packaging.requirements import Requirement

    if frozen():  # whose packages have left their metadata behind
        return
    for text in metadata.requires(distribution) or [] if version(distribution) else []:
        wanted = Requirement(text)
        here = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        if not here or (extra and (wanted.marker is None or wanted.marker.evaluate({"extra": ""}))):
            continue
        found = version(wanted.name)
        if found is None:
            yield f"{wanted.name}{wanted.specifier}", f"{wanted.name} is not installed"
        elif not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name}{wanted.specifier}", f"{wanted.name} is {found}, not {wanted.specifier}"
        else:
            for inner in sorted(wanted.extras):
                yield from unmet(wanted.name, inner)


def wanted_runtime(packages: Sequence[str]) -> str:
    """Returns which of the installed packages of onnxruntime is to stay, or which one ffstudy asks for here."""
    from packaging.requirements import Requirement

    texts = metadata.requires(DISTRIBUTION) or [] if version(DISTRIBUTION) else []
    here = [r.name for r in map(Requirement, texts) if r.marker is None or r.marker.evaluate({"extra": ""})]
    wanted = [name for name in here if name.startswith("onnxruntime")]
    return next((name for name in packages if name in wanted), [*packages, *wanted, "onnxruntime"][0])
