"""Errors of several predictors on held-out ratings or labels, with intervals over users, by segment; calibration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.evaluate.estimates import Estimate, ratio, single
from recsys_spark.evaluate.exact_auc import measure_auc
from recsys_spark.evaluate.shares import (
    ALL,
    SUMS_SCHEMA,
    add_up_shares,
    by_share,
    group_names,
    groups_of,
    number_of_shares,
    sums_batch,
    whole_share,
)
from recsys_spark.kernels.arrays import BoolArray, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.bootstrap import replicated_sums
from recsys_spark.kernels.label_metrics import auc_of_rows, log_losses
from recsys_spark.shared_value import SharedValue, shared

N_BINS = 10
_CALIBRATION = -1
# Per user: ratings, losses, absolute errors, ratings and their squares, AUC within the user, whether it has one.
_COLUMNS = 7


@dataclass(frozen=True, slots=True)
class ErrorInput:
    """What tasks need beside the held-out ratings and their predictions.

    Attributes
    ----------
    predictors : tuple of str
        Columns with predictions.
    are_labels : bool
        Whether ratings are labels 0 and 1, and predictions probabilities.
    relevant : float or None
        Ratings from here up are ones for the area under the ROC curve; None: there is no such thing.
    limits : tuple of float, or None
        Predictions are cut to this range.
    center : float
        Of the ratings, which keeps their sums of squares small.
    edges : float64 array of shape (N_BINS - 1,)
        Between the bins of the calibration, of the first predictor.
    item_class : int32 array of shape (n_items,)
    class_names : tuple of str
    activity_bounds : tuple of int
    n_shares, replicates, seed : int
    """

    predictors: tuple[str, ...]
    are_labels: bool
    relevant: float | None
    limits: tuple[float, float] | None
    center: float
    edges: Float64Array
    item_class: Int32Array
    class_names: tuple[str, ...]
    activity_bounds: tuple[int, ...]
    replicates: int
    seed: int
    n_shares: int = 1


@dataclass(frozen=True, slots=True)
class Errors:
    """What was measured, and the calibration of the first predictor: a dict per bin that has predictions."""

    estimates: list[Estimate]
    calibration: list[dict[str, float]]


def measure_errors(scored: DataFrame, given: ErrorInput) -> Errors:
    """Compare predictions with held-out ratings.

    Parameters
    ----------
    scored : DataFrame
        ``user_index, item_index, rating, n_known`` (training ratings of the user) and a column per predictor; read
        several times.
    given : ErrorInput
        Goes to every task; ``n_shares`` is chosen here.

    Returns
    -------
    Errors
        Of ratings: ``rmse``, ``mae``, ``r2``; of labels: ``log_loss``. ``auc`` (of all pairs) and ``auc_per_user`` (its
        mean over the users who have both) where there are ones and zeros. The same for every number of partitions.

    Notes
    -----
    One shuffle by user, and for the AUC one by score per predictor. The driver receives sums per share of the users.
    """
    n_pairs = scored.count()
    if n_pairs == 0:
        return Errors([], [])
    given = replace(given, n_shares=number_of_shares(n_pairs))
    with shared(scored.sparkSession, given) as everywhere:
        sums = by_share(scored, given.n_shares).mapInArrow(partial(sum_errors, given=everywhere), SUMS_SCHEMA)
        found = add_up_shares(sums, _COLUMNS)
    calibration = found.pop((0, _CALIBRATION)).reshape(N_BINS, _COLUMNS)
    names = segment_names(given)
    estimates = [
        estimate
        for (kind, segment), part in sorted(found.items())
        for estimate in _estimates(given, given.predictors[kind], names[segment], part)
    ]
    if given.are_labels or given.relevant is not None:
        is_one = F.col("rating") >= F.lit(0.5 if given.are_labels else given.relevant)
        for name in given.predictors:
            area = measure_auc(scored.select(F.col(name).alias("score"), is_one.alias("is_one")), given.n_shares)
            estimates.append(single(name, "auc", area, n_pairs))
    estimates = [estimate for estimate in estimates if np.isfinite(estimate.value)]
    return Errors(estimates, _bins(calibration))


def segment_names(given: ErrorInput) -> list[str]:
    """Return the segments in the order in which `sum_errors` numbers them."""
    return [ALL, *group_names(given.activity_bounds), *given.class_names]


def sum_errors(batches: Iterator[pa.RecordBatch], given: SharedValue[ErrorInput]) -> Iterator[pa.RecordBatch]:
    """Worker: a share of the held-out ratings with predictions -> sums over its users, per predictor and segment."""
    table = whole_share(batches)
    if table is None:
        return
    table = table.sort_by([("user_index", "ascending"), ("item_index", "ascending")])
    users = table["user_index"].to_numpy()
    ratings = table["rating"].to_numpy().astype(np.float64)
    rows: list[tuple[int, int, Float64Array]] = []
    for kind, name in enumerate(given.value.predictors):
        predicted = table[name].to_numpy()
        if given.value.limits is not None:
            predicted = np.clip(predicted, *given.value.limits)
        for segment, mask in enumerate(_masks(table, given.value)):
            if mask.any():
                sums = _sums_of_users(users[mask], ratings[mask], predicted[mask], given.value)
                rows.append((kind, segment, sums))
        if kind == 0:
            rows.append((0, _CALIBRATION, _calibration_sums(predicted, ratings, given.value.edges)))
    yield sums_batch(int(users[0]) % given.value.n_shares, rows)


def _masks(table: pa.Table, given: ErrorInput) -> list[BoolArray]:
    group = groups_of(table["n_known"].to_numpy(), given.activity_bounds)
    item_class = given.item_class[table["item_index"].to_numpy()]
    n_groups = len(group_names(given.activity_bounds))
    return [
        np.ones(table.num_rows, np.bool_),
        *(group == number for number in range(n_groups)),
        *(item_class == number for number in range(len(given.class_names))),
    ]


def _sums_of_users(
    users: Int32Array, ratings: Float64Array, predicted: Float64Array, given: ErrorInput
) -> Float64Array:
    """Return (1 + replicates, 7) sums over users; the rows are sorted by user."""
    starts: Int64Array = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    errors, centered = predicted - ratings, ratings - given.center
    first = log_losses(predicted, ratings) if given.are_labels else errors**2
    of_pairs = np.stack([np.ones(len(users)), first, np.abs(errors), centered, centered**2], axis=1)
    of_users = np.add.reduceat(of_pairs, starts, axis=0)
    threshold = 0.5 if given.are_labels else given.relevant
    areas = np.full(len(starts), np.nan)
    if threshold is not None:
        areas = auc_of_rows(np.concatenate([starts, [len(users)]]), predicted, ratings >= threshold)
    values = np.column_stack([of_users, areas, np.isfinite(areas).astype(np.float64)])
    return replicated_sums(values, users[starts], given.replicates, given.seed)


def _calibration_sums(predicted: Float64Array, ratings: Float64Array, edges: Float64Array) -> Float64Array:
    """Return one row of sums per bin, as wide as the others: number, predictions, ratings, zeros."""
    bins = np.searchsorted(edges, predicted, side="right")
    sums = np.zeros((N_BINS, _COLUMNS))
    for column, values in enumerate((np.ones(len(bins)), predicted, ratings)):
        sums[:, column] = np.bincount(bins, values, N_BINS)
    return sums


def _estimates(given: ErrorInput, name: str, segment: str, sums: Float64Array) -> list[Estimate]:
    n, first, absolute, centered, squares, areas, n_areas = sums.T
    metrics = {"log_loss": ratio(first, n)}
    if not given.are_labels:
        spread = squares - ratio(centered**2, n)
        metrics = {
            "rmse": np.sqrt(ratio(first, n)),
            "mae": ratio(absolute, n),
            "r2": 1.0 - ratio(first, spread),
        }
    found = [Estimate(name, metric, values, int(n[0]), segment) for metric, values in metrics.items()]
    return [*found, Estimate(name, "auc_per_user", ratio(areas, n_areas), int(n_areas[0]), segment)]


def _bins(sums: Float64Array) -> list[dict[str, float]]:
    return [
        {"n": int(n), "predicted": float(predicted / n), "actual": float(actual / n)}
        for n, predicted, actual in sums[:, :3]
        if n
    ]


def calibration_error(calibration: list[dict[str, float]]) -> float:
    """Return the mean distance of predictions and ratings over the bins, weighted by their sizes.

    References
    ----------
    Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning. AAAI.
    """
    total = sum(part["n"] for part in calibration)
    return sum(part["n"] * abs(part["predicted"] - part["actual"]) for part in calibration) / total
