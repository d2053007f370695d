"""The peer of step_speed.py: one training step of fflib, from the package index, in a folder of the benchmark's own.

Run as a program (FOLDER WIDTH DEPTH THREADS) it is fflib as its users have it: it takes one step for each line on
standard input, on the rows in FOLDER/rows.pt, and answers each with a line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

VERSION = "0.3.0"
HOME = Path(__file__).resolve().parent.parent / "build" / f"fflib-{VERSION}"


def install() -> None:
    """Installs fflib without its dependencies (it asks for an older torchvision) where it is not there yet.

    Raises:
        RuntimeError: where it cannot be had from the index, in one line.
    """
    if HOME.exists():
        return
    HOME.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME.parent) as partial:
        options = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
        wanted = ["--no-deps", "--target", f"{partial}/fflib", f"fflib=={VERSION}"]
        command = [sys.executable, "-m", "pip", "install", *options, *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not install it: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
        Path(partial, "fflib").rename(HOME)


def make_step(
    positive_BP: Tensor, negative_BP: Tensor, width: int, depth: int, optimizer: Any = torch.optim.Adam
) -> Callable[[], None]:
    """Returns fflib's training step on ready rows. Each layer has an optimizer, which fflib makes of (parameters, lr).

    Raises:
        RuntimeError: where fflib cannot be imported.
    """
    if str(HOME) not in sys.path:
        sys.path.append(str(HOME))
    try:
        from fflib.nn.ff_linear import FFLinear
        from fflib.nn.ff_net import FFNet
    except ImportError as error:
        raise RuntimeError(f"{HOME} cannot be imported: {error}") from error
    inputs = [positive_BP.shape[1]] + [width] * (depth - 1)
    net = FFNet([FFLinear(n, width, loss_threshold=1.0, lr=1e-6, optimizer=optimizer) for n in inputs], "cpu")
    return lambda: net.run_train_combined(positive_BP, negative_BP)


class Peer:
    """fflib's step in a process of its own, with the C library's allocator and the Adam it comes with.

    Raises:
        RuntimeError: where fflib cannot be had or fails.
    """

    def __init__(self, positive_BP: Tensor, negative_BP: Tensor, width: int, depth: int) -> None:
        install()
        self.folder = tempfile.TemporaryDirectory()
        torch.save((positive_BP.clone(), negative_BP.clone()), Path(self.folder.name, "rows.pt"))
        arguments = [self.folder.name, str(width), str(depth), str(torch.get_num_threads())]
        # What ffstudy's commands set is not what fflib's users have.
        own = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=own,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()
        self.folder.cleanup()

    def step(self) -> None:
        """Takes one step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        if not self.process.stdout.readline():
            raise RuntimeError(f"fflib's process ended with {self.process.wait()}")


def main() -> None:
    """Takes a step for each line."""
    width, depth, threads = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    step = make_step(*torch.load(Path(sys.argv[1], "rows.pt")), width, depth)
    for _ in sys.stdin:
        step()
        print(flush=True)


if __name__ == "__main__":
    main()
