from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import recsys_spark.kernels.marginal_relevance as module
from recsys_spark.errors import ShapeError
from recsys_spark.kernels.marginal_relevance import rerank
from tests.kernels.test_top_n import draw_vectors


def cosine(one: list[float], other: list[float]) -> float:
    """The cosine of two vectors of whole numbers, or of vectors rounded as the kernel promises: an exact sum."""
    units = []
    for vector in (one, other):
        length = math.sqrt(sum(x * x for x in vector)) or 1.0
        units.append([round(x / length * 2**24) / 2**24 for x in vector])
    return math.fsum(x * y for x, y in zip(*units, strict=True))


def rerank_one(pool: dict[int, float], factors: list[list[float]], weight: float, n: int) -> list[tuple[int, float]]:
    """The definition, for one user."""
    low, high = min(pool.values(), default=0.0), max(pool.values(), default=0.0)
    relevance = {i: (s - low) / (high - low) if high > low else 1.0 for i, s in pool.items()}
    chosen: list[tuple[int, float]] = []
    left = sorted(pool)
    while left and len(chosen) < n:
        marginal = {}
        for i in left:
            nearest = max((cosine(factors[i], factors[j]) for j, _ in chosen), default=-1.0)
            marginal[i] = float(np.float32(weight * relevance[i] - (1 - weight) * max(nearest, -1.0)))
        best = max(left, key=lambda i: (marginal[i], -i))
        chosen.append((best, marginal[best]))
        left.remove(best)
    return chosen


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_users=st.integers(0, 4),
    p=st.integers(1, 12),
    n=st.integers(1, 14),
    rank=st.integers(1, 5),
    weight=st.sampled_from([0.05, 0.5, 0.7, 1.0]),
    kind=st.sampled_from(["normal", "integer", "zero", "few", "near"]),
    max_floats=st.sampled_from([1, 60, 1 << 17]),
    max_entries=st.sampled_from([1, 25, 1 << 17]),
)
def test_equals_a_loop_over_users_and_places(seed, n_users, p, n, rank, weight, kind, max_floats, max_entries):
    rng = np.random.default_rng(seed)
    n_items = p + int(rng.integers(0, 10))
    factors = draw_vectors(kind, (n_items, rank), rng)
    columns, scores = np.full((n_users, p), -1, np.int32), np.full((n_users, p), np.nan, np.float32)
    expected, expected_values = np.full((n_users, n), -1, np.int32), np.full((n_users, n), np.nan, np.float32)
    for user in range(n_users):
        size = int(rng.integers(0, p + 1))
        columns[user, :size] = rng.permutation(n_items)[:size]
        scores[user, :size] = np.sort(draw_vectors(kind, (size, 1), rng)[:, 0])[::-1]
        pool = dict(zip(columns[user, :size].tolist(), scores[user, :size].tolist(), strict=True))
        for place, (column, value) in enumerate(rerank_one(pool, factors.astype(float).tolist(), weight, n)):
            expected[user, place], expected_values[user, place] = column, value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MAX_FLOATS", max_floats)
        patch.setattr(module, "_MAX_ENTRIES", max_entries)
        chosen, values = rerank(columns, scores, factors, relevance_weight=weight, n=n)
    assert chosen.dtype == np.int32
    assert values.dtype == np.float32
    assert_array_equal(chosen, expected)
    assert_array_equal(values, expected_values)
    # What the gate asks of a list: values fall, and equal ones stand by column.
    for row, column in zip(values, chosen, strict=True):
        keys = [(-v, c) for v, c in zip(row.tolist(), column.tolist(), strict=True) if c >= 0]
        assert keys == sorted(keys)


def test_unlike_items_come_before_better_ones_that_are_like_the_first() -> None:
    factors = np.array([[1, 0], [2, 0], [1, 0.1], [0, 1]], np.float32)
    columns, scores = np.array([[0, 1, 2, 3]], np.int32), np.array([[4, 3.9, 3.8, 3]], np.float32)
    chosen, values = rerank(columns, scores, factors, relevance_weight=0.5, n=3)
    assert_array_equal(chosen, [[0, 3, 1]])
    np.testing.assert_allclose(values, [[1.0, 0.0, 0.5 * 0.9 - 0.5]], atol=1e-6)
    assert_array_equal(rerank(columns, scores, factors, relevance_weight=1.0, n=4)[0], columns)


def test_lists_do_not_depend_on_company_or_length() -> None:
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(300, 33)).astype(np.float32)
    columns = np.stack([rng.permutation(300)[:40] for _ in range(50)]).astype(np.int32)
    scores = -np.sort(-rng.normal(size=(50, 40)), axis=1).astype(np.float32)
    whole = rerank(columns, scores, factors, relevance_weight=0.6, n=12)
    for first, last in ((0, 1), (1, 7), (7, 50)):
        part = rerank(columns[first:last], scores[first:last], factors, relevance_weight=0.6, n=12)
        assert_array_equal(part[0], whole[0][first:last])
        assert_array_equal(part[1], whole[1][first:last])
    assert_array_equal(rerank(columns, scores, factors, relevance_weight=0.6, n=5)[0], whole[0][:, :5])


@pytest.mark.parametrize("factors", [np.zeros((3, 0), np.float32), np.zeros((3, 2), np.float32)])
def test_without_factors_the_order_stays(factors: np.ndarray) -> None:
    columns, scores = np.array([[2, 0, 1]], np.int32), np.array([[3, 2, 1]], np.float32)
    assert_array_equal(rerank(columns, scores, factors, relevance_weight=0.5, n=2)[0], [[2, 0]])


@pytest.mark.parametrize("changed", [{"relevance_weight": 0.0}, {"relevance_weight": 1.5}, {"n": 0}])
def test_wrong_arguments_are_rejected(changed: dict[str, float]) -> None:
    arguments = {"relevance_weight": 0.5, "n": 2}
    columns = np.zeros((1, 1), np.int32)
    with pytest.raises(ShapeError, match="relevance_weight"):
        rerank(columns, columns.astype(np.float32), np.ones((1, 1), np.float32), **{**arguments, **changed})
