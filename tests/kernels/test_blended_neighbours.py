"""Neighbours by vectors and sparse rows together, against all pairs added up one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.metrics.pairwise import cosine_similarity

from recsys_spark.errors import ShapeError
from recsys_spark.kernels import blended_neighbours
from recsys_spark.kernels.blended_neighbours import BlendedRows, blended_rows, neighbours_by_blend, sparse_products
from recsys_spark.kernels.feature_encoding import dense_rows
from recsys_spark.kernels.similarity import similarity_vectors
from tests.kernels.problems import sparse


def random_features(rng: np.random.Generator, n_rows: int, n_columns: int) -> np.ndarray:
    """Columns that few rows have, and one that nearly all have; some rows have none."""
    dense = rng.integers(-1, 3, (n_rows, n_columns)) * (rng.random((n_rows, n_columns)) < 0.15)
    dense[:, 0] = rng.integers(0, 3, n_rows)
    dense[rng.random(n_rows) < 0.1] = 0
    return dense.astype(np.float32)


def all_pairs(rows: BlendedRows) -> np.ndarray:
    """Every similarity as it is defined: in double precision, one column after the other, rounded once."""
    features = dense_rows(rows.sparse, rows.n_columns).astype(float)
    wide = rows.vectors.astype(float)
    n = len(wide)
    of_features = np.zeros((n, n))
    for column in range(rows.n_columns):
        of_features += np.outer(features[:, column], features[:, column])
    of_vectors = (wide[:, None] * wide).sum(axis=2)
    return (of_features + of_vectors).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(1, 30),
    n=st.integers(1, 9),
    weight=st.sampled_from([0.1, 0.6, 1.0]),
    rows_per_holder=st.sampled_from([1, 4, 128]),
    at_once=st.sampled_from([1, 20, 1 << 20]),
)
def test_neighbours_are_those_of_all_pairs(
    seed: int, n_rows: int, n: int, weight: float, rows_per_holder: int, at_once: int
) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.integers(-2, 3, (n_rows, 3)).astype(np.float32)
    # Without ratings there are no factors; and some rows are equal, so that similarities tie.
    factors[rng.random(n_rows) < 0.3] = 0
    features = random_features(rng, n_rows, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blended_neighbours, "_ROWS_PER_HOLDER", rows_per_holder)
        patch.setattr(blended_neighbours, "_MAX_PAIRS", at_once)
        patch.setattr(blended_neighbours, "_MAX_FLOATS", at_once)
        collaborative = similarity_vectors(factors, np.ones(n_rows, int), 0.5)
        rows = blended_rows(collaborative, sparse(features), 8, weight)
        chosen = np.flatnonzero(rng.random(n_rows) < 0.8)
        own = np.full(n_rows, -1, np.int32)
        own[chosen] = np.arange(len(chosen))
        parts = list(neighbours_by_blend(rows, own, rows.take(chosen), n))
    assert [(first, last) for first, last, _ in parts] == list(
        zip([0, *(last for _, last, _ in parts[:-1])], [last for _, last, _ in parts], strict=True)
    )
    assert parts[-1][1] == n_rows
    candidates = np.concatenate([found.candidates for _, _, found in parts])
    similarities = np.concatenate([found.similarities for _, _, found in parts])
    exact = all_pairs(rows)
    believed = 1 / 1.5**2
    blend = (1 - weight) * believed * cosine_similarity(factors) + weight * cosine_similarity(features)
    assert_allclose(exact, blend, atol=1e-6)
    for row in range(n_rows):
        pairs = [(number, exact[row, other]) for number, other in enumerate(chosen.tolist()) if other != row]
        best = sorted((pair for pair in pairs if pair[1] > 0), key=lambda pair: (-pair[1], pair[0]))[:n]
        k = len(best)
        assert_array_equal(candidates[row], [number for number, _ in best] + [-1] * (n - k))
        assert_array_equal(similarities[row], [value for _, value in best] + [np.nan] * (n - k))


def test_frequent_columns_are_dense_and_rare_ones_are_not() -> None:
    features = np.eye(256, dtype=np.float32)
    features[:2, 40] = features[0, 50] = 1
    rows = blended_rows(np.zeros((256, 2), np.float32), sparse(features), 256, 0.25)
    # Three of 256 rows have column 40, which is more than one in 128; two have column 50, and the others one each.
    assert rows.vectors.shape == (256, 3)
    assert_array_equal(np.flatnonzero(rows.vectors[:, 2]), [0, 1, 40])
    assert len(rows.sparse.columns) == 256
    assert_allclose(all_pairs(rows), 0.25 * cosine_similarity(features), atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(0, 6), k=st.integers(0, 6), n=st.integers(0, 6))
def test_sparse_products_are_scipys(seed: int, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(0, 4, shape) * (rng.random(shape) < 0.5) for shape in ((m, k), (k, n)))
    columns, products = sparse_products(sparse(left), sparse(right), n)
    expected = (csr_array(left) @ csr_array(right)).toarray()
    found = np.zeros((m, n))
    found[np.repeat(np.arange(m), columns.lengths), columns.values] = products
    assert_array_equal(found, expected)
    assert all((np.diff(columns.row(row)) > 0).all() for row in range(m))


def test_every_vector_needs_a_row_of_features() -> None:
    with pytest.raises(ShapeError, match="3 vectors need as many rows of features, got 2"):
        blended_rows(np.zeros((3, 1), np.float32), sparse(np.eye(2)), 2, 0.5)
