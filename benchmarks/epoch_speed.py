"""How much of the time of an epoch is the training step: a whole epoch beside bare steps on a fixed batch.

The epoch is the trainer's own: draws, batches, views, label slots, losses, backward, step, checks. The
floor repeats the same number of steps on one batch that is ready. Rounds are interleaved and medians compared, since
machines drift. Evaluation and checkpoints, once an epoch, are in neither.

    python benchmarks/epoch_speed.py                              # 4x2000, batch 128, the study's size
    python benchmarks/epoch_speed.py --width 500 --rounds 9 --json

Exit code 1 where the epoch runs at less than --least of the floor's speed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded


def main(
    width: Annotated[int, typer.Option(help="Units of a block.")] = 2000,
    depth: Annotated[int, typer.Option(help="Number of blocks.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 128,
    steps: Annotated[int, typer.Option(help="Steps of a round.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds of each; the first pair is not counted.")] = 7,
    recipe: Annotated[str, typer.Option(help="What is trained.")] = "ff",
    view: Annotated[str, typer.Option(help="What it sees.")] = "rotation",
    mixed_precision: Annotated[str, typer.Option(help="no or bf16.")] = "no",
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    least: Annotated[float, typer.Option(help="Ratio below which the exit code is 1.")] = 0.9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a whole epoch beside bare steps, on random images of MNIST's shape."""
    import torch
    from step_speed import SHAPE, settings

    from fftrain.data import ImageData, Split
    from fftrain.launcher import make_accelerator
    from fftrain.progress import Reporter
    from fftrain.training import Training

    accelerator = make_accelerator(threads, mixed_precision)
    view_of_data = {"view": view, "mixed_precision": mixed_precision, "batch_size": batch_size, "threads": threads}
    config = settings(recipe, width, depth, dataset="random", **view_of_data)
    generator = torch.Generator().manual_seed(0)
    count = steps * batch_size
    split = Split(
        torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )
    few = split.at(slice(10))
    data = ImageData(name="random", train=split, validation=few, test=few, class_names=tuple("0123456789"))
    folder = tempfile.TemporaryDirectory()
    training = Training(config, Path(folder.name) / "run", False, accelerator, data, Reporter())
    watch = training.watch()
    batch, weight = next(training.loader.epoch(1))

    def whole(epoch: int) -> None:
        training.train_epoch(epoch)

    def bare(epoch: int) -> None:
        training.take([(batch, weight)] * steps, watch)

    def seconds(run: Any, epoch: int) -> float:
        began = time.perf_counter()
        run(epoch)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    pairs = [(seconds(whole, epoch), seconds(bare, epoch)) for epoch in range(rounds + 1)][1:]
    epoch_ms, bare_ms = (1000 * statistics.median(times) / steps for times in zip(*pairs, strict=True))
    ratios = sorted(floor / full for full, floor in pairs)
    result = {
        "settings": f"{recipe} {view} {depth}x{width}, batch {batch_size}, {mixed_precision}",
        "machine": f"{platform.machine()}, {accelerator.device}, {torch.get_num_threads()} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "epoch_ms_per_step": round(epoch_ms, 2),
        "bare_ms_per_step": round(bare_ms, 2),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "rounds": rounds,
    }
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    if result["ratio_median"] < least:  # type: ignore[operator]
        print(f"the epoch runs at {result['ratio_median']} of the bare steps, less than {least}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
