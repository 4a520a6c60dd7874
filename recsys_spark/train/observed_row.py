"""What the ratings of one row are to a model: `further_observations` for a few ratings at hand, without Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array
from recsys_spark.train.observations import LEAST_WEIGHT

if TYPE_CHECKING:
    from recsys_spark.config import TrainConfig


def observed_row(
    ratings: Float64Array,
    weights: Float64Array | None,
    days: Float64Array | None,
    config: TrainConfig,
    constant: float,
) -> tuple[BoolArray, Float32Array, Float32Array | None]:
    """Turn the ratings of one row into observations.

    Parameters
    ----------
    ratings : float64 array of shape (n,)
        In the precision of ``indexed_ratings``.
    weights : float64 array of shape (n,) or None
        None: the log has none.
    days : float64 array of shape (n,) or None
        Before the latest rating of all; needed where there is a half-life.
    config : TrainConfig
        Of the model.
    constant : float
        Part of every score of the model.

    Returns
    -------
    is_fitted : bool array of shape (n,)
        Which ratings are observations.
    values : float32 array of shape (n_fitted,)
    weights : float32 array of shape (n_fitted,) or None
    """
    is_fitted = np.ones(len(ratings), np.bool_)
    if config.loss == "logistic":
        threshold = config.positive_threshold
        values = ratings if threshold is None else (ratings >= threshold).astype(np.float64)
    elif config.loss in ("implicit", "ials"):
        values = ratings
        if config.positive_threshold is not None:
            is_fitted = ratings >= config.positive_threshold
    else:
        values = ratings - constant
    if config.half_life_days is not None:
        assert days is not None
        decay = 0.5 ** (days / config.half_life_days)
        weights = decay if weights is None else weights * decay
    counted = None if weights is None else np.maximum(weights, LEAST_WEIGHT)[is_fitted].astype(np.float32)
    return is_fitted, values[is_fitted].astype(np.float32), counted
