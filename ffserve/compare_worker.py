"""What `ffserve compare` measures an .onnx file in: `python -m ffserve.compare_worker FILE --threads N`.

One JSON object a line. It says that it is ready, with what the file says of itself, then answers each line of standard
input until that ends:

{"batch": B, "repeats": n, "warmup": w}  -> {"seconds": [n times], "peak_rss": bytes}   runs of one random batch
{"run": "in.npy", "out": "out.npz"}      -> {"done": true}                              outputs of images, by name

`python -m ffexport bench` is the same for what needs torch. Errors are one line on standard error, exit code 1.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(path: str, threads: int) -> None:
    """Serves one model until standard input ends."""
    began = time.perf_counter()
    import numpy as np
    import onnxruntime

    from ffserve.session import Model

    imported = time.perf_counter()
    model = Model(path, threads=threads, device="cpu")
    about = model.about
    shape = [about.channels, about.height, about.width]
    _say(
        {
            "ready": True,
            "import_s": imported - began,
            "load_s": time.perf_counter() - imported,
            "bytes": model.path.stat().st_size,
            "versions": {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
            "shape": shape,
            "class_names": about.class_names,
            "head": about.head,
            "precision": about.precision,
            "ground": about.ground,
            "ink": about.ink and about.ink.to_dict(),
        }
    )
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            np.savez(request["out"], **model.run(np.load(request["run"])))  # type: ignore[arg-type]
            _say({"done": True})
            continue
        images_BCHW = np.random.default_rng(0).integers(0, 256, (request["batch"], *shape), dtype=np.uint8)
        for _ in range(request["warmup"]):
            model.run(images_BCHW)
        seconds = []
        for _ in range(request["repeats"]):
            before = time.perf_counter()
            model.run(images_BCHW)
            seconds.append(time.perf_counter() - before)
        _say({"seconds": seconds, "peak_rss": peak_rss()})


def peak_rss() -> int | None:
    """Returns this process's largest resident memory so far in bytes, None where the system does not tell.

    Linux's VmHWM comes first: what `getrusage` gives there includes the parent's peak at the fork.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    from ffcore.errors import FFStudyError

    try:
        main(sys.argv[1], int(sys.argv[3]))
    except FFStudyError as error:
        sys.exit(str(error))
