"""What both exchanges offer to the loop, which does not ask which of them it has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from pyspark.sql import DataFrame

from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.rating_blocks import Side
from recsys_spark.train.held_back import HeldBack
from recsys_spark.train.model import Vectors
from recsys_spark.train.shares import HalfIterationSizes, Shares
from recsys_spark.train.side_blocks import SideBlocks

Kept = Any
"""Both sides' vectors at one moment, as an exchange holds them: arrays, or the names of folders."""

Known = Mapping[Side, DataFrame]
"""A model to start from: rows of (index, factors, bias) of each side."""


class Exchange(Protocol):
    """Where both sides' vectors are, and how the fixed side gets to the tasks that solve the other.

    Attributes
    ----------
    vectors : Kept
        Of both sides, now. What was kept before stays as it was when a side is solved.
    sizes : list of HalfIterationSizes
        Of the half-iterations of this process; a checkpoint has none.
    """

    vectors: Kept
    sizes: list[HalfIterationSizes]

    def begin(self, users: SideBlocks, items: SideBlocks, known: Known | None) -> dict[Side, float]:
        """Put first vectors in place, and return both sides' penalties.

        Items begin as random factors of length about 1 without a bias, users as zeros, for the users are solved
        first; rows that are in ``known`` begin there.
        """

    def solve(self, rows: SideBlocks, fixed: SideBlocks) -> Shares:
        """Solve every row of a side against the fixed side, and put the new vectors in place."""

    def step_both(self, users: SideBlocks, items: SideBlocks) -> tuple[Shares, dict[Side, float]]:
        """Take simultaneous gradient steps, where the exchange can; return both sides' shares and penalties."""

    def pair_scores(self, pairs: HeldBack) -> tuple[Float32Array, Float64Array]:
        """Return values and scores of pairs, in any order; rows without ratings are zero vectors."""

    def save(self, vectors: Kept, place: str) -> dict[str, Any]:
        """See that vectors outlive this process, under a place where nothing is yet.

        Returns
        -------
        dict
            To be written down: ``users`` and ``items`` are folders of vector blocks; the rest is the exchange's.
        """

    def restore(self, saved: Mapping[str, Any], users: SideBlocks, items: SideBlocks) -> Kept:
        """Return vectors that an exchange has saved, this one or another, bit for bit."""

    def keep_only(self, kept: Collection[Kept], saved: Callable[[], Collection[str]]) -> None:
        """Let go of all vectors but the present ones, those of ``kept``, and the folders that a checkpoint names."""

    def trained(self, vectors: Kept) -> Vectors | dict[Side, DataFrame]:
        """Return vectors for the stages after training: arrays, or rows of (index, factors, bias, n_ratings)."""

    def release(self) -> None:
        """Drop what only training needs; vectors on storage stay."""
