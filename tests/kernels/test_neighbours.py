"""Neighbours against dense, slow references: all pairs of rows, one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels import common_ratings
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.neighbours import Comparable, Measure, neighbours_by_common, neighbours_by_vectors
from recsys_spark.kernels.similarity import RowSizes, evidence, similarity_vectors

MEASURES = ("cosine", "jaccard", "llr", "rating_cosine", "pearson")


def entropy(*counts: float) -> float:
    """Dunning's unnormalised entropy: N log N - sum k log k."""
    return sum(counts) * math.log(sum(counts)) - sum(k * math.log(k) for k in counts if k > 0)


def of_two_rows(measure: str, one: dict[int, float], other: dict[int, float], n_columns: int) -> float:
    """Compare two rows, given as column -> value, by the textbook."""
    common = sorted(one.keys() & other.keys())
    both, n_one, n_other = len(common), len(one), len(other)
    if measure == "cosine":
        return both / math.sqrt(n_one * n_other)
    if measure == "jaccard":
        return both / len(one.keys() | other.keys())
    if measure == "llr":
        if both * n_columns <= n_one * n_other:
            return 0.0
        rest = n_columns - n_one - n_other + both
        by_row = entropy(n_one, n_columns - n_one)
        by_column = entropy(n_other, n_columns - n_other)
        return 2 * (by_row + by_column - entropy(both, n_one - both, n_other - both, rest))
    product = sum(one[c] * other[c] for c in common)
    if measure == "rating_cosine":
        return product / math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in other.values()))
    squares = sum(one[c] ** 2 for c in common) * sum(other[c] ** 2 for c in common)
    return product / math.sqrt(squares) if squares > 0 else 0.0


def random_rows(rng: np.random.Generator, n_rows: int, n_columns: int, share: float, measure: str):
    """Rows as dictionaries, every one with a rating; for Pearson as deviations from the row's mean."""
    rows = []
    for _ in range(n_rows):
        columns = np.flatnonzero(rng.random(n_columns) < share)
        columns = columns if len(columns) else rng.integers(0, n_columns, 1)
        values = rng.integers(1, 6, len(columns)).astype(np.float32)
        if measure == "pearson":
            values = (values - values.mean(dtype=np.float64)).astype(np.float32)
        rows.append(dict(zip(columns.tolist(), values.tolist(), strict=True)))
    return rows


def block_of(rows, order):
    """The ratings by holder, in any order of ratings."""
    entries = [(column, row, value) for row, mine in enumerate(rows) for column, value in mine.items()]
    entries = [entries[k] for k in order.permutation(len(entries))]
    holders, index, values = zip(*entries, strict=True)
    return build_csr_block(np.array(holders), np.array(index), np.array(values, np.float32))


def all_neighbours(rows, candidate_of_index, measure, n, n_parts, n_columns, rng):
    sizes = RowSizes(
        np.array([len(row) for row in rows]),
        np.array([math.sqrt(sum(v * v for v in row.values())) for row in rows]),
    )
    index_of_candidate = np.full(int(candidate_of_index.max()) + 1, -1)
    is_candidate = candidate_of_index >= 0
    index_of_candidate[candidate_of_index[is_candidate]] = np.flatnonzero(is_candidate)
    comparable = Comparable(candidate_of_index, index_of_candidate, sizes)
    found = {}
    block = block_of(rows, rng)
    for part in range(n_parts):
        for index, neighbours in neighbours_by_common(block, comparable, measure, n, part=part, n_parts=n_parts):
            for place, row in enumerate(index.tolist()):
                assert row % n_parts == part
                assert row not in found
                found[row] = (
                    neighbours.candidates[place], neighbours.similarities[place], neighbours.n_common[place],
                )  # fmt: skip
    return found


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    measure=st.sampled_from(MEASURES),
    n_rows=st.integers(1, 25),
    n_columns=st.integers(1, 20),
    share=st.sampled_from([0.05, 0.3, 0.9]),
    n=st.integers(1, 30),
    shrink=st.sampled_from([0.0, 2.5]),
    n_parts=st.sampled_from([1, 3]),
    most=st.sampled_from([1, 40, 1 << 21]),
)
def test_neighbours_by_common_ratings_equal_brute_force(
    seed, measure, n_rows, n_columns, share, n, shrink, n_parts, most
):
    rng = np.random.default_rng(seed)
    rows = random_rows(rng, n_rows, n_columns, share, measure)
    candidate_of_index = rng.permutation(n_rows).astype(np.int32)
    if n_rows > 3:
        candidate_of_index[candidate_of_index >= n_rows - 2] = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common_ratings, "_MAX_PAIRS", most)
        patch.setattr(common_ratings, "_MAX_SUMS", most)
        found = all_neighbours(
            rows, candidate_of_index, Measure(measure, shrink, n_columns), n, n_parts, n_columns, rng
        )
    assert found.keys() == set(range(n_rows))
    for row, (candidates, similarities, n_common) in found.items():
        expected = {}
        for other in range(n_rows):
            common = len(rows[row].keys() & rows[other].keys())
            if other != row and candidate_of_index[other] >= 0 and common:
                value = of_two_rows(measure, rows[row], rows[other], n_columns) * common / (common + shrink)
                expected[int(candidate_of_index[other])] = (value, common)
        filled = candidates >= 0
        k = int(filled.sum())
        assert not filled[k:].any()
        assert np.isnan(similarities[k:]).all()
        for candidate, similarity, common in zip(candidates[:k], similarities[:k], n_common[:k], strict=True):
            assert expected[candidate][1] == common
            assert_allclose(similarity, expected[candidate][0], rtol=1e-5, atol=1e-9)
        assert_array_equal(np.lexsort((candidates[:k], -similarities[:k])), np.arange(k))
        # None that was left out may be better, beyond rounding.
        worst = similarities[k - 1] if k == n else 0.0
        left_out = [value for candidate, (value, _) in expected.items() if candidate not in candidates[:k].tolist()]
        assert all(value <= worst + 1e-6 * max(1.0, worst) for value in left_out)


def test_results_are_the_same_bits_for_every_division():
    rng = np.random.default_rng(5)
    rows = random_rows(rng, 60, 40, 0.4, "pearson")
    candidates = rng.permutation(60).astype(np.int32)
    found = []
    for n_parts, most in ((1, 1 << 21), (7, 1 << 21), (2, 500)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(common_ratings, "_MAX_PAIRS", most)
            found.append(all_neighbours(rows, candidates, Measure("pearson", 3.0, 40), 6, n_parts, 40, rng))
    for row in range(60):
        for other in found[1:]:
            for one, two in zip(found[0][row], other[row], strict=True):
                assert_array_equal(one, two)


def test_equal_similarities_stand_by_candidate():
    rows = [{0: 1.0}, {0: 1.0}, {0: 1.0}, {0: 1.0}]
    order = np.array([2, 3, 0, 1], np.int32)
    found = all_neighbours(rows, order, Measure("jaccard", 0.0, 1), 2, 1, 1, np.random.default_rng(0))
    assert [found[row][0].tolist() for row in range(4)] == [[0, 1], [0, 1], [1, 2], [0, 2]]


def test_without_candidates_nobody_has_neighbours():
    block = block_of([{0: 1.0}, {0: 2.0}], np.random.default_rng(0))
    comparable = Comparable(np.full(2, -1, np.int32), np.zeros(0, np.int64), RowSizes(np.ones(2, np.int64), np.ones(2)))
    ((rows, found),) = neighbours_by_common(block, comparable, Measure("pearson", 1.0, 1), 3, part=0, n_parts=1)
    assert_array_equal(rows, [0, 1])
    assert found.candidates.shape == found.similarities.shape == (2, 0)
    empty = neighbours_by_vectors(np.ones((2, 4), np.float32), np.full(2, -1, np.int32), np.ones((0, 4), np.float32), 3)
    assert_array_equal(empty.candidates, -np.ones((2, 3)))


def test_llr_of_a_known_table():
    # 10 in common of 12 and 15 among 100: the table [[10, 2], [5, 83]].
    rows = [dict.fromkeys(range(12), 1.0), dict.fromkeys(range(2, 17), 1.0)]
    found = all_neighbours(
        rows, np.array([0, 1], np.int32), Measure("llr", 0.0, 100), 1, 1, 100, np.random.default_rng(0)
    )
    observed = [(10, 12 * 15), (2, 12 * 85), (5, 88 * 15), (83, 88 * 85)]
    expected = 2 * sum(k * math.log(k * 100 / product) for k, product in observed)
    assert_allclose(found[0][1], [expected], rtol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), n_rows=st.integers(1, 40), n=st.integers(1, 12), shrink=st.sampled_from([0.0, 9.0])
)
def test_neighbours_by_vectors_equal_brute_force(seed, n_rows, n, shrink):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n_rows, 3)).astype(np.float32)
    factors[rng.random(n_rows) < 0.2] = 0.0
    factors[rng.random(n_rows) < 0.2] = factors[0]
    n_ratings = rng.integers(1, 30, n_rows)
    vectors = similarity_vectors(factors, n_ratings, shrink)
    chosen = np.flatnonzero(rng.random(n_rows) < 0.8)
    own = np.full(n_rows, -1, np.int32)
    own[chosen] = np.arange(len(chosen))
    found = neighbours_by_vectors(vectors, own, vectors[chosen], n)
    wide = factors.astype(float)
    for row in range(n_rows):
        exact = []
        for number, other in enumerate(chosen.tolist()):
            lengths = np.linalg.norm(wide[row]) * np.linalg.norm(wide[other])
            if other != row and lengths > 0:
                weight = n_ratings[[row, other]] / (n_ratings[[row, other]] + shrink)
                exact.append((wide[row] @ wide[other] / lengths * weight.prod(), number))
        best = sorted((value for value, _ in exact if value > 1e-6), reverse=True)[:n]
        k = int((found.candidates[row] >= 0).sum())
        assert_allclose(found.similarities[row, :k], (best + [0.0] * n)[:k], atol=1e-6)
        assert k >= len(best)
        assert own[row] < 0 or own[row] not in found.candidates[row, :k].tolist()
        of_number = {number: value for value, number in exact}
        assert_allclose(
            [of_number[c] for c in found.candidates[row, :k].tolist()], found.similarities[row, :k], atol=1e-6
        )


def test_more_evidence_is_believed_more():
    assert_allclose(evidence(np.array([0, 1, 10, 90]), 10.0), [0, 1 / 11, 0.5, 0.9])
    assert_array_equal(evidence(np.array([0, 3]), 0.0), [0.0, 1.0])
    vectors = similarity_vectors(np.float32([[3, 4], [0, 0]]), np.array([10, 10]), 10.0)
    assert_allclose(vectors, [[0.3, 0.4], [0, 0]], rtol=1e-6)


def test_bad_vectors_are_refused():
    with pytest.raises(ShapeError, match=r"got \(2, 3\) and \(1,\)"):
        similarity_vectors(np.ones((2, 3), np.float32), np.array([1]), 0.0)
    with pytest.raises(NumericalError, match="factors must be finite"):
        similarity_vectors(np.full((1, 3), np.nan, np.float32), np.array([1]), 0.0)
