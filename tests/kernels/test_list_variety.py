from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.kernels.list_variety import (
    diversity_of_lists,
    gini,
    mean_of_lists,
    overlap_of_lists,
    self_information,
    shared_places,
)

LISTS = np.int32([[0, 1, 2], [3, -1, -1], [-1, -1, -1], [4, 0, -1]])


def test_means_leave_out_padding() -> None:
    np.testing.assert_allclose(mean_of_lists(np.arange(5.0), LISTS), [1.0, 3.0, np.nan, 2.0])
    np.testing.assert_allclose(self_information(np.array([8, 2, 0]), 8), [0.0, 2.0, 3.0])


def test_diversity_is_the_mean_over_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    vectors[1] = 0
    found = diversity_of_lists(np.tile(LISTS, (600, 1)), vectors)
    for row, value in zip(LISTS, found[-4:], strict=True):
        pairs = list(itertools.combinations([vectors[i].astype(float) for i in row if i >= 0], 2))
        cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if a.any() and b.any() else 0.0 for a, b in pairs]
        assert value == pytest.approx(1 - np.mean(cosines), rel=1e-6) if pairs else math.isnan(value)


def test_overlap_counts_common_items_at_any_place() -> None:
    others = np.int32([[2, 0, 9], [-1, -1, -1], [1, 2, 3], [4, 0, 5]])
    np.testing.assert_allclose(overlap_of_lists(LISTS, others), [2 / 3, 0.0, np.nan, 1.0])


def test_what_fills_up_a_list_is_in_no_other() -> None:
    columns, others = np.int32([[9, 1], [0, -1]]), np.int32([[0, -1], [-1, -1]])
    np.testing.assert_array_equal(overlap_of_lists(columns, others), [0.0, 0.0])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_gini_is_the_mean_difference(times: list[int]) -> None:
    values, counts = np.unique(times, return_counts=True)
    found = gini(values, counts)
    if sum(times) == 0:
        assert math.isnan(found)
    else:
        differences = sum(abs(a - b) for a, b in itertools.product(times, times))
        assert found == pytest.approx(differences / (2 * len(times) * sum(times)))


def test_shared_places_look_at_every_pair_of_lists() -> None:
    rng = np.random.default_rng(1)
    lists = [set(rng.permutation(8)[:3].tolist()) for _ in range(6)]
    expected = np.mean([len(a & b) / 3 for a, b in itertools.combinations(lists, 2)])
    times = np.bincount([item for one in lists for item in one], minlength=8)
    assert shared_places(*np.unique(times, return_counts=True), 6, 3) == pytest.approx(expected)
    assert math.isnan(shared_places(np.array([1]), np.array([3]), 1, 3))
