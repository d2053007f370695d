"""docs/deployment.md: what it shows is what happens."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import ROOT

PAGE = ROOT / "docs" / "deployment.md"
LIMIT = 600  # seconds, on a machine that does other work too


def blocks(page: str) -> list[tuple[str, str]]:
    """Returns the language and the text of each fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def script(found: list[tuple[str, str]], folder: Path) -> str:
    """Returns one shell script that runs the blocks, as a reader's shell does: what one exports, the next sees."""
    lines = ["set -eo pipefail"]
    for i, (language, text) in enumerate(found):
        if language == "python":
            file = folder / f"block{i}.py"
            file.write_text(text, encoding="utf-8")
            text = f"python {shlex.quote(str(file))}\n"
        lines.append(f"echo '== block {i} ==' | tee /dev/stderr\n{text}")
    return "\n".join(lines)


@pytest.mark.slow
def test_every_block_runs(tmp_path, hub):
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert {language for language, _ in found} == {"sh", "python", "text"}
    assert [language for language, _ in found].count("text") == 1  # what cannot run everywhere: pip install
    shown = [block for block in found if block[0] != "text"]
    (tmp_path / "blocks").mkdir()
    here = tmp_path / "here"
    here.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {name: value for name, value in os.environ.items() if name not in ("FFSERVE_MODEL", "FFSTUDY_DATA")}
    ended = subprocess.run(
        ["bash", "-c", script(shown, tmp_path / "blocks")],
        capture_output=True,
        text=True,
        cwd=here,
        env={**kept, "PATH": path},
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    check(here, ended.stdout, ended.stderr)
    files = hub.repositories["me/digits"].files()
    assert hub.repositories["me/digits"].private
    assert f"{hub.url}/me/digits\n" in ended.stdout
    assert "license: cc-by-4.0\n" in files["README.md"].decode()
    assert {"model.onnx", "model.int8.onnx", "model.pt2", "backbone.safetensors", "config.json"} <= {*files}
    for progress in ("Upload", "Fetching 2 files"):  # that of the page's own snapshot_download has more
        assert progress not in ended.stderr  # ours is for terminals


def check(here: Path, out: str, err: str) -> None:
    """Holds what the blocks left and printed against what the page says of it."""
    exported = json.loads((here / "runs/digits/export/manifest.json").read_bytes())["files"]
    assert set(exported) == {"model.onnx", "model.ts", "model.pt2", "model.int8.onnx"}
    assert exported["model.int8.onnx"]["int8"]["weight_bits"] == 7
    assert exported["model.int8.onnx"]["bytes"] < 0.4 * exported["model.onnx"]["bytes"]
    assert exported["model.int8.onnx"]["validation"]["source"] == "images given"

    refused = [line for line in err.splitlines() if "has SHA-256" in line]
    assert len(refused) == 1
    assert "damaged/model.onnx" in refused[0]

    lines = [json.loads(line) for line in (here / "classes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len([*here.glob("images/test/*/*.png"), *here.glob("images/validation/3/*.png")])
    assert all(line["model"] == f"{here}/server/model.onnx" and not line["inverted"] for line in lines)
    with open(here / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows if row["error"]] == ["missing.png"]
    assert len(rows) == 1 + len([*here.glob("images/test/*/test-000*.png")])
    assert "class_2" in rows[0]
    assert out.count("exit code 1\n") in (2, 3)  # the last where no GPU works
    assert ("--device cuda" in err) == (out.count("exit code 1\n") == 3)

    with np.load(here / "features.npz") as features:
        assert features["features"].shape == (len(features["names"]), 400)
    assert b"<svg" in (here / "confusion.svg").read_bytes()[:1000]
    answers = re.findall(r"^(?:[0-9] [01]\.\d\d|bad request: .*)$", out, flags=re.MULTILINE)
    assert len(answers) == len([*here.glob("images/test/3/*.png")]) + 1
    assert "is no image but a text file" in answers[-1]


def test_options_and_links_are_there():
    from typer.main import get_command

    import ffexport.cli
    import ffserve.cli
    import fftrain.cli

    known = {"--help"}
    for app in (ffexport.cli.app, ffserve.cli.app, fftrain.cli.app):
        command = get_command(app)
        for each in (command, *getattr(command, "commands", {}).values()):
            known |= {name for parameter in each.params for name in (*parameter.opts, *parameter.secondary_opts)}
    page = PAGE.read_text(encoding="utf-8")
    assert {*re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page)} <= known
    for target in re.findall(r"\]\((?!http)([^)#]+)", page):
        assert (PAGE.parent / target).exists(), target
