"""docs/scale.md: what it shows of images that exceed memory is what happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.test_deployment import LIMIT, blocks, script

PAGE = ROOT / "docs" / "scale.md"


@pytest.mark.slow
def test_every_block_runs(tmp_path):
    section = PAGE.read_text(encoding="utf-8").partition("## Images that exceed memory")[2].partition("\n## ")[0]
    shown = blocks(section)
    assert [language for language, _ in shown] == ["sh", "sh"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-c", script(shown, tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    said = ended.stderr.splitlines()
    assert sum(line.startswith("decoding ") for line in said) == 1  # by the first, for all that follow
    assert sum(line.startswith("images of ") for line in said) == 4
