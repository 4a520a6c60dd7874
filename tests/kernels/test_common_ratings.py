"""Sums over common ratings: every one added in the order of the holders, whatever is looked at together."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from recsys_spark.kernels import common_ratings
from recsys_spark.kernels.common_ratings import compare_rows
from recsys_spark.kernels.csr_block import build_csr_block


@pytest.mark.parametrize(("most_pairs", "most_sums"), [(1 << 21, 1 << 21), (900, 1 << 21), (1 << 21, 100)])
def test_sums_are_those_of_a_loop_over_the_holders(monkeypatch, most_pairs, most_sums):
    monkeypatch.setattr(common_ratings, "_MAX_PAIRS", most_pairs)
    monkeypatch.setattr(common_ratings, "_MAX_SUMS", most_sums)
    rng = np.random.default_rng(1)
    n_holders, n_rows = 150, 30
    # Of many magnitudes and either sign: in another order, the sums would be others.
    dense = (rng.normal(size=(n_holders, n_rows)) * 10.0 ** rng.integers(-4, 5, (n_holders, n_rows))).astype(np.float32)
    is_there = rng.random(dense.shape) < 0.4
    holders, rows = np.nonzero(is_there)
    candidate_of_index = np.full(n_rows, -1, np.int32)
    chosen = rng.permutation(n_rows)[:22]
    candidate_of_index[chosen] = np.arange(22)
    block = build_csr_block(holders, rows, dense[holders, rows])
    wide = np.where(is_there, dense, 0.0).astype(np.float64)
    done = []
    for part in range(2):
        compared = compare_rows(
            block, candidate_of_index, 22, part=part, n_parts=2, with_values=True, with_squares=True
        )
        for found in compared:
            for place, row in enumerate(found.rows.tolist()):
                done.append(row)
                count, product, own, other = (np.zeros(22) for _ in range(4))
                for holder in np.flatnonzero(is_there[:, row]):
                    held = is_there[holder, chosen]
                    count += held
                    product += wide[holder, row] * wide[holder, chosen]
                    own += np.where(held, wide[holder, row] ** 2, 0.0)
                    other += wide[holder, chosen] ** 2
                assert_array_equal(np.flatnonzero(count), np.intersect1d(np.flatnonzero(count), found.candidates))
                assert_array_equal(found.sums.n_common[place], count[found.candidates])
                assert_array_equal(found.sums.products[place], product[found.candidates])
                assert_array_equal(found.sums.squares[:, place], [own[found.candidates], other[found.candidates]])
    assert sorted(done) == list(range(n_rows))


def test_no_ratings_are_no_rows():
    block = build_csr_block(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    found = compare_rows(block, np.zeros(3, np.int32), 1, part=0, n_parts=1, with_values=False, with_squares=False)
    assert list(found) == []
