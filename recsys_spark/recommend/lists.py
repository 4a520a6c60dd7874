"""Lists for blocks of users: one kernel call each, seen and blocked items excluded inside it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.losses import sigmoid
from recsys_spark.kernels.neighbour_average import best_by_neighbours
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.hidden_items import beside_users, with_hidden_items
from recsys_spark.recommend.new_items import CONTENT
from recsys_spark.recommend.popularity import SEGMENT_POPULAR
from recsys_spark.recommend.variety import Variety, best_items
from recsys_spark.session import default_parallelism
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train import evidence_rows

CF, POPULAR = "cf", "popular"
_OF_FACTORS = ("factors", "bias", "source", "evidence", "evidence_values")
_TASKS_PER_CORE = 2
# A worker gathers them in some 40 bytes each.
_HIDDEN_PER_TASK = 8_000_000
# Entries of the lists that a task holds at once: some 100 MB with their ids, whatever the length of the lists.
_ENTRIES_AT_ONCE = 1 << 20


def users_with_history(
    users: DataFrame, factors: DataFrame, hidden: DataFrame | None, *, n_hidden: int = 0
) -> DataFrame:
    """Bring together what the lists are made from.

    Parameters
    ----------
    users : DataFrame
        ``user_index`` and a label column ``user``, one row per user who gets a list; optionally ``segment int``.
    factors : DataFrame
        ``user_index, factors, bias``, optionally ``source``, and of a neighbourhood model ``evidence`` and
        ``evidence_values``; users without a row get popular items.
    hidden : DataFrame or None
        ``user_index, item_index`` of what must not be listed: seen or blocked; pairs may repeat.
    n_hidden : int
        How many pairs there are, about: more tasks are made for more than their workers should hold.

    Returns
    -------
    DataFrame
        For `write_lists`: ``user_index, user, factors, bias``, and ``segment``, ``source`` and evidence where given;
        nulls where there is nothing. With hidden pairs, in the same partitions, see `beside_users`.

    Notes
    -----
    Shuffles: the join, and one of the result over all cores, with the pairs as bytes.
    """
    from_factors = [name for name in _OF_FACTORS if name in factors.columns]
    joined = users.join(factors.select("user_index", *from_factors), "user_index", "left")
    optional = [name for name in ("segment",) if name in users.columns]
    return spread_users(joined.select("user_index", "user", *from_factors, *optional), hidden, n_hidden=n_hidden)


def spread_users(users: DataFrame, hidden: DataFrame | None, *, n_hidden: int = 0) -> DataFrame:
    """Spread users who have their vectors already over all cores; see `users_with_history`."""
    n_tasks = max(_TASKS_PER_CORE * default_parallelism(users.sparkSession), -(-n_hidden // _HIDDEN_PER_TASK))
    return users.repartition(n_tasks, "user_index") if hidden is None else beside_users(users, hidden, n_tasks)


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
    with shared(users.sparkSession, candidates) as everywhere:
        best_lists(users, candidates.labels.type, everywhere, n=n).write.mode("error").parquet(path)


def best_lists(users: DataFrame, label_type: pa.DataType, candidates: SharedValue[Candidates], *, n: int) -> DataFrame:
    """Return the lists that `write_lists` writes, made when they are read; ``label_type`` is that of the candidates."""
    user_type = users.schema["user"].dataType.simpleString()
    names = ((pa.types.is_int32, "int"), (pa.types.is_int64, "bigint"))
    item_type = next((name for is_type, name in names if is_type(label_type)), "string")
    schema = (
        f"user {user_type}, recommendations array<struct<item_id:{item_type},score:float,position:int,source:string>>, "
        "short_reason string"
    )
    rank = rank_users_with_pairs if "hidden_users" in users.columns else rank_users
    return users.mapInArrow(partial(rank, candidates=candidates, n=n), schema)


def rank_users_with_pairs(
    batches: Iterator[pa.RecordBatch], candidates: SharedValue[Candidates], n: int
) -> Iterator[pa.RecordBatch]:
    """Worker: as `rank_users`, from a partition of `beside_users`."""
    return rank_users(with_hidden_items(batches), candidates, n)


def rank_users(
    batches: Iterator[pa.RecordBatch], candidates: SharedValue[Candidates], n: int
) -> Iterator[pa.RecordBatch]:
    """Worker: users with vectors and histories -> their lists; those without vectors get what is popular for them."""
    for batch in batches:
        users_at_once = max(1, _ENTRIES_AT_ONCE // candidates.value.variety.entries(n))
        for first in range(0, batch.num_rows, users_at_once):
            users = batch.slice(first, users_at_once)
            has_vector = pc.is_valid(users["factors"])
            if (with_vectors := users.filter(has_vector)).num_rows:
                yield _ranked(with_vectors, candidates.value, n, CF)
            for segment, part in _by_segment(users.filter(pc.invert(has_vector))):
                yield _ranked(part, candidates.value, n, POPULAR, segment)


def _by_segment(users: pa.RecordBatch) -> Iterator[tuple[int | None, pa.RecordBatch]]:
    """Split users by segment; None: they have none with a popularity of its own."""
    if "segment" not in users.schema.names:
        if users.num_rows:
            yield None, users
        return
    for segment in users["segment"].unique().to_pylist():
        is_in = pc.is_null(users["segment"]) if segment is None else pc.equal(users["segment"], segment)
        yield segment, users.filter(is_in)


def _ranked(
    users: pa.RecordBatch, items: Candidates, n: int, source: str, segment: int | None = None
) -> pa.RecordBatch:
    is_own: BoolArray | None = None
    # What nobody has rated is not popular: it is listed by its features, or not at all.
    no_new = items.is_new if source != CF else None
    listed = users["hidden"] if "hidden" in users.schema.names else pa.nulls(users.num_rows, pa.list_(pa.int32()))
    hidden_indptr, hidden_columns = _hidden_columns(listed, items.column_of_index, no_new)
    hidden: dict[str, Any] = {"excluded_indptr": hidden_indptr, "excluded_columns": hidden_columns}
    if source == CF and items.neighbours is not None:
        columns, scores = best_by_neighbours(
            evidence_rows(users),
            items.neighbours,
            users["bias"].to_numpy(),
            items.vectors[:, -1],
            global_mean=items.global_mean,
            n=n,
            **hidden,
        )
    elif source == CF:
        user_vectors = vectors_from_columns(users["factors"], users["bias"], biases=items.biases)
        model: dict[str, Any] = {"biases": items.biases, "global_mean": items.global_mean}
        columns, scores = best_items(items, user_vectors, items.vectors, n=n, **model, **hidden)
    else:
        # Popularity is a model of width 1 with nothing but item biases: the number of ratings.
        popularity = items.popularity
        if segment is not None and items.segments is not None:
            popularity, is_own = items.segments.scores(segment, popularity)
        if no_new is not None:
            popularity = np.where(no_new, np.float32(-1.0), popularity)
        nothing = np.zeros((users.num_rows, 1), np.float32)
        columns, scores = best_items(
            items, nothing, popularity[:, None], biases=True, global_mean=0.0, n=n, may_be_new=False, **hidden
        )
    if source == CF and items.as_probability and items.variety.relevance_weight is None:
        # After ranking: log-odds far from 0 differ where their probabilities no longer do.
        columns, scores = in_order(columns, sigmoid(scores))
    n_found = (columns >= 0).sum(axis=1)
    n_hidden = _distinct_counts(hidden_indptr, hidden_columns, n_found < n)
    sources = _sources(users, columns, source, is_own)
    if source == CF and items.is_new is not None:
        sources = pc.if_else(pa.array(items.is_new[columns[columns >= 0]]), CONTENT, sources)
    n_eligible = len(items.labels) if no_new is None else int((~no_new).sum())
    reasons = _short_reasons((columns >= 0).sum(axis=1), n_hidden, n, n_eligible, items.variety)
    return _list_batch(users["user"], columns, scores, items, sources, reasons)


def _sources(users: pa.RecordBatch, columns: Int32Array, source: str, is_own: BoolArray | None) -> pa.Array:
    """Return what made each entry of (m, n) lists, padded with -1; ``is_own``: items that a segment has rated."""
    filled = columns >= 0
    if is_own is not None:
        return pc.if_else(pa.array(is_own[columns[filled]]), SEGMENT_POPULAR, source)
    if source == CF and "source" in users.schema.names:
        return pc.fill_null(users["source"], CF).take(pa.array(np.nonzero(filled)[0]))
    return pa.repeat(pa.scalar(source), int(filled.sum()))


def in_order(columns: Int32Array, scores: Float32Array) -> tuple[Int32Array, Float32Array]:
    """Sort each row of (m, n) arrays by score and column: different scores may have become equal ones."""
    order = np.lexsort((columns, -scores, columns < 0), axis=1)
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _hidden_columns(
    hidden: pa.ListArray, column_of_index: Int32Array, is_out: BoolArray | None
) -> tuple[Int64Array, Int32Array]:
    """Return each user's hidden items as columns; items that are no candidates, or whose column is out, drop out."""
    lengths = pc.fill_null(pc.list_value_length(hidden), 0).to_numpy(zero_copy_only=False)
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    columns = column_of_index[hidden.flatten().to_numpy(zero_copy_only=False)]
    kept = columns >= 0
    if is_out is not None:
        kept &= ~is_out.take(columns, mode="clip")
    kept_before = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    return kept_before[indptr], columns[kept]


def _list_batch(
    labels: pa.Array,
    columns: Int32Array,
    scores: Float32Array,
    items: Candidates,
    sources: pa.Array,
    short_reasons: pa.Array,
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
            sources,
        ],
        names=["item_id", "score", "position", "source"],
    )
    return pa.RecordBatch.from_arrays(
        [
            labels,
            pa.ListArray.from_arrays(pa.array(offsets), entries),
            short_reasons,
        ],
        names=["user", "recommendations", "short_reason"],
    )


def _distinct_counts(indptr: Int64Array, columns: Int32Array, is_wanted: BoolArray) -> Int64Array:
    """Count the different columns of each wanted user; 0 for the others."""
    users = np.repeat(np.arange(len(is_wanted)), np.diff(indptr))
    kept = is_wanted[users]
    stride = np.int64(columns.max(initial=0)) + 1
    keys = np.unique(users[kept] * stride + columns[kept])
    return np.bincount(keys // stride, minlength=len(is_wanted))


def _short_reasons(lengths: Int64Array, n_hidden: Int64Array, n: int, n_eligible: int, variety: Variety) -> pa.Array:
    # One text for all users of a case: nearly all are of the one whose list is long enough.
    keys, case_of_user = np.unique(n_hidden * (n + 1) + lengths, return_inverse=True)
    texts = [_short_reason(int(key % (n + 1)), n, n_eligible, int(key // (n + 1)), variety) for key in keys]
    return pa.array(texts, pa.string()).take(pa.array(case_of_user))


def _short_reason(k: int, n: int, n_eligible: int, n_hidden: int, variety: Variety) -> str | None:
    if k == n:
        return None
    parts = [f"{n_eligible} items are eligible"]
    if n_hidden:
        parts.append(f"the user has rated or blocked {n_hidden} of them")
    if k < n_eligible - n_hidden:
        parts.append(f"no more than {variety.limits} may be listed, which leaves out {n_eligible - n_hidden - k}")
    return f"only {k} of {n}: " + ", and ".join(parts)
