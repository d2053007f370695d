"""Peak memory of a training step over depth: FF's layers are trained one by one, BP's graph holds them all.

Each case runs in a process of its own: one small step first, so that parameters, gradients and optimizer state are
there, then two steps at the full batch; the growth of the process's peak is what the step needs beyond them.

    python benchmarks/memory_depth.py
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys


def measure(method: str, depth: int, width: int = 500, batch: int = 4096) -> float:
    """Returns the growth of this process's peak memory, MiB."""
    import torch

    from ffmodels.backbone import BackboneConfig
    from fftrain.config import PretrainConfig
    from fftrain.objectives import Batch
    from fftrain.registry import METHODS

    config = PretrainConfig(method=method, width=width, depth=depth, threshold=float(width))
    backbone = BackboneConfig(shape=(1, 28, 28), width=width, depth=depth).build(0)
    objective = METHODS.load(method)(backbone, 4, config)
    parameters = [p for module in objective.modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step(rows: int) -> None:
        labels = torch.arange(rows) % 4
        optimizer.zero_grad(set_to_none=False)
        for _, losses in objective.losses(Batch(torch.rand(rows, 1, 28, 28), labels, {"wrong": (labels + 1) % 4})):
            losses.sum().backward()
            del losses
        optimizer.step()

    step(8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(batch)
    step(batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Prints the growth for FF and BP with 4 and 64 layers."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    for method in ("ff", "bp"):
        for depth in (4, 64):
            command = [sys.executable, __file__, method, str(depth)]
            grown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"{method}, {depth} layers: {grown:.0f} MiB", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    main()
