from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.kernels.ragged_rows import RaggedRows, starts

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=6)


def ragged(rows: list[list[int]]) -> RaggedRows:
    return RaggedRows(
        starts(np.array([len(row) for row in rows], np.int64)), np.array(list(chain.from_iterable(rows)), np.int32)
    )


def plain(rows: RaggedRows) -> list[list[int]]:
    return [rows.row(number).tolist() for number in range(len(rows.lengths))]


@given(rows=ROWS, seed=st.integers(0, 99))
def test_taken_and_joined_rows_are_those_of_lists(rows: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(rows), 5) if rows else np.zeros(0, np.int64)
    taken = ragged(rows).take(chosen)
    assert plain(taken) == [rows[number] for number in chosen.tolist()]
    owner = np.sort(rng.integers(0, 4, len(chosen)))
    pairs = list(zip(chosen.tolist(), owner.tolist(), strict=True))
    owned = [list(chain.from_iterable(rows[r] for r, o in pairs if o == mine)) for mine in range(4)]
    assert plain(taken.joined(owner, 4)) == owned


@given(rows=ROWS)
def test_rows_beside_others_hold_both(rows: list[list[int]]) -> None:
    others = [row[::-1] + [7] for row in rows]
    both = [row + other for row, other in zip(rows, others, strict=True)]
    assert plain(ragged(rows).beside(ragged(others))) == both


def test_groups_are_rows_in_order() -> None:
    assert plain(RaggedRows.by_group(np.array([2, 0, 2, 0, 4]), 5)) == [[1, 3], [], [0, 2], [], [4]]
