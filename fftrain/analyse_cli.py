"""The command `fftrain analyse`; nothing heavy is imported before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ffserve import console
from ffserve.console import Debug, Json
from fftrain.config import AnalysisConfig
from fftrain.options import Moved, Processes, RunArgument, Trust, options_of, without_gone
from fftrain.parts import public_name
from fftrain.stopping import AGAIN, stopping


@options_of(AnalysisConfig)
def analyse(
    *,
    run: RunArgument,
    against: Annotated[
        Path | None, typer.Option(help="Another run: how alike are their blocks?", show_default=False)
    ] = None,
    dataset: Moved = None,
    trust_plugin: Trust = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Measure how much of the image each block keeps.

    A linear decoder goes from the features of each block back to the pixels; its explained variance on held-out images
    stands beside that of raw pixels and of the untrained backbone. t-SNE puts the features in the plane. With
    --against, linear CKA between the blocks of two runs.

    \b
    Examples:
      fftrain analyse runs/ff-rot
      fftrain analyse runs/ff-rot --against runs/bp-rot
    """
    from fftrain.analyse import analyse_run, compare_runs
    from fftrain.launcher import start
    from fftrain.run import RunFolder

    settings = AnalysisConfig.made(without_gone(options))
    if against is not None:
        RunFolder(against).read_config()  # before the work, not after it
    accelerator, reporter = start(settings.threads, processes=processes)
    with stopping(reporter, lambda: AGAIN):
        measured = analyse_run(run, settings, accelerator=accelerator, dataset=dataset, reporter=reporter)
        result = {"run": str(run), **measured}
        if not accelerator.is_main_process:
            return
        if against is not None:
            result["comparison"] = compare_runs(
                run, against, dataset=dataset, data_dir=settings.data_dir, reporter=reporter
            )
    rows = [[r["source"], r["blocks"], f"{r['validation']:.4f}", f"{r['test']:.4f}"] for r in result["decoder"]]

    def draw(_: Any) -> None:
        title = f"{run}: variance of the pixels of {public_name(result['dataset'])} that a linear decoder explains"
        console.print_table(title, ["features of", "blocks", "validation", "test"], rows)
        if against is not None:
            found = result["comparison"]

            def cells(key: str) -> list[list[str]]:
                lines = zip(found["blocks"], found[key], strict=True)
                return [[block, *(f"{value:.3f}" for value in values)] for block, values in lines]

            columns = ["", *found["blocks_of_b"]]
            console.print_table(f"linear CKA of {run} (rows) and {against}", columns, cells("cka"))
            console.print_table("the same of the two backbones before training", columns, cells("cka_floor"))

    console.print_result(result, json, draw)
