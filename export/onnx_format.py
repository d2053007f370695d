"""ONNX: one file, no external data, dynamic batch, without a trace of the exporting machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ffexport.graph import DeployedModel

OPSET = 20


class OnnxFormat:
    """Writes and runs `model.onnx`."""

    file_name = "model.onnx"

    @staticmethod
    def write(model: DeployedModel, path: Path, metadata: Mapping[str, str]) -> None:
        """Exports through torch.export, opset 20, with the metadata in `metadata_props`."""
        import onnx

        channels, height, width = model.backbone.config.shape
        example = torch.zeros(2, channels, height, width, dtype=torch.uint8)
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter's own libraries
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=model.output_names,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        # Nodes carry the source paths of the machine that exported them.
        for node in proto.graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in (
            *proto.graph.value_info,
            *proto.graph.input,
            *proto.graph.output,
            *proto.graph.initializer,
        ):
            del value.metadata_props[:]
        del proto.graph.metadata_props[:]
        del proto.metadata_props[:]
        for key, text in metadata.items():
            proto.metadata_props.add(key=key, value=text)
        onnx.checker.check_model(proto, full_check=True)
        path.write_bytes(proto.SerializeToString(deterministic=True))

    @staticmethod
    def load(path: Path) -> Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]:
        """Returns a function that runs the file on the CPU in ONNX Runtime: images -> outputs, in order."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
            outputs: list[npt.NDArray[np.float32]] = session.run(None, {"images": images})
            return outputs

        return run
