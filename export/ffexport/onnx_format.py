"""ONNX: one file, no external data, dynamic batch, without a trace of the exporting machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ffcore.errors import RunError, SettingError
from ffexport.formats import Images, Outputs, Runner, Settings, example
from ffexport.graph import DeployedModel
from ffexport.quantise import quantised

if TYPE_CHECKING:
    import onnx

LOWEST_OPSET = 18
# What weights are called that lie transposed in a graph.
TRANSPOSED = ".T"


class OnnxFormat:
    """`model.onnx`. The metadata lie in `metadata_props`.

    A model is traced once; what an object writes after it must be the same but for its weights.
    """

    def __init__(self) -> None:
        self._traced: tuple[int, onnx.ModelProto] | None = None

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Exports through torch.export, and quantises where the settings say so."""
        import onnx

        if self._traced is None or self._traced[0] != settings.opset:
            self._traced = settings.opset, _trace(model, settings.opset)
        proto = onnx.ModelProto()
        proto.CopyFrom(self._traced[1])
        if not _set_weights(proto, model):
            proto = _trace(model, settings.opset)
        if settings.scheme is not None:
            assert settings.calibration is not None
            with _quiet():
                proto = quantised(proto, settings.scheme, settings.calibration)
        _strip(proto)
        onnx.checker.check_model(proto, full_check=True)
        path.write_bytes(proto.SerializeToString(deterministic=True))

    @staticmethod
    def annotate(path: Path, metadata: Mapping[str, str]) -> None:
        """Sets the metadata."""
        import onnx

        proto = onnx.load(path)
        del proto.metadata_props[:]
        for key, text in metadata.items():
            proto.metadata_props.add(key=key, value=text)
        path.write_bytes(proto.SerializeToString(deterministic=True))

    @staticmethod
    def metadata(path: Path) -> dict[str, str]:
        """Reads the metadata. Raises RunError where the file is damaged."""
        import onnx

        try:
            return {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        except Exception as error:  # of protobuf, which has no types
            raise RunError(f"{path} is damaged, or of another program: export it again with `ffexport`") from error

    @staticmethod
    def load(path: Path, *, threads: int | None = None) -> Runner:
        """Returns a function that runs the file on the CPU in ONNX Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: Images) -> Outputs:
            outputs: Outputs = session.run(None, {"images": images})
            return outputs

        return run


def check_opset(opset: int) -> None:
    """Raises SettingError unless torch writes an opset and the installed ONNX Runtime reads it."""
    import onnx
    import onnxruntime

    newest = int(onnx.defs.onnx_opset_version())
    if LOWEST_OPSET <= opset <= newest and _reads(opset):
        return
    highest = next(n for n in range(newest, 0, -1) if _reads(n))
    raise SettingError(
        f"--opset is {opset}: choose one of {LOWEST_OPSET} (the lowest that torch writes) to {highest} "
        f"(the highest that ONNX Runtime {onnxruntime.__version__} reads)"
    )


def _reads(opset: int) -> bool:
    """Whether the installed ONNX Runtime loads a model of an opset."""
    import onnxruntime
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", values[:1], values[1:])
    proto = helper.make_model_gen_version(graph, opset_imports=[helper.make_opsetid("", opset)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime raises many kinds, and shares no base with them
        return False
    return True


def _trace(model: DeployedModel, opset: int) -> onnx.ModelProto:
    """Returns the graph of a model."""
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example(model),),
            dynamo=True,
            external_data=False,
            opset_version=opset,
            input_names=["images"],
            output_names=list(model.outputs),
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    written = {entry.domain: entry.version for entry in proto.opset_import}[""]
    if written != opset:
        raise SettingError(f"--opset is {opset}: torch {torch.__version__} writes {written} instead; choose that")
    _forget_weights(proto)
    _transpose_shared(proto)
    return proto


def _forget_weights(proto: onnx.ModelProto) -> None:
    """Takes the weights out of the noted shapes: whoever transposes them in quantising finds the old ones there."""
    weights = {initializer.name for initializer in proto.graph.initializer}
    kept = [value for value in proto.graph.value_info if value.name not in weights]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


def _transpose_shared(proto: onnx.ModelProto) -> None:
    """Takes the weights that several dense layers share out of Gemm: quantising would transpose them for each."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    dense = [node for node in graph.node if node.op_type == "Gemm" and any(a.name == "transB" for a in node.attribute)]
    stored = {weights.name for weights in graph.initializer}  # in half precision what is multiplied is a copy of them
    uses = Counter(node.input[1] for node in dense if node.input[1] in stored)
    for weights in graph.initializer:
        if uses[weights.name] > 1:
            columns = numpy_helper.to_array(weights).T.copy()
            weights.CopyFrom(numpy_helper.from_array(columns, weights.name + TRANSPOSED))
    nodes = []
    for node in graph.node:
        if node not in dense or uses[node.input[1]] < 2:
            nodes.append(node)
            continue
        (x, weight, bias), [out] = node.input, node.output
        nodes.append(helper.make_node("MatMul", [x, weight + TRANSPOSED], [f"{out}_product"], f"{node.name}_product"))
        nodes.append(helper.make_node("Add", [f"{out}_product", bias], [out], node.name))
    del graph.node[:]
    graph.node.extend(nodes)


def _set_weights(proto: onnx.ModelProto, model: DeployedModel) -> bool:
    """Gives a graph the weights of a model. Returns whether it could: the exporter folds some into others."""
    from onnx import numpy_helper

    found = {initializer.name: initializer for initializer in proto.graph.initializer}
    wanted: dict[int, dict[str, Tensor]] = {}  # each once, by all its names: the readout shares the encoder's
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            names = wanted.setdefault(value.data_ptr(), {})
            names |= {name: value, name + TRANSPOSED: value.mT if value.ndim == 2 else value}
    chosen = []
    for names in wanted.values():
        there = next((name for name in names if name in found), None)
        if there is None or list(found[there].dims) != list(names[there].shape):
            return False
        chosen.append((found[there], names[there]))
    for initializer, value in chosen:
        initializer.CopyFrom(numpy_helper.from_array(value.contiguous().numpy(), initializer.name))
    return True


def _strip(proto: onnx.ModelProto) -> None:
    """Takes out what the exporter notes of itself: nodes carry the source paths of its machine.

    The IR version becomes the lowest that has the opset: runtimes refuse newer ones than they know.
    """
    from onnx import helper

    graph = proto.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph, proto):
        del part.metadata_props[:]
        part.doc_string = ""
    used = {node.domain for node in graph.node} | {""}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    proto.ir_version = helper.find_min_ir_version_for(kept, ignore_unknown=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's libraries warn, log and print about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
