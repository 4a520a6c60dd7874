"""What a fit has found, as tables by the caller's ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.ml.ids import id_key
from recsys_spark.rating_blocks import USERS, Side

# Of one side, where a join is made by sending it to every task.
_MOST_BROADCAST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class FittedFactors:
    """What a fit has found.

    Attributes
    ----------
    users, items : DataFrame
        ``id, features array<float>, bias float, n_ratings int, number int``; the numbers of a side are 0 to n - 1.
    n_users, n_items : int
    rank : int
    biases : bool
    global_mean : float
        Part of every score.
    objectives : tuple of float
        After every half-iteration.
    path : str or None
        Where the tables are read from; None: they are the driver's.
    """

    COLUMNS: ClassVar = ["id", "features", "bias", "n_ratings", "number"]

    users: DataFrame
    items: DataFrame
    n_users: int
    n_items: int
    rank: int
    biases: bool
    global_mean: float
    objectives: tuple[float, ...]
    path: str | None = None

    def of(self, side: Side) -> DataFrame:
        """Return the table of a side."""
        return self.users if side == USERS else self.items

    def n_rows(self, side: Side) -> int:
        """Return how many rows a side has."""
        return self.n_users if side == USERS else self.n_items

    def by_key(self, side: Side) -> DataFrame:
        """Return a side's vectors as ``with_scores`` takes them, with ids in the place of indexes."""
        table = self.of(side)
        rows = table.select(as_key(table, side).alias(side.rows), F.col("features").alias("factors"), "bias")
        n_bytes = self.n_rows(side) * (self.rank + 4) * 4
        return F.broadcast(rows) if n_bytes <= _MOST_BROADCAST_BYTES else rows

    def numbers(self, side: Side) -> DataFrame:
        """Return a side's ids as keys, in a column ``<side>_key``, and their numbers, named as its indexes."""
        table = self.of(side)
        return table.select(as_key(table, side).alias(f"{side.name}_key"), F.col("number").alias(side.rows))


def as_key(table: DataFrame, side: Side) -> Column:
    """Return the ids of a side's table as `id_key` makes them."""
    return id_key(table, "id", side.name)
