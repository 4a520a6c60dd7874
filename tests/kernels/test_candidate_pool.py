from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from recsys_spark.kernels.candidate_pool import Pool, merge_pools, padded_count, select_pool


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_columns=st.integers(1, 900),
    size=st.integers(1, 12),
    n_distinct=st.sampled_from([1, 5, 10**6]),
    share_out=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_pool_holds_the_largest_and_the_largest_outside_is_known(seed, n_columns, size, n_distinct, share_out):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, n_distinct, size=(4, padded_count(n_columns))).astype(np.float32)
    scores[rng.random(scores.shape) < share_out] = -np.inf
    columns, values, outside = select_pool(scores, size)
    kept = min(size, scores.shape[1])
    expected = -np.sort(-scores, axis=1)
    assert_array_equal(-np.sort(-values, axis=1), expected[:, :kept])
    assert_array_equal(np.take_along_axis(scores, columns, axis=1), values)
    assert all(len(set(row)) == kept for row in columns.tolist())
    padded = np.concatenate([expected, np.full((4, 1), -np.inf)], axis=1)
    assert_array_equal(outside, padded[:, kept])


def test_merged_pools_are_the_pool_of_both_parts():
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 50, size=(5, 480)).astype(np.float32)
    scores[:, 7:19] = -np.inf
    left = select_pool(np.ascontiguousarray(scores[:, :160]), 12)
    right = select_pool(np.ascontiguousarray(scores[:, 160:]), 12)
    merged = merge_pools(left, Pool(right.columns + 160, right.values, right.outside), 12)
    whole = select_pool(scores, 12)
    assert_array_equal(np.sort(merged.values), np.sort(whole.values))
    assert_array_equal(merged.outside, whole.outside)
    assert_array_equal(np.take_along_axis(scores, merged.columns, axis=1), merged.values)
