from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from recsys_spark.kernels.degree_ladder import LADDER, padded_lengths, plan_batches, possible_lengths

TOP = LADDER[-1]


def test_ladder_is_fixed():
    assert LADDER[:12] == (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56)
    assert TOP == 16384


@given(degree=st.integers(0, 5 * TOP))
def test_a_row_gets_the_least_rung_that_holds_it(degree):
    length = int(padded_lengths(np.array([degree]))[0])
    rungs = [*LADDER, *(slices * TOP for slices in range(2, 6))]
    assert length == min(rung for rung in rungs if rung >= degree)


@given(degrees=st.lists(st.integers(0, 5 * TOP), min_size=1, max_size=60))
def test_possible_lengths_give_each_row_its_padded_length(degrees):
    lengths = possible_lengths(max(degrees))
    found = lengths[np.searchsorted(lengths, degrees)]
    assert_array_equal(found, np.where(np.array(degrees) == 0, 0, padded_lengths(np.array(degrees))))


@given(
    degrees=st.lists(st.integers(1, 3 * TOP), max_size=60),
    max_floats=st.sampled_from([1, 1000, 100_000]),
)
def test_batches_hold_every_row_once_and_stay_bounded(degrees, max_floats):
    lengths = padded_lengths(np.array(degrees, dtype=np.int64))
    methods = np.array(degrees, dtype=np.int64) % 3
    rows = np.arange(len(degrees)) * 10
    batches = list(plan_batches(rows, lengths, methods, lengths * 5, max_floats))
    taken = np.concatenate([np.zeros(0, dtype=np.int64), *(batch.rows for batch in batches)])
    assert_array_equal(np.sort(taken), rows)
    for batch in batches:
        own = batch.rows // 10
        assert (lengths[own] == batch.total_length).all()
        assert (methods[own] == batch.method).all()
        assert batch.length <= TOP
        assert len(own) == 1 or len(own) * batch.length * 5 <= max_floats
        assert batch.is_sliced == (batch.total_length > TOP)
        assert not batch.is_sliced or len(own) == 1
