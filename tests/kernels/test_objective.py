from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.objective import Regularization, penalty, row_penalties, squared_error
from tests import reference_als


@pytest.mark.parametrize("reg_exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("biases", [False, True])
def test_penalties_equal_the_reference(reg_exponent, biases):
    degrees = np.array([0, 1, 2, 700])
    found = row_penalties(degrees, 3, Regularization(0.1, 0.3, reg_exponent, biases))
    expected = [reference_als.penalty_of_row(d, 3, 0.1, 0.3, reg_exponent, biases) for d in degrees]
    assert_allclose(found, expected, rtol=1e-15)


def test_error_and_penalty_are_plain_sums():
    residuals = np.array([[1.0, -2.0, 0.0], [0.5, 0.0, 0.0]], dtype=np.float32)
    assert_allclose(squared_error(residuals), [5.0, 0.25])
    assert_allclose(penalty(residuals[:, :2], np.array([[1.0, 0.5], [4.0, 1.0]])), [3.0, 1.0])


@pytest.mark.parametrize("name", ["reg_param", "bias_reg_param", "reg_exponent"])
@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf])
def test_penalties_without_a_minimum_are_rejected(name, wrong):
    arguments = {"reg_param": 0.1, "bias_reg_param": 0.1, "reg_exponent": 1.0, "biases": True, name: wrong}
    with pytest.raises(ShapeError, match=f"{name} must be finite and >= 0, got {wrong}"):
        Regularization(**arguments)
