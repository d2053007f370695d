"""Whether `pip install .` alone serves: in a clean environment, for each Python that is named and here.

    python3 tests/clean_install.py python3.11 python3.12 python3.13

Nothing but what pip installs is used: an environment of its own, a working folder of its own. A Python that is not here
is left out, and said to be; the exit code is 1 where one fails, or none is here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A 1 on paper, drawn with what the installation itself has.
PICTURE = """
from PIL import Image, ImageDraw
picture = Image.new("RGB", (300, 200), (250, 240, 220))
ImageDraw.Draw(picture).line([(200, 30), (195, 170)], fill=(20, 20, 90), width=12)
picture.save("one.png")
"""
UNWANTED = ("torch", "torchvision", "accelerate", "onnx", "scikit-learn", "scipy", "matplotlib", "pyarrow")


def run(*command: object, cwd: Path) -> str:
    """Returns what a program prints; where it fails, says what it said and ends."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FFSERVE", "VIRTUAL_ENV"))
    }
    ended = subprocess.run([*map(str, command)], cwd=cwd, env=own, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def check(python: str) -> str:
    """Installs and serves with one Python; returns what there is to say."""
    with tempfile.TemporaryDirectory() as name:
        folder, scripts = Path(name), "Scripts" if os.name == "nt" else "bin"
        run(python, "-m", "venv", folder / "venv", cwd=folder)
        place = folder / "venv" / scripts
        run(place / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT, cwd=folder)
        listed = run(place / "python", "-m", "pip", "list", "--format", "json", cwd=folder)
        packages = {package["name"].lower() for package in json.loads(listed)}
        if found := packages & {*UNWANTED}:
            sys.exit(f"{python}: pip install . brings {', '.join(sorted(found))}")
        run(place / "python", "-c", PICTURE, cwd=folder)
        answer = json.loads(run(place / "ffserve", "predict", "one.png", "--json", cwd=folder))
        best = answer["predictions"][0]["top"][0]
        if best["class"] != "1":
            sys.exit(f"{python}: a 1 is read as {best}")
        if not json.loads(run(place / "ffserve", "doctor", "--json", cwd=folder))["ok"]:
            sys.exit(f"{python}: ffserve doctor finds problems")
        version = run(place / "python", "-c", "import platform; print(platform.python_version())", cwd=folder).strip()
    return f"{version}: {len(packages)} packages, `ffserve predict one.png` answers 1"


def main(pythons: list[str]) -> None:
    """Checks each Python."""
    done = 0
    for python in pythons:
        path = shutil.which(python)
        if path is None or subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
            print(f"{python} is not here: left out")
            continue
        print(f"{python} {check(path)}", flush=True)
        done += 1
    if not done:
        sys.exit("no Python is here: name one")


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
