from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.objective import Regularization, Ridge, penalty, row_penalties
from tests import reference_als


@pytest.mark.parametrize("reg_exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("biases", [False, True])
def test_penalties_equal_the_reference(reg_exponent, biases):
    degrees = np.array([0, 1, 2, 700])
    found = row_penalties(degrees, 3, Regularization(0.1, 0.3, reg_exponent, biases))
    expected = [reference_als.penalty_of_row(d, 3, 0.1, 0.3, reg_exponent, biases) for d in degrees]
    assert_allclose(found, expected, rtol=1e-15)


def test_unobserved_pairs_count_towards_the_degree():
    regularization = Regularization(0.1, 0.3, 0.5, True)
    found = row_penalties(np.array([3, 8]), 2, regularization, unobserved_degree=2.5)
    assert_allclose(found, [[0.1 * 5.5**0.5, 0.3 * 5.5**0.5], [0.1 * 10.5**0.5, 0.3 * 10.5**0.5]], rtol=1e-15)


def test_penalty_is_a_plain_sum():
    vectors = np.array([[1.0, -2.0], [0.5, 0.0]], dtype=np.float32)
    assert_allclose(penalty(vectors, np.array([[1.0, 0.5], [4.0, 1.0]])), [3.0, 1.0])


def test_half_gradient_of_the_ridge_is_that_of_its_quadratic():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    ridge = Ridge(rng.uniform(size=(2, 3)), rng.normal(size=3), root @ root.T)
    vectors = rng.normal(size=(2, 3))

    def value(row, vector):
        return vector @ (np.diag(ridge.diagonal[row]) + ridge.matrix) @ vector - 2 * ridge.pull @ vector

    for row in range(2):
        for entry, step in enumerate(1e-6 * np.eye(3)):
            slope = (value(row, vectors[row] + step) - value(row, vectors[row] - step)) / 2e-6
            assert_allclose(2 * ridge.half_gradient(vectors)[row, entry], slope, rtol=1e-6)


@pytest.mark.parametrize("name", ["reg_param", "bias_reg_param", "reg_exponent"])
@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf])
def test_penalties_without_a_minimum_are_rejected(name, wrong):
    arguments = {"reg_param": 0.1, "bias_reg_param": 0.1, "reg_exponent": 1.0, "biases": True, name: wrong}
    with pytest.raises(ShapeError, match=f"{name} must be finite and >= 0, got {wrong}"):
        Regularization(**arguments)
