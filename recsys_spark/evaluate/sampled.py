"""The sampled protocol: each held-out item among a few random ones. For comparison with papers that report it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.evaluate.estimates import Estimate, ratio
from recsys_spark.evaluate.shares import SUMS_SCHEMA, add_up_shares, by_share, flat, sums_batch, whole_share
from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.bootstrap import random_bits, replicated_sums
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.kernels.ranking_metrics import sampled_positions
from recsys_spark.shared_value import SharedValue, shared

_PAIRS_AT_ONCE = 1 << 12


@dataclass(frozen=True, slots=True)
class SampledInput:
    """What tasks need beside users' vectors, histories and held-out items.

    Attributes
    ----------
    kinds : tuple of str
        The model, and popularity.
    item_index : int32 array of shape (n_candidates,)
        Items that may be drawn.
    vectors : float32 array of shape (n_items, width)
        Zero where an item has none.
    popularity : float64 array of shape (n_items,)
    global_mean : float
    biases : bool
    n_negatives, n : int
        Items drawn per user; length at which ranks are cut.
    replicates, seed, n_shares : int
    """

    kinds: tuple[str, str]
    item_index: Int32Array
    vectors: Float32Array
    popularity: Float64Array
    global_mean: float
    biases: bool
    n_negatives: int
    n: int
    replicates: int
    seed: int
    n_shares: int


def measure_sampled(users: DataFrame, given: SampledInput) -> list[Estimate]:
    """Rank every held-out item among ``n_negatives`` random items that are neither known of the user nor hits.

    Parameters
    ----------
    users : DataFrame
        ``user_index, factors, bias, hidden array<int>, relevant array<int>``.
    given : SampledInput
        Goes to every task.

    Returns
    -------
    list of Estimate
        ``hit_rate`` and ``ndcg`` over held-out items, each named ``sampled_<n_negatives>_..@<n>`` so that nobody takes
        them for those of full rankings, which they are far above. The same items are drawn for all held-out items of
        a user, and in every run.

    Notes
    -----
    One shuffle by user. The driver receives sums per share.
    """
    with shared(users.sparkSession, given) as everywhere:
        sums = by_share(users, given.n_shares).mapInArrow(partial(sum_sampled, given=everywhere), SUMS_SCHEMA)
        found = add_up_shares(sums, 3)
    estimates = []
    for (kind, _), part in sorted(found.items()):
        n_pairs, hits, gains = part.T
        for name, values in (("hit_rate", hits), ("ndcg", gains)):
            metric = f"sampled_{given.n_negatives}_{name}@{given.n}"
            estimates.append(Estimate(given.kinds[kind], metric, ratio(values, n_pairs), int(n_pairs[0])))
    return estimates


def sum_sampled(batches: Iterator[pa.RecordBatch], given: SharedValue[SampledInput]) -> Iterator[pa.RecordBatch]:
    """Worker: a share of users with histories and held-out items -> sums over their held-out items, per kind."""
    table = whole_share(batches)
    if table is None:
        return
    table = table.sort_by("user_index")
    users, relevant = table["user_index"].to_numpy(), flat(table["relevant"])
    drawn = [
        draw_negatives(int(user), np.array([*(own or []), *(hidden or [])], np.int32), given.value)
        for user, own, hidden in zip(users, relevant.to_pylist(), table["hidden"].to_pylist(), strict=True)
    ]
    owner = np.repeat(np.arange(len(users)), relevant.value_lengths().to_numpy())
    positives = relevant.flatten().to_numpy()
    vectors = _user_vectors(table, given.value)
    rows = []
    for kind in range(len(given.value.kinds)):
        of_pairs = np.zeros((len(users), 3))
        for first in range(0, len(owner), _PAIRS_AT_ONCE):
            part = slice(first, first + _PAIRS_AT_ONCE)
            places = _places(kind, vectors, owner[part], positives[part], drawn, given.value)
            is_hit = places <= given.value.n
            gains = np.where(is_hit, 1.0 / np.log2(places + 1.0), 0.0)
            np.add.at(of_pairs, owner[part], np.column_stack([np.ones(len(places)), is_hit, gains]))
        rows.append((kind, 0, replicated_sums(of_pairs, users, given.value.replicates, given.value.seed)))
    yield sums_batch(int(users[0]) % given.value.n_shares, rows)


def draw_negatives(user: int, taken: Int32Array, given: SampledInput) -> Int32Array:
    """Draw different items at random, but none that is taken: int32 (n_negatives,), -1 where there are too few."""
    wanted = given.n_negatives
    bits = random_bits(np.array([user]), 2 * (wanted + len(taken)) + 16, given.seed + 1)[0]
    places = (bits % np.uint64(len(given.item_index))).astype(np.int64)
    drawn = given.item_index[places[np.sort(np.unique(places, return_index=True)[1])]]
    drawn = drawn[~np.isin(drawn, taken)]
    if len(drawn) < wanted:
        # A small catalogue: the rest in the order of the items.
        rest = given.item_index[~np.isin(given.item_index, np.concatenate([drawn, taken]))]
        drawn = np.concatenate([drawn, rest])
    return np.concatenate([drawn[:wanted], np.full(max(0, wanted - len(drawn)), -1)]).astype(np.int32)


def _places(
    kind: int,
    vectors: Float32Array,
    owner: np.ndarray[tuple[int], np.dtype[np.int64]],
    positives: Int32Array,
    drawn: list[Int32Array],
    given: SampledInput,
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    items = np.column_stack([positives, np.stack([drawn[row] for row in owner])])
    if kind == 1:
        scores = given.popularity[items]
    else:
        flat_items = items.ravel()
        rows = vectors[np.repeat(owner, items.shape[1])]
        scores = pair_scores(rows, given.vectors[flat_items], given.global_mean, given.biases).reshape(items.shape)
    scores = np.where(items >= 0, scores, np.nan)
    return sampled_positions(scores[:, 0], scores[:, 1:])


def _user_vectors(table: pa.Table, given: SampledInput) -> Float32Array:
    """Return the users' vectors (m, width); zero where a user has none."""
    vectors = np.zeros((table.num_rows, given.vectors.shape[1]), np.float32)
    has_vector = table["factors"].is_valid().combine_chunks()
    known = table.filter(has_vector)
    if known.num_rows:
        columns = flat(known["factors"]), flat(known["bias"])
        vectors[has_vector.to_numpy(zero_copy_only=False)] = vectors_from_columns(*columns, biases=given.biases)
    return vectors
