"""An exported model in ONNX Runtime: found, loaded, and held against what its metadata say.

Letters: B batch, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from ffcore.contents import HEAD, image_of, what_is
from ffcore.errors import FFStudyError, ModelError, ModelNotFound, UsageError
from ffcore.machine import frozen
from ffserve.about import About, check_digest, golden_of, read_about
from ffserve.given import as_path, check_count, content_of
from ffserve.hub import located
from ffserve.providers import devices, first_line, open_session

BUNDLED = Path(__file__).parent / "model" / "mnist.onnx"
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
IN_MEMORY = Path("<bytes>")  # how a model is named whose content was given
_GOLDEN_SECONDS = 30.0
_MOST_BYTES = 2**31  # what ONNX's own format can hold


def find_model(given: str | os.PathLike[str] | None = None) -> Path:
    """Returns the model file to use: the one given, else FFSERVE_MODEL, else the bundled one.

    Args:
        given: an .onnx file, or a folder: a run with an export, or one with a single .onnx file or model.onnx in it;
            or hf://OWNER/NAME[@REVISION][/FILE] for one on the Hugging Face Hub.

    Raises:
        ModelNotFound: where there is none, or a folder has several and none is called model.onnx.
        HubError: where it cannot be had from the Hub.
        UsageError: where `given` is empty.
    """
    named = os.environ.get("FFSERVE_MODEL") if given is None else as_path(given, "model")
    if named:
        path = located(named)
        source = "FFSERVE_MODEL" if given is None else "--model"
        if path.is_dir():
            return _in_folder(path, source, named)
        if not path.exists():
            raise ModelNotFound(f"{source} {path} does not exist: name an .onnx file or a run folder")
        return path
    if not BUNDLED.is_file():
        mend = (
            "collect ffserve's data into the frozen program (--collect-data ffserve)"
            if frozen()
            else "install ffstudy again"
        )
        raise ModelNotFound(
            f"the model that ships is missing from this installation ({Path(*BUNDLED.parts[-3:])}): {mend}, or name a "
            "model with --model or FFSERVE_MODEL"
        )
    return BUNDLED


def _in_folder(folder: Path, source: str, named: str) -> Path:
    for inside in (folder / "export", folder):
        files = sorted(path for path in inside.glob("*.onnx") if path.is_file())
        if inside / "model.onnx" in files:
            return inside / "model.onnx"
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.name for path in files)
            place = "/".join((named.rstrip("/"), *inside.relative_to(folder).parts))
            raise ModelNotFound(f"{source} {named} has several models: name one of {place}/ ({names})")
    raise ModelNotFound(f"{source} {named} is a folder without export/model.onnx: `ffexport {named}` makes it")


def _given(source: Any) -> str | bytes:
    """Returns a path, or the content of a model. Raises UsageError where `source` is neither."""
    if isinstance(source, str | os.PathLike):
        return as_path(source, "model")
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not hasattr(source, "read"):
        raise UsageError(
            f"model is of type {type(source).__name__}: give a path, the bytes of a file, or a file opened in binary "
            "mode"
        )
    try:
        return content_of(source, "model")
    except OSError as error:
        raise ModelError(f"{IN_MEMORY} cannot be read: {error.strerror or error}") from error


class Model:
    """An exported model, checked when it is loaded. Safe to share between threads.

    It can be pickled: by its file's place, or with the content that it was given. In a process that is forked it loads
    its session anew when it is first run, since the threads of the first stay behind.

    Attributes:
        path: the file.
        about: what it says of itself.
        device: where it runs, `cpu` or `cuda`.
        widths: of each output, by name.
        notice: one line where `auto` did not take a GPU that seems to be there or was meant, else None.

    Args:
        source: an .onnx file that `ffexport` wrote, or the content of one: bytes, or a file opened in binary mode.
        threads: CPU threads of a run; None means as many as the process may keep busy.
        device: `cpu`, `cuda` (an error where it does not work), or `auto`: CUDA where it works, else the CPU.
        provider_options: of the CUDA provider, such as {"device_id": "1"}.
        spinning: whether threads wait busily inside a run; where other work needs the cores, no is faster.

    Raises:
        ModelNotFound: where the file is not there.
        ModelError: where it is damaged, of another program, contradicts its metadata or the manifest.json beside it,
            or computes other values for its golden image than it did when it was exported.
        DeviceError: where `cuda` was asked for and does not work.
        UsageError: where `source` is of another type or empty, `threads`, `device` or `provider_options` not legal.
    """

    about: About
    device: str
    widths: dict[str, int]

    def __init__(
        self,
        source: Source,
        *,
        threads: int | None = None,
        device: str = "auto",
        provider_options: Mapping[str, str] | None = None,
        spinning: bool = True,
    ) -> None:
        if threads is not None:
            check_count("threads", threads)
        given = _given(source)
        # A process that unpickles it may work in another folder.
        self._source = given if isinstance(given, bytes) else os.path.abspath(given)
        self.path = IN_MEMORY if isinstance(given, bytes) else Path(given)
        self._settings: dict[str, Any] = {
            "threads": threads,
            "provider_options": provider_options,
            "spinning": spinning,
        }
        self._kept: Any = None
        self._asked = device
        self._loading = threading.Lock()
        attempts, self.notice = devices(device, provider_options)
        self._content, self.about = self._read()
        for attempt in attempts:
            try:
                self._load(attempt)
                break
            except FFStudyError as error:
                if attempt == attempts[-1]:
                    raise
                self.notice = f"runs on the CPU: {str(error).removeprefix('--device cuda: ')}"
        _loaded.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Is pickled as what it was made of."""
        return partial(type(self), **self._settings, device=self._asked), (self._source,)

    @property
    def _session(self) -> Any:
        """The session, loaded anew in a process that was forked."""
        with self._loading:
            if self._kept is None:
                self._kept = self._opened(self.device)
            return self._kept

    def forget(self) -> None:
        """Leaves the session of the process that this one was forked from alone: its end would wait for its threads."""
        self._loading = threading.Lock()  # another thread of that process may have held it
        if self._kept is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._kept))  # so that not even the interpreter's end frees it
            self._kept = None

    @property
    def providers(self) -> list[str]:
        """The execution providers that really run the model."""
        return list(self._session.get_providers())

    @property
    def ends(self) -> dict[str, list[str]]:
        """The inputs and outputs in words: name, type, shape."""
        shape = ", ".join(map(str, ("batch", self.about.channels, self.about.height, self.about.width)))
        outputs = [f"{name} float32 [batch, {width}]" for name, width in self.widths.items()]
        return {"inputs": [f"images uint8 [{shape}]"], "outputs": outputs}

    def run(self, images_BCHW: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Computes every output: `features` float32 [B, F], and with a head `logits` and `probabilities` [B, K].

        Args:
            images_BCHW: raw pixels, uint8, of the size in `about`.

        Raises:
            ModelError: where the images have another type or shape, or the model fails on them.
        """
        self.check(images_BCHW)
        if len(images_BCHW) == 0:
            return {name: np.empty((0, width), dtype=np.float32) for name, width in self.widths.items()}
        return self._run(images_BCHW)

    def check(self, images_BCHW: npt.NDArray[np.uint8]) -> None:
        """Raises ModelError unless the images are uint8 [B, C, H, W] of the size in `about`."""
        shape = (self.about.channels, self.about.height, self.about.width)
        if images_BCHW.dtype != np.uint8 or images_BCHW.shape[1:] != shape:
            raise ModelError(
                f"{self.path} takes uint8 images [batch, {', '.join(map(str, shape))}], "
                f"not {images_BCHW.dtype} {list(images_BCHW.shape)}"
            )

    def _read(self) -> tuple[bytes, About]:
        """Returns the file's content and metadata; a file of another program is not kept in memory, let alone run."""
        try:
            if isinstance(self._source, bytes):
                self._check_content(self._source[:HEAD], len(self._source))
                return self._source, read_about(self.path, BytesIO(self._source), len(self._source))
            status = os.stat(self.path)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # which may never end
                raise ModelError(f"{self.path} is a pipe or a device: name an .onnx file")
            with self.path.open("rb") as file:
                self._check_content(file.read(HEAD), status.st_size)
                file.seek(0)
                check_digest(self.path, file)
                file.seek(0)
                about = read_about(self.path, file, status.st_size)
                file.seek(0)
                return file.read(), about
        except FileNotFoundError as error:
            raise ModelNotFound(f"{self.path} does not exist: name an .onnx file or a run folder") from error
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.path} is damaged ({first_line(error)}): export it again") from error
        except ValueError as error:
            raise ModelError(f"{self.path} is no ONNX model ({error}): use one of `ffexport`") from error

    def _check_content(self, head: bytes, size: int) -> None:
        """Raises ModelError where content of this size that begins so is none of a model."""
        if size > _MOST_BYTES:
            raise ModelError(f"{self.path} has {size:,} bytes: a model has at most {_MOST_BYTES:,}")
        if size == 0:
            raise ModelError(f"{self.path} is empty (0 bytes): export it again with `ffexport`")
        if (content := what_is(head) or image_of(head)) is not None:
            mend = content.mend or "name an .onnx file of `ffexport`"
            raise ModelError(f"{self.path} is no ONNX model but {content.what}: {mend}")

    def _opened(self, device: str) -> Any:
        try:
            return open_session(self._content, device, **self._settings)
        except ModelError as error:
            raise ModelError(f"{self.path} {error}: export it with `ffexport`") from error.__cause__

    def _load(self, device: str) -> None:
        self._kept = self._opened(device)
        self.device = device
        try:
            self._check_graph()
        except UnicodeDecodeError as error:  # of ONNX Runtime, which decodes names when they are asked for
            raise ModelError(f"{self.path} is damaged ({first_line(error)}): export it again") from error
        self._check_golden()

    def _check_graph(self) -> None:
        """Holds the graph's inputs and outputs against the metadata."""
        about = self.about
        inputs = [(i.name, i.type, list(i.shape[1:])) for i in self._session.get_inputs()]
        wanted = [("images", "tensor(uint8)", [about.channels, about.height, about.width])]
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        names = ["features"] if about.class_names is None else ["features", "logits", "probabilities"]
        batch = self._session.get_inputs()[0].shape[0] if inputs == wanted else None
        if isinstance(batch, int):
            raise ModelError(f"{self.path} takes batches of {batch} alone, not of any size: export it again")
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
        golden = golden_of(self.path, self.about)
        options = onnxruntime.RunOptions()
        watch = threading.Timer(_GOLDEN_SECONDS, setattr, (options, "terminate", True))
        watch.daemon = True
        watch.start()
        try:
            found = self._run(golden.image, options)
        finally:
            watch.cancel()
        self.widths = {name: values.shape[1] for name, values in found.items()}
        if changed := golden.changed(found):
            raise ModelError(
                f"{self.path} computes other {changed} for its golden image than when it was exported: {self._why()}"
            )

    def _why(self) -> str:
        """Returns what may have changed what a file computes, and what mends it."""
        if self._session.get_modelmeta().producer_name == "onnx.quantize" and self.about.precision != "int8":
            return "it was quantised since by another program; `ffexport --precision int8` makes one that is checked"
        return "it was changed since, or it or this ONNX Runtime is damaged; export it again"

    def _run(self, images_BCHW: npt.NDArray[np.uint8], options: Any = None) -> dict[str, npt.NDArray[np.float32]]:
        count = len(images_BCHW)
        try:
            values = self._session.run(None, {"images": images_BCHW}, options)
        except Exception as error:  # ONNX Runtime raises many kinds, and shares no base with them
            text = str(error)
            if "BFCArena" in text:
                raise ModelError(
                    f"{self.path} needs more memory for {count} images than ffserve gives it: lower --batch-size"
                    if count > 1
                    else f"{self.path} needs more memory for an image than ffserve gives it"
                ) from error
            if options is not None and options.terminate:
                raise ModelError(f"{self.path} took more than {_GOLDEN_SECONDS:g} s for an image") from error
            raise ModelError(f"{self.path} cannot be run: {first_line(error)}") from error
        found = dict(zip((o.name for o in self._session.get_outputs()), values, strict=True))
        for name, value in found.items():
            if value.dtype != np.float32 or value.ndim != 2 or len(value) != count:
                raise ModelError(
                    f"{self.path} is damaged: {name} is {value.dtype} {list(value.shape)} for {count} images"
                )
            if not np.isfinite(value).all():
                raise ModelError(f"{self.path} gives {name} that are no finite numbers: train or export it again")
        return found


_loaded: weakref.WeakSet[Model] = weakref.WeakSet()


def _forget_all() -> None:
    for model in list(_loaded):
        model.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
