"""Block coordinate steps, against the textbook's: each block is minimised with all others where they are by then."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.kernels.normal_equations import form_normal_equations
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows, predict
from recsys_spark.kernels.subspace import SUBSPACE_SIZE, solve_subspace, solve_subspace_formed

LENGTH = 90


def block_after_block(matrix, right_side, vector):
    vector = vector.copy()
    for first in range(0, len(vector), SUBSPACE_SIZE):
        part = slice(first, first + SUBSPACE_SIZE)
        vector[part] += np.linalg.solve(matrix[part, part], right_side[part] - matrix[part] @ vector)
    return vector


@pytest.mark.parametrize("width", [5, SUBSPACE_SIZE, SUBSPACE_SIZE + 1, 2 * SUBSPACE_SIZE + 6])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pulled", [False, True])
def test_one_pass_over_all_blocks_is_that_of_the_textbook(width, weighted, pulled):
    rng = np.random.default_rng(width)
    design = rng.normal(size=(3, LENGTH, width)).astype(np.float32)
    curvature = rng.uniform(0.2, 2.0, size=(3, LENGTH)).astype(np.float32) if weighted else None
    rows = WeightedRows(design, rng.normal(size=(3, LENGTH)).astype(np.float32), curvature)
    ridge = Ridge(rng.uniform(0.5, 2.0, size=(3, width)), rng.normal(size=width) if pulled else None)
    start = rng.normal(size=(3, width)).astype(np.float32)
    free = solve_subspace(rows, ridge, start, predict(design, start))
    formed = solve_subspace_formed(form_normal_equations(rows), ridge, start)
    for row in range(3):
        wide = design[row].astype(np.float64)
        weights = np.ones(LENGTH) if curvature is None else curvature[row].astype(np.float64)
        matrix = wide.T @ (weights[:, None] * wide) + np.diag(ridge.diagonal[row])
        right_side = wide.T @ rows.linear[row].astype(np.float64) + (0.0 if ridge.pull is None else ridge.pull)
        expected = block_after_block(matrix, right_side, start[row].astype(np.float64))
        assert_allclose(free[row], expected, atol=2e-4)
        assert_allclose(formed[row], expected, atol=2e-4)
