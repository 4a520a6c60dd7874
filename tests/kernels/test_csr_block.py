from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.csr_block import build_csr_block, split_by_block

# Wide indexes do not leave room for the position in the sort key: the other branch of the sort.
INDEX = st.one_of(st.integers(0, 9), st.integers(2**31 - 5, 2**31 - 1))


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(INDEX, INDEX), unique=True, max_size=40), seed=st.integers(0, 99))
def test_block_holds_the_observations_in_canonical_order(pairs, seed):
    values = np.arange(len(pairs)) + 0.5
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    columns = np.array([column for _, column in pairs], dtype=np.int64)
    block = build_csr_block(rows, columns, values)
    expected = sorted(zip(rows.tolist(), columns.tolist(), values.tolist(), strict=True))
    owners = np.repeat(block.row_index, block.degrees)
    stored = list(zip(owners.tolist(), block.column_index.tolist(), block.values.tolist(), strict=True))
    assert stored == expected
    assert_array_equal(block.row_index, sorted(set(rows.tolist())))
    assert (block.n_rows, block.nnz) == (len(set(rows.tolist())), len(pairs))
    order = np.random.default_rng(seed).permutation(len(pairs))
    shuffled = build_csr_block(rows[order], columns[order], values[order])
    for name in ("row_index", "indptr", "column_index", "values"):
        assert_array_equal(getattr(shuffled, name), getattr(block, name))


def test_dtypes_and_the_docstrings_example():
    block = build_csr_block(np.array([7, 7, 3]), np.array([5, 2, 5]), np.array([1.0, 4.0, 2.0]))
    assert_array_equal(block.row_index, np.array([3, 7], dtype=np.int32), strict=True)
    assert_array_equal(block.indptr, np.array([0, 1, 3], dtype=np.int64), strict=True)
    assert_array_equal(block.column_index, np.array([5, 2, 5], dtype=np.int32), strict=True)
    assert_array_equal(block.values, np.array([2.0, 4.0, 1.0], dtype=np.float32), strict=True)


@pytest.mark.parametrize("large", [0, 2**31 - 1])
def test_duplicate_pairs_are_rejected(large):
    with pytest.raises(ShapeError, match=r"got 2 repeats, first of them \(row 4, column 1\); merge"):
        build_csr_block(np.array([4, 9, 4, 4, large]), np.array([1, large, 1, 1, large]), np.ones(5))


@pytest.mark.parametrize("wrong", [-1, 2**31])
def test_indexes_out_of_range_are_rejected(wrong):
    with pytest.raises(ShapeError, match=f"column_index must lie in .* {wrong}"):
        build_csr_block(np.array([0, 1]), np.array([0, wrong]), np.ones(2))


def test_unequal_lengths_are_rejected():
    with pytest.raises(ShapeError, match="2, 2, 3 and 3"):
        build_csr_block(np.array([0, 1]), np.array([0, 1]), np.ones(3))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.integers(0, 2**31 - 1), max_size=50),
    n_blocks=st.sampled_from([1, 2, 7, 65536, 65537, 70000]),
)
def test_split_groups_by_remainder_and_keeps_order(rows, n_blocks):
    order, bounds = split_by_block(np.array(rows, dtype=np.int32), n_blocks)
    assert order.dtype == bounds.dtype == np.int64
    assert len(bounds) == n_blocks + 1
    for block in {row % n_blocks for row in rows} | {0, n_blocks - 1}:
        own = order[bounds[block] : bounds[block + 1]]
        assert own.tolist() == [place for place, row in enumerate(rows) if row % n_blocks == block]


def test_split_rejects_no_blocks():
    with pytest.raises(ShapeError, match="n_blocks must be >= 1, got 0"):
        split_by_block(np.array([1]), 0)
