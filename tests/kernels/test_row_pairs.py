from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.row_pairs import RowPairs

LARGEST = 2**31 - 1
INDEXES = st.one_of(st.integers(0, 5), st.integers(LARGEST - 2, LARGEST))


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(INDEXES, INDEXES)), wanted=st.lists(INDEXES))
def test_every_row_has_its_columns_once(pairs: list[tuple[int, int]], wanted: list[int]) -> None:
    rows, columns = np.array(pairs, np.int32).reshape(-1, 2).T
    found = RowPairs.gather(rows, columns).of_rows(np.array(wanted, np.int32))
    assert found.values.dtype == np.int32
    expected = [sorted({column for row, column in pairs if row == one}) for one in wanted]
    assert [found.row(place).tolist() for place in range(len(wanted))] == expected
