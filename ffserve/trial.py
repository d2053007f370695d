"""What ONNX Runtime can do here, tried in a process of its own, which a broken provider may take down.

Run as a file, `python trial.py WHAT`, by `ffserve.doctor`. It imports nothing of the package, so that no other fault
hides what it looks for. WHAT is:

- `providers`: prints {"version", "cuda": the version it is built for or "", "available": names}
- `cuda`: prints {"libraries": {file name: why it cannot be loaded, or null}, "gpus": names}
- a provider's name: prints {"works": bool, "seconds"}, where a session runs on it and on no other

as one line of JSON. What libraries print by themselves goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from typing import Any

# y = x @ x, float32 [2, 2], as an ONNX file: onnx.helper.make_model of one MatMul, opset 13, IR 8, serialised.
MODEL = (
    b'\x08\x08:E\n\x11\n\x01x\n\x01x\x12\x01y"\x06MatMul\x12\x06sq'
    b"uareZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02b"
    b"\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02B\x04\n\x00\x10\r"
)


def libraries(cuda: str) -> list[str]:
    """Returns the files that onnxruntime-gpu built for this version of CUDA loads, the driver's first."""
    major = cuda.partition(".")[0]
    cufft = {"12": "11", "13": "12"}.get(major, major)
    if sys.platform == "win32":
        names = [f"cudart64_{major}", f"cublasLt64_{major}", f"cublas64_{major}", f"cufft64_{cufft}", "cudnn64_9"]
        return ["nvcuda.dll", *(f"{name}.dll" for name in names)]
    names = [f"cudart.so.{major}", f"cublasLt.so.{major}", f"cublas.so.{major}", f"nvrtc.so.{major}", "curand.so.10"]
    return ["libcuda.so.1", *(f"lib{name}" for name in (*names, f"cufft.so.{cufft}", "cudnn.so.9"))]


def load_cuda() -> dict[str, Any]:
    """Loads each library as `ffserve --device cuda` does, from the nvidia wheels or where the system looks."""
    import onnxruntime

    onnxruntime.preload_dlls()
    names = libraries(onnxruntime.cuda_version)
    errors: dict[str, str | None] = {}
    for name in names:
        try:
            ctypes.CDLL(name)
            errors[name] = None
        except OSError as error:
            errors[name] = str(error)
    return {"libraries": errors, "gpus": [] if errors[names[0]] else gpus(ctypes.CDLL(names[0]))}


def gpus(driver: ctypes.CDLL) -> list[str]:
    """Returns the names of the GPUs that the driver gives to this process."""
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = [ctypes.create_string_buffer(256) for _ in range(count.value)]
    for number, name in enumerate(names):
        driver.cuDeviceGetName(name, 256, number)
    return [name.value.decode(errors="replace") for name in names]


def try_provider(name: str) -> dict[str, Any]:
    """Runs a session on a provider, with no other to fall back to."""
    import numpy as np
    import onnxruntime

    began = time.perf_counter()
    if name in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors, among them the library that is missing
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(MODEL, options, providers=[name], enable_fallback=0)
    (found,) = session.run(None, {"x": np.array([[1, 2], [3, 4]], dtype=np.float32)})
    works = name in session.get_providers() and found.tolist() == [[7, 10], [15, 22]]
    return {"works": works, "seconds": time.perf_counter() - began}


def answer(what: str) -> dict[str, Any]:
    """Returns the answer."""
    if what == "providers":
        import onnxruntime

        return {
            "version": onnxruntime.__version__,
            "cuda": getattr(onnxruntime, "cuda_version", ""),
            "available": onnxruntime.get_available_providers(),
        }
    return load_cuda() if what == "cuda" else try_provider(what)


def main(what: str) -> None:
    """Prints the answer."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = answer(what)
    with out:
        print(json.dumps(found), file=out)


if __name__ == "__main__":
    main(sys.argv[1])
