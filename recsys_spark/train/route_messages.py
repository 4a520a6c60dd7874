"""Messages between blocks in the ``route`` exchange: who needs which rows, and what was sent to whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block, split_by_block
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.rating_blocks import Side, block_to_arrow, blocks_from_arrow
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.vector_blocks import int32s_of, matrix_of

# One schema for all that is sent. A link has no vectors. Where source or target is no block: NOT_SENT, vectors of
# the block's own rows; RATINGS and PIECES, the block itself and its pieces of hot rows, for a machine that has no
# copy of them.
MESSAGE_SCHEMA = "placement int, target int, source int, columns binary, vectors binary"
NOT_SENT, RATINGS, PIECES = -1, -2, -3
_NO_ROWS = build_csr_block(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))

Message = tuple[int, Int32Array, Float32Array]
Rows = tuple[Int32Array, Float32Array]
"""Some rows of a side: their indexes, ascending, and their vectors."""


class BlockCopies(NamedTuple):
    """Copies of blocks on the machines of the workers that made them.

    Attributes
    ----------
    name : str
    numbers : frozenset of int
        Blocks that there are; the others have no ratings.
    """

    name: str = ""
    numbers: frozenset[int] = frozenset()

    def open(self, number: int) -> CsrBlock | None:
        """Return a block, without rows if it has no ratings; None where this machine has lost its copy."""
        return open_copy(self.name, number) if number in self.numbers else _NO_ROWS


class Copies(NamedTuple):
    """Copies of a side's rating blocks, and of its pieces of hot rows."""

    ratings: BlockCopies = BlockCopies()
    pieces: BlockCopies = BlockCopies()


@dataclass(frozen=True, slots=True)
class Received:
    """What a task has been sent for a block, and the block itself.

    Attributes
    ----------
    number : int
    messages : list of Message
    ratings, pieces : CsrBlock or None
        None: this machine has no copy.
    """

    number: int
    messages: list[Message]
    ratings: CsrBlock | None
    pieces: CsrBlock | None


def find_links(
    batches: Iterator[pa.RecordBatch], places: tuple[int, ...], hot: HotRows | None
) -> Iterator[pa.RecordBatch]:
    """Worker: rating blocks, or pieces of hot rows -> the columns that each needs of each block of the other side.

    Hot rows, where they are named, need none: their pieces do.
    """
    for target, block in blocks_from_arrow(batches):
        needed = np.unique((block if hot is None else hot.without(block)).column_index)
        order, bounds = split_by_block(needed, len(places))
        for source, place in enumerate(places):
            columns = needed[order[bounds[source] : bounds[source + 1]]]
            if len(columns):
                yield _message(place, target, source, columns, None)


def split_known(batches: Iterator[pa.RecordBatch], places: tuple[int, ...], biases: bool) -> Iterator[pa.RecordBatch]:
    """Worker: rows of (index, factors, bias) -> one message for each block that has some of them."""
    for batch in batches:
        index, factors, bias = batch.columns
        rows, vectors = index.to_numpy(), vectors_from_columns(factors, bias, biases=biases)
        order, bounds = split_by_block(rows, len(places))
        for target, place in enumerate(places):
            part = order[bounds[target] : bounds[target + 1]]
            if len(part):
                yield _message(place, target, NOT_SENT, rows[part], vectors[part])


def send_ratings(
    batches: Iterator[pa.RecordBatch], places: tuple[int, ...], side: Side, kind: int
) -> Iterator[pa.RecordBatch]:
    """Worker: rating blocks or pieces of hot rows -> messages that hold them; ``kind`` says which they are."""
    for target, block in blocks_from_arrow(batches):
        stream, row = pa.BufferOutputStream(), block_to_arrow(side, target, block)
        with pa.ipc.new_stream(stream, row.schema) as writer:
            writer.write_batch(row)
        content = np.frombuffer(stream.getvalue(), np.uint8)
        yield _message(places[target], target, kind, content, None)


def send_rows(batches: Iterator[pa.RecordBatch], places: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: a block of vectors and its links -> one message for each block that needs some of them.

    Hot rows are in parts of their own, and blocks need some columns for their rows and some for pieces: a row that is
    needed for both is sent once.
    """
    parts: dict[int, list[Rows]] = defaultdict(list)
    links: dict[tuple[int, int], list[Int32Array]] = defaultdict(list)
    for target, source, columns, vectors in _read_messages(batches):
        if vectors is not None:
            parts[source].append((int32s_of(columns), vectors))
        else:
            links[target, source].append(int32s_of(columns))
    for (target, source), needed in links.items():
        wanted = needed[0] if len(needed) == 1 else np.unique(np.concatenate(needed))
        yield _message(places[target], target, source, wanted, pick_rows(parts[source], wanted))


def received_by_blocks(batches: Iterator[pa.RecordBatch], copies: Copies) -> Iterator[Received]:
    """Return what was sent to each block, with the blocks where this machine has them."""
    received: dict[int, list[Message]] = defaultdict(list)
    sent: dict[tuple[int, int], CsrBlock] = {}
    names = {RATINGS: copies.ratings, PIECES: copies.pieces}
    for target, source, columns, vectors in _read_messages(batches):
        if source in names:
            ((number, block),) = blocks_from_arrow(pa.ipc.open_stream(columns.as_buffer()))
            save_copy(names[source].name, number, block)
            sent[source, number] = block
        else:
            assert vectors is not None
            received[target].append((source, int32s_of(columns), vectors))
    for target in sorted(received):
        ratings, pieces = (
            sent[kind, target] if (kind, target) in sent else of_kind.open(target) for kind, of_kind in names.items()
        )
        yield Received(target, received.pop(target), ratings, pieces)


def pick_rows(parts: list[Rows], rows: Int32Array, width: int = 0) -> Float32Array:
    """Return the vectors of some rows, ascending; zeros for rows that are in no part."""
    filled = [(index, vectors) for index, vectors in parts if len(index)]
    found = np.zeros((len(rows), max([width, *(vectors.shape[1] for _, vectors in filled)])), np.float32)
    for index, vectors in filled:
        if np.array_equal(index, rows):
            return vectors
        place = np.minimum(np.searchsorted(index, rows), len(index) - 1)
        is_there = index[place] == rows
        if is_there.all():
            return np.asarray(vectors[place])
        found[is_there] = vectors[place[is_there]]
    return found


def _message(
    placement: int,
    target: int,
    source: int,
    columns: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
    vectors: Float32Array | None,
) -> pa.RecordBatch:
    numbers = {"placement": placement, "target": target, "source": source}
    return pa.RecordBatch.from_pydict(
        {
            **{name: pa.array([value], pa.int32()) for name, value in numbers.items()},
            "columns": pa.array([columns.tobytes()], pa.binary()),
            "vectors": pa.array([None if vectors is None else vectors.tobytes()], pa.binary()),
        }
    )


def _read_messages(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, int, pa.Scalar, Float32Array | None]]:
    for batch in batches:
        for place in range(batch.num_rows):
            columns, vectors = batch["columns"][place], batch["vectors"][place]
            matrix = matrix_of(vectors, width_of(columns, vectors)) if vectors.is_valid else None
            yield batch["target"][place].as_py(), batch["source"][place].as_py(), columns, matrix


def width_of(columns: pa.Scalar, vectors: pa.Scalar) -> int:
    """Return the entries of each vector; 1 where there are none."""
    n_vectors = len(columns.as_buffer()) // 4
    return len(vectors.as_buffer()) // 4 // n_vectors if n_vectors else 1
