from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.row_batch import BatchGatherer, predict
from tests.kernels.problems import block_of_degrees, random_vectors


def test_rows_are_gathered_in_slices_and_padded_with_zeros():
    rng = np.random.default_rng(2)
    block = block_of_degrees([3, 7, 5], 9, rng)
    fixed = make_fixed_side(random_vectors(9, 4, rng), 3.4, True)
    gatherer = BatchGatherer(block, fixed)
    rows = np.array([2, 0, 1])
    for first in (0, 4, 8):
        batch = gatherer.gather(rows, 4, first)
        for place, row in enumerate(rows):
            own = slice(block.indptr[row] + min(first, block.degrees[row]), block.indptr[row + 1])
            columns, values = block.column_index[own][:4], block.values[own][:4]
            expected = np.zeros((4, 4), dtype=np.float32)
            expected[: len(columns)] = fixed.design[columns]
            assert_array_equal(batch.design[place], expected)
            linear = batch.quadratic().linear[place]
            assert_array_equal(linear[: len(columns)], values - fixed.offsets[columns])
            assert_array_equal(linear[len(columns) :], 0)


@pytest.mark.parametrize("weighted", [False, True])
def test_residuals_and_slopes_are_those_of_the_quadratic(weighted):
    rng = np.random.default_rng(2)
    block = block_of_degrees([3, 7], 9, rng)
    weights = rng.uniform(0.1, 2.0, size=10).astype(np.float32) if weighted else np.ones(10, np.float32)
    block = replace(block, weights=weights if weighted else None)
    gatherer = BatchGatherer(block, make_fixed_side(random_vectors(9, 4, rng), 3.4, True))
    batch, vectors = gatherer.gather(np.array([0, 1]), 8), random_vectors(2, 4, rng)
    residuals = batch.quadratic().residuals(predict(batch.design, vectors))
    for row in range(2):
        own = slice(block.indptr[row], block.indptr[row + 1])
        errors = block.values[own] - batch.scores(vectors)[row, : block.degrees[row]]
        assert_allclose(residuals[row, : len(errors)], weights[own] * errors, atol=1e-5)
        assert_allclose(batch.observed_loss(predict(batch.design, vectors))[row], weights[own] @ errors**2, rtol=1e-5)
        slope = batch.design[row].T @ residuals[row]
        assert_allclose(batch.slope(vectors)[row], slope, atol=1e-4)
        curvature = batch.design[row, : len(errors)].T @ (weights[own, None] * batch.design[row, : len(errors)])
        assert batch.steepest()[row] >= np.linalg.eigvalsh(curvature)[-1] * (1 - 1e-5)
