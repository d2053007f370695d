"""Files that are written whole or not at all, and folders that one process at a time writes into."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from ffcore.errors import InUse, WriteError
from ffcore.files import claimed, lock, replacing, write_json

HOLD = """
import sys, time
from pathlib import Path
from ffcore.files import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds a folder: (the folder, the process)."""
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with suppress(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_has_the_permissions_that_new_files_have(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(WriteError, match="cannot be made"), claimed(tmp_path / "file" / "run"):
        pass


def test_a_folder_is_held_by_one_process_until_it_ends(other):
    folder, process = other
    with pytest.raises(InUse, match="run is in use by another process"), claimed(folder):
        pass
    process.kill()
    process.wait()
    with claimed(folder):
        pass


def test_a_process_may_claim_again_what_it_holds(tmp_path):
    with claimed(tmp_path / "run"), claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    held = lock(tmp_path / "lock", "held")
    with held, pytest.raises(InUse, match="held"), lock(tmp_path / "lock", "held"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = r"run is on a file system without locks .*FFSTUDY_LOCKS=off"
    with pytest.raises(WriteError, match=said), claimed(tmp_path / "run"):
        pass
    monkeypatch.setenv("FFSTUDY_LOCKS", "off")
    with claimed(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
