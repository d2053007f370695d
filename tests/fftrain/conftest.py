from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fftrain import write_report
from tests.fftrain.annotated import write_pet, write_voc
from tests.fftrain.reports import Page, make_study
from tests.fftrain.studies import SPEC, study_command


@pytest.fixture(scope="session")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "mine.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="session")
def finished(spec, tmp_path_factory):
    """The study, done in one go by the command: its folder and what it printed. Read it, never write to it."""
    out = tmp_path_factory.mktemp("study") / "mine"
    ended = study_command("--spec", spec, "--out", out, "--json")
    assert ended.returncode == 0, ended.stderr
    return out, ended


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "mine")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A data folder with small files in the formats of VOC and Pet: read it, never write to it."""
    return write_pet(write_voc(tmp_path_factory.mktemp("pictures")))


@pytest.fixture(scope="session")
def page(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("report") / "study"
    shutil.copytree(trained, root)
    prediction = {"model": "m.onnx", "predictions": [{"file": "<b>.png", "top": [{"class": "3", "probability": 0.5}]}]}
    (root / "prediction.json").write_text(json.dumps(prediction))
    write_report(root)
    return root, (root / "report.html").read_text()


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    root = make_study(tmp_path_factory.mktemp("study") / "tiny")
    write_report(root)
    return root, Page((root / "report.html").read_text()).tables


@pytest.fixture
def disk(tmp_path):
    """Makes a file system of so many KiB: disk(300) -> its folder."""
    mounted = []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], capture_output=True)
        if made.returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(folder)
        return folder

    try:
        yield make
    finally:
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)  # torch's writer keeps its file open
