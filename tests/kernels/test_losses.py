from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.losses import Loss, logistic_terms, observed_loss, quadratic_terms, sigmoid

VALUES = np.array([[4.0, 0.5, -1.0, 0.0]], np.float32)
WEIGHTS = np.array([[2.0, 1.0, 0.5, 3.0]], np.float32)
QUADRATIC = [Loss("squared"), Loss("implicit", alpha=1.5), Loss("ials", unobserved_weight=0.1)]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", QUADRATIC, ids=lambda loss: loss.name)
def test_quadratic_terms_are_the_derivatives_of_the_loss(loss, weights):
    curvature, linear = quadratic_terms(loss, VALUES, weights)
    curvature = np.ones_like(VALUES) if curvature is None else curvature
    step = 0.5
    at = [observed_loss(loss, VALUES, weights, np.full_like(VALUES, score)) for score in (-step, 0.0, step)]
    assert_allclose((at[2] - at[0]) / (4 * step), -linear, rtol=1e-6, atol=1e-6)
    assert_allclose((at[2] - 2 * at[1] + at[0]) / (2 * step**2), curvature, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_logistic_terms_are_the_derivatives_of_the_cross_entropy(weights):
    labels = np.array([[1.0, 0.0, 1.0, 0.0]], np.float32)
    scores = np.array([[-2.0, 0.0, 0.5, 3.0]], np.float32)
    curvature, slope = logistic_terms(labels, weights, scores)
    step, loss = np.float32(2**-7), Loss("logistic")
    at = [observed_loss(loss, labels, weights, scores + shift) for shift in (-step, 0, step)]
    assert_allclose((at[2] - at[0]) / (4 * step), -slope, rtol=1e-4, atol=1e-5)
    assert_allclose((at[2] - 2 * at[1] + at[0]) / (2 * step**2), curvature, rtol=1e-3, atol=1e-4)


def test_logistic_loss_is_finite_where_probabilities_are_not_told_apart_from_0_and_1():
    scores = np.array([[-1000.0, 1000.0, 40.0]], np.float32)
    assert_array_equal(sigmoid(scores), [[0.0, 1.0, 1.0]])
    found = observed_loss(Loss("logistic"), np.array([[1.0, 0.0, 1.0]], np.float32), None, scores)
    assert_allclose(found, [[2000.0, 2000.0, 2 * np.exp(-40.0)]], rtol=1e-6, atol=1e-14)


def test_what_a_row_solver_may_not_ask():
    with pytest.raises(ShapeError, match="logistic loss is not quadratic"):
        quadratic_terms(Loss("logistic"), VALUES, None)
    with pytest.raises(ShapeError, match="unobserved_weight must be finite and >= 0, got -1"):
        Loss("ials", unobserved_weight=-1)
    with pytest.raises(ShapeError, match="alpha must be finite"):
        Loss("implicit", alpha=np.inf)
