"""Files that are written whole or not at all, and folders that one process at a time writes into."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress

import pytest

from ffcore.errors import InUse, WriteError
from ffcore.files import claimed, lock, replacing, write_json
from tests.helpers import holding


@pytest.fixture
def other(tmp_path):
    """Another process that holds a folder: (the folder, the process)."""
    folder = tmp_path / "run"
    with holding(folder) as process:
        yield folder, process


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
    for place, why in (("file", "it is a file"), ("file/run", "Not a directory"), ("x" * 300, "File name too long")):
        said = rf".*{place} cannot be made \({why}\): name another"
        with pytest.raises(WriteError, match=said), claimed(tmp_path / place):
            pass


def test_a_folder_is_held_by_one_process_until_it_ends(other):
    folder, process = other
    with pytest.raises(InUse, match="run is in use by another process"), claimed(folder):
        pass
    process.kill()
    process.wait()
    with claimed(folder):
        pass


@pytest.mark.parametrize("place", ["run", "runs/of/mine", "there", "mine"])
def test_a_claim_that_came_to_nothing_leaves_nothing(tmp_path, place):
    (tmp_path / "there").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    with suppress(ZeroDivisionError), claimed(tmp_path / place), claimed(tmp_path / place):
        raise ZeroDivisionError
    assert sorted(tmp_path.rglob("*")) == before
    with suppress(ZeroDivisionError), claimed(tmp_path / place):
        (tmp_path / place / "b.txt").touch()
        raise ZeroDivisionError
    assert [path for path in sorted(tmp_path.rglob("*.txt")) if path not in before] == [tmp_path / place / "b.txt"]


def test_a_folder_that_another_process_has_is_left_as_it_is(other):
    folder, _ = other
    with pytest.raises(InUse), claimed(folder):
        pass
    assert os.listdir(folder) == [".lock"]


def test_a_folder_is_one_by_whatever_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with claimed(tmp_path / "run"), claimed(tmp_path / "x" / ".." / "run"), claimed(tmp_path / "link"):
        assert {*os.listdir(tmp_path)} >= {"run", "link"}


def test_a_process_may_claim_again_what_it_holds(tmp_path):
    with claimed(tmp_path / "run"), claimed(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    held = lock(tmp_path / "lock", "held")
    with held, pytest.raises(InUse, match="held"), lock(tmp_path / "lock", "held"):
        pass


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOLCK, "No locks"), OSError(errno.EOPNOTSUPP, "No"), NotImplementedError("No")]
)
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    def flock(*_):
        raise error

    monkeypatch.setattr(fcntl, "flock", flock)
    said = r"run is on a file system without locks .*FFSTUDY_LOCKS=off"
    with pytest.raises(WriteError, match=said), claimed(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("FFSTUDY_LOCKS", "off")
    with claimed(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
