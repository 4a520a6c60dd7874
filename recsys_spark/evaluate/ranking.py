"""How good and how varied lists are on held-out items: measures with intervals over users, by segment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.estimates import Estimate, ratio
from recsys_spark.evaluate.shares import (
    ALL,
    SUMS_SCHEMA,
    add_up_shares,
    by_share,
    flat,
    group_names,
    groups_of,
    sums_batch,
    whole_share,
)
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.bootstrap import replicated_sums
from recsys_spark.kernels.list_overlap import rank_biased_overlap
from recsys_spark.kernels.list_variety import (
    diversity_of_lists,
    mean_of_lists,
    overlap_of_lists,
    self_information,
)
from recsys_spark.kernels.ranking_metrics import MEASURES, measures_of_lists, recall_of_parts
from recsys_spark.shared_value import SharedValue, shared

_RELEVANT = -1
_OF = " of "


@dataclass(frozen=True, slots=True)
class RankingInput:
    """What tasks need beside the lists and the held-out items.

    Attributes
    ----------
    kinds : tuple of str
        Whose lists are compared; overlaps are with the first.
    lengths : tuple of int
        Ascending.
    n : int
        Length that measures by segment, and what lists are like, are told for.
    n_ratings : int64 array of shape (n_items,)
        Training ratings of each item.
    n_users : int
        With training ratings.
    item_class : int32 array of shape (n_items,)
    class_names : tuple of str
    item_vectors : float32 array of shape (n_items, rank), or None
        Factors, for diversity; None: there are none.
    activity_bounds : tuple of int
    replicates, seed, n_shares : int
    """

    kinds: tuple[str, ...]
    lengths: tuple[int, ...]
    n: int
    n_ratings: Int64Array
    n_users: int
    item_class: Int32Array
    class_names: tuple[str, ...]
    item_vectors: Float32Array | None
    activity_bounds: tuple[int, ...]
    replicates: int
    seed: int
    n_shares: int


def measure_ranking(lists: dict[str, DataFrame], relevant: DataFrame, given: RankingInput) -> list[Estimate]:
    """Average the measures of lists over users.

    Parameters
    ----------
    lists : dict of str to DataFrame
        By kind: ``user_index, items array<int>``, best first.
    relevant : DataFrame
        ``user_index, relevant array<int>, n_known int``: held-out items that count as hits, at least one per user, and
        the number of the user's training ratings.
    given : RankingInput
        Goes to every task.

    Returns
    -------
    list of Estimate
        By kind, all over the users of ``relevant``; a user without a list counts as zero hits. The same for every
        number of partitions. Of what lists are like: ``novelty`` and ``popularity`` of their items, ``diversity``,
        the ``places`` that each class of items gets, and what they have in common with those of the first kind: as
        sets (``overlap_with_..``), and with the first places counting most (``rank_biased_overlap_with_..``).

    Notes
    -----
    One shuffle of all lists and held-out items by user. The driver receives sums per share, kind and group of users.
    """
    null = F.lit(None)
    parts = [
        relevant.select(
            "user_index", F.lit(_RELEVANT).alias("kind"), null.cast("array<int>").alias("items"), "relevant", "n_known"
        )
    ]
    for number, name in enumerate(given.kinds):
        nothing = [null.cast("array<int>").alias("relevant"), null.cast("int").alias("n_known")]
        parts.append(lists[name].select("user_index", F.lit(number).alias("kind"), "items", *nothing))
    rows = by_share(reduce(DataFrame.unionByName, parts), given.n_shares)
    with shared(relevant.sparkSession, given) as everywhere:
        sums = rows.mapInArrow(partial(sum_measures, given=everywhere), SUMS_SCHEMA)
        found = add_up_shares(sums, 2 * len(measure_names(given)))
    return _estimates(found, given)


def measure_names(given: RankingInput) -> list[str]:
    """Return the names of the columns that `sum_measures` adds up, in order."""
    nothing = np.zeros((0, given.lengths[-1]), np.int32)
    return list(_measures(nothing, nothing, np.zeros(1, np.int64), np.zeros(0, np.int32), given))


def sum_measures(batches: Iterator[pa.RecordBatch], given: SharedValue[RankingInput]) -> Iterator[pa.RecordBatch]:
    """Worker: a share's lists and held-out items -> sums of measures over its users, per kind and group of users."""
    table = whole_share(batches)
    if table is None:
        return
    kind = table["kind"].to_numpy()
    held_out = table.filter(pa.array(kind == _RELEVANT)).sort_by("user_index")
    if held_out.num_rows == 0:
        return
    users, lists = held_out["user_index"].to_numpy(), flat(held_out["relevant"])
    relevant = lists.flatten().to_numpy()
    indptr = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(), dtype=np.int64)])
    group = groups_of(held_out["n_known"].to_numpy(), given.value.activity_bounds)
    own: Int32Array | None = None
    rows = []
    for number in range(len(given.value.kinds)):
        columns = lists_of(users, table.filter(pa.array(kind == number)), given.value.lengths[-1])
        own = columns if own is None else own
        values = np.column_stack(list(_measures(columns, own, indptr, relevant, given.value).values()))
        both = np.concatenate([np.nan_to_num(values), np.isfinite(values)], axis=1)
        for segment in np.unique(group):
            mine = group == segment
            sums = replicated_sums(both[mine], users[mine], given.value.replicates, given.value.seed)
            rows.append((number, int(segment), sums))
    yield sums_batch(int(users[0]) % given.value.n_shares, rows)


def lists_of(users: Int32Array, rows: pa.Table, n: int) -> Int32Array:
    """Return the list of each of some ascending users, int32 (m, n), filled up with -1; without a row it is empty."""
    found = np.full((len(users), n), -1, np.int32)
    owner = rows["user_index"].to_numpy()
    place = np.searchsorted(users, owner)
    is_wanted = place < len(users)
    is_wanted[is_wanted] = users[place[is_wanted]] == owner[is_wanted]
    if is_wanted.any():
        items = rows["items"].filter(pa.array(is_wanted))
        found[place[is_wanted]] = padded_lists(flat(items), n)
    return found


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
    return rated.groupBy("user_index").agg(F.sort_array(F.collect_list("item_index")).alias("relevant"))


def _measures(
    columns: Int32Array, own: Int32Array, indptr: Int64Array, relevant: Int32Array, given: RankingInput
) -> dict[str, Float64Array]:
    """Compute everything that is averaged over users, by name: float64 arrays (m,), NaN where undefined."""
    found = measures_of_lists(columns, indptr, relevant, given.lengths)
    cut = columns[:, : given.n]
    at = f"@{given.n}"
    found[f"novelty{at}"] = mean_of_lists(self_information(given.n_ratings, given.n_users), cut)
    found[f"popularity{at}"] = mean_of_lists(given.n_ratings.astype(np.float64), cut)
    others = own[:, : given.n]
    found[f"overlap_with_{given.kinds[0]}{at}"] = overlap_of_lists(cut, others)
    found[f"rank_biased_overlap_with_{given.kinds[0]}{at}"] = _agreement(cut, others)
    if given.item_vectors is not None:
        found[f"diversity{at}"] = diversity_of_lists(cut, given.item_vectors)
    of_class = recall_of_parts(cut, indptr, relevant, given.item_class[relevant], len(given.class_names))
    for number, name in enumerate(given.class_names):
        found[f"recall{at}{_OF}{name}"] = of_class[:, number]
        is_of_class = np.asarray(given.item_class == number, np.float64)
        found[f"places{at}{_OF}{name}"] = mean_of_lists(is_of_class, cut)
    return found


def _agreement(columns: Int32Array, others: Int32Array) -> Float64Array:
    """Return the rank-biased overlap of lists (m, n), padded with -1, with others; NaN where the first is empty."""
    padded = np.where(others < 0, -2, others).astype(np.int64)
    overlap = rank_biased_overlap(columns.astype(np.int64), padded)
    return np.where((columns >= 0).any(axis=1), overlap, np.nan)


def _estimates(found: dict[tuple[int, int], Float64Array], given: RankingInput) -> list[Estimate]:
    groups = group_names(given.activity_bounds)
    by_group = [f"{name}@{given.n}" for name in MEASURES]
    estimates = []
    for number, kind in enumerate(given.kinds):
        of_groups = {segment: sums for (k, segment), sums in sorted(found.items()) if k == number}
        if of_groups:
            estimates += _of_sums(kind, np.sum(list(of_groups.values()), axis=0), given)
        for segment, sums in of_groups.items():
            of_group = {found.metric: found for found in _of_sums(kind, sums, given) if found.segment == ALL}
            estimates += [replace(of_group[name], segment=groups[segment]) for name in by_group if name in of_group]
    return estimates


def _of_sums(kind: str, sums: Float64Array, given: RankingInput) -> list[Estimate]:
    names = measure_names(given)
    estimates = []
    for column, name in enumerate(names):
        counts = sums[:, len(names) + column]
        if counts[0]:
            metric, _, segment = name.partition(_OF)
            values = ratio(sums[:, column], counts)
            estimates.append(Estimate(kind, metric, values, int(counts[0]), segment or ALL))
    return estimates
