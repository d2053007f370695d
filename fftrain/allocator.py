"""How the C library keeps memory between steps.

glibc maps every large buffer anew and hands it back when it is freed, so each step's gradients and activations are
paid for in page faults. Kept in the heap, their pages are there when the next step asks for them.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Of <malloc.h>. mallopt takes C ints; -1 becomes the largest size_t.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
# The largest threshold that every glibc takes is 32 MiB.
THRESHOLDS = (1 << 30, 1 << 25)
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_large_buffers() -> bool:
    """Lets glibc keep freed buffers for the process, and returns whether it does.

    Nothing is done without glibc, or where the user has set these thresholds by MALLOC_*_ or GLIBC_TUNABLES.
    """
    if sys.platform != "linux" or any(name in os.environ for name in OWN):
        return False
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl and others
        return False
    kept = any(libc.mallopt(M_MMAP_THRESHOLD, threshold) for threshold in THRESHOLDS)
    return kept and bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER))
