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
from recsys_spark.evaluate.exact_auc import measure_areas
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
from recsys_spark.kernels.arrays import Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.bootstrap import replicated_sums
from recsys_spark.kernels.label_metrics import auc_of_rows, log_losses
from recsys_spark.shared_value import SharedValue, shared

N_BINS = 10
_CALIBRATION = -1
# Per user: ratings, losses, absolute errors, ratings and their squares, AUC within the user, whether it has one.
_COLUMNS = 7
# Per bin: ratings, their predictions, themselves.
_OF_BIN = 3
# What they add to the sums, of four predictors and five parts of the items, is 18 MB.
_USERS_AT_ONCE = 1 << 14


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
    n_pairs : int
        Held-out ratings.
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
    n_pairs: int
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
        Of ratings: ``rmse``, ``mae``, ``r2``; of labels: ``log_loss``. Where there are ones and zeros: ``auc`` (of all
        pairs, and of those of each group of users) and ``auc_per_user`` (its mean over the users who have both).
        ``calibration_error`` of the first predictor.
        The same for every number of partitions.

    Notes
    -----
    Two jobs: one shuffle by user, and for the AUC one by score, of all predictors together. The driver receives sums
    per share of the users, and a few numbers per range of scores.
    """
    if given.n_pairs == 0:
        return Errors([], [])
    given = replace(given, n_shares=number_of_shares(given.n_pairs))
    with shared(scored.sparkSession, given) as everywhere:
        sums = by_share(scored, given.n_shares).mapInArrow(partial(sum_errors, given=everywhere), SUMS_SCHEMA)
        found = add_up_shares(sums, _COLUMNS)
    calibration = found.pop((0, _CALIBRATION)).reshape(-1, N_BINS, _COLUMNS)
    names = segment_names(given)
    estimates = [
        estimate
        for (kind, segment), part in sorted(found.items())
        for estimate in _estimates(given, given.predictors[kind], names[segment], part)
    ]
    distances = calibration_errors(calibration)
    estimates.append(Estimate(given.predictors[0], "calibration_error", distances, given.n_pairs))
    estimates += _areas(scored, given)
    estimates = [estimate for estimate in estimates if np.isfinite(estimate.value)]
    return Errors(estimates, _bins(calibration[0]))


def _areas(scored: DataFrame, given: ErrorInput) -> list[Estimate]:
    """Return the AUC of every predictor over all pairs, and over those of each group of users."""
    threshold = 0.5 if given.are_labels else given.relevant
    if threshold is None:
        return []
    by_kind = [
        F.struct(F.lit(kind).alias("kind"), F.col(name).alias("score")) for kind, name in enumerate(given.predictors)
    ]
    is_one = (F.col("rating") >= F.lit(threshold)).alias("is_one")
    of_kinds = F.explode(F.array(*by_kind)).alias("of_kind")
    pairs = scored.select(is_one, F.col("n_known").cast("int").alias("n_known"), of_kinds)
    n_partitions = 1 if given.n_shares == 1 else given.n_shares * len(by_kind)
    areas = measure_areas(pairs.select("of_kind.*", "is_one", "n_known"), n_partitions, given.activity_bounds)
    names = segment_names(given)
    return [
        replace(single(given.predictors[kind], "auc", area.value, area.n_pairs), segment=names[segment])
        for (kind, segment), area in sorted(areas.items())
    ]


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
    bounds = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1], [True]]))
    sums = np.zeros(_shape_of_sums(given.value))
    calibration = np.zeros((1 + given.value.replicates, N_BINS, _COLUMNS))
    for first in range(0, len(bounds) - 1, _USERS_AT_ONCE):
        part = bounds[first : first + _USERS_AT_ONCE + 1]
        pairs = table.slice(part[0], part[-1] - part[0])
        _add_users(sums, calibration, pairs, part - part[0], given.value)
    rows = [*_rows_of_sums(sums, given.value), (0, _CALIBRATION, calibration)]
    yield sums_batch(int(users[0]) % given.value.n_shares, rows)


def _shape_of_sums(given: ErrorInput) -> tuple[int, int, int, int, int]:
    """Return (groups of users, 1 + replicates, predictors, all items and their classes, columns)."""
    n_parts = 1 + len(given.class_names)
    n_groups = len(group_names(given.activity_bounds))
    return n_groups, 1 + given.replicates, len(given.predictors), n_parts, _COLUMNS


def _add_users(
    sums: Float64Array, calibration: Float64Array, pairs: pa.Table, indptr: Int64Array, given: ErrorInput
) -> None:
    """Add some users to the sums of their groups, and to the bins; of each of them, all pairs lie together."""
    starts = indptr[:-1]
    users = pairs["user_index"].to_numpy()[starts]
    values = [_values_of_users(pairs, name, indptr, given).reshape(len(users), -1) for name in given.predictors]
    values.append(_bins_of_users(pairs, indptr, given).reshape(len(users), -1))
    together = np.concatenate(values, axis=1)
    n_bins = values[-1].shape[1]
    group = groups_of(pairs["n_known"].to_numpy()[starts], given.activity_bounds)
    # A user is in one group, so that the replicates of a user are drawn once for everything that is measured.
    for number in np.unique(group):
        mine = group == number
        found = replicated_sums(together[mine], users[mine], given.replicates, given.seed)
        sums[number] += found[:, :-n_bins].reshape(sums.shape[1:])
        calibration[..., :_OF_BIN] += found[:, -n_bins:].reshape(-1, N_BINS, _OF_BIN)


def _rows_of_sums(sums: Float64Array, given: ErrorInput) -> Iterator[tuple[int, int, Float64Array]]:
    """Yield (predictor, segment, sums) in the order of `segment_names`: of what has any pair."""
    n_groups = len(sums)
    over_groups = sums.sum(axis=0)
    for kind in range(len(given.predictors)):
        segments = [over_groups[:, kind, 0], *sums[:, :, kind, 0]]
        segments += [over_groups[:, kind, 1 + part] for part in range(len(given.class_names))]
        assert len(segments) == 1 + n_groups + len(given.class_names)
        yield from ((kind, number, of_segment) for number, of_segment in enumerate(segments) if of_segment[0, 0])


def _values_of_users(pairs: pa.Table, name: str, indptr: Int64Array, given: ErrorInput) -> Float64Array:
    """Return what each user adds to the sums of a predictor: float64 (m, all items and their classes, 7)."""
    ratings, predicted, scores = _ratings(pairs), _predictions(pairs, name, given), pairs[name].to_numpy()
    errors, centered = predicted - ratings, ratings - given.center
    first = log_losses(predicted, ratings) if given.are_labels else errors**2
    of_pairs = np.stack([np.ones(len(ratings)), first, np.abs(errors), centered, centered**2], axis=1)
    item_class = given.item_class[pairs["item_index"].to_numpy()]
    threshold = 0.5 if given.are_labels else given.relevant
    values = np.zeros((len(indptr) - 1, 1 + len(given.class_names), _COLUMNS))
    for part in range(values.shape[1]):
        is_in = np.ones(len(ratings), np.bool_) if part == 0 else item_class == part - 1
        values[:, part, :5] = np.add.reduceat(of_pairs * is_in[:, None], indptr[:-1], axis=0)
        if threshold is not None:
            kept: Int64Array = np.concatenate([[0], np.cumsum(is_in)])[indptr]
            # Of the scores as they are: cut to the range, those beyond it would tie.
            areas = auc_of_rows(kept, scores[is_in], ratings[is_in] >= threshold)
            values[:, part, 5], values[:, part, 6] = np.nan_to_num(areas), np.isfinite(areas)
    return values


def _ratings(pairs: pa.Table) -> Float64Array:
    return np.asarray(pairs["rating"].to_numpy(), np.float64)


def _predictions(pairs: pa.Table, name: str, given: ErrorInput) -> Float64Array:
    predicted = pairs[name].to_numpy()
    return np.asarray(predicted if given.limits is None else np.clip(predicted, *given.limits))


def _bins_of_users(pairs: pa.Table, indptr: Int64Array, given: ErrorInput) -> Float64Array:
    """Return what each user adds to the bins of the first predictor: number, predictions, ratings."""
    predicted = _predictions(pairs, given.predictors[0], given)
    owner = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    place = owner * N_BINS + np.searchsorted(given.edges, predicted, side="right")
    counted = np.ones(len(predicted)), predicted, _ratings(pairs)
    added = [np.bincount(place, weights, (len(indptr) - 1) * N_BINS) for weights in counted]
    return np.asarray(np.stack(added, axis=1), np.float64).reshape(-1, N_BINS, _OF_BIN)


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


def calibration_errors(calibration: Float64Array) -> Float64Array:
    """Return the mean distance of predictions and ratings over the bins, weighted by their sizes.

    Parameters
    ----------
    calibration : float64 array of shape (m, N_BINS, 3 or more)
        Number, sum of predictions and sum of ratings of each bin, m times.

    Returns
    -------
    float64 array of shape (m,)

    References
    ----------
    Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning. AAAI.
    """
    distances = np.abs(calibration[..., 1] - calibration[..., 2]).sum(axis=1)
    return ratio(distances, calibration[..., 0].sum(axis=1))
