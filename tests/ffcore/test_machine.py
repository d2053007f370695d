"""How many cores a process can keep busy and how much memory it may take, by its control groups too."""

from __future__ import annotations

import os

import pytest

from ffcore import machine
from ffcore.machine import cores, cpu_quota, memory_left


def control_groups(root, groups, **files):
    """Makes a root with /proc/self/cgroup and files of /sys/fs/cgroup, and returns it."""
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "9:name=systemd:/\n4:memory:/box\n3:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (
            "0::/kubepods/pod7/c\n",
            {"kubepods/cpu.max": "300000 100000\n", "kubepods/pod7/c/cpu.max": "max 100000\n"},
            3,
        ),
        ("0::/a/b\n", {"a/cpu.max": "150000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 1.5),
        ("0::/host/names/of/it\n", {"cpu.max": "200000 100000\n"}, 2),  # without a namespace of its own
        (V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n"}, None),
        (V1, {f"cpu,cpuacct/docker/abc/cpu.cfs_{n}_us": t for n, t in (("quota", "50000"), ("period", "100000"))}, 0.5),
        (V1, {f"cpu/cpu.cfs_{n}_us": t for n, t in (("quota", "250000"), ("period", "100000"))}, 2.5),
        ("0::/\n", {"cpu.max": "damaged\n"}, None),
    ],
)
def test_the_quota_of_control_groups(tmp_path, groups, files, quota):
    assert cpu_quota(control_groups(tmp_path, groups, **files)) == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


def memory(folder, limit, used, files, old=False):
    """Returns the files of a control group's memory, `files` of active and of inactive pages each."""
    names = ("limit_in_bytes", "usage_in_bytes", "total_") if old else ("max", "current", "")
    stat = f"{names[2]}active_file {files}\n{names[2]}inactive_file {files}\nactive_anon 7"
    return {
        f"{folder}memory.{name}": f"{text}\n" for name, text in ((names[0], limit), (names[1], used), ("stat", stat))
    }


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", memory("", "max", 50, 0), None),
        ("0::/\n", memory("", 1000, 600, 100), 600),
        ("0::/\n", memory("", 1000, 1500, 100), 0),
        ("0::/a/b\n", {**memory("a/", 900, 600, 0), **memory("a/b/", 5000, 500, 0)}, 300),
        (V1, memory("memory/box/", 1000, 600, 50, old=True), 500),
        (V1, {**memory("memory/", 400, 300, 0, old=True), **memory("memory/box/", 1000, 600, 0, old=True)}, 100),
        ("0::/\n", memory("", "damaged", 50, 0), None),
    ],
)
def test_the_memory_that_control_groups_leave(tmp_path, groups, files, left):
    assert memory_left(control_groups(tmp_path, groups, **files)) == left


@pytest.mark.parametrize(("quota", "wanted"), [(None, 8), (0.2, 1), (1.5, 2), (2.0, 2), (64.0, 8)])
def test_a_quota_limits_the_cores(monkeypatch, quota, wanted):
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores() == wanted


def test_where_the_system_does_not_say_what_a_process_may_use(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()


def test_what_is_told_of_the_processor():
    told = machine.machine()
    assert told["cpu"]
    assert 1 <= told["cores"] <= os.cpu_count()
