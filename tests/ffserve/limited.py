"""`ffserve` in a process that may hold so much data, and the peak memory of that process alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from tests.helpers import ROOT

GIB = 2**30
PROGRAM = """
import atexit, resource, sys
limit, told = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
def tell():
    own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), file=open(told, "w"))
atexit.register(tell)
sys.argv[:3] = ["ffserve"]
from ffserve.cli import main
main()
"""


def limited(*arguments, limit=GIB, **options):
    """Runs `ffserve` where it may hold so much data; returns how it ended and its own peak memory in bytes."""
    with tempfile.NamedTemporaryFile() as told:
        command = [sys.executable, "-c", PROGRAM, str(limit), told.name, *map(str, arguments)]
        ended = subprocess.run(command, capture_output=True, cwd=ROOT, check=False, **options)
        return ended, int(told.read()) * 1024
