"""Blended similarities against scikit-learn's cosine."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from recsys_spark.kernels.similarity import blended_vectors, similarity_vectors


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_products_of_blended_vectors_are_blended_cosines(weight: float) -> None:
    rng = np.random.default_rng(2)
    factors, features = (rng.normal(size=(7, width)).astype(np.float32) for width in (3, 5))
    # One has no ratings and no factors, one no features.
    factors[2], features[4] = 0, 0
    n_ratings, ones = np.array([3, 9, 0, 1, 5, 2, 4]), np.ones(7, int)
    found = blended_vectors(
        similarity_vectors(factors, n_ratings, 2.0), similarity_vectors(features, ones, 0.0), weight
    )
    believed = n_ratings / (n_ratings + 2.0)
    collaborative = cosine_similarity(factors) * np.outer(believed, believed)
    np.testing.assert_allclose(
        found @ found.T, (1 - weight) * collaborative + weight * cosine_similarity(features), atol=1e-6
    )
    assert found.shape[1] == {0.0: 3, 0.3: 8, 1.0: 5}[weight]
