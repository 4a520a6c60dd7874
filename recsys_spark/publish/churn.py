"""How much the lists of two tables differ, user by user."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Int64Array
from recsys_spark.kernels.list_overlap import changed_positions, padded_lists, rank_biased_overlap

_SCHEMA = "segment string, users long, overlap long, overlap_2 long, changed long, places long, same long"
# Overlaps are added as integers, so that sums do not depend on partitions.
_UNIT = 1 << 30
_95_PERCENT = 1.959964


@dataclass(frozen=True, slots=True)
class Churn:
    """What changed for the users that have a list in both tables.

    Attributes
    ----------
    segment : str or None
        None: all users.
    users : int
    overlap : float
        Mean rank-biased overlap, persistence 0.9; 1: nothing changed.
    overlap_margin : float
        Half of the 95% interval of that mean.
    changed_positions : float
        Share of the places of all lists that hold another item.
    same_lists : float
        Share of users whose list is the same.
    """

    segment: str | None
    users: int
    overlap: float
    overlap_margin: float
    changed_positions: float
    same_lists: float


def compare_lists(before: DataFrame, after: DataFrame, segments: DataFrame | None = None) -> list[Churn]:
    """Compare two tables of lists.

    Parameters
    ----------
    before, after : DataFrame
        ``recommendations``.
    segments : DataFrame, optional
        ``user_id, segment``; without them, users are grouped by the source of the first entry they get after.

    Returns
    -------
    list of Churn
        All users first, then by segment. One join by user; the driver receives one row per partition and segment.
    """
    new = after.select("user_id", _item_ids().alias("after"), _first_source().alias("segment"))
    if segments is not None:
        new = new.drop("segment").join(segments.select("user_id", "segment"), "user_id", "left")
    both = before.select("user_id", _item_ids().alias("before")).join(new, "user_id")
    parts = both.select("segment", "before", "after").mapInArrow(compare_batches, _SCHEMA)
    names = ("users", "overlap", "overlap_2", "changed", "places", "same")
    found = parts.groupBy("segment").agg(*[F.sum(name).alias(name) for name in names]).collect()
    of_segment = {row["segment"]: [int(row[name]) for name in names] for row in found}
    everybody = [sum(column) for column in zip(*of_segment.values(), strict=True)] or [0] * len(names)
    named = sorted(name for name in of_segment if name is not None)
    return [_churn(None, everybody), *[_churn(name, of_segment[name]) for name in named]]


def compare_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: ``segment, before, after`` (lists of item ids) -> sums by segment."""
    for batch in batches:
        a, b = _numbered(batch.column("before"), batch.column("after"))
        overlap = np.rint(rank_biased_overlap(a, b) * _UNIT).astype(np.int64)
        changed, places = changed_positions(a, b)
        # In units of 2^-20, so that a batch's sum of squares fits.
        rounded = overlap >> 10
        columns = {
            "segment": batch.column("segment"),
            "users": np.ones(len(a), np.int64),
            "overlap": overlap,
            "overlap_2": (rounded * rounded) >> 10,
            "changed": changed,
            "places": places,
            "same": (changed == 0).astype(np.int64),
        }
        names = [name for name in columns if name != "segment"]
        sums = pa.table(columns).group_by("segment").aggregate([(name, "sum") for name in names])
        sums = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names])
        yield from sums.select(list(columns)).to_batches()


def _churn(segment: str | None, sums: list[int]) -> Churn:
    users, overlap, squares, changed, places, same = sums
    if users == 0:
        return Churn(segment, 0, 1.0, 0.0, 0.0, 1.0)
    mean = overlap / _UNIT / users
    variance = max(0.0, squares / _UNIT / users - mean * mean)
    margin = _95_PERCENT * math.sqrt(variance / users)
    return Churn(segment, users, mean, margin, changed / places if places else 0.0, same / users)


def _numbered(before: pa.Array, after: pa.Array) -> tuple[Int64Array, Int64Array]:
    """Return two columns of lists as padded rows of numbers, equal where the ids are."""
    flat = pa.concat_arrays([before.flatten(), after.flatten()]).dictionary_encode()
    numbers = flat.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = [
        pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64) for column in (before, after)
    ]
    cut = int(lengths[0].sum())
    return padded_lists(numbers[:cut], lengths[0], -1), padded_lists(numbers[cut:], lengths[1], -2)


def _item_ids() -> Column:
    return F.coalesce(F.col("recommendations.item_id"), F.array().cast("array<string>"))


def _first_source() -> Column:
    return F.get("recommendations.source", F.lit(0))
