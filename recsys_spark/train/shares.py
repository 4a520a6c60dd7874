"""What a half-iteration returns besides vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Shares(NamedTuple):
    """What one side adds to the objective: losses of the observations, term of all pairs, regularisation."""

    observed: float
    unobserved: float
    penalty: float


@dataclass(frozen=True, slots=True)
class HalfIterationSizes:
    """What a half-iteration took, in bytes.

    Sent to every worker, returned to the driver, the largest block, a worker's peak, and shuffled.
    """

    broadcast_bytes: int
    returned_bytes: int
    block_bytes: int
    worker_bytes: int
    shuffled_bytes: int = 0
