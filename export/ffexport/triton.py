"""A model repository of NVIDIA Triton: NAME/config.pbtxt, NAME/labels.txt and NAME/1/model.onnx."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ffcore.files import replacing, write_text
from ffexport.subject import Subject
from ffserve.metadata import Named

MOST = 64  # images of a batch
LABELS = "labels.txt"
CONFIG = """name: {name}
platform: "onnxruntime_onnx"
max_batch_size: {most}
input [ {{ name: "images" data_type: TYPE_UINT8 dims: [ {shape} ] }} ]
output [
{outputs}
]
{batching}model_warmup [
{warmup}
]
"""
OUTPUT = '  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {width} ]{labels} }}'
WARMUP = (
    '  {{ name: "batch of {size}" batch_size: {size} '
    'inputs {{ key: "images" value {{ data_type: TYPE_UINT8 dims: [ {shape} ] zero_data: true }} }} }}'
)


def config(name: str, shape: Sequence[int], outputs: Mapping[str, int], *, labels: bool, dynamic: bool) -> str:
    """Returns config.pbtxt.

    Args:
        name: of the model, which is its folder's.
        shape: C, H, W.
        outputs: width of each by name.
        labels: whether the classes have names, in labels.txt.
        dynamic: whether Triton may batch requests.
    """
    lengths = ", ".join(map(str, shape))
    named = f' label_filename: "{LABELS}"' if labels else ""
    return CONFIG.format(
        name=json.dumps(name, ensure_ascii=False),
        most=MOST,
        shape=lengths,
        outputs=",\n".join(
            OUTPUT.format(name=output, width=width, labels="" if output == "features" else named)
            for output, width in outputs.items()
        ),
        batching="dynamic_batching { }\n" if dynamic else "",
        warmup=",\n".join(WARMUP.format(size=size, shape=lengths) for size in (1, MOST)),
    )


def write_repository(staged: ExitStack, root: Path, subject: Subject, about: Mapping[str, Any], onnx: Path) -> Path:
    """Writes a model's folder, which is in place when `staged` ends, its config last; returns it.

    Args:
        staged: ends when all is written.
        root: of the repository.
        subject: what is exported.
        about: what `Maker.make` says of the file. INT8 with ranges of each batch would let strangers' images change
            each other's answers: of such Triton makes no batches.
        onnx: the file.

    Raises:
        WriteError: where it cannot be written.
    """
    kind = Named(subject.head, "onnx", about["precision"]).file.removeprefix("model").removesuffix(".onnx")
    folder = root / (subject.run.path.resolve().name + kind)
    names = subject.class_names
    text = config(
        folder.name,
        subject.run.shape,
        subject.model.outputs,
        labels=names is not None,
        dynamic=about.get("int8", {}).get("scheme") != "dynamic",
    )
    write_text(staged.enter_context(replacing(folder / "config.pbtxt")), text)
    if names is not None:  # a line each
        lines = "".join(" ".join(name.split()) + "\n" for name in names)
        write_text(staged.enter_context(replacing(folder / LABELS)), lines)
    shutil.copyfile(onnx, staged.enter_context(replacing(folder / "1" / "model.onnx")))
    return folder
