from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.routing_cost import needed_vectors


@pytest.mark.parametrize("skew", [0.0, 1.2])
def test_forecast_is_what_random_ratings_need(skew: float) -> None:
    rng = np.random.default_rng(0)
    n_rows, n_fixed, n_blocks, nnz = 3_000, 2_000, 7, 12_000
    weights = (1.0 + np.arange(n_fixed)) ** -skew
    pairs = np.unique(
        np.stack([rng.integers(0, n_rows, nnz), rng.choice(n_fixed, nnz, p=weights / weights.sum())], axis=1), axis=0
    )
    rows, columns = pairs.T
    needed = [len(np.unique(columns[rows % n_blocks == block])) for block in range(n_blocks)]
    degrees = np.bincount(columns, minlength=n_fixed)
    ratings_of_blocks = np.bincount(rows % n_blocks, minlength=n_blocks)
    forecast = needed_vectors(degrees, ratings_of_blocks)
    assert forecast.shape == (n_blocks,)
    np.testing.assert_allclose(forecast, needed, rtol=0.05)


def test_one_block_needs_all_that_were_rated_and_an_empty_one_nothing() -> None:
    degrees = np.array([0, 1, 5, 0, 100])
    np.testing.assert_allclose(needed_vectors(degrees, np.array([106])), [3.0])
    np.testing.assert_allclose(needed_vectors(degrees, np.array([0, 106])), [0.0, 3.0])
    np.testing.assert_allclose(needed_vectors(np.zeros(4, np.int32), np.array([0, 0])), [0.0, 0.0])


def test_more_blocks_need_less_each_and_more_together() -> None:
    degrees = np.random.default_rng(1).integers(0, 30, 500)
    few, many = (needed_vectors(degrees, np.full(n, degrees.sum() // n)) for n in (2, 16))
    assert many.max() < few.min()
    assert many.sum() > few.sum()
