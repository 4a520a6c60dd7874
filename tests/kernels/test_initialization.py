from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.initialization import initial_factors

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def finalise(bits):
    """SplitMix64's output function, in Python integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def one_entry(seed, side, index, column, rank):
    """One factor, in Python integers."""
    key = finalise((seed + GAMMA) & MASK)
    key = finalise((key + (side + 1) * GAMMA) & MASK)
    row = finalise((index * GAMMA + key) & MASK)
    bits = finalise((row + (column + 1) * GAMMA) & MASK)
    total = sum((bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48))
    return np.float32((total - 131070) / np.sqrt((65536**2 - 1) / 3 * rank))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    side=st.integers(0, 3),
    index=st.lists(st.integers(0, 2**31 - 1), max_size=9),
    rank=st.integers(1, 7),
)
def test_equals_integer_arithmetic_row_by_row(seed, side, index, rank):
    factors = initial_factors(seed, side, np.array(index, dtype=np.int32), rank)
    assert factors.shape == (len(index), rank)
    assert factors.dtype == np.float32
    for row, own in zip(index, factors, strict=True):
        expected = [one_entry(seed & MASK, side, row, column, rank) for column in range(rank)]
        assert_allclose(own, expected, rtol=1e-6, atol=1e-12)
        assert_array_equal(initial_factors(seed, side, np.array([row]), rank), own[None])


@pytest.mark.parametrize("rank", [1, 10, 64])
def test_mean_deviation_and_correlation(rank):
    factors = initial_factors(42, 0, np.arange(20_000), rank).astype(np.float64)
    assert_allclose(factors.std() * np.sqrt(rank), 1.0, rtol=0.02)
    assert abs(factors.mean()) < 4 * factors.std() / np.sqrt(factors.size)
    correlation = np.corrcoef(factors, rowvar=False) - np.eye(rank)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_seed_and_side_give_unrelated_factors():
    index = np.arange(1000)
    draws = [initial_factors(seed, side, index, 8).ravel() for seed in (0, 1, 2) for side in (0, 1, 2)]
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 5 / np.sqrt(8000)


def test_rank_zero_and_no_rows():
    assert initial_factors(0, 0, np.arange(3), 0).shape == (3, 0)
    assert initial_factors(0, 0, np.arange(0), 5).shape == (0, 5)
    with pytest.raises(ShapeError, match="got -1"):
        initial_factors(0, 0, np.arange(3), -1)
