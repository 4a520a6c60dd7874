"""Worker functions that are killed once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_spark.recommend.lists import rank_users_with_pairs


def killed_once(batches: Iterator[pa.RecordBatch], folder: str, **given: Any) -> Iterator[pa.RecordBatch]:
    """Worker: as `rank_users_with_pairs`, but if ``kill`` is there, one process is killed -9 after its first lists."""
    for lists in rank_users_with_pairs(batches, **given):
        yield lists
        if _takes(Path(folder, "kill")):
            os.kill(os.getpid(), signal.SIGKILL)


def _takes(flag: Path) -> bool:
    """Return whether a flag was there, for one caller alone; it is renamed."""
    try:
        flag.rename(flag.with_suffix(".fired"))
    except FileNotFoundError:
        return False
    return True
