"""What a launcher asks for: processes, precision and threads are taken, what is not done here is refused by name.

`accelerate launch` tells its options, and what `accelerate config` holds, by environment variables. Nothing heavy is
imported before an accelerator is made.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Collection, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ffcore.errors import SettingError, TrainingError
from ffcore.machine import cores
from fftrain.allocator import keep_large_buffers
from fftrain.config import PRECISIONS
from fftrain.progress import Reporter, TerminalReporter

if TYPE_CHECKING:
    from accelerate import Accelerator

# What one process does alone, while the others wait, may take longer than a backend waits.
WAIT = timedelta(hours=3)
LAUNCHERS = ("accelerate", "accelerate-launch", "accelerate.commands.launch")
PRECISION, THREADS = "ACCELERATE_MIXED_PRECISION", "OMP_NUM_THREADS"
# What is not done here, by the variable that asks for it, unless it holds one of these words, or its own.
UNASKED = ("0", "f", "false", "n", "no", "none", "off")
OWN_WORDS = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1",), "ACCELERATE_DYNAMO_BACKEND": ("no",)}
NOT_DONE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "gradient accumulation",
    "ACCELERATE_GRADIENT_CLIPPING": "gradient clipping",
    "ACCELERATE_DYNAMO_BACKEND": "TorchDynamo",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
    "ACCELERATE_USE_IPEX": "IPEX",
    "ACCELERATE_DOWNCAST_BF16": "downcast_bf16",
    "XLA_DOWNCAST_BF16": "downcast_bf16",
}


def start(
    threads: int | None,
    mixed_precision: str | None = "no",
    track: str | None = None,
    processes: int | None = None,
    used: Collection[str] = (),
) -> tuple[Accelerator, Reporter]:
    """Returns what a command works with, an accelerator and what a person sees (of several processes the main one's).

    What becomes of the launcher's settings is said. Arguments and errors are those of `make_accelerator`; `used` are
    the precisions of what is done, where that is not the accelerator's alone.
    """
    accelerator = make_accelerator(threads, mixed_precision, track, processes)
    reporter = TerminalReporter() if accelerator.is_main_process else Reporter()
    for remark in _remarks(accelerator, threads, used or {accelerator.mixed_precision}):
        reporter.note(remark)
    return accelerator, reporter


def make_accelerator(
    threads: int | None, mixed_precision: str | None = "no", track: str | None = None, processes: int | None = None
) -> Accelerator:
    """Returns Accelerate's view of the devices and processes, with this program's number of CPU threads.

    Args:
        threads: CPU threads of a process; None takes the launcher's (OMP_NUM_THREADS), or without one shares the cores
            out over the local processes.
        mixed_precision: `no`, `bf16` or `fp16`; None takes the launcher's.
        track: a tracker of Accelerate that `pretrain` writes to.
        processes: how many must work together; None takes what the launcher started.

    Raises:
        TrainingError: where the launcher started more processes than work together, or not as many as asked for.
        SettingError: where the launcher asks for what is not done here, the device does not have this precision, or
            the tracker is not installed.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    told = _told()
    _check(told)
    named = "--mixed-precision" if mixed_precision is not None else "the launcher's mixed precision"
    mixed_precision = mixed_precision or precision()
    if track is not None and importlib.util.find_spec(track) is None:
        raise SettingError(f"--track {track} needs a package that is not installed: run pip install {track}")
    keep_large_buffers()
    AcceleratorState._reset_state()  # else a second run in one process could not have another precision
    try:
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            log_with=track,
            project_dir="." if track else None,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
        )
    except ValueError as error:  # a device without this precision
        raise SettingError(f"{named} {mixed_precision} cannot be had here: {error}") from error
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":  # Accelerate would train in full precision
        raise SettingError(f"{named} fp16 cannot be had on a CPU: choose bf16 or no")
    _check_processes(accelerator, processes, told)
    torch.set_num_threads(threads or told_threads() or _share(accelerator))
    return accelerator


def precision() -> str:
    """Returns the launcher's mixed precision, `no` without one. Raises SettingError where it is none of PRECISIONS."""
    asked = os.environ.get(PRECISION, "").lower() or "no"
    if asked not in PRECISIONS:
        raise SettingError(
            f"the launcher asks for mixed precision {asked!r}, which is not done here: "
            f"choose one of {', '.join(PRECISIONS)} there"
        )
    return asked


def told_threads() -> int | None:
    """Returns the launcher's number of CPU threads of a process."""
    first = os.environ.get(THREADS, "").partition(",")[0].strip()  # those of nested regions come behind a comma
    return int(first) if first.isdigit() and int(first) else None


def _share(accelerator: Accelerator) -> int:
    """Returns the cores of a process, of which none has more than another."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes)))


def _told() -> dict[str, str]:
    """Returns the options of the `accelerate launch` that started this process, by name; none where another did.

    Some it hands on to DeepSpeed alone: a process that it starts by itself does not hear of them otherwise. How many
    processes its configuration asks for it does not tell either, but that it prepares for several.
    """
    import psutil

    try:
        parent = psutil.Process().parent()
        words, before = (parent.cmdline(), parent.environ()) if parent else ([], {})
    except psutil.Error:
        return {}
    if not any(Path(word).name in LAUNCHERS for word in words[:4]):
        return {}
    own = words[: len(words) - len(sys.argv) + 1]  # what follows is what this process was given
    found = {"num_processes": "several"} if os.environ.keys() - before.keys() >= {"MASTER_PORT"} else {}
    for word, value in pairwise([*own, ""]):
        name, given, after = word.partition("=")
        if name.startswith("--"):
            found[name[2:].replace("-", "_")] = after if given else value
    return found


def _check(told: dict[str, str]) -> None:
    """Raises SettingError where the launcher asks for what is not done here."""
    precision()
    for variable, what in NOT_DONE.items():
        option = variable.removeprefix("ACCELERATE_").lower()
        asked = {variable: os.environ.get(variable, ""), f"--{option}": told.get(option, "")}
        for name, value in asked.items():
            if value and value.lower() not in OWN_WORDS.get(variable, UNASKED):
                raise SettingError(
                    f"the launcher asks for {what} ({name} is {value}), which is not done here: leave it out there"
                )


def _check_processes(accelerator: Accelerator, wanted: int | None, told: dict[str, str]) -> None:
    """Raises TrainingError where not as many processes work together as were asked for."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != accelerator.num_processes:
        raise TrainingError(
            f"the launcher started {world} processes but Accelerate joined {accelerator.num_processes}: "
            "on CPUs, set ACCELERATE_USE_CPU=true before `accelerate launch --multi_gpu`"
        )
    asked = told.get("num_processes", "1")
    if "WORLD_SIZE" not in os.environ and asked != "1":
        raise TrainingError(
            f"the launcher was asked for {asked} processes and started one: `accelerate launch --multi_gpu` starts "
            "several, on CPUs with ACCELERATE_USE_CPU=true"
        )
    if wanted not in (None, world):
        raise TrainingError(
            f"--processes is {wanted}, but the launcher started {world}: on CPUs, "
            f"`accelerate launch --multi_gpu --num_processes {wanted}` with ACCELERATE_USE_CPU=true starts several"
        )


def _remarks(accelerator: Accelerator, threads: int | None, used: Collection[str]) -> Iterator[str]:
    """Yields what of the launcher's settings one might not think of."""
    asked = precision()
    if asked != "no" and asked not in used:
        yield f"mixed precision is {', '.join(sorted(used))} here, not the launcher's {asked}"
    taken, share = told_threads(), _share(accelerator)
    if threads is None and taken is not None and taken < share and accelerator.device.type == "cpu":
        yield f"CPU threads: {taken}, as the launcher says ({THREADS}), where {share} could be had (--threads {share})"
