from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.fixed_side import make_fixed_side

VECTORS = np.array([[1.0, 2.0], [3.0, -4.0]], dtype=np.float32)


def test_biases_move_into_the_offsets():
    fixed = make_fixed_side(VECTORS, 3.5, True)
    assert_array_equal(fixed.design, np.array([[1, 1], [3, 1], [0, 0]], dtype=np.float32), strict=True)
    assert_allclose(fixed.offsets, [5.5, -0.5, 0.0])
    assert fixed.offsets.dtype == np.float32
    assert (fixed.n_fixed, fixed.width) == (2, 2)


def test_without_biases_all_columns_are_factors():
    fixed = make_fixed_side(VECTORS, 3.5, False)
    assert_array_equal(fixed.design[:-1], VECTORS)
    assert_array_equal(fixed.offsets, np.array([3.5, 3.5, 0.0], dtype=np.float32))
    assert fixed.design[:-1].base is not VECTORS


def test_no_vectors_leave_the_padding_row():
    assert make_fixed_side(np.ones((0, 2), dtype=np.float32), 3.5, True).design.shape == (1, 2)


@pytest.mark.parametrize("shape", [(3,), (3, 0)])
def test_wrong_shapes_are_rejected(shape):
    with pytest.raises(ShapeError, match="width >= 1"):
        make_fixed_side(np.ones(shape, dtype=np.float32), 3.5, False)
