"""Sums over users that do not depend on partitions: users fall into shares by their number, each added up in order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Float64Array, Int32Array, Int64Array, IntArray
from recsys_spark.rating_blocks import placements

ALL = "all"
# Enough to keep the cores busy; from the number of pairs alone, so that sums are the same on every cluster. The sums of
# a share, with all replicates, are about a megabyte on the driver.
_PAIRS_PER_SHARE = 20_000
_MOST_SHARES = 64
SUMS_SCHEMA = "share int, kind int, segment int, sums binary"


def number_of_shares(n_pairs: int) -> int:
    """Return into how many shares users are divided."""
    return min(_MOST_SHARES, max(1, -(-n_pairs // _PAIRS_PER_SHARE)))


def by_share(rows: DataFrame, n_shares: int) -> DataFrame:
    """Bring the rows of each share of users, ``user_index % n_shares``, together in one partition. One shuffle."""
    places = F.array(*[F.lit(place) for place in placements(rows.sparkSession, n_shares)])
    place = F.element_at(places, F.pmod("user_index", F.lit(n_shares)) + 1)
    return rows.withColumn("placement", place).repartition(n_shares, "placement").drop("placement")


def whole_share(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    """Return all rows of a partition; None where there are none."""
    held = [batch for batch in batches if batch.num_rows]
    return pa.Table.from_batches(held) if held else None


def sums_batch(share: int, rows: list[tuple[int, int, Float64Array]]) -> pa.RecordBatch:
    """Return (kind, segment, sums) of a share as a batch of ``SUMS_SCHEMA``."""
    return pa.RecordBatch.from_pydict(
        {
            "share": pa.array([share] * len(rows), pa.int32()),
            "kind": pa.array([kind for kind, _, _ in rows], pa.int32()),
            "segment": pa.array([segment for _, segment, _ in rows], pa.int32()),
            "sums": pa.array([sums.tobytes() for _, _, sums in rows], pa.binary()),
        }
    )


def add_up_shares(sums: DataFrame, n_columns: int) -> dict[tuple[int, int], Float64Array]:
    """Add up what the shares yielded, in the order of the shares.

    Parameters
    ----------
    sums : DataFrame
        Of ``SUMS_SCHEMA``. All of it comes to the driver: with 200 replicates up to 80 KB per share, kind and
        segment, some 100 MB at most.
    n_columns : int

    Returns
    -------
    dict
        By kind and segment: float64 (1 + replicates, n_columns).
    """
    table = sums.toArrow().sort_by([("kind", "ascending"), ("segment", "ascending"), ("share", "ascending")])
    found: dict[tuple[int, int], Float64Array] = {}
    keys = zip(table["kind"].to_pylist(), table["segment"].to_pylist(), strict=True)
    for key, content in zip(keys, table["sums"], strict=True):
        part = np.frombuffer(content.as_buffer(), np.float64).reshape(-1, n_columns)
        found[key] = found[key] + part if key in found else part
    return found


def groups_of(n_known: IntArray, bounds: tuple[int, ...]) -> Int32Array:
    """Return the group of users by their training ratings: 0 for none, then one from 1 and from each bound."""
    return np.searchsorted(np.array([1, *(bound for bound in bounds if bound > 1)]), n_known, side="right").astype(
        np.int32
    )


def group_names(bounds: tuple[int, ...]) -> list[str]:
    """Return how the groups of `groups_of` are called."""
    starts = [1, *(bound for bound in bounds if bound > 1)]
    ranges = [f"{start} to {end - 1}" for start, end in pairwise(starts)]
    return ["new users", *(f"users of {text} ratings" for text in (*ranges, f"{starts[-1]} or more"))]


def item_classes(degrees: IntArray) -> tuple[Int32Array, list[str]]:
    """Sort items into those nobody rated in training, and three that share the training ratings about evenly.

    Parameters
    ----------
    degrees : integer array of shape (n_items,)
        Training ratings of each item.

    Returns
    -------
    classes : int32 array of shape (n_items,)
    names : list of str
        ``new items``, then from the most rated to the least.
    """
    order = np.lexsort((np.arange(len(degrees)), -degrees.astype(np.int64)))
    before: Int64Array = np.cumsum(degrees[order], dtype=np.int64) - degrees[order]
    classes = np.empty(len(degrees), np.int32)
    classes[order] = 1 + np.minimum(3 * before // max(int(degrees.sum(dtype=np.int64)), 1), 2)
    classes[degrees == 0] = 0
    return classes, ["new items", "popular items", "middling items", "rare items"]


def flat(column: Any) -> pa.Array:
    """Return a column of a table as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
