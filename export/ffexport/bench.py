"""`ffexport bench`: a child process that runs one model, as its parent asks line by line.

`ffserve compare` starts one for everything that needs torch, so that it needs none itself, and so that the rounds of
several models can take turns. Standard input and output carry one JSON object a line (`serve` says which).
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ffcore.errors import FFStudyError, RunError, SettingError
from ffcore.machine import cores
from ffexport.cli import Trust, trusted
from ffexport.registry import FORMATS, load_format
from ffserve import console
from ffserve.console import Debug
from ffserve.metadata import SUFFIXES, Named, decode

if TYPE_CHECKING:
    from ffexport.formats import Images, Runner

app = console.app("Time a model in a process of its own.")
EAGER = "eager"
KINDS = (EAGER, *FORMATS)
# TorchScript looks at its first runs and compiles for what it saw.
WARM_UP = 3


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(help="An exported file, or a run folder.", show_default=False)],
    *,
    kind: Annotated[
        str | None, typer.Option(help=f"[{'|'.join(KINDS)}] [default: by the file's suffix; eager for a folder]")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Of the eager model, as for `ffexport`.")] = None,
    probe: Annotated[str | None, typer.Option(help="Of the eager model, as for `ffexport`.")] = None,
    trust_plugin: Trust = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. [default: all cores]", min=1, max=256, show_default=False)
    ] = None,
    debug: Debug = False,
) -> None:
    """Load a model, say so, then time it as JSON requests on standard input ask.

    \b
    Requests, one a line, and their answers:
      {"batch": B, "repeats": n}                  {"seconds": [...], "peak_rss": bytes}
          with "warmup": runs that are not timed, "seed" of the images, or "images_npy": a file of uint8 [N, C, H, W]
      {"run": "in.npy", "out": "out.npz"}         {"done": true, "images": N}
    A request that fails is answered with {"error": "..."}. The end of the input ends the process.

    \b
    Examples:
      echo '{"batch": 1, "repeats": 100}' | ffexport bench runs/ff-rot/export/model.ts
      echo '{"batch": 256, "repeats": 10}' | ffexport bench runs/ff-rot --kind eager --threads 1
    """
    trusted(trust_plugin)
    path, kind = place(model, kind)
    ready, run = load(path, kind, head, probe, threads or cores())
    serve(ready, run, sys.stdin, sys.stdout)


def serve(ready: dict[str, Any], run: Runner, requests: IO[str], answers: IO[str]) -> None:
    """Answers requests until there are no more.

    Args:
        ready: the first line: what was loaded.
        run: the model.
        requests: one JSON object a line.
        answers: likewise.
    """
    for answer in _answers(ready, run, requests):
        print(json.dumps(answer), file=answers, flush=True)


def _answers(ready: dict[str, Any], run: Runner, requests: IO[str]) -> Iterator[dict[str, Any]]:
    yield ready
    for line in requests:
        if not line.strip():
            continue
        try:
            yield _answer(json.loads(line), run, tuple(ready["shape"]), ready["output_names"])
        except Exception as error:  # the parent decides whether to go on
            yield {"error": " ".join(f"{type(error).__name__}: {error}".split())}


def _answer(request: dict[str, Any], run: Runner, shape: tuple[int, int, int], names: list[str]) -> dict[str, Any]:
    import numpy as np

    if "run" in request:
        images, size = np.load(request["run"]), int(request.get("batch", 256))
        parts = [run(images[i : i + size]) for i in range(0, max(len(images), 1), size)]
        outputs = dict(zip(names, (np.concatenate(part) for part in zip(*parts, strict=True)), strict=True))
        np.savez(request["out"], **outputs)  # type: ignore[arg-type]
        return {"done": True, "images": len(images)}
    batch, repeats = int(request["batch"]), int(request["repeats"])
    if batch < 1 or repeats < 1:
        raise ValueError("batch and repeats must be at least 1")
    if "images_npy" in request:
        images = np.resize(np.load(request["images_npy"]), (batch, *shape))
    else:
        images = np.random.default_rng(request.get("seed", 0)).integers(0, 256, (batch, *shape), dtype=np.uint8)
    for _ in range(int(request.get("warmup", WARM_UP))):
        run(images)
    return {"seconds": [_timed(run, images) for _ in range(repeats)], "peak_rss": peak_rss()}


def _timed(run: Runner, images: Images) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def place(model: Path, kind: str | None) -> tuple[Path, str]:
    """Returns the file or folder to load, and its kind."""
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    found = kind or (EAGER if model.is_dir() else by_suffix.get(model.suffix, ""))
    if found not in KINDS:
        raise SettingError(f"--kind is {kind!r} and {model} has no suffix that tells: choose one of {', '.join(KINDS)}")
    if found == EAGER and not model.is_dir():
        raise SettingError(f"--kind eager needs a run folder, and {model} is none")
    if model.is_dir() and found != EAGER:
        model = model / "export" / Named("probe", found, "fp32").file
    if not model.exists():
        raise RunError(f"{model} does not exist: `ffexport` makes it")
    return model, found


def load(path: Path, kind: str, head: str | None, probe: str | None, threads: int) -> tuple[dict[str, Any], Runner]:
    """Loads a model. Returns what is said of it, and the model."""
    start = time.perf_counter()
    import torch

    from ffexport.formats import as_run
    from ffexport.subject import load_subject
    from ffmodels.run import BACKBONE_FILE, Run

    libraries = ["torch", "numpy"]
    if kind == "onnx":
        import onnxruntime  # noqa: F401  its time counts as that of importing

        libraries.append("onnxruntime")
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    imported = time.perf_counter()
    if kind == EAGER:
        subject = load_subject(Run.load(path), head, probe)
        shape, names, run = list(subject.run.shape), list(subject.model.outputs), as_run(subject.model)
        weights = [path / BACKBONE_FILE, *([subject.probe.path] if subject.probe else [])]
    else:
        if head is not None or probe is not None:
            raise SettingError("--head and --probe are for --kind eager: a file has its own")
        form, weights = load_format(kind), [path]
        try:
            about = decode(form.metadata(path))
            shape = [about["image"][side] for side in ("channels", "height", "width")]
            names = ["features", *(["logits", "probabilities"] if "class_names" in about else [])]
            run = form.load(path, threads=threads)
        except FFStudyError:
            raise
        except Exception as error:  # the libraries raise many kinds
            raise RunError(
                f"{path} cannot be loaded ({type(error).__name__}): export it again with `ffexport`"
            ) from error
    return {
        "ready": True,
        "kind": kind,
        "path": str(path),
        "import_s": imported - start,
        "load_s": time.perf_counter() - imported,
        "bytes": sum(file.stat().st_size for file in weights),
        "peak_rss": peak_rss(),
        "threads": threads,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in libraries}},
        "shape": shape,
        "output_names": names,
    }, run


def _version(library: str) -> str:
    return str(getattr(sys.modules[library], "__version__", "unknown"))


def peak_rss() -> int:
    """Returns the most memory that this process has had, in bytes."""
    try:
        # Not what `resource` says, which begins with the parent's.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import psutil

        used = psutil.Process().memory_info()
        return int(getattr(used, "peak_wset", used.rss))
