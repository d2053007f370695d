"""An exported model in ONNX Runtime: found, loaded, and held against what its metadata say.

Letters: B batch, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from ffserve.errors import ModelError, ModelNotFound

FORMAT = 1
KEY = "ffstudy."
GOLDEN_TOLERANCE = 1e-2


def find_model(given: str | os.PathLike[str] | None = None, *, root: Path = Path("runs")) -> Path:
    """Returns the model file to use.

    Args:
        given: an .onnx file, or a run folder with an export; None looks at FFSERVE_MODEL, then takes the newest
            export below `root`.
        root: where runs lie.

    Raises:
        ModelNotFound: where there is none.
    """
    named = given or os.environ.get("FFSERVE_MODEL")
    if named:
        path = Path(os.path.expanduser(named))  # which leaves ~unknown as it is
        source = "--model" if given else "FFSERVE_MODEL"
        if path.is_dir():
            inside = [p for p in (path / "export" / "model.onnx", path / "model.onnx") if p.is_file()]
            if not inside:
                raise ModelNotFound(
                    f"{source} {path} is a folder without export/model.onnx: `ffexport {path}` makes it"
                )
            return inside[0]
        if not path.exists():
            raise ModelNotFound(f"{source} {path} does not exist: name an .onnx file or a run folder")
        return path
    found = list(root.glob("**/export/model.onnx"))
    if not found:
        raise ModelNotFound(
            f"there is no exported model under {root}/: name one with --model or FFSERVE_MODEL, "
            "or make one with `ffexport`"
        )
    return max(found, key=lambda p: p.stat().st_mtime)


@dataclass(frozen=True, kw_only=True)
class About:
    """What an exported file says of itself."""

    channels: int
    height: int
    width: int
    class_names: tuple[str, ...] | None
    """None where the file has no probe and gives features alone."""
    values: dict[str, Any]
    """All metadata, decoded."""


class Model:
    """An exported model, checked when it is loaded. Safe to share between threads.

    Args:
        path: an .onnx file that `ffexport` wrote.
        threads: CPU threads of a run; None means all cores.

    Raises:
        ModelNotFound: where the file is not there.
        ModelError: where it is damaged, of another program, contradicts its metadata, or computes other values for
            its golden image than it did when it was exported.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path)
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise ModelNotFound(f"{self.path} does not exist: name an .onnx file or a run folder") from error
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if not content:
            raise ModelError(f"{self.path} is empty (0 bytes): export it again with `ffexport`")
        options = onnxruntime.SessionOptions()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        options.intra_op_num_threads = threads or cores
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            # A file that points to data outside itself is refused, not followed into the working folder.
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
            # Without the fallback, which announces itself on standard output.
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # ONNX Runtime raises many kinds, and shares no base with them
            raise ModelError(
                f"{self.path} is no ONNX model that can be loaded ({_first_line(error)}): export it with `ffexport`"
            ) from error
        try:
            self.about = self._read_about()
            self._check_graph()
        except UnicodeDecodeError as error:  # of ONNX Runtime, which decodes names when they are asked for
            raise ModelError(f"{self.path} is damaged ({_first_line(error)}): export it again") from error
        self._check_golden()

    @property
    def providers(self) -> list[str]:
        """The execution providers that really run the model."""
        return list(self._session.get_providers())

    def run(self, images_BCHW: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Computes every output: `features` float32 [B, F], and with a probe `logits` and `probabilities` [B, K].

        Args:
            images_BCHW: raw pixels, uint8, of the size in `about`.

        Raises:
            ModelError: where the images have another type or shape.
        """
        self.check(images_BCHW)
        try:
            values = self._session.run(None, {"images": images_BCHW})
        except Exception as error:  # as above
            raise ModelError(f"{self.path} cannot be run: {_first_line(error)}") from error
        return dict(zip((o.name for o in self._session.get_outputs()), values, strict=True))

    def check(self, images_BCHW: npt.NDArray[np.uint8]) -> None:
        """Raises ModelError unless the images are uint8 [B, C, H, W] of the size in `about`."""
        shape = (self.about.channels, self.about.height, self.about.width)
        if images_BCHW.dtype != np.uint8 or images_BCHW.shape[1:] != shape:
            raise ModelError(
                f"{self.path} takes uint8 images [batch, {', '.join(map(str, shape))}], "
                f"not {images_BCHW.dtype} {list(images_BCHW.shape)}"
            )

    def _read_about(self) -> About:
        found = self._session.get_modelmeta().custom_metadata_map
        if f"{KEY}format" not in found:
            raise ModelError(
                f"{self.path} is an ONNX model of another program (it lacks {KEY}* metadata): use one of `ffexport`"
            )
        try:
            values = {key.removeprefix(KEY): json.loads(text) for key, text in found.items() if key.startswith(KEY)}
            if values["format"] != FORMAT:
                raise ModelError(
                    f"{self.path} has format {values['format']}, ffserve reads {FORMAT}: export it again, or update"
                )
            image, names = values["image"], values.get("class_names")
            return About(
                channels=int(image["channels"]),
                height=int(image["height"]),
                width=int(image["width"]),
                class_names=None if names is None else tuple(str(name) for name in names),
                values=values,
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ModelError(f"{self.path} has damaged metadata ({_first_line(error)}): export it again") from error

    def _check_graph(self) -> None:
        """Holds the graph's inputs and outputs against the metadata."""
        about = self.about
        inputs = [(i.name, i.type, list(i.shape[1:])) for i in self._session.get_inputs()]
        wanted = [("images", "tensor(uint8)", [about.channels, about.height, about.width])]
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        names = ["features"] if about.class_names is None else ["features", "logits", "probabilities"]
        if inputs != wanted or list(outputs) != names:
            raise ModelError(
                f"{self.path} contradicts its metadata: it has {inputs} -> {list(outputs)}, not {wanted} -> {names}"
            )
        classes = len(about.class_names or ())
        for name, shape in outputs.items():
            if len(shape) != 2:
                raise ModelError(f"{self.path} is damaged: {name} has shape {shape}, not [batch, width]")
            if name != "features" and shape[1] != classes:
                raise ModelError(f"{self.path} contradicts its metadata: {classes} class names, {shape[1]} {name}")

    def _check_golden(self) -> None:
        """Runs the golden image and compares with what was computed at the export."""
        about = self.about
        try:
            golden = about.values["golden"]
            image = np.frombuffer(base64.b64decode(golden["image"], validate=True), dtype=np.uint8)
            image = image.reshape(1, about.channels, about.height, about.width)
            names = ["features"] if about.class_names is None else ["features", "probabilities"]
            expected = {name: np.asarray(golden[name], dtype=np.float64) for name in names}
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self.path} has a damaged golden image ({_first_line(error)}): export it again"
            ) from error
        found = self.run(image)
        for name, want in expected.items():
            got = found[name][0, : want.size]
            if got.shape != want.shape or not np.allclose(got, want, rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE):
                raise ModelError(
                    f"{self.path} computes other {name} for its golden image than when it was exported: "
                    "the file or this ONNX Runtime is damaged; export it again"
                )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
