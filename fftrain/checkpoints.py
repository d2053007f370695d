"""The state of a training after an epoch, of all its processes: saved whole or not at all, and gone on from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError

from ffcore.errors import RunError, is_out_of_memory
from ffcore.files import unwritten
from fftrain.config import RunConfig
from fftrain.progress import Reporter
from fftrain.run import RunFolder


def save(run: RunFolder, epoch: int, accelerator: Accelerator) -> None:
    """Saves the state of all processes beside its place, renames it, and drops the one before. Raises WriteError."""
    final = run.checkpoint(epoch)
    partial = final.with_name(f".{final.name}.partial")
    with _written(final, partial):
        accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with _written(final, partial):
            partial.rename(final)
            run.keep_only(final)
    accelerator.wait_for_everyone()


@contextmanager
def _written(final: Path, partial: Path) -> Iterator[None]:
    """Raises WriteError where a checkpoint cannot be written in the block, of which nothing is left then."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors tell a full disk by their own
        if is_out_of_memory(error):
            raise
        failed = unwritten(final, error)
        shutil.rmtree(partial, ignore_errors=True)
        raise failed from error


def restore(run: RunFolder, config: RunConfig, accelerator: Accelerator, reporter: Reporter) -> int:
    """Loads the newest checkpoint, drops records after it, and returns its epoch; 0 where there is none."""
    epoch = run.epochs_done
    if epoch:
        try:
            accelerator.load_state(str(run.checkpoint(epoch)))
        except Exception as error:  # torch, safetensors and pickle share no error
            if is_out_of_memory(error):
                raise
            raise RunError(f"{run.checkpoint(epoch)} is damaged or of other settings ({error}): train again") from error
    if accelerator.is_main_process:
        run.truncate_metrics(epoch)
        run.update_config(config)
    reporter.note(f"resuming {run.path} after epoch {epoch}")
    return epoch
