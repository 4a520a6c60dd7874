"""Scores of several models on the same held-out ratings, in one job: for a search, where a report would be too much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.ranking import relevant_items
from recsys_spark.evaluate.shares import by_share, flat, whole_share
from recsys_spark.kernels.arrays import Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.kernels.ranking_metrics import measures_of_lists
from recsys_spark.kernels.top_n import top_n
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train import Factorization

_SCHEMA = "share int, trial int, total double, n long"


@dataclass(frozen=True, slots=True)
class TrialInput:
    """What tasks are given.

    Attributes
    ----------
    models : dict of int to Factorization
        By number of the trial; both sides' vectors go to every task.
    metric : str
        ``rmse``, or a measure of lists.
    n : int
        Length of the lists.
    limits : tuple of float, or None
        Predicted ratings are cut to this range.
    n_shares : int
    """

    models: dict[int, Factorization]
    metric: str
    n: int
    limits: tuple[float, float] | None
    n_shares: int


def rows_to_score(
    known: DataFrame, held_out: DataFrame, metric: str, relevant_rating: float | None, n_shares: int
) -> DataFrame:
    """Return what models are scored on, each share of users in one partition.

    Parameters
    ----------
    known : DataFrame
        ``user_index, item_index`` of what the models are fitted to, and lists leave out.
    held_out : DataFrame
        ``user_index, item_index, rating``.
    metric : str
    relevant_rating : float or None
        Held-out ratings from here up count as hits; None: all.
    n_shares : int

    Returns
    -------
    DataFrame
        ``user_index``, and ``item_index, rating`` (for ``rmse``) or ``relevant, hidden`` (arrays). Shuffles: the
        ratings by user, and the result by share.
    """
    if metric == "rmse":
        return by_share(held_out.select("user_index", "item_index", "rating"), n_shares)
    relevant = relevant_items(held_out, relevant_rating)
    hidden = known.groupBy("user_index").agg(F.collect_list("item_index").alias("hidden"))
    return by_share(relevant.join(hidden, "user_index", "left"), n_shares)


def score_trials(rows: DataFrame, given: TrialInput) -> dict[int, float]:
    """Score models.

    Parameters
    ----------
    rows : DataFrame
        As `rows_to_score` returns it, persisted.
    given : TrialInput

    Returns
    -------
    dict of int to float
        By trial: the mean over users, or the RMSE; NaN where there is nothing to measure. Lists are by score alone;
        users that a model does not know get what its items score without them. The same for every number of
        partitions.

    Notes
    -----
    One job. The driver receives one row per share and trial.
    """
    with shared(rows.sparkSession, given) as everywhere:
        found = rows.mapInArrow(partial(score_share, given=everywhere), _SCHEMA).toArrow()
    scores = {}
    for number in given.models:
        mine = found.filter(pc.equal(found["trial"], number)).sort_by("share")
        n = sum(mine["n"].to_pylist())
        mean = math.fsum(mine["total"].to_pylist()) / n if n else math.nan
        scores[number] = math.sqrt(mean) if given.metric == "rmse" else mean
    return scores


def score_share(batches: Iterator[pa.RecordBatch], given: SharedValue[TrialInput]) -> Iterator[pa.RecordBatch]:
    """Worker: a share of the users -> sums of the measure over it, per trial."""
    table = whole_share(batches)
    if table is None:
        return
    is_rmse = given.value.metric == "rmse"
    table = table.sort_by([(name, "ascending") for name in ("user_index", *(["item_index"] if is_rmse else []))])
    rows = []
    for number, model in given.value.models.items():
        values = _squared_errors(table, model, given.value) if is_rmse else _list_measures(table, model, given.value)
        share = table["user_index"][0].as_py() % given.value.n_shares
        rows.append({"share": share, "trial": number, "total": math.fsum(values), "n": len(values)})
    yield pa.RecordBatch.from_pylist(rows, schema=_arrow_schema())


def _squared_errors(table: pa.Table, model: Factorization, given: TrialInput) -> Float64Array:
    users, items = table["user_index"].to_numpy(), table["item_index"].to_numpy()
    predicted = pair_scores(model.user_vectors[users], model.item_vectors[items], model.global_mean, model.biases)
    if not model.biases:
        is_known = (model.user_degrees[users] > 0) & (model.item_degrees[items] > 0)
        predicted = np.where(is_known, predicted, model.mean_rating)
    if given.limits is not None:
        predicted = np.clip(predicted, *given.limits)
    return np.asarray((predicted - table["rating"].to_numpy()) ** 2)


def _list_measures(table: pa.Table, model: Factorization, given: TrialInput) -> Float64Array:
    users = table["user_index"].to_numpy()
    items = np.flatnonzero(model.item_degrees).astype(np.int32)
    column_of_index = np.full(len(model.item_degrees), -1, np.int32)
    column_of_index[items] = np.arange(len(items), dtype=np.int32)
    hidden_indptr, hidden = _rows(flat(table["hidden"]))
    hidden = column_of_index[hidden]
    kept = np.concatenate([[0], np.cumsum(hidden >= 0)]).astype(np.int64)
    columns, _ = top_n(
        model.user_vectors[users],
        model.item_vectors[items],
        biases=model.biases,
        global_mean=model.global_mean,
        n=given.n,
        excluded_indptr=kept[hidden_indptr],
        excluded_columns=hidden[hidden >= 0],
    )
    lists = np.where(columns >= 0, items[columns], -1).astype(np.int32)
    indptr, relevant = _rows(flat(table["relevant"]))
    return measures_of_lists(lists, indptr, relevant, (given.n,))[f"{given.metric}@{given.n}"]


def _rows(lists: pa.ListArray) -> tuple[Int64Array, Int32Array]:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), lists.flatten().to_numpy(zero_copy_only=False)


def _arrow_schema() -> pa.Schema:
    return pa.schema([("share", pa.int32()), ("trial", pa.int32()), ("total", pa.float64()), ("n", pa.int64())])
