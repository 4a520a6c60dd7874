"""What a half-iteration returns besides vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Shares(NamedTuple):
    """What one side adds to the objective: losses of the observations, term of all pairs, regularisation."""

    observed: float
    unobserved: float
    penalty: float


@dataclass(frozen=True, slots=True)
class HalfIterationSizes:
    """What a half-iteration took.

    Attributes
    ----------
    broadcast_bytes, returned_bytes : int
        Sent to every worker, and back to the driver.
    block_bytes, worker_bytes : int
        The largest block, and a worker's peak.
    task_seconds : sequence of float
        Processor time of each task, where it was measured.
    shuffled_bytes : int
    """

    broadcast_bytes: int
    returned_bytes: int
    block_bytes: int
    worker_bytes: int
    task_seconds: Sequence[float] = ()
    shuffled_bytes: int = 0
