"""What a run can be exported to: formats, precisions, and what the file answers with. Nothing heavy is imported."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ffcore.errors import SettingError
from ffserve.metadata import GOODNESS, HEADS

if TYPE_CHECKING:
    from ffexport.formats import Format

# Where each is written.
FORMATS = {
    "onnx": "ffexport.onnx_format:OnnxFormat",
    "torchscript": "ffexport.torch_formats:TorchScriptFormat",
    "pt2": "ffexport.torch_formats:Pt2Format",
}
# Not a file but a folder for NVIDIA Triton, with what `onnx` writes in it.
TRITON = "triton"
# The tolerance of each (`ffexport.parity` says of what): as trained; with weights in half and arithmetic in float32;
# with the backbone's products in 8 bits.
PRECISIONS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}
# How the backbone's activations get their 8 bits: by ranges measured on calibration images, or in each batch, so that
# images share theirs. The first is taken unless another is clearly better.
SCHEMES = ("static", "dynamic")
OPSET = 20
# The words beside the files.
CARD = "card.md"


def check(option: str, name: str, known: Iterable[str]) -> None:
    """Raises SettingError, with the legal names, unless a name is one of them."""
    if name not in known:
        raise SettingError(f"{option} {name!r} is unknown: choose one of {', '.join(known)}")


def check_head(name: str) -> None:
    """Raises SettingError unless there is a head of this name; of that of version 0.1 it names the successor."""
    if name == GOODNESS:
        raise SettingError(f"--head {GOODNESS} is --head readout now: the method's own classes")
    check("--head", name, HEADS)


def choose_formats(wanted: Sequence[str], precision: str) -> list[str]:
    """Returns the formats to write, each once.

    Args:
        wanted: names in `FORMATS`, `triton`, which brings `onnx` along, or `all` for every file that comes in this
            precision.
        precision: a name in `PRECISIONS`.

    Raises:
        SettingError: for a name that is not known, or a format that does not come in this precision.
    """
    check("--precision", precision, PRECISIONS)
    fitting = ["onnx"] if precision == "int8" else [*FORMATS]
    others = [TRITON] if TRITON in wanted else []
    for name in wanted:
        if name != "all":
            check("--format", name, [*FORMATS, TRITON])
            if name not in [*fitting, TRITON]:
                raise SettingError(f"--precision {precision} is for --format {', '.join(fitting)} alone, not {name}")
    files = fitting if "all" in wanted else ["onnx" if name == TRITON else name for name in wanted]
    return [*dict.fromkeys(files), *others]


def load_format(name: str) -> type[Format]:
    """Returns what writes and loads a format."""
    found: type[Format] = pkgutil.resolve_name(FORMATS[name])
    return found
