"""Exported models and the trained one side by side: size, start, speed, memory, and what they compute.

Each model lives in a child process of its own, so that peaks of memory do not mix and what needs torch is kept out of
this one. The children are asked in turn, round by round: the machine's noise then hits all alike.

Letters: N images, B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import FFStudyError, UsageError
from ffcore.files import AnyPath
from ffcore.flat import BLACK, Ground
from ffcore.images import from_array
from ffcore.ink import Ink
from ffcore.machine import cores, frozen, machine
from ffserve.agreement import Agreement, Images, choose_images
from ffserve.candidates import PYTHON, Candidate, find_candidates
from ffserve.timing import (
    FEWEST,
    WARM_UP,
    Child,
    ChildError,
    exit_words,
    last_words,
    load_average,
    repeats_for,
    summary,
)

COLD_STARTS = 3
BATCH_SIZES = (1, 256)
Say = Callable[[str], None]


@dataclass
class _Row:
    """A model, its child process while it lives, and what has been measured of it."""

    candidate: Candidate
    child: Child | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    cold_s: list[float] = field(default_factory=list)
    load_s: list[float] = field(default_factory=list)
    peak: int | None = None
    repeats: dict[int, int] = field(default_factory=dict)
    rounds: dict[int, list[list[float]]] = field(default_factory=dict)
    tally: Agreement | None = None
    error: str | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the child's answer, None where it failed: the reason is in `error`, and the child is gone."""
        assert self.child is not None
        try:
            return self.child.ask(request)
        except ChildError as error:
            self.fail(str(error))
            return None

    def fail(self, why: str) -> None:
        """Notes what went wrong, and ends the child."""
        self.error = why
        self.close()

    def close(self) -> None:
        """Ends the child, if there is one."""
        if self.child is not None:
            self.child.close()
            self.child = None


def compare_models(
    models: Sequence[AnyPath],
    *,
    run: Path | None = None,
    images: Path | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    rounds: int = 7,
    threads: int | None = None,
    time_limit: float = 120.0,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measures models side by side.

    Args:
        models: .onnx, .ts and .pt2 files, run and export folders (all files of their manifest), hf://OWNER/NAME; none:
            those of `run`.
        run: a run folder: the eager model in it is measured too, and is the reference.
        images: a folder of images, in folders of classes for the accuracy; None takes the samples of a run folder that
            was named, else random images.
        batch_sizes: images of a timed run.
        rounds: how often all models are measured in turn.
        threads: CPU threads of each; None means all cores.
        time_limit: seconds that a model may take to load, and to answer each request.
        say: gets a line now and then on what is going on.

    Returns:
        What is printed as JSON: `models` in order, each with `error` (None, or why it failed), and what they were
        measured on. Seconds, bytes; shares are 0 to 1.

    Raises:
        UsageError, ModelError: where there is nothing to compare, or `images` fits no model.
    """
    if not batch_sizes or min(batch_sizes) < 1:
        raise UsageError(f"--batch-size is {min(batch_sizes, default=None)}: it must be at least 1")
    if rounds < 1:
        raise UsageError(f"--rounds is {rounds}: it must be at least 1")
    if not time_limit > 0:
        raise UsageError(f"--time-limit is {time_limit}: it must be above 0")
    if frozen():
        raise FFStudyError(
            "compare starts Python for each model, which a frozen program does not hold: install ffstudy"
        )
    candidates = find_candidates(models, run)
    left_out = [] if has_torch() else [c.name for c in candidates if c.needs_torch]
    rows = [_Row(c) for c in candidates if c.name not in left_out]
    if left_out:
        say(f"torch is not installed, left out: {', '.join(left_out)}")
    if not rows:
        raise FFStudyError("nothing is left to compare without torch: name an .onnx file")
    threads, sizes, before = threads or cores(), list(dict.fromkeys(batch_sizes)), load_average()
    source: Images | None = None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ffserve-compare-")))
        for row in rows:
            stack.callback(row.close)
        _start(rows, threads, min(rounds, COLD_STARTS), time_limit, folder, say)
        if reference := _hold_to_one_shape(rows):
            ground, ink = _reading(rows)
            places = [run, *map(Path, models)]
            source = choose_images(images, places, reference.ready["shape"], ground=ground, ink=ink, report=say)
            source.check([row.ready.get("class_names") for row in rows])
        _time(rows, sizes, rounds, time_limit, say)
        reference = next((row for row in rows if row.child), None)
        if reference and source:
            _compare_outputs(rows, reference, source, folder, say)
            for line in source.left_out.lines():
                say(f"left out, {line}")
    versions = {name: text for row in rows for name, text in row.ready.get("versions", {}).items()}
    return {
        "machine": {**machine(), "load_average_before": before, "load_average_after": load_average()},
        "versions": {"ffstudy": version("ffstudy"), "python": platform.python_version(), **versions},
        "settings": {"threads": threads, "rounds": rounds, "cold_starts": min(rounds, COLD_STARTS)},
        "images": source and source.about(),
        "reference": reference and reference.candidate.name,
        "left_out": left_out,
        "models": [_figures(row, reference, sizes) for row in rows],
    }


def _start(rows: Sequence[_Row], threads: int, times: int, limit: float, folder: Path, say: Say) -> None:
    """Starts every model `times` times, in turn; the last children stay."""
    for k in range(times):
        say(f"start {k + 1} of {times}, models: {sum(row.error is None for row in rows)}")
        for row in rows:
            if row.error is not None:
                continue
            row.close()
            try:
                row.child = Child(row.candidate.command(threads), limit=limit)
                row.ready = row.child.ready
                row.load_s.append(row.ready["load_s"])
                if row.candidate.kind == "onnx" and row.ready["class_names"]:
                    row.cold_s.append(_predict_s(row, threads, limit, folder / "image.png"))
                else:
                    row.child.ask({"batch": 1, "repeats": 1, "warmup": 0})
                    row.cold_s.append(time.perf_counter() - row.child.began)
            except ChildError as error:
                row.fail(str(error))


def _predict_s(row: _Row, threads: int, limit: float, image: Path) -> float:
    """Returns the seconds that `ffserve predict` takes for one image, from the command to its end."""
    if not image.exists():
        random = np.random.default_rng(0).integers(0, 256, row.ready["shape"], dtype=np.uint8)
        from_array(random).save(image)
    model = str(row.candidate.path)
    given = (str(image), "--model", model, "--threads", str(threads), "--device", "cpu")
    command = [*PYTHON, "ffserve", "predict", *given]
    began = time.perf_counter()
    try:
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise ChildError(f"`ffserve predict` did not end within {limit:g} s (--time-limit)") from None
    if ended.returncode:
        raise ChildError(last_words(ended.stderr) or f"`ffserve predict` ended with {exit_words(ended.returncode)}")
    return time.perf_counter() - began


def _hold_to_one_shape(rows: Sequence[_Row]) -> _Row | None:
    """Fails what takes images of another size than the reference, which it returns, None where all have failed."""
    reference = next((row for row in rows if row.child), None)
    for row in rows:
        if reference and row.child and row.ready["shape"] != reference.ready["shape"]:
            mine, theirs = ("x".join(map(str, r.ready["shape"])) for r in (row, reference))
            row.fail(f"it takes images of {mine}, {reference.candidate.name} of {theirs}")
    return reference


def _time(rows: Sequence[_Row], sizes: Sequence[int], rounds: int, limit: float, say: Say) -> None:
    """Times every model at every batch size, in turn, `rounds` times."""
    for k in range(rounds + 1):
        say(f"round {k} of {rounds}" if k else "warming up")
        for size in sizes:
            for row in rows:
                if row.child is None:
                    continue
                repeats = row.repeats.get(size, 3)
                slow = k and repeats <= FEWEST
                request = {"batch": size, "repeats": repeats, "warmup": 1 if slow else WARM_UP}
                if answer := row.ask(request):
                    row.peak = answer["peak_rss"]
                    if k:
                        row.rounds.setdefault(size, []).append(answer["seconds"])
                    else:
                        row.repeats[size] = repeats_for(min(answer["seconds"]), limit)


def _reading(rows: Sequence[_Row]) -> tuple[Ground, Ink | None]:
    """Returns how the first model that tells it reads images: what transparency is laid over, and its ink."""
    for row in rows:
        if "ink" in row.ready:
            ground, ink = row.ready["ground"], row.ready["ink"]
            return ground and tuple(ground), ink and Ink.from_dict(ink)
    return BLACK, None


def _compare_outputs(rows: Sequence[_Row], reference: _Row, source: Images, folder: Path, say: Say) -> None:
    """Tallies every model's outputs beside the reference's."""
    say(f"comparing outputs on {source.what}")
    given, got = folder / "in.npy", folder / "out.npz"
    names = next((row.ready["class_names"] for row in rows if row.ready.get("class_names")), None)
    first, head = reference.ready.get("class_names", names), _head(reference)
    for row in rows:
        mine = row.ready.get("class_names", names)
        same = mine == first
        row.tally = Agreement(
            names=mine, same_names=same, comparable=same and _head(row) == head, classes=source.classes
        )

    def outputs(row: _Row) -> dict[str, npt.NDArray[np.float32]] | None:
        if row.child is None or row.ask({"run": str(given), "out": str(got)}) is None:
            return None
        with np.load(got, allow_pickle=False) as arrays:
            return dict(arrays)

    for images_NCHW, labels_N in source:
        np.save(given, images_NCHW)
        theirs = outputs(reference)
        if theirs is None:
            break
        for row in rows:
            found = theirs if row is reference else outputs(row)
            if found is not None and row.tally is not None:
                try:
                    row.tally.add(found, theirs, labels_N)
                except ValueError as error:
                    row.fail(str(error))


def _head(row: _Row) -> str:
    return str(row.ready.get("head", row.candidate.head))


def _figures(row: _Row, reference: _Row | None, sizes: Sequence[int]) -> dict[str, Any]:
    """Returns what was measured of a model."""
    candidate, ready = row.candidate, row.ready
    theirs = reference.rounds if reference else {}
    return {
        "name": candidate.name,
        "file": str(candidate.path),
        "kind": candidate.kind,
        "precision": ready.get("precision", candidate.precision),
        "head": _head(row),
        "error": row.error,
        "bytes": ready.get("bytes"),
        "load_s": _median(row.load_s),
        "cold_start_s": _median(row.cold_s),
        "cold_start": "ffserve predict" if candidate.kind == "onnx" and ready.get("class_names") else "first run",
        "peak_memory_bytes": row.peak,
        "batches": [summary(row.rounds[b], b, theirs.get(b)) for b in sizes if b in row.rounds],
        **(row.tally.figures() if row.tally else {"largest_difference": None, "same_class": None, "accuracy": None}),
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def has_torch() -> bool:
    """Returns whether what needs torch can be measured here, without importing it."""
    return find_spec("torch") is not None and find_spec("ffexport") is not None
