from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.kernels.list_overlap import changed_positions, padded_lists, rank_biased_overlap

Lists = st.lists(st.permutations(range(9)).flatmap(lambda p: st.integers(0, 9).map(lambda n: p[:n])), max_size=6)


def arrays(lists: list[list[int]], padding: int) -> np.ndarray:
    flat = np.array([item for each in lists for item in each], np.int64)
    return padded_lists(flat, np.array([len(each) for each in lists], np.int64), padding)


def slow_overlap(a: list[int], b: list[int], p: float) -> float:
    """Average agreement, extrapolated: the lists' own definition, with sets."""
    short, long = sorted((a, b), key=len)
    s, n = len(short), len(long)
    if n == 0 or s == 0:
        return float(n == 0)

    def common(depth: int) -> int:
        return len(set(short[:depth]) & set(long[:depth]))

    total = sum(common(d) / d * p**d for d in range(1, n + 1))
    total += sum(common(s) * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * total + ((common(n) - common(s)) / n + common(s) / s) * p**n


@given(Lists, Lists, st.sampled_from([0.1, 0.5, 0.9, 0.98]))
def test_overlap_is_that_of_the_definition(first: list[list[int]], second: list[list[int]], p: float) -> None:
    n = min(len(first), len(second))
    first, second = first[:n], second[:n]
    found = rank_biased_overlap(arrays(first, -1), arrays(second, -2), p)
    np.testing.assert_allclose(found, [slow_overlap(a, b, p) for a, b in zip(first, second, strict=True)], rtol=1e-12)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()
    changed, places = changed_positions(arrays(first, -1), arrays(second, -2))
    for a, b, n_changed, n_places in zip(first, second, changed, places, strict=True):
        assert n_places == max(len(a), len(b))
        assert n_changed == n_places - sum(x == y for x, y in zip(a, b, strict=False))


def test_lists_that_agree_agree_wholly_and_the_top_counts_most() -> None:
    same = [[3, 1, 2], [], [5]]
    np.testing.assert_allclose(rank_biased_overlap(arrays(same, -1), arrays(same, -2)), 1.0)
    base = list(range(10))
    swapped = [[*base[:k], base[k + 1], base[k], *base[k + 2 :]] for k in range(9)]
    found = rank_biased_overlap(arrays([base] * 9, -1), arrays(swapped, -2))
    assert all(x < y for x, y in pairwise(found))


def test_many_pairs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (np.argsort(rng.random((50, 20)), axis=1)[:, :7] for _ in range(2))
    whole = rank_biased_overlap(a, b)
    monkeypatch.setattr("recsys_spark.kernels.list_overlap._LARGEST_CUBE", 100)
    np.testing.assert_array_equal(rank_biased_overlap(a, b), whole)
