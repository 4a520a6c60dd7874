"""The most memory that a process has held: what a plan predicted, measured."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_PEAK_IN_KB = re.compile(r"VmHWM:\s*(\d+) kB")


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes.

    On Linux from the kernel's count for the program that runs: ``getrusage`` tells at least what the process that
    started this one held at that moment, as if it had been held here.
    """
    found = _PEAK_IN_KB.search(_STATUS.read_text(encoding="ascii", errors="replace")) if _STATUS.exists() else None
    if found is not None:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
