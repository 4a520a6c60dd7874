"""NDCG, recall and precision of top-N lists on held-out items, averaged over users."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import Int32Array
from recsys_spark.kernels.ranking_metrics import ndcg_at_n, precision_at_n, recall_at_n

_SCHEMA = "n_users long, ndcg double, recall double, precision double"
METRICS = ("ndcg", "recall", "precision")


def measure_ranking(lists: DataFrame, relevant: DataFrame, n: int) -> tuple[dict[str, float], int]:
    """Average the ranking metrics over users.

    Parameters
    ----------
    lists : DataFrame
        ``user_index, items array<int>``, best first.
    relevant : DataFrame
        ``user_index, relevant array<int>``: held-out items that count as hits, at least one per user.
    n : int
        Length at which lists are cut.

    Returns
    -------
    metrics : dict
        ``ndcg``, ``recall``, ``precision``: means over the users of ``relevant``; a user without a list
        counts as zero.
    n_users : int

    Notes
    -----
    One join by user; the driver receives one row per task.
    """
    joined = relevant.join(lists, "user_index", "left").select("items", "relevant")
    rows = joined.mapInArrow(partial(sum_metrics, n=n), _SCHEMA).toArrow().to_pylist()
    n_users = sum(row["n_users"] for row in rows)
    if n_users == 0:
        return dict.fromkeys(METRICS, math.nan), 0
    return {name: math.fsum(row[name] for row in rows) / n_users for name in METRICS}, n_users


def sum_metrics(batches: Iterator[pa.RecordBatch], n: int) -> Iterator[pa.RecordBatch]:
    """Worker: lists beside relevant items -> sums of the metrics over users."""
    for batch in batches:
        if batch.num_rows == 0:
            continue
        columns = padded_lists(batch["items"], n)
        relevant = batch["relevant"]
        indptr = np.concatenate([[0], np.cumsum(pc.list_value_length(relevant).to_numpy(), dtype=np.int64)])
        hits = relevant.flatten().to_numpy()
        yield pa.RecordBatch.from_pydict(
            {
                "n_users": [batch.num_rows],
                "ndcg": [math.fsum(ndcg_at_n(columns, indptr, hits))],
                "recall": [math.fsum(recall_at_n(columns, indptr, hits))],
                "precision": [math.fsum(precision_at_n(columns, indptr, hits))],
            }
        )


def padded_lists(lists: pa.ListArray, n: int) -> Int32Array:
    """Return lists as one int32 array (m, n): cut at n, filled up with -1; null is the empty list."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    place = np.arange(len(values)) - np.repeat(starts, lengths)
    row = np.repeat(np.arange(len(lengths)), lengths)
    padded = np.full((len(lengths), n), -1, np.int32)
    kept = place < n
    padded[row[kept], place[kept]] = values[kept]
    return padded


def relevant_items(held_out: DataFrame, relevant_rating: float | None) -> DataFrame:
    """Return ``user_index, relevant array<int>``: each user's held-out items rated high enough. One shuffle."""
    rated = held_out if relevant_rating is None else held_out.where(F.col("rating") >= relevant_rating)
    return rated.groupBy("user_index").agg(F.collect_list("item_index").alias("relevant"))
