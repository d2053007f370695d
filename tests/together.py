"""Runs a function in several processes that work together, as `accelerate launch` starts them, on CPUs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_together(processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns what function(*arguments) gives in each process; its module is imported there."""
    with TemporaryDirectory() as folder:
        mp.spawn(_work, (processes, folder, function, arguments), nprocs=processes)
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(processes)]


def _work(rank: int, processes: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ |= {
        "ACCELERATE_USE_CPU": "true",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    torch.set_num_threads(1)
    store = Path(folder, "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    torch.save(function(*arguments), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
