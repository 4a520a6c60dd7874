from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.ranking_metrics import (
    expected_of_random_lists,
    hits_in_lists,
    measures_of_lists,
    ndcg_at_n,
    recall_at_n,
    recall_of_parts,
    sampled_positions,
)


def one_user(listed, relevant):
    """Hits, precision, recall and NDCG of one list, by loops."""
    hits = [column in relevant for column in listed if column >= 0]
    gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(len(listed), len(relevant))))
    padded = hits + [False] * (len(listed) - len(hits))
    if not relevant:
        return padded, math.nan, math.nan, math.nan
    return padded, sum(hits) / len(listed), sum(hits) / len(relevant), gain / ideal


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_users=st.integers(0, 8), n=st.integers(1, 9), n_items=st.integers(1, 20))
def test_equals_loops(seed, n_users, n, n_items):
    rng = np.random.default_rng(seed)
    columns = np.full((n_users, n), -1, dtype=np.int32)
    relevant = []
    for user in range(n_users):
        length = min(int(rng.integers(0, n + 1)), n_items)
        columns[user, :length] = rng.permutation(n_items)[:length]
        relevant.append(rng.permutation(n_items + 3)[: rng.integers(0, n_items)].tolist())
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in relevant])]).astype(np.int64)
    held_out = indptr, np.array([c for own in relevant for c in own], dtype=np.int32)
    expected = [one_user(row, set(own)) for row, own in zip(columns.tolist(), relevant, strict=True)]
    hits, precision, recall, ndcg = (list(part) for part in zip(*expected, strict=True)) if expected else [[]] * 4
    assert_array_equal(hits_in_lists(columns, *held_out), np.array(hits, dtype=bool).reshape(n_users, n))
    assert_allclose(measures_of_lists(columns, *held_out, (n,))[f"precision@{n}"], precision, rtol=1e-13)
    assert_allclose(recall_at_n(columns, *held_out), recall, rtol=1e-13)
    assert_allclose(ndcg_at_n(columns, *held_out), ndcg, rtol=1e-13)


def test_ideal_list_has_ndcg_one_and_late_hits_count_less():
    columns = np.array([[4, 2, 9], [9, 2, 4], [9, 8, -1]], dtype=np.int32)
    indptr, relevant = np.array([0, 2, 4, 6]), np.array([2, 4, 2, 4, 2, 4], dtype=np.int32)
    assert_allclose(
        ndcg_at_n(columns, indptr, relevant),
        [1.0, (1 / math.log2(3) + 0.5) / (1 + 1 / math.log2(3)), 0.0],
    )


@pytest.mark.parametrize("metric", [hits_in_lists, recall_at_n, ndcg_at_n])
def test_wrong_shapes_are_rejected(metric):
    columns, indptr, relevant = np.zeros((2, 3), dtype=np.int32), np.array([0, 1, 2]), np.array([0, 1])
    with pytest.raises(ShapeError, match="n >= 1"):
        metric(columns[:, :0], indptr, relevant)
    with pytest.raises(ShapeError, match="3 entries"):
        metric(columns, indptr[:-1], relevant)
    with pytest.raises(ShapeError, match="the last 1, got"):
        metric(columns, indptr, relevant[:-1])


@pytest.mark.parametrize(("n_candidates", "n"), [(6, 3), (4, 6)])
def test_random_lists_reach_in_the_mean_what_is_expected(n_candidates, n):
    rng, n_relevant = np.random.default_rng(5), np.array([1, 2, 4])
    indptr = np.concatenate([[0], np.cumsum(n_relevant)])
    relevant = np.concatenate([np.arange(count) for count in n_relevant])
    found = []
    for _ in range(4_000):
        columns = np.full((3, n), -1, np.int32)
        for row in columns:
            row[: min(n, n_candidates)] = rng.permutation(n_candidates)[:n]
        measures = measures_of_lists(columns, indptr, relevant, (n,))
        found.append([measures[f"{name}@{n}"].mean() for name in ("ndcg", "recall", "precision")])
    assert_allclose(expected_of_random_lists(n_relevant, n_candidates, n), np.mean(found, axis=0), atol=0.01)


def test_without_users_nothing_is_expected():
    assert np.isnan(expected_of_random_lists(np.zeros(0, int), 5, 3)).all()


def test_all_measures_are_those_of_trec_eval() -> None:
    rng = np.random.default_rng(5)
    lists = np.stack([rng.permutation(12)[:8] for _ in range(20)]).astype(np.int32)
    relevant = [np.sort(rng.permutation(12)[: rng.integers(1, 5)]) for _ in range(20)]
    lists[3, 2:] = -1
    indptr = np.cumsum([0, *map(len, relevant)])
    found = measures_of_lists(lists, indptr, np.concatenate(relevant), (1, 3, 8))
    names = {"ndcg": "nDCG", "recall": "R", "precision": "P", "hit_rate": "Success", "map": "AP", "mrr": "RR"}
    theirs = {f"{name}@{n}": ir_measures.parse_measure(f"{names[name]}@{n}") for name in names for n in (1, 3, 8)}
    judged = {str(u): {str(i): 1 for i in items} for u, items in enumerate(relevant)}
    listed = {str(u): {str(i): 20.0 - p for p, i in enumerate(row) if i >= 0} for u, row in enumerate(lists)}
    compared = 0
    for entry in ir_measures.iter_calc(list(theirs.values()), judged, listed):
        name = next(name for name, measure in theirs.items() if measure == entry.measure)
        assert found[name][int(entry.query_id)] == pytest.approx(entry.value, abs=1e-9), name
        compared += 1
    assert compared == 20 * len(theirs)
    assert found.keys() == theirs.keys()


def test_nothing_relevant_is_no_number_and_ties_with_drawn_items_are_lost() -> None:
    found = measures_of_lists(np.int32([[1, 2]]), np.array([0, 0]), np.array([], np.int64), (2,))
    assert all(np.isnan(values).all() for values in found.values())
    scores = np.array([[1.0, 0.5, np.nan], [0.0, 0.1, 0.2]])
    np.testing.assert_array_equal(sampled_positions(np.array([1.0, 0.3]), scores), [2, 1])
    np.testing.assert_array_equal(sampled_positions(np.array([np.nan, np.nan]), scores), [3, 4])


def test_recall_of_parts_counts_each_relevant_column_once():
    columns = np.int32([[1, 2, 3], [4, -1, -1]])
    indptr, relevant = np.array([0, 3, 5]), np.int32([1, 2, 9, 7, 4])
    found = recall_of_parts(columns, indptr, relevant, np.array([0, 1, 1, 2, 2]), 3)
    assert_allclose(found, [[1.0, 0.5, math.nan], [math.nan, math.nan, 0.5]])
