"""Worker functions that are killed or out of memory once, or hang once until somebody else does their work."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import TaskContext

from recsys_spark.recommend.lists import rank_users_with_pairs

_LONGEST_WAIT = 300.0
_MORE_THAN_THERE_IS = 1 << 30


def killed_once(batches: Iterator[pa.RecordBatch], folder: str, **given: Any) -> Iterator[pa.RecordBatch]:
    """Worker: as `rank_users_with_pairs`, but after its first lists one process is killed -9, or has no memory left.

    The first if ``kill`` is there, the second if ``starve`` is.
    """
    for lists in rank_users_with_pairs(batches, **given):
        yield lists
        if _takes(Path(folder, "kill")):
            os.kill(os.getpid(), signal.SIGKILL)
        if _takes(Path(folder, "starve")):
            resource.setrlimit(resource.RLIMIT_AS, (_MORE_THAN_THERE_IS, resource.RLIM_INFINITY))
            np.ones(_MORE_THAN_THERE_IS, np.int8)


def hanging_once(batches: Iterator[pa.RecordBatch], folder: str, **given: Any) -> Iterator[pa.RecordBatch]:
    """Worker: as `killed_once`, but one task with users waits until another attempt has done its work."""
    context = TaskContext.get()
    assert context is not None
    mark = Path(folder, f"partition-{context.partitionId()}")
    is_copy = mark.exists()
    yield from killed_once(batches, folder, **given)
    if is_copy:
        mark.with_suffix(".copied").touch()
    elif _takes(Path(folder, "hang")):
        mark.touch()
        until = time.monotonic() + _LONGEST_WAIT
        while not mark.with_suffix(".copied").exists() and time.monotonic() < until:
            time.sleep(0.05)


def _takes(flag: Path) -> bool:
    """Return whether a flag was there, for one caller alone; it is renamed."""
    try:
        flag.rename(flag.with_suffix(".fired"))
    except FileNotFoundError:
        return False
    return True
