"""The losses: what an observation adds to the objective, and the quadratic that each row is solved from.

An observation of value r and weight c, scored s, adds

=========  ==========================================  ==========================  =====================
loss       term                                        curvature w                 linear term h
=========  ==========================================  ==========================  =====================
squared    c (r - s)**2                                c                           c r
implicit   (1 + w) (p - s)**2 - s**2                   alpha c abs(r)              (1 + w) p
ials       c (p - s)**2                                c                           c p
logistic   2 c (log(1 + exp(s)) - y s)                 c p(s) (1 - p(s))           w s + c (y - p(s))
=========  ==========================================  ==========================  =====================

with p = 1 where r > 0 and 0 elsewhere, y the label 0 or 1, and p(s) = 1 / (1 + exp(-s)). On top of that
*every* pair of a user and an item, observed or not, adds ``all_pairs_weight * (s - global_mean)**2``: 1 for
implicit, ``unobserved_weight`` for squared and ials. The minus s**2 of implicit takes back the one that this
counts twice, so that an observation has confidence 1 + alpha r and every other pair 1.

The logistic term is twice the binary cross-entropy (the deviance), so that one penalty fits all losses.

References
----------
Hu, Koren, Volinsky (2008), Collaborative filtering for implicit feedback datasets. doi:10.1109/ICDM.2008.22
Rendle, Krichene, Zhang, Koren (2022), Revisiting the performance of iALS. doi:10.1145/3523227.3548486
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array, FloatArray

LossName = Literal["squared", "implicit", "ials", "logistic"]


@dataclass(frozen=True, slots=True)
class Loss:
    """Which loss, and its own parameters.

    Attributes
    ----------
    name : {"squared", "implicit", "ials", "logistic"}
    alpha : float >= 0
        Confidence that a value adds; implicit only.
    unobserved_weight : float >= 0
        Weight of every pair; squared and ials only.
    """

    name: LossName
    alpha: float = 1.0
    unobserved_weight: float = 0.0

    def __post_init__(self) -> None:
        """Reject parameters that leave the objective without a minimum."""
        for name in ("alpha", "unobserved_weight"):
            amount = getattr(self, name)
            if not (amount >= 0 and np.isfinite(amount)):
                raise ShapeError(f"{name} must be finite and >= 0, got {amount}")

    @property
    def all_pairs_weight(self) -> float:
        """Weight of every pair of a user and an item, observed or not."""
        if self.name == "implicit":
            return 1.0
        return self.unobserved_weight if self.name in ("squared", "ials") else 0.0

    @property
    def counts_unobserved(self) -> bool:
        """Whether a row's degree, for its penalty, counts unobserved pairs at their weight (not in MLlib's)."""
        return self.name != "implicit"

    @property
    def is_quadratic(self) -> bool:
        """Whether a row is one linear system; else its solution takes Newton steps."""
        return self.name != "logistic"


SQUARED = Loss("squared")


class QuadraticTerms(NamedTuple):
    """Curvature w (None: all ones) and linear term h of observations; float32, of the values' shape."""

    curvature: Float32Array | None
    linear: Float32Array


def quadratic_terms(loss: Loss, values: Float32Array, weights: Float32Array | None) -> QuadraticTerms:
    """Return the terms of a quadratic loss; both linear terms of a zero value are zero.

    Parameters
    ----------
    loss : Loss
        A quadratic one.
    values, weights : float32 arrays of one shape
        Weights None: all ones.

    Raises
    ------
    ShapeError
        For the logistic loss, whose terms depend on the score; see `logistic_terms`.
    """
    if loss.name == "squared":
        return QuadraticTerms(weights, values if weights is None else weights * values)
    is_positive = (values > 0).astype(np.float32)
    if loss.name == "ials":
        return QuadraticTerms(weights, is_positive if weights is None else weights * is_positive)
    if loss.name == "implicit":
        confidence = np.abs(values) * np.float32(loss.alpha)
        if weights is not None:
            confidence *= weights
        return QuadraticTerms(confidence, (confidence + np.float32(1.0)) * is_positive)
    raise ShapeError(f"the {loss.name} loss is not quadratic")


def logistic_terms(
    labels: Float32Array, weights: Float32Array | None, scores: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Return the curvature c p (1 - p) and the slope c (y - p) of the logistic loss at given scores."""
    probability = sigmoid(scores)
    curvature, slope = probability * (1.0 - probability), labels - probability
    if weights is not None:
        curvature *= weights
        slope *= weights
    return curvature, slope


def sigmoid(scores: Float32Array) -> Float32Array:
    """Return 1 / (1 + exp(-scores)), float32, without overflow at either end."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)), dtype=np.float32)


def observed_loss(loss: Loss, values: Float32Array, weights: Float32Array | None, scores: FloatArray) -> Float64Array:
    """Return what each observation adds to the objective.

    Parameters
    ----------
    loss : Loss
    values, weights, scores : float arrays of one shape
        Weights None: all ones.

    Returns
    -------
    float64 array of the same shape
    """
    wide = scores.astype(np.float64)
    if loss.name == "squared":
        term = (values - wide) ** 2
    elif loss.name == "logistic":
        term = 2.0 * (np.logaddexp(0.0, wide) - values * wide)
    else:
        term = ((values > 0) - wide) ** 2
        if loss.name == "implicit":
            curvature, _ = quadratic_terms(loss, values, weights)
            assert curvature is not None
            return np.asarray(term * (1.0 + curvature.astype(np.float64)) - wide**2)
    return np.asarray(term if weights is None else term * weights)
