from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.fixed_side import rotate
from recsys_spark.kernels.gramian import column_exponents, gramian_of, partial_gramian, side_gramian


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 9000), cuts=st.lists(st.integers(0, 9000), max_size=5))
def test_any_split_and_order_gives_equal_bits(seed, n, cuts):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, 4)) * [1e-6, 1.0, 30.0, 0.0]).astype(np.float32)
    exponents = column_exponents(vectors)
    expected = gramian_of(partial_gramian(vectors, exponents), exponents)
    bounds = sorted({0, n, *(min(cut, n) for cut in cuts)})
    parts = [vectors[rng.permutation(np.arange(low, high))] for low, high in pairwise(bounds)]
    combined = np.maximum.reduce([column_exponents(part) for part in parts] or [exponents])
    assert_array_equal(combined, exponents)
    total = partial_gramian(vectors[:0], exponents)
    for part in parts[::-1]:
        total = total + partial_gramian(part, exponents)
    assert_array_equal(gramian_of(total, exponents), expected)


def test_gramian_is_that_of_the_vectors():
    vectors = np.random.default_rng(0).normal(size=(10_000, 7)).astype(np.float32)
    wide = vectors.astype(np.float64)
    assert_allclose(side_gramian(vectors), wide.T @ wide, atol=2e-7 * 10_000)


def test_largest_entries_do_not_overflow():
    vectors = np.full((5000, 2), 3.9, np.float32)
    vectors[:, 1] = -1e30
    wide = vectors.astype(np.float64)
    assert_allclose(side_gramian(vectors), wide.T @ wide, rtol=1e-6)


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(NumericalError, match="must be finite"):
        side_gramian(np.array([[np.inf]], np.float32))


@pytest.mark.parametrize("width", [1, 3, 33, 64, 65, 129])
def test_rotated_rows_do_not_depend_on_their_place(width):
    rng = np.random.default_rng(width)
    vectors, transform = rng.normal(size=(700, width)).astype(np.float32), rng.normal(size=(width, width))
    expected = rotate(vectors, transform)
    assert_allclose(expected, vectors @ transform.T, rtol=1e-4, atol=1e-4 * np.sqrt(width))
    order = rng.permutation(700)
    assert_array_equal(rotate(vectors[order], transform), expected[order])
    for row in (0, 255, 256, 699):
        assert_array_equal(rotate(vectors[row : row + 1], transform), expected[row : row + 1])
