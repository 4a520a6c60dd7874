from __future__ import annotations

import math

import numpy as np
import pytest

from recsys_spark.kernels.bootstrap import interval, poisson_weights, replicated_sums


def test_weights_are_poisson_of_mean_one() -> None:
    weights = poisson_weights(np.arange(2_000), 300, 7)
    for k in range(5):
        assert np.mean(weights == k) == pytest.approx(math.exp(-1) / math.factorial(k), abs=2e-3)
    assert weights.max() < 17
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]) < 0.01


def test_a_user_counts_alike_wherever_it_is_measured_and_otherwise_with_another_seed() -> None:
    together = poisson_weights(np.arange(100), 20, 7)
    np.testing.assert_array_equal(together[[60, 3]], poisson_weights(np.array([60, 3], np.int32), 20, 7))
    np.testing.assert_array_equal(together[:, :5], poisson_weights(np.arange(100), 5, 7))
    assert (together != poisson_weights(np.arange(100), 20, 8)).any()


def test_sums_equal_a_loop_and_leave_out_what_is_undefined() -> None:
    rng = np.random.default_rng(0)
    users, values = rng.permutation(50_000)[:40_000], rng.normal(size=(40_000, 2))
    values[5, 0] = np.nan
    sums = replicated_sums(values, users, 3, 1)
    weights = np.concatenate([np.ones((40_000, 1)), poisson_weights(users, 3, 1)], axis=1)
    expected = [[math.fsum(np.nan_to_num(values[:, k]) * weights[:, b]) for k in range(2)] for b in range(4)]
    np.testing.assert_allclose(sums, expected, rtol=1e-9)
    assert replicated_sums(values, users, 0, 1).shape == (1, 2)


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(3), 0
    for trial in range(200):
        values = rng.exponential(size=(200, 1))
        ones = np.ones_like(values)
        sums = replicated_sums(np.concatenate([values, ones], axis=1), np.arange(200), 200, trial)
        low, high = interval(sums[1:, 0] / sums[1:, 1])
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_an_interval_lies_between_its_percentiles() -> None:
    replicates = np.random.default_rng(0).permutation(1001).astype(float)
    assert interval(replicates) == pytest.approx((25, 975))
    assert interval(np.append(replicates, [np.nan, np.inf]), 0.5) == pytest.approx((250, 750))


def test_no_interval_of_one_replicate() -> None:
    assert all(math.isnan(bound) for bound in interval(np.array([1.0, np.nan])))
