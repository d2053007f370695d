"""From a run folder to runs/NAME/export/: the files, their manifest, their card."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ffcore.errors import RunError, SettingError
from ffcore.files import AnyPath, claimed, replacing, write_json, write_text
from ffexport.card import card
from ffexport.card_data import license_of
from ffexport.making import Maker
from ffexport.manifest import make_manifest, read_before
from ffexport.onnx_format import check_opset
from ffexport.registry import CARD, OPSET, PRECISIONS, SCHEMES, TRITON, check, choose_formats
from ffexport.subject import load_subject, with_ink
from ffexport.triton import write_repository
from ffmodels.run import BACKBONE_FILE, CONFIG_FILE, Run
from ffserve.metadata import MANIFEST, Named


def newest_run(root: AnyPath = "runs") -> Path:
    """Returns the run below a folder whose backbone was written last.

    Raises:
        RunError: where there is none.
    """
    found = [p for p in Path(root).rglob(BACKBONE_FILE) if (p.parent / CONFIG_FILE).is_file()]
    if not found:
        raise RunError(
            f"there is no finished run under {root}/: name a run folder, or make one with `fftrain pretrain`"
        )
    return max(found, key=lambda p: p.stat().st_mtime).parent


def export_run(
    run: AnyPath,
    formats: Sequence[str] = ("onnx",),
    *,
    precision: str = "fp32",
    head: str | None = None,
    probe: str | None = None,
    int8: str = "auto",
    images: AnyPath | None = None,
    ink: bool | None = None,
    opset: int = OPSET,
    atol: float | None = None,
    license: str | None = None,
    out: AnyPath | None = None,
) -> dict[str, Any]:
    """Exports a run's frozen backbone with a head, each file checked against what was trained before any is in place.

    Args:
        run: a run folder.
        formats: names in `FORMATS`, `triton`, or `all` for every file that comes in this precision.
        precision: a name in `PRECISIONS`.
        head: a name in `ffserve.metadata.HEADS`; None means the probe, or none where the run has no probe.
        probe: `DATASET-READING/BLOCKS`; None takes the best on validation, `none` the bare backbone.
        int8: how activations are quantised: a name in `SCHEMES`, or `auto` for what does better on validation images.
        images: a folder of class folders with validation images; None means the 64 that lie in the run folder.
        ink: whether the run's images are drawings, whose ink `ffserve` takes off any ground; None means as they look.
        opset: of ONNX.
        atol: the tolerance, as `check_exact` and `check_near` take it; None means the precision's own.
        license: of the weights, as the Hub calls it (mit, cc-by-4.0, other:NAME); None says none, or what was said
            before.
        out: where the files go; None means `run/export`.

    Returns:
        The manifest (`make_manifest`), and "run", "out", "written": the names of the files that are new, and "triton":
        the folder of the model in Triton's repository, or None.

    Raises:
        RunError, DataError, ImageError, SettingError: where the run, the probe, the images or a setting is not there,
            not legal, or damaged.
        ExportError: where a file would not compute what was trained; nothing is written then.
        InUse: where another process exports into the same folder.
    """
    formats = choose_formats(formats, precision)
    if int8 != "auto":
        check("--int8", int8, SCHEMES)
    atol = PRECISIONS[precision] if atol is None else atol
    if not 0 < atol < math.inf:
        raise SettingError(f"--atol is {atol}: it must be above 0")
    if "onnx" in formats:
        check_opset(opset)
    elif opset != OPSET:
        raise SettingError(f"--opset {opset} is for --format onnx, not {', '.join(formats)}: leave it out")
    license = None if license is None else license_of(license)
    out = Path(run) / "export" if out is None else Path(out)
    with ExitStack() as held:
        held.enter_context(one_thread())
        subject = with_ink(load_subject(Run.load(run), head, probe), ink)
        held.enter_context(claimed(out))
        before = read_before(out)
        maker = Maker.begin(
            subject,
            precision=precision,
            schemes=SCHEMES if int8 == "auto" else [int8],
            images=None if images is None else Path(images),
            opset=opset,
            atol=atol,
        )
        with ExitStack() as staged:  # what is entered last is in place first: the manifest names what is there
            place = staged.enter_context(replacing(out / MANIFEST))
            in_words = staged.enter_context(replacing(out / CARD))
            written: dict[str, dict[str, Any]] = {}
            folder, onnx = None, Path()
            for name in formats:
                path = out / Named(subject.head, "onnx" if name == TRITON else name, precision).file
                if name == TRITON:  # which comes last
                    folder = write_repository(staged, out / TRITON, subject, written[path.name], onnx)
                    continue
                partial = staged.enter_context(replacing(path))
                written[path.name] = maker.make(name, partial)
                onnx = partial if name == "onnx" else onnx
            manifest = make_manifest(out, subject, written, before, license)
            write_json(place, manifest)
            write_text(in_words, card(subject.run, manifest))
    triton = None if folder is None else str(folder)
    return {"run": str(subject.run.path), "out": str(out), "written": list(written), "triton": triton, **manifest}


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute on one thread in the block: sums are then added in one order on every machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
