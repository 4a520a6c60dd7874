from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from recsys_spark.errors import ShapeError
from recsys_spark.kernels import factor_map
from recsys_spark.kernels.factor_map import fit_factor_map


@pytest.mark.parametrize(("n", "n_features"), [(40, 6), (5, 9), (1, 3)])
def test_the_map_is_scikit_learns_ridge(n: int, n_features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor_map, "_ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(n)
    features, vectors = rng.normal(2, 1, (n, n_features)).astype(np.float32), rng.normal(size=(n, 4)).astype(np.float32)
    new = rng.normal(size=(3, n_features)).astype(np.float32)
    expected = Ridge(alpha=2.5).fit(features, vectors).predict(new)
    found = fit_factor_map(features, vectors, 2.5).vectors(new)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(fit_factor_map(features, vectors, 2.5).vectors(new[1:2]), found[1:2])


def test_of_no_items_nothing_is_expected() -> None:
    found = fit_factor_map(np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32), 1.0)
    assert found.vectors(np.ones((2, 3), np.float32)).tolist() == [[0, 0], [0, 0]]
    assert found.vectors(np.ones((0, 3), np.float32)).shape == (0, 2)


def test_every_row_of_features_needs_a_vector() -> None:
    with pytest.raises(ShapeError, match="2 rows of features need as many vectors"):
        fit_factor_map(np.zeros((2, 3), np.float32), np.zeros((1, 2), np.float32), 1.0)
