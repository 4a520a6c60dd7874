from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.row_batch import BatchGatherer
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
            assert_array_equal(batch.targets[place, : len(columns)], values - fixed.offsets[columns])
            assert_array_equal(batch.targets[place, len(columns) :], 0)


def test_residuals_are_targets_minus_predictions():
    rng = np.random.default_rng(2)
    block = block_of_degrees([3, 7], 9, rng)
    gatherer = BatchGatherer(block, make_fixed_side(random_vectors(9, 4, rng), 3.4, True))
    batch, vectors = gatherer.gather(np.array([0, 1]), 8), random_vectors(2, 4, rng)
    expected = [t - z @ v for t, z, v in zip(batch.targets, batch.design, vectors, strict=True)]
    assert_allclose(batch.residuals(vectors), expected, atol=1e-5)
