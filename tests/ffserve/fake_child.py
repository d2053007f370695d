"""A child process as `ffexport bench` is one, without torch: python fake_child.py NAME LOG HOW THREADS."""

import json
import os
import sys

name, log, how, threads = sys.argv[1:]
SECONDS = {"eager": 0.004, "slow": 0.008}


def say(answer):
    print(json.dumps(answer), flush=True)


print("a library's notice", flush=True)
if how == "no start":
    sys.exit("Traceback ...\nffexport bench: error: the run is damaged")
say(
    {
        "ready": True,
        "import_s": 1.0,
        "load_s": 0.5,
        "bytes": 1234,
        "peak_rss": 1,
        "versions": {"torch": "9.9"},
        "shape": [1, 2, 2] if how == "other shape" else [1, 4, 4],
    }
)
for line in sys.stdin:
    request = json.loads(line)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{name} {json.dumps(request)}\n")
    if "run" in request:
        import numpy as np

        features = np.load(request["run"]).reshape(-1, 16) / np.float32(255)
        if how == "nan":
            features[0] = np.nan
        if how == "error":
            say({"error": "it cannot"})
            continue
        logits = features @ np.load(f"{log}.weight.npy")
        np.savez(
            request["out"],
            features=features,
            logits=logits,
            probabilities=np.exp(logits) / np.exp(logits).sum(-1, keepdims=True),
        )
        say({"done": True})
    elif request.get("warmup") and how == "die":
        os.abort()
    else:
        say({"seconds": [SECONDS.get(name, 0.001) * request["batch"]] * request["repeats"], "peak_rss": 5_000_000})
