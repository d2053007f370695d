"""The processor and the memory, and how much of them this process may use."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# What makes int8 fast, and rounds differently, where it is there.
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")
OTHER_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_fp16")


def cores() -> int:
    """Returns how many CPU cores this process can keep busy: those it may run on, and no more than its quota covers.

    Threads beyond a container's quota only make the system stop all of them for the rest of each period.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return here if quota is None else max(1, min(here, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Returns how many cores a Linux container may keep busy (0.5: half of one), None where nothing limits it.

    The smallest limit of the process's control groups and of those above them: `cpu.max` of version 2,
    `cpu.cfs_quota_us` of version 1 (docker --cpus, Kubernetes limits, systemd CPUQuota).

    Args:
        root: where /proc and /sys lie.
    """
    found = [quota for folder in _groups("cpu", root) if (quota := _limit(folder)) is not None]
    return min(found, default=None)


def memory_left(root: Path = Path("/")) -> int | None:
    """Returns how many bytes a Linux container may still take, None where nothing limits it.

    The least of the process's control groups and of those above them: `memory.max` of version 2,
    `memory.limit_in_bytes` of version 1, less what is taken; pages of files, which the system gives up, are not.

    Args:
        root: where /proc and /sys lie.
    """
    found = [left for folder in _groups("memory", root) if (left := _left(folder)) is not None]
    return min(found, default=None)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yields the folders of this process's control groups that may hold a limit, and those above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / name for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        for top in tops:
            inner = top / path.strip("/")  # the host's name of it, in some containers, for which `top` is their own
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _limit(folder: Path) -> float | None:
    """Returns the limit that stands in a control group's folder, in cores."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _left(folder: Path) -> int | None:
    """Returns what a control group's limit of memory leaves, in bytes."""
    old = (folder / "memory.limit_in_bytes").exists()
    limit, used, of = ("limit_in_bytes", "usage_in_bytes", "total_") if old else ("max", "current", "")
    try:
        most, taken = ((folder / f"memory.{name}").read_text(encoding="ascii").strip() for name in (limit, used))
        parts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        files = sum(int(parts[f"{of}{kind}_file"]) for kind in ("active", "inactive"))
        return None if most == "max" else max(0, int(most) - int(taken) + files)
    except (OSError, ValueError, KeyError):
        return None


def frozen() -> bool:
    """Whether this is a program that PyInstaller or another has packed, which has no Python to start."""
    return bool(getattr(sys, "frozen", False))


def machine() -> dict[str, Any]:
    """Returns the CPU, with the instructions that int8 speed and rounding depend on, cores, and the system."""
    told: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                told.setdefault(key.strip(), value.strip())
    except OSError:
        pass  # not Linux
    flags = (told.get("flags") or told.get("Features") or "").split()
    return {
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "int8_instructions": [flag for flag in INT8_FLAGS if flag in flags] if flags else None,
        "other_instructions": [flag for flag in OTHER_FLAGS if flag in flags] if flags else None,
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
