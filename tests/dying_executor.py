"""Worker functions that kill their executor, once, in the middle of its work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_spark.train import half_iteration, route_blocks


def solve_from_copies(batches: Iterator[pa.RecordBatch], flag: str, **given: Any) -> Iterator[pa.RecordBatch]:
    """Worker: as the function of this name, but an executor dies before it has given its block."""
    for solved in half_iteration.solve_from_copies(batches, **given):
        kill_executor_once(Path(flag))
        yield solved


def solve_routed(batches: Iterator[pa.RecordBatch], flag: str, **given: Any) -> Iterator[pa.RecordBatch]:
    """Worker: as the function of this name, but an executor dies before it has given its block."""
    for solved in route_blocks.solve_routed(batches, **given):
        kill_executor_once(Path(flag))
        yield solved


def kill_executor_once(armed: Path) -> None:
    """Kill -9 the executor that this worker belongs to if the file is there; it is renamed, so that one dies."""
    try:
        armed.rename(armed.with_suffix(".fired"))
    except FileNotFoundError:
        return
    process = os.getppid()
    while b"CoarseGrainedExecutorBackend" not in Path(f"/proc/{process}/cmdline").read_bytes():
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        assert process > 1, "this worker is not an executor's"
    os.kill(process, signal.SIGKILL)
