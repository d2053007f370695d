"""Whether bf16 pays on this CPU: some compute with it more slowly than in fp32, instructions for it or not.

Letters: B rows of a batch, D features of a layer.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch.nn import functional

# What is timed is no larger, takes about so many seconds, and so many rounds at least.
ROWS, WIDTH = 128, 2000
SECONDS, ROUNDS = 0.3, 3
# The speed of bf16, where that of fp32 is 1, below which it is said that it does not pay.
PAYS = 0.95


def slower_in_bf16(rows: int, width: int) -> str | None:
    """Returns a line where a layer of this size is slower in bf16 than in fp32 on this CPU; None where it is not.

    Nothing is drawn and nothing kept: a run is the same after it.
    """
    fp32, bf16 = speeds(min(rows, ROWS), min(width, WIDTH))
    if bf16 >= PAYS * fp32:
        return None
    return (
        f"bf16 runs at {bf16 / fp32:.2f} of fp32's speed on this CPU ({bf16:.3g} against {fp32:.3g} GFLOP/s at this "
        "size): --mixed-precision no is faster"
    )


def speeds(rows: int, width: int) -> tuple[float, float]:
    """Returns the GFLOP/s of a layer in fp32 and under bf16 autocast: its product and the gradient of its weights.

    Both in turn, medians over the rounds.
    """
    x_BD, weight_DD = torch.ones(rows, width), torch.ones(width, width, requires_grad=True)
    above_BD = torch.ones(rows, width)
    times: dict[bool, list[float]] = {False: [], True: []}
    ends = time.perf_counter() + SECONDS
    while len(times[True]) <= ROUNDS or time.perf_counter() < ends:
        for bf16, found in times.items():
            began = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                z_BD = functional.linear(x_BD, weight_DD)
            torch.autograd.grad(z_BD, weight_DD, above_BD.to(z_BD.dtype))
            found.append(time.perf_counter() - began)
    products = 2 * 2 * rows * width * width / 1e9
    fp32, half = (products / statistics.median(found[1:]) for found in times.values())  # the first is to warm up
    return fp32, half
