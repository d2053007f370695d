"""Where a model runs: ONNX Runtime sessions on the CPU, or on a CUDA GPU that really works."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import shutil
from collections.abc import Mapping
from functools import cache
from typing import Any

import onnxruntime

from ffcore.errors import DeviceError, ModelError, UsageError
from ffcore.machine import cores

DEVICES = ("auto", "cpu", "cuda")
# What the runs of all models of a process may hold at once beside the weights, so that a small file that asks for
# much memory is refused. 4096 images of the study's network need about half of it.
ARENA_BYTES = 512 * 2**20
_FOLDED_BYTES = 64 * 2**20  # of a constant that is computed while a model is loaded


def gpu_seen() -> bool:
    """Returns whether this machine seems to have an NVIDIA GPU and its driver; not whether it works."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def devices(device: str, provider_options: Mapping[str, str] | None) -> tuple[list[str], str | None]:
    """Returns which devices are tried, in order, and what is to be said of it.

    Raises:
        UsageError: where `device` is not one of `DEVICES`, or the CPU is given provider options, as it has none.
        DeviceError: where `cuda` is asked for and this onnxruntime is built without it.
    """
    if device not in DEVICES:
        raise UsageError(f"--device is {device!r}: it must be one of {', '.join(DEVICES)}")
    built = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu":
        if provider_options:
            raise UsageError(
                f"--provider-option {next(iter(provider_options))} is for CUDA: it does nothing on --device cpu"
            )
        return ["cpu"], None
    if device == "cuda":
        if not built:
            raise DeviceError(
                "--device cuda: the installed onnxruntime is built without CUDA: "
                "pip uninstall onnxruntime, then pip install 'ffstudy[gpu]'; `ffserve doctor` shows what is there"
            )
        return ["cuda"], None
    if built and (gpu_seen() or provider_options):
        return ["cuda", "cpu"], None
    if gpu_seen() or provider_options:
        return ["cpu"], "runs on the CPU: the installed onnxruntime is built without CUDA (`ffserve doctor` says more)"
    return ["cpu"], None


def open_session(
    content: bytes,
    device: str,
    *,
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    spinning: bool = True,
) -> Any:
    """Returns an ONNX Runtime session of a model on `cpu` or `cuda`.

    Args:
        content: an ONNX file.
        device: `cpu`, or `cuda`, which never falls back.
        threads: CPU threads of a run; None means all cores.
        provider_options: of the CUDA provider.
        spinning: whether threads wait busily between the parts of a run: a little faster, and idle cores work.

    Raises:
        DeviceError: where CUDA does not work here.
        ModelError: where ONNX Runtime cannot load the file; its message lacks the file's name.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key, value in {
        # A file that points to data outside itself is refused, not followed into the working folder.
        "session.model_external_initializers_file_folder_path": os.devnull,
        "optimization.constant_folding_max_output_size_in_bytes": str(_FOLDED_BYTES),
        "session.use_env_allocators": "1",
        "session.intra_op.allow_spinning": str(int(spinning)),
        "session.force_spinning_stop": "1",  # between runs the cores belong to others
    }.items():
        options.add_session_config_entry(key, value)
    _limit_memory()
    if device == "cuda":
        return _open_cuda(content, options, provider_options or {})
    try:
        # Without the fallback, which announces itself on standard output.
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises many kinds, and shares no base with them
        raise ModelError(f"is no ONNX model that can be loaded ({first_line(error)})") from error


def _open_cuda(content: bytes, options: Any, provider_options: Mapping[str, str]) -> Any:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        onnxruntime.preload_dlls()  # those of the nvidia wheels; it prints what it misses
    # TF32 would round what was held against the trained model in float32.
    chosen = {"use_tf32": "0", **provider_options}
    onnxruntime.set_default_logger_severity(4)  # what it would say of libraries is in the error
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=[("CUDAExecutionProvider", chosen)], enable_fallback=0
        )
    except Exception as error:  # as above: of the device, or of the model?
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        except Exception as of_model:
            raise ModelError(f"is no ONNX model that can be loaded ({first_line(of_model)})") from of_model
        raise DeviceError(_no_cuda(first_line(error))) from error
    finally:
        onnxruntime.set_default_logger_severity(2)  # its default
    if "CUDAExecutionProvider" in session.get_providers():
        return session
    why = (said.getvalue().strip().splitlines() or ["its libraries cannot be loaded"])[0]
    raise DeviceError(_no_cuda(why if gpu_seen() else f"no NVIDIA GPU is seen; {why}"))


def _no_cuda(why: str) -> str:
    return f"--device cuda: CUDA does not work here ({why}): `ffserve doctor` says what is missing; --device cpu works"


@cache
def _limit_memory() -> None:
    """Gives ONNX Runtime's models of this process one arena of limited size. Weights are not counted."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(ARENA_BYTES, -1, -1, -1))


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, cut to what a line can hold."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
