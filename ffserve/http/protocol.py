"""The Open Inference Protocol, version 2: what a request asks of a model, and the answer, in JSON and binary tensors.

Letters: B batch, C channels, H W pixels, K values of an output.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from ffcore.errors import FFStudyError
from ffserve.session import Model

T = TypeVar("T")
Floats = npt.NDArray[np.float32]
INPUT, DATATYPE = "images", "UINT8"
VERSION = "1"  # of each model: the file that is served now
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
# What requests spend their time on, as Triton calls it: waiting, in a run, and both where it ends well or fails.
STAGES = ("queue", "compute_infer", "success", "fail")
PLATFORM = "onnxruntime_onnx"
ROWS = 1024  # images of a request, at most
SHARED = "shared_memory_region"


class Refused(FFStudyError):
    """A request that is not answered: why, in one line, and as which status of HTTP."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(" ".join(text.split()))
        self.status = status


class Output(NamedTuple):
    """An output that is asked for."""

    name: str
    binary: bool = False
    classes: int = 0
    """Of how many of its largest values the class is wanted; 0: its values."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks of a model."""

    id: str
    images_BCHW: npt.NDArray[np.uint8]
    outputs: list[Output]


def shape_of(model: Model) -> list[int]:
    """Returns C, H, W."""
    return [model.about.channels, model.about.height, model.about.width]


def metadata(name: str, model: Model) -> dict[str, Any]:
    """Returns what the protocol tells of a model."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": DATATYPE, "shape": [-1, *shape_of(model)]}],
        "outputs": [{"name": n, "datatype": "FP32", "shape": [-1, width]} for n, width in model.widths.items()],
    }


def config(name: str, model: Model, most: int, delay: float) -> dict[str, Any]:
    """Returns what Triton's ModelConfig tells of a model, with its names.

    Args:
        name: of the model.
        model: who answers.
        most: images of a run.
        delay: seconds that a request waits for others.
    """
    batching = {"preferred_batch_size": [most], "max_queue_delay_microseconds": round(1e6 * delay)}
    return {
        "name": name,
        "platform": PLATFORM,
        "max_batch_size": ROWS,
        "input": [{"name": INPUT, "data_type": f"TYPE_{DATATYPE}", "dims": shape_of(model)}],
        "output": [{"name": n, "data_type": "TYPE_FP32", "dims": [width]} for n, width in model.widths.items()],
        **({"dynamic_batching": batching} if most > 1 else {}),
    }


def images_of(model: Model, name: Any, datatype: Any, shape: Any, content: Any) -> npt.NDArray[np.uint8]:
    """Returns the images of a request, uint8 [B, C, H, W].

    Args:
        model: who takes them.
        name: of the tensor; it, `datatype` and `shape` are as the client says.
        datatype: its type.
        shape: its shape.
        content: bytes.

    Raises:
        Refused: where the model does not take this.
    """
    own = shape_of(model)
    if name != INPUT:
        raise Refused(f"input {reprlib.repr(name)} is unknown: the model takes {INPUT}")
    if datatype != DATATYPE:
        raise Refused(f"{INPUT} is {reprlib.repr(datatype)}: the model takes {DATATYPE}, raw pixels 0 to 255")
    if not _whole(shape) or len(shape) != 4 or list(shape[1:]) != own:
        raise Refused(f"{INPUT} has shape {reprlib.repr(shape)}: the model takes [batch, {', '.join(map(str, own))}]")
    if not 1 <= shape[0] <= ROWS:
        raise Refused(f"{INPUT} holds {shape[0]} images: a request may have 1 to {ROWS}")
    if len(content) != (wanted := math.prod(shape)):
        raise Refused(f"{INPUT} has {len(content)} values: its shape {list(shape)} needs {wanted}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def outputs_of(model: Model, asked: Sequence[Output]) -> list[Output]:
    """Returns the outputs that are asked for. Raises Refused for one that the model does not give."""
    if len({output.name for output in asked}) < len(asked):
        raise Refused("an output is asked for twice")
    for output in asked:
        if output.name not in model.widths:
            raise Refused(f"output {reprlib.repr(output.name)} is unknown: the model gives {', '.join(model.widths)}")
        if output.classes < 0:
            raise Refused(f"classification of {output.name} is {output.classes}: it must be at least 1")
    return [*asked]


def classified(values_BK: Floats, count: int, class_names: Sequence[str] | None) -> list[list[str]]:
    """Returns the largest values of each row as the classification extension has them: VALUE:INDEX[:LABEL]."""
    order = np.argsort(-values_BK, axis=1, kind="stable")[:, :count]
    names = class_names if class_names is not None and len(class_names) == values_BK.shape[1] else None
    return [
        [f"{row[k]:f}:{k}" + (f":{names[k]}" if names else "") for k in ranked]
        for row, ranked in zip(values_BK, order.tolist(), strict=True)
    ]


def as_bytes(texts: Iterable[str]) -> bytes:
    """Returns texts as a binary tensor of type BYTES: each behind its length."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in (text.encode() for text in texts))


def read_request(body: bytes, header_length: str | None, model: Model) -> Asked:
    """Reads a request of REST.

    Args:
        body: JSON, and behind it binary tensors.
        header_length: bytes of the JSON, as the header Inference-Header-Content-Length says; None: all.
        model: who is asked.

    Raises:
        Refused: where it is not what the protocol or the model asks for.
    """
    end = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
            raise Refused(
                f"Inference-Header-Content-Length is {reprlib.repr(header_length)}: it must be a whole number"
            )
        if (end := int(header_length)) > len(body):
            raise Refused(f"Inference-Header-Content-Length is {end}: the body has {len(body)} bytes")
    if end > (most := 16 * ROWS * math.prod(shape_of(model)) + 2**16):  # numbers take far more memory than their text
        raise Refused(f"the JSON has {end} bytes: this model's requests have at most {most}", 413)
    try:
        said = orjson.loads(body[:end])
    except orjson.JSONDecodeError as error:
        raise Refused(f"the body is no JSON ({error})") from error
    said = _is(said, dict, "the body")
    inputs = _is(said.get("inputs"), list, "inputs")
    if len(inputs) != 1:
        raise Refused(f"inputs has {len(inputs)} tensors: the model takes one, {INPUT}")
    given = _is(inputs[0], dict, "inputs[0]")
    parameters = _parameters(given, "inputs[0]")
    size = parameters.get("binary_data_size")
    if size is None:
        content: Any = pixels_of(given.get("data"))
        size = 0
    elif "data" in given:
        raise Refused("inputs[0] has both data and binary_data_size: give one")
    else:
        content = memoryview(body)[end:]
    if size != len(body) - end or isinstance(size, bool):
        raise Refused(f"{len(body) - end} bytes lie behind the JSON: binary_data_size says {reprlib.repr(size)}")
    own = _parameters(said, "the body")
    binary = _is(own.get("binary_data_output", False), bool, "binary_data_output")
    return Asked(
        id=_is(said.get("id", ""), str, "id"),
        images_BCHW=images_of(model, given.get("name"), given.get("datatype"), given.get("shape"), content),
        outputs=outputs_of(model, [*_outputs(said, binary)]) or [Output(name, binary) for name in model.widths],
    )


def write_answer(
    name: str, asked: Asked, found: Mapping[str, Floats], class_names: Sequence[str] | None
) -> tuple[bytes, int | None]:
    """Returns the body of an answer of REST, and how much of it is JSON: None where all is."""
    outputs, behind = [], []
    for output in asked.outputs:
        values = found[output.name]
        if output.classes:
            rows = classified(values, output.classes, class_names)
            told = {"name": output.name, "datatype": "BYTES", "shape": [len(rows), len(rows[0])]}
            data: Any = [*chain.from_iterable(rows)]
        else:
            told = {"name": output.name, "datatype": "FP32", "shape": [*values.shape]}
            data = np.ascontiguousarray(values, "<f4").ravel()
        if output.binary:
            behind.append(as_bytes(data) if output.classes else data.tobytes())
            outputs.append({**told, "parameters": {"binary_data_size": len(behind[-1])}})
        else:
            outputs.append({**told, "data": data})
    told = {"model_name": name, "model_version": VERSION, **({"id": asked.id} if asked.id else {}), "outputs": outputs}
    head = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([head, *behind]), len(head) if behind else None


def _outputs(said: Mapping[str, Any], binary: bool) -> Iterable[Output]:
    for number, each in enumerate(_is(said.get("outputs", []), list, "outputs")):
        where = f"outputs[{number}]"
        parameters = _parameters(_is(each, dict, where), where)
        yield Output(
            name=_is(each.get("name"), str, f"{where}.name"),
            binary=_is(parameters.get("binary_data", binary), bool, f"{where} binary_data"),
            classes=_is(parameters.get("classification", 0), int, f"{where} classification"),
        )


def _parameters(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = _is(said.get("parameters", {}), dict, f"parameters of {where}")
    if SHARED in found:
        raise Refused(f"{SHARED} of {where} is not served: send the tensor")
    return found


def _is(value: Any, kind: type[T], what: str) -> T:
    """Returns a value of JSON. Raises Refused unless it is of a kind."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        words = {dict: "an object", list: "an array", str: "a text", bool: "true or false", int: "a whole number"}
        given = "missing" if value is None else reprlib.repr(value)
        raise Refused(f"{what} is {given}: it must be {words[kind]}")
    return value


def _whole(shape: Any) -> bool:
    return isinstance(shape, Sequence) and all(type(length) is int for length in shape)


def pixels_of(data: Any) -> bytes:
    """Returns numbers 0 to 255, nested or not, as bytes. Raises Refused where they are something else."""
    values = _is(data, list, "data")
    while set(map(type, values)) == {list}:
        values = [*chain.from_iterable(values)]
    if strange := set(map(type, values)) - {int}:
        kinds = ", ".join(sorted(kind.__name__ for kind in strange))
        raise Refused(f"data holds {kinds}: {DATATYPE} takes whole numbers 0 to 255")
    try:
        return bytes(values)
    except ValueError as error:
        raise Refused(f"data holds a number that is not 0 to 255: {DATATYPE} takes no other") from error
