"""What blocks ask of each other in the ``route`` exchange, and what they are sent; no Spark is needed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.rating_blocks import ITEMS, block_to_arrow
from recsys_spark.train import route_messages
from recsys_spark.train.route_messages import (
    NOT_SENT,
    PIECES,
    RATINGS,
    BlockCopies,
    Copies,
    find_links,
    pick_rows,
    received_by_blocks,
    send_ratings,
    send_rows,
)
from recsys_spark.train.vector_blocks import int32s_of, matrix_of

PLACES = (10, 11)
ROWS = np.array([1, 3, 5, 7], np.int32)
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)


def message(target: int, source: int, columns: list[int], vectors: np.ndarray | None = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "placement": pa.array([0], pa.int32()),
            "target": pa.array([target], pa.int32()),
            "source": pa.array([source], pa.int32()),
            "columns": pa.array([np.array(columns, np.int32).tobytes()], pa.binary()),
            "vectors": pa.array([None if vectors is None else vectors.astype(np.float32).tobytes()], pa.binary()),
        }
    )


def block(rows: list[int], columns: list[int]) -> CsrBlock:
    return build_csr_block(np.array(rows), np.array(columns), np.ones(len(rows)))


def test_blocks_ask_for_the_columns_of_their_rows_once_and_not_for_those_of_hot_rows() -> None:
    ratings = block([0, 0, 2, 2, 2], [3, 4, 3, 5, 6])
    hot = HotRows(np.array([2], np.int32), np.array([3]), np.array([0, 1]))

    def asked(hot: HotRows | None) -> dict[tuple[int, int], list[int]]:
        links = find_links(iter([block_to_arrow(ITEMS, 1, ratings)]), PLACES, hot)
        return {
            (link["target"][0].as_py(), link["source"][0].as_py()): int32s_of(link["columns"][0]).tolist()
            for link in links
        }

    assert asked(None) == {(1, 0): [4, 6], (1, 1): [3, 5]}
    assert asked(hot) == {(1, 0): [4], (1, 1): [3]}


def test_what_is_needed_for_rows_and_for_pieces_is_sent_once() -> None:
    parts = [message(NOT_SENT, 1, [1, 5], VECTORS[[0, 2]]), message(NOT_SENT, 1, [3, 7], VECTORS[[1, 3]])]
    links = [message(0, 1, [1, 3]), message(0, 1, [3, 7]), message(1, 1, [5])]
    sent = list(send_rows(iter([*links, *parts]), PLACES))
    assert [(one["placement"][0].as_py(), one["target"][0].as_py()) for one in sent] == [(10, 0), (11, 1)]
    for one, rows in zip(sent, ([0, 1, 3], [2]), strict=True):
        assert int32s_of(one["columns"][0]).tolist() == ROWS[rows].tolist()
        assert_array_equal(matrix_of(one["vectors"][0], 3), VECTORS[rows])


def test_rows_are_picked_from_all_parts() -> None:
    parts = [(ROWS[:2], VECTORS[:2]), (np.zeros(0, np.int32), np.zeros((0, 1), np.float32)), (ROWS[2:], VECTORS[2:])]
    assert_array_equal(pick_rows(parts, np.array([3, 4, 7], np.int32)), [VECTORS[1], [0, 0, 0], VECTORS[3]])
    assert pick_rows([(ROWS, VECTORS)], ROWS) is VECTORS
    assert_array_equal(pick_rows([], ROWS, 3), np.zeros((4, 3)))


def test_a_block_without_ratings_is_not_lost_and_one_that_is_sent_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[tuple[str, int], CsrBlock] = {}
    monkeypatch.setattr(route_messages, "save_copy", lambda name, number, block: kept.update({(name, number): block}))
    monkeypatch.setattr(route_messages, "open_copy", lambda name, number: kept.get((name, number)))
    copies = Copies(BlockCopies("r", frozenset({0, 1})), BlockCopies("p", frozenset({1})))
    ratings, pieces = block([1], [3]), block([9], [5])
    rows = message(0, 1, [1], VECTORS[:1]), message(1, 1, [1], VECTORS[:1])
    first, second = received_by_blocks(iter(rows), copies)
    assert (first.number, first.ratings, second.ratings, second.pieces) == (0, None, None, None)
    assert first.pieces is not None
    assert not first.pieces.n_rows

    for kind, sent in ((RATINGS, ratings), (PIECES, pieces)):
        rows += tuple(send_ratings(iter([block_to_arrow(ITEMS, 1, sent)]), PLACES, ITEMS, kind))
    _, second = received_by_blocks(iter(rows), copies)
    assert kept.keys() == {("r", 1), ("p", 1)}
    for found, sent in ((second.ratings, ratings), (second.pieces, pieces)):
        assert found is not None
        assert_array_equal(found.row_index, sent.row_index)
        assert_array_equal(found.column_index, sent.column_index)
    assert len(second.messages) == 1
