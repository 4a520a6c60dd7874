"""Predictions of neighbours against dense matrices, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels import neighbour_average
from recsys_spark.kernels.neighbour_average import (
    NeighbourAverages,
    SparseRows,
    averages_of_pairs,
    best_by_neighbours,
    sparse_rows,
)

ABSENT = np.nan


def sparse(dense: np.ndarray) -> SparseRows:
    """The entries that are there, given in reverse, with one more that belongs to no column."""
    rows, columns = (places[::-1] for places in np.nonzero(~np.isnan(dense)))
    values = dense[rows, columns].astype(np.float32)
    if len(dense):
        rows, columns, values = np.append(rows, 0), np.append(columns, -1), np.append(values, np.float32(9.0))
    return sparse_rows(rows, columns, values, len(dense))


def random_dense(rng: np.random.Generator, shape: tuple[int, int], share: float, *, above_zero: bool) -> np.ndarray:
    values = rng.integers(1, 9, shape) / 8 if above_zero else rng.integers(-16, 17, shape) / 8
    values[rng.random(shape) >= share] = ABSENT
    return values


def by_definition(left: np.ndarray, right: np.ndarray, users: bool, prior: float) -> np.ndarray:
    """Average every cell by itself: similarities are on the left for users, on the right for items."""
    averages = np.zeros((len(left), right.shape[1]))
    for user in range(len(left)):
        for column in range(right.shape[1]):
            above = below = 0.0
            for other in range(len(right)):
                if not np.isnan(left[user, other]) and not np.isnan(right[other, column]):
                    above += left[user, other] * right[other, column]
                    below += left[user, other] if users else right[other, column]
            averages[user, column] = above / (below + prior) if below > 0 else 0.0
    return averages


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_users=st.integers(0, 7),
    n_others=st.integers(1, 9),
    n_columns=st.integers(0, 12),
    n=st.integers(1, 14),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    users=st.booleans(),
    prior=st.sampled_from([0.0, 1.5]),
    most=st.sampled_from([1, 30, 1 << 21]),
)
def test_lists_and_pairs_equal_the_definition(seed, n_users, n_others, n_columns, n, share, users, prior, most):
    rng = np.random.default_rng(seed)
    left = random_dense(rng, (n_users, n_others), 0.6, above_zero=users)
    right = random_dense(rng, (n_others, n_columns), 0.5, above_zero=not users)
    biases = [rng.integers(-4, 5, count).astype(np.float32) / 4 for count in (n_users, n_columns)]
    is_hidden = rng.random((n_users, n_columns)) < share
    hidden = [rng.permutation(np.flatnonzero(row)) for row in is_hidden]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in hidden])]).astype(np.int64)
    columns_hidden = np.concatenate([*hidden, []]).astype(np.int32)
    neighbours = NeighbourAverages(sparse(right), n_columns, users, prior)
    expected = by_definition(left, right, users, prior)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbour_average, "_MAX_AVERAGES", most)
        patch.setattr(neighbour_average, "_MAX_PRODUCTS", most)
        columns, scores = best_by_neighbours(
            sparse(left), neighbours, *biases, global_mean=3.0, n=n,
            excluded_indptr=indptr, excluded_columns=columns_hidden,
        )  # fmt: skip
        of_pairs = averages_of_pairs(sparse(left), neighbours, indptr, columns_hidden)
    assert_allclose(of_pairs, expected[is_hidden.nonzero()[0], columns_hidden], rtol=1e-12, atol=1e-15)
    predicted = (3.0 + biases[0][:, None].astype(float) + biases[1] + expected).astype(np.float32)
    for user in range(n_users):
        best = sorted((-predicted[user, c], c) for c in np.flatnonzero(~is_hidden[user]).tolist())[:n]
        assert_array_equal(columns[user], [c for _, c in best] + [-1] * (n - len(best)))
        assert_allclose(scores[user, : len(best)], [-score for score, _ in best], rtol=1e-6)
        assert np.isnan(scores[user, len(best) :]).all()


def test_a_users_scores_do_not_depend_on_the_others():
    rng = np.random.default_rng(3)
    left = np.where(rng.random((40, 30)) < 0.7, rng.random((40, 30)), ABSENT)
    right = np.where(rng.random((30, 25)) < 0.7, rng.normal(size=(30, 25)), ABSENT)
    neighbours = NeighbourAverages(sparse(right), 25, True)
    whole = np.concatenate([averages for _, _, averages in neighbours.of_rows(sparse(left))])
    for chosen in ([7], [3, 7, 20], range(5, 40)):
        part = np.concatenate([averages for _, _, averages in neighbours.of_rows(sparse(left[list(chosen)]))])
        assert_array_equal(part, whole[list(chosen)])


def test_a_column_that_is_not_there_has_no_average():
    neighbours = NeighbourAverages(sparse(np.array([[1.0, 0.5]])), 2, True)
    left = sparse(np.array([[1.0]]))
    assert_array_equal(
        averages_of_pairs(left, neighbours, np.array([0, 3]), np.array([1, -1, 0], np.int32)), [0.5, 0, 1]
    )


def test_what_does_not_fit_is_refused():
    right = SparseRows(np.array([0, 1]), np.array([0], np.int32), np.array([np.inf], np.float32))
    neighbours = NeighbourAverages(right, 1, True)
    outside = SparseRows(np.array([0, 1]), np.array([1], np.int32), np.ones(1, np.float32))
    with pytest.raises(ShapeError, match=r"\[0, 1\), got 1 to 1"):
        list(neighbours.of_rows(outside))
    inside = SparseRows(np.array([0, 1]), np.array([0], np.int32), np.ones(1, np.float32))
    nothing = {"excluded_indptr": np.zeros(2, np.int64), "excluded_columns": np.zeros(0, np.int32)}
    with pytest.raises(NumericalError, match="predictions must be finite"):
        best_by_neighbours(
            inside, neighbours, np.zeros(1, np.float32), np.zeros(1, np.float32), global_mean=0.0, n=1, **nothing
        )
