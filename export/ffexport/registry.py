"""What a run can be exported to: formats, precisions, and what the file answers with."""

from __future__ import annotations

from collections.abc import Sequence

from ffcore.errors import SettingError
from ffmodels.registry import Registry

# Facts: the file's suffix, and the precisions that it comes in.
FORMATS = Registry(
    "--format",
    {
        "onnx": (
            "ffexport.onnx_format:OnnxFormat",
            "for ONNX Runtime and ffserve",
            {"suffix": ".onnx", "precisions": ("fp32", "fp16", "int8")},
        ),
        "torchscript": (
            "ffexport.torchscript:TorchScriptFormat",
            "for libtorch",
            {"suffix": ".ts", "precisions": ("fp32", "fp16")},
        ),
        "pt2": (
            "ffexport.pt2:Pt2Format",
            "torch.export, for torch without this project's code",
            {"suffix": ".pt2", "precisions": ("fp32", "fp16")},
        ),
    },
)

# Facts: the tolerance (`ffexport.parity` says of what).
PRECISIONS = Registry(
    "--precision",
    {
        "fp32": ("ffexport.precision:FP32", "as trained", {"atol": 1e-4}),
        "fp16": ("ffexport.precision:FP16", "weights in half, arithmetic in float32", {"atol": 1e-2}),
        "int8": ("ffexport.precision:INT8", "the backbone's products in 8 bits", {"atol": 1e-1}),
    },
)

HEADS = Registry(
    "--head",
    {
        "probe": ("ffexport.subject:with_probe", "a linear probe's classes"),
        "goodness": ("ffexport.subject:with_goodness", "FF's own classes: the goodness of every label"),
        "none": ("ffexport.subject:bare", "features alone"),
    },
)

# How the backbone's activations get their 8 bits; the first is taken unless another is clearly better.
SCHEMES = Registry(
    "--int8",
    {
        "static": ("ffexport.quantise:static", "ranges measured on calibration images"),
        "dynamic": ("ffexport.quantise:dynamic", "ranges measured in each batch, so that images share theirs"),
    },
)

OPSET = 20


def choose_formats(wanted: Sequence[str], precision: str) -> list[str]:
    """Returns the formats to write, each once.

    Args:
        wanted: names in `FORMATS`, or `all` for every one that comes in this precision.
        precision: a name in `PRECISIONS`.

    Raises:
        SettingError: for a name that is not registered, or a format that does not come in this precision.
    """
    PRECISIONS.check(precision)
    fitting = [name for name in FORMATS if precision in FORMATS[name].facts["precisions"]]
    for name in wanted:
        if name != "all":
            FORMATS.check(name)
            if name not in fitting:
                raise SettingError(f"--precision {precision} is for --format {', '.join(fitting)} alone, not {name}")
    return fitting if "all" in wanted else list(dict.fromkeys(wanted))


def file_name(form: str, head: str, precision: str) -> str:
    """Returns how a file is called: `model.onnx`; head and precision are named where they are not the default."""
    parts = [
        {"goodness": ".goodness", "none": ".features"}.get(head, ""),
        "" if precision == "fp32" else f".{precision}",
    ]
    return f"model{''.join(parts)}{FORMATS[form].facts['suffix']}"
