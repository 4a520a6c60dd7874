"""Sums of the evaluation -> measures with intervals, and what stands above what."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys_spark.evaluate.shares import ALL
from recsys_spark.kernels.arrays import Float64Array
from recsys_spark.kernels.bootstrap import interval

LOWER_IS_BETTER = ("rmse", "mae", "log_loss", "calibration_error")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measure of a model, or of a baseline.

    Attributes
    ----------
    model, metric, segment : str
    values : float64 array of shape (1 + replicates,)
        The value, and that of every replicate of the users; only the value where there are none.
    n : int
        Ratings, users or items it was measured on.
    """

    model: str
    metric: str
    values: Float64Array
    n: int
    segment: str = ALL

    @property
    def value(self) -> float:
        """The value itself."""
        return float(self.values[0])

    def row(self) -> tuple[str, str, str, float, float | None, float | None, int]:
        """Return the row of the ``metrics`` table."""
        low, high = (None if math.isnan(bound) else bound for bound in interval(self.values[1:]))
        return self.model, self.metric, self.segment, self.value, low, high, self.n


def single(model: str, metric: str, value: float, n: int) -> Estimate:
    """Return an estimate without replicates."""
    return Estimate(model, metric, np.array([value]), n)


def ratio(sums: Float64Array, counts: Float64Array) -> Float64Array:
    """Divide sums by counts; NaN where nothing was counted."""
    return np.asarray(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0))


def comparisons(estimates: list[Estimate], model: str, metric: str) -> list[dict[str, Any]]:
    """Set a model beside each baseline by one measure, on the same users in every replicate.

    Parameters
    ----------
    estimates : list of Estimate
    model : str
    metric : str

    Returns
    -------
    list of dict
        ``model, baseline, metric, advantage, low, high, verdict``: how much better the model is, with its 95% interval,
        and ``better``, ``worse`` or ``not told apart`` (the interval holds 0; without one, the sign decides).
    """
    found = {estimate.model: estimate for estimate in estimates if (estimate.metric, estimate.segment) == (metric, ALL)}
    if model not in found:
        return []
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    rows = []
    for baseline, other in found.items():
        if baseline != model:
            n = min(len(found[model].values), len(other.values))
            advantage = sign * (found[model].values[:n] - other.values[:n])
            low, high = interval(advantage[1:])
            rows.append(
                {
                    "model": model,
                    "baseline": baseline,
                    "metric": metric,
                    "advantage": float(advantage[0]),
                    "low": None if math.isnan(low) else low,
                    "high": None if math.isnan(high) else high,
                    "verdict": _verdict(float(advantage[0]), low, high),
                }
            )
    return rows


def _verdict(advantage: float, low: float, high: float) -> str:
    if low > 0 or (math.isnan(low) and advantage > 0):
        return "better"
    if high < 0 or (math.isnan(high) and advantage < 0):
        return "worse"
    return "not told apart"
