"""How long a linear probe takes on cached features, beside a floor: the bare products over the same rows, in order.

The probe is `fftrain.probe.Probe.fit`: permutation, gather, both products, softmax, AdamW. The floor is
x @ W.T and g.T @ x alone, without a gather and without a step, over the same matrix in the same run. Features are
random, so the accuracy says nothing. Peak memory is sampled while the probe runs (Linux): anonymous is what the
process holds for itself, total counts pages of mapped files too, which the system takes back when it needs them.

    python benchmarks/probe_speed.py                              # 60,000 x 6,000, 100 epochs, one setting
    python benchmarks/probe_speed.py --search --measure 3         # the search's six; 3 epochs, extrapolated to 100
    python benchmarks/probe_speed.py --mapped . --measure 3       # features in a mapped file in this folder

Exit code 1 where the probe takes more than --most seconds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded


class PeakMemory:
    """The most memory that this process held while the block ran, in GiB."""

    def __enter__(self) -> PeakMemory:
        self.peak = {"RssAnon": 0.0, "VmRSS": 0.0}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists() and not self.ended.wait(0.05):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            self.peak = {name: max(was, int(lines[name].split()[0]) / 2**20) for name, was in self.peak.items()}


def main(
    rows: Annotated[int, typer.Option(help="Rows of the training split.")] = 60_000,
    features: Annotated[int, typer.Option(help="Features of a row.")] = 6000,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 10,
    epochs: Annotated[int, typer.Option(help="Epochs of the probe.")] = 100,
    measure: Annotated[
        int | None, typer.Option(help="Measure this many epochs and extrapolate. [default: all]")
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="Train all settings of the search at once.")] = False,
    batch_size: Annotated[int, typer.Option(help="Rows of a step.")] = 256,
    mapped: Annotated[Path | None, typer.Option(help="Keep the features in a mapped file in this folder.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    most: Annotated[float, typer.Option(help="Seconds above which the exit code is 1.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a linear probe on random features."""
    import torch

    from fftrain.data import ImageData, Split
    from fftrain.evaluations.linear import Linear
    from fftrain.features import Features, allocate
    from fftrain.launcher import make_accelerator
    from fftrain.progress import Reporter

    device = make_accelerator(threads).device
    generator = torch.Generator().manual_seed(0)
    held_out = max(1, rows // 12)
    with ExitStack() as stack, PeakMemory() as memory:
        storage, reader = stack.enter_context(allocate((rows + 2 * held_out) * features, mapped))
        matrix = storage.view(-1, features)
        for chunk in torch.split(matrix, 2048):
            chunk.normal_(generator=generator)
        parts = torch.split(matrix, [rows, held_out, held_out])
        labels = [torch.randint(0, classes, (len(part),), generator=generator) for part in parts]
        splits = [Split(torch.empty(len(of), 0, dtype=torch.uint8), of) for of in labels]
        data = ImageData(
            name="random",
            train=splits[0],
            validation=splits[1],
            test=splits[2],
            class_names=tuple(map(str, range(classes))),
        )
        chosen = Linear(batch_size=batch_size, **({} if search else {"lr": 1e-3, "weight_decay": 0.0}))
        settings = len(chosen.grid)
        weight, gradient = torch.randn(settings * classes, features), torch.randn(batch_size, settings * classes)

        def probe(count: int) -> float:
            linear = chosen.changed(epochs=count)
            standardised = Features(*parts, reader).standardised()
            began = time.perf_counter()
            linear.fit(standardised, data, device, Reporter(), "random")
            return time.perf_counter() - began

        def floor() -> float:
            began = time.perf_counter()
            for x in torch.split(parts[0], batch_size):
                _ = x @ weight.T
                _ = gradient[: len(x)].T @ x
            return time.perf_counter() - began

        floors = [floor(), floor()][1:]
        done = measure or epochs
        probe(1)
        seconds = probe(done) * epochs / done
        floors += [floor(), floor()]
    result: dict[str, Any] = {
        "settings": f"{rows} x {features}, {classes} classes, {settings} settings, batch {batch_size}, {epochs} epochs",
        "machine": f"{platform.machine()}, {device}, {torch.get_num_threads()} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "features": f"{4 * matrix.numel() / 2**30:.2f} GiB, {'in a mapped file' if mapped else 'in memory'}",
        "seconds": round(seconds, 1),
        "measured_epochs": done,
        "floor_seconds": round(statistics.median(floors) * epochs, 1),
        "floor_range": [round(min(floors) * epochs, 1), round(max(floors) * epochs, 1)],
        "peak_anonymous_gib": round(memory.peak["RssAnon"], 2),
        "peak_total_gib": round(memory.peak["VmRSS"], 2),
    }
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    if seconds > most:
        print(f"the probe takes {seconds:.0f} s, more than {most:.0f}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
