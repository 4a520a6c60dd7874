"""Lists for blocks of users: one kernel call each, seen and blocked items excluded inside it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.losses import sigmoid
from recsys_spark.kernels.neighbour_average import best_by_neighbours
from recsys_spark.kernels.top_n import top_n
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.session import default_parallelism
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train import evidence_rows

CF, POPULAR = "cf", "popular"
_TASKS_PER_CORE = 2
# Entries of the lists that a task holds at once: some 100 MB with their ids, whatever the length of the lists.
_ENTRIES_AT_ONCE = 1 << 20


def users_with_history(users: DataFrame, factors: DataFrame, hidden: DataFrame | None) -> DataFrame:
    """Bring together what the lists are made from.

    Parameters
    ----------
    users : DataFrame
        ``user_index`` and a label column ``user``, one row per user who gets a list.
    factors : DataFrame
        ``user_index, factors, bias``, of a neighbourhood model also ``evidence`` and ``evidence_values``; users without
        a row get popular items.
    hidden : DataFrame or None
        ``user_index, item_index`` of what must not be listed: seen or blocked; pairs may repeat.

    Returns
    -------
    DataFrame
        ``user, factors, bias, hidden array<int>``, and evidence where there was any; nulls where there is nothing.

    Notes
    -----
    Shuffles: the hidden pairs by user, the joins, and one of the result over all cores.
    """
    tasks = _TASKS_PER_CORE * default_parallelism(users.sparkSession)
    kept = ["factors", "bias", *(name for name in ("evidence", "evidence_values") if name in factors.columns)]
    joined = users.join(factors.select("user_index", *kept), "user_index", "left")
    if hidden is not None:
        by_user = hidden.groupBy("user_index").agg(F.collect_list("item_index").alias("hidden"))
        joined = joined.join(by_user, "user_index", "left")
    else:
        joined = joined.withColumn("hidden", F.lit(None).cast("array<int>"))
    return joined.repartition(tasks, "user_index").select("user", *kept, "hidden")


def write_lists(users: DataFrame, candidates: Candidates, *, n: int, path: str) -> None:
    """Rank the candidates for every user and write the lists as Parquet.

    Parameters
    ----------
    users : DataFrame
        As ``users_with_history`` returns them.
    candidates : Candidates
        Goes to every task.
    n : int
        Entries per list.
    path : str
        Where the lists go: the label column ``user``, ``recommendations`` (best first) and ``short_reason``.

    Notes
    -----
    Nothing reaches the driver. Scores do not depend on how users are spread over tasks.
    """
    user_type = users.schema["user"].dataType.simpleString()
    item_type = "string" if pa.types.is_string(candidates.labels.type) else "int"
    schema = (
        f"user {user_type}, recommendations array<struct<item_id:{item_type},score:float,position:int,source:string>>, "
        "short_reason string"
    )
    with shared(users.sparkSession, candidates) as everywhere:
        lists = users.mapInArrow(partial(rank_users, candidates=everywhere, n=n), schema)
        lists.write.mode("error").parquet(path)


def rank_users(
    batches: Iterator[pa.RecordBatch], candidates: SharedValue[Candidates], n: int
) -> Iterator[pa.RecordBatch]:
    """Worker: users with vectors and histories -> their lists; those without vectors get popular items."""
    for batch in batches:
        for first in range(0, batch.num_rows, users_at_once := max(1, _ENTRIES_AT_ONCE // n)):
            users = batch.slice(first, users_at_once)
            has_vector = pc.is_valid(users["factors"])
            for source, chosen in ((CF, has_vector), (POPULAR, pc.invert(has_vector))):
                part = users.filter(chosen)
                if part.num_rows:
                    yield _ranked(part, candidates.value, n, source)


def _ranked(users: pa.RecordBatch, items: Candidates, n: int, source: str) -> pa.RecordBatch:
    hidden_indptr, hidden_columns = _hidden_columns(users["hidden"], items.column_of_index)
    if source == CF and items.neighbours is not None:
        columns, scores = best_by_neighbours(
            evidence_rows(users),
            items.neighbours,
            users["bias"].to_numpy(),
            items.vectors[:, -1],
            global_mean=items.global_mean,
            n=n,
            excluded_indptr=hidden_indptr,
            excluded_columns=hidden_columns,
        )
        return _list_batch(users["user"], columns, scores, items, source)
    if source == CF:
        user_vectors = vectors_from_columns(users["factors"], users["bias"], biases=items.biases)
        item_vectors, biases, mean = items.vectors, items.biases, items.global_mean
    else:
        # Popularity is a model of width 1 with nothing but item biases: the number of ratings.
        user_vectors, item_vectors = np.zeros((users.num_rows, 1), np.float32), items.popularity[:, None]
        biases, mean = True, 0.0
    columns, scores = top_n(
        user_vectors,
        item_vectors,
        biases=biases,
        global_mean=mean,
        n=n,
        excluded_indptr=hidden_indptr,
        excluded_columns=hidden_columns,
    )
    if source == CF and items.as_probability:
        # After ranking: log-odds far from 0 differ where their probabilities no longer do.
        columns, scores = in_order(columns, sigmoid(scores))
    return _list_batch(users["user"], columns, scores, items, source)


def in_order(columns: Int32Array, scores: Float32Array) -> tuple[Int32Array, Float32Array]:
    """Sort each row of (m, n) arrays by score and column: different scores may have become equal ones."""
    order = np.lexsort((columns, -scores, columns < 0), axis=1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _hidden_columns(hidden: pa.ListArray, column_of_index: Int32Array) -> tuple[Int64Array, Int32Array]:
    """Return each user's hidden items as columns; items that are no candidates drop out."""
    lengths = pc.fill_null(pc.list_value_length(hidden), 0).to_numpy(zero_copy_only=False)
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns = column_of_index[hidden.flatten().to_numpy(zero_copy_only=False)]
    kept = columns >= 0
    kept_before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    return kept_before[indptr], columns[kept]


def _list_batch(
    labels: pa.Array, columns: Int32Array, scores: Float32Array, items: Candidates, source: str
) -> pa.RecordBatch:
    """Turn (m, n) arrays, padded with -1, into one list of structs per user."""
    filled = columns >= 0
    lengths = filled.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = np.broadcast_to(np.arange(1, columns.shape[1] + 1, dtype=np.int32), columns.shape)[filled]
    entries = pa.StructArray.from_arrays(
        [
            items.labels.take(pa.array(columns[filled])),
            pa.array(scores[filled]),
            pa.array(positions),
            pa.repeat(pa.scalar(source), len(positions)),
        ],
        names=["item_id", "score", "position", "source"],
    )
    return pa.RecordBatch.from_arrays(
        [
            labels,
            pa.ListArray.from_arrays(pa.array(offsets), entries),
            _short_reasons(lengths, columns.shape[1], len(items.labels)),
        ],
        names=["user", "recommendations", "short_reason"],
    )


def _short_reasons(lengths: npt.NDArray[np.int64], n: int, n_eligible: int) -> pa.Array:
    # A short list holds all that is left, so that its length says how much was hidden.
    texts = [
        f"only {k} of {n}: {n_eligible} items are eligible"
        + (f", and the user has rated or blocked {n_eligible - k} of them" if k < n_eligible else "")
        for k in range(min(n, n_eligible + 1))
    ]
    return pa.array(texts, pa.string()).take(pa.array(lengths, mask=lengths >= n))
