"""What tasks do in the ``route`` exchange: find links, send rows, solve with what they received."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.csr_block import CsrBlock, split_by_block
from recsys_spark.kernels.fixed_side import AllPairs, FixedSide, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import ExactSum, column_exponents, partial_gramian
from recsys_spark.kernels.hot_rows import HotRows, cut_hot_rows
from recsys_spark.kernels.hot_solutions import solve_in_one_place
from recsys_spark.kernels.hot_sums import Bounds, hot_task
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem, RowSolution, solve_rows
from recsys_spark.rating_blocks import Side, block_to_arrow, blocks_from_arrow
from recsys_spark.shared_value import SharedValue
from recsys_spark.train.first_vectors import first_rows, make_feasible
from recsys_spark.train.half_iteration import needs_start, peak_memory
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.routed_features import Told
from recsys_spark.train.shares import Shares
from recsys_spark.train.vector_blocks import int32s_of, matrix_of

# What a task measured: the rating block, its own peak memory, what it was sent, the column numbers among that, and
# the vectors that it leaves with their row numbers.
SIZES = ("block_bytes", "worker_bytes", "received_bytes", "link_bytes", "stored_bytes")
FACTOR_BLOCK_SCHEMA = "block int, row_index binary, n_ratings binary, vectors binary, exponents binary, " + ", ".join(
    [*(f"{name} double" for name in Shares._fields), *(f"{name} long" for name in SIZES)]
)
# One schema for all that is sent. A link has no vectors. Where source or target is no block: NOT_SENT, vectors of
# the block's own rows; RATINGS, the block itself, for a machine that has no copy of it.
MESSAGE_SCHEMA = "placement int, target int, source int, columns binary, vectors binary"
NOT_SENT, RATINGS = -1, -2
GRAMIAN_SCHEMA = "high binary, low binary"
# The designs of so many rows are held at once; a multiple of the rows of one exact product.
_ROWS_AT_ONCE = 1 << 14

Message = tuple[int, Int32Array, Float32Array]


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """What every task is given besides its messages.

    Attributes
    ----------
    problem : RowProblem
    constant : float
        Part of every score that the observations still hold.
    all_pairs : AllPairs or None
        Of the fixed side, where the loss has such a term.
    hot : HotRows or None
        Hot rows of the side that is solved, where there are some.
    bounds : Bounds or None
        What they do not exceed.
    told : Told or None
        What the features say of the side that is solved, where it is drawn towards that.
    """

    problem: RowProblem
    constant: float
    all_pairs: AllPairs | None = None
    hot: HotRows | None = None
    bounds: Bounds | None = None
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class FirstRows:
    """How the rows of a side begin: by seed, but those that were sent as they are; and their penalty's degree."""

    side: Side
    seed: int
    rank: int
    unobserved_degree: float


def find_links(batches: Iterator[pa.RecordBatch], places: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: rating blocks -> the columns that each needs of each block of the other side."""
    for target, block in blocks_from_arrow(batches):
        needed = np.unique(block.column_index)
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


def send_ratings(batches: Iterator[pa.RecordBatch], places: tuple[int, ...], side: Side) -> Iterator[pa.RecordBatch]:
    """Worker: rating blocks -> messages that hold them."""
    for target, block in blocks_from_arrow(batches):
        stream, row = pa.BufferOutputStream(), block_to_arrow(side, target, block)
        with pa.ipc.new_stream(stream, row.schema) as writer:
            writer.write_batch(row)
        content = np.frombuffer(stream.getvalue(), np.uint8)
        yield _message(places[target], target, RATINGS, content, None)


def send_rows(batches: Iterator[pa.RecordBatch], places: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: a block of vectors and its links -> one message for each block that needs some of them."""
    blocks: dict[int, tuple[Int32Array, Float32Array]] = {}
    links: list[tuple[int, int, Int32Array]] = []
    for target, source, columns, vectors in _read_messages(batches):
        if vectors is not None:
            blocks[source] = int32s_of(columns), vectors
        else:
            links.append((target, source, int32s_of(columns)))
    for target, source, columns in links:
        index, vectors = blocks[source]
        yield _message(places[target], target, source, columns, vectors[np.searchsorted(index, columns)])


def begin_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: str, first: FirstRows
) -> Iterator[pa.RecordBatch]:
    """Worker: what is known of each block's rows -> the block's first vectors."""
    for target, block, messages in _received(batches, copies):
        yield _missing(target) if block is None else _begin(target, block, messages, settings.value, first)


def solve_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: str
) -> Iterator[pa.RecordBatch]:
    """Worker: all messages of a block -> its solved rows, or nulls where this machine has no copy of it."""
    for target, block, messages in _received(batches, copies):
        yield _missing(target) if block is None else _solve(target, block, messages, settings.value)


def _received(batches: Iterator[pa.RecordBatch], copies: str) -> Iterator[tuple[int, CsrBlock | None, list[Message]]]:
    """Return the blocks that messages are for, where this machine has them, each with its messages."""
    received: dict[int, list[Message]] = defaultdict(list)
    sent: dict[int, CsrBlock] = {}
    for target, source, columns, vectors in _read_messages(batches):
        if source == RATINGS:
            ((number, sent[target]),) = blocks_from_arrow(pa.ipc.open_stream(columns.as_buffer()))
            save_copy(copies, number, sent[target])
        else:
            assert vectors is not None
            received[target].append((source, int32s_of(columns), vectors))
    for target in sorted(received):
        yield target, sent[target] if target in sent else open_copy(copies, target), received.pop(target)


def _begin(
    number: int, block: CsrBlock, messages: list[Message], settings: RouteSettings, first: FirstRows
) -> pa.RecordBatch:
    problem = settings.problem
    vectors = first_rows(first.side, block.row_index, first.seed, first.rank, problem)
    for _, index, known in messages:
        place = np.minimum(np.searchsorted(block.row_index, index), block.n_rows - 1)
        is_row = block.row_index[place] == index
        found = known[is_row]
        make_feasible(found, problem)
        vectors[place[is_row]] = found
    penalties = row_penalties(block.degrees, vectors.shape[1], problem.regularization, first.unobserved_degree)
    nothing = np.zeros(block.n_rows)
    solution = RowSolution(vectors, nothing, nothing, penalty(vectors, penalties))
    return _factor_block(number, block, solution, settings, (0, 0))


def _solve(number: int, block: CsrBlock, messages: list[Message], settings: RouteSettings) -> pa.RecordBatch:
    own = [vectors for source, _, vectors in messages if source == NOT_SENT]
    sent = [(columns, vectors) for source, columns, vectors in messages if source != NOT_SENT]
    link_bytes = sum(columns.nbytes for columns, _ in sent)
    received_bytes = sum(columns.nbytes + vectors.nbytes for _, columns, vectors in messages)
    # Each part is let go as soon as it has been copied: the vectors are what a task's memory goes into.
    messages.clear()
    columns = np.sort(np.concatenate([part for part, _ in sent]))
    fixed = _fixed_side(columns, sent, settings)
    compact = replace(block, column_index=np.searchsorted(columns, block.column_index).astype(np.int32))
    start = own.pop() if needs_start(settings.problem) else None
    left_out = None if settings.hot is None else settings.hot.are_in(block)
    expected = None if settings.told is None else settings.told.expected(block.row_index)
    solution = solve_rows(compact, fixed, settings.problem, start, left_out, expected)
    if left_out is not None and left_out.any():
        _solve_hot(solution, block, columns, fixed, settings, start)
    return _factor_block(number, block, solution, settings, (received_bytes, link_bytes))


def _solve_hot(
    solution: RowSolution,
    block: CsrBlock,
    columns: Int32Array,
    fixed: FixedSide,
    settings: RouteSettings,
    start: Float32Array | None,
) -> None:
    """Put the hot rows of a block into its solution: the bits of ``replicate``, but all pieces in this task."""
    hot, bounds, problem = settings.hot, settings.bounds, settings.problem
    assert hot is not None
    assert bounds is not None
    positions = np.flatnonzero(hot.are_in(block))
    places = np.searchsorted(hot.rows, block.row_index[positions])
    start_of_all = np.zeros((len(hot.rows), fixed.width), np.float32)
    if start is not None:
        start_of_all[places] = start[positions]
    task = hot_task(hot, bounds, problem, fixed.all_pairs, start_of_all).of(places)
    pieces = cut_hot_rows(block, task.hot)
    compact = replace(pieces, column_index=np.searchsorted(columns, pieces.column_index).astype(np.int32))
    solved = solve_in_one_place(compact, fixed, problem, task)
    for name in ("vectors", "observed", "unobserved", "penalty"):
        getattr(solution, name)[positions] = getattr(solved, name)


def _fixed_side(columns: Int32Array, sent: list[tuple[Int32Array, Float32Array]], settings: RouteSettings) -> FixedSide:
    """Put what was sent in the order of its columns; empties the list."""
    vectors = np.empty((len(columns), sent[0][1].shape[1]), np.float32)
    while sent:
        part, values = sent.pop()
        vectors[np.searchsorted(columns, part)] = values
    fixed = make_fixed_side(vectors, settings.constant, settings.problem.regularization.biases)
    del vectors, values
    return fixed if settings.all_pairs is None else in_basis(fixed, settings.all_pairs)


def block_gramians(
    batches: Iterator[pa.RecordBatch], settings: RouteSettings, exponents: Int32Array
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> their exact Gramians."""
    for batch in batches:
        for values in batch["vectors"]:
            total: ExactSum | None = None
            for designs in _designs(matrix_of(values, len(exponents) - 1), settings):
                part = partial_gramian(designs, exponents)
                total = part if total is None else total + part
            assert total is not None
            limbs = {"high": total.high, "low": total.low}
            yield pa.RecordBatch.from_pydict({k: pa.array([v.tobytes()], pa.binary()) for k, v in limbs.items()})


def _designs(vectors: Float32Array, settings: RouteSettings) -> Iterator[Float32Array]:
    """Return the rows that a Gramian is summed from, some thousands at a time; at least one array."""
    for first in range(0, max(len(vectors), 1), _ROWS_AT_ONCE):
        part = vectors[first : first + _ROWS_AT_ONCE]
        yield with_offsets(make_fixed_side(part, settings.constant, settings.problem.regularization.biases))


def _factor_block(
    number: int, block: CsrBlock, solution: RowSolution, settings: RouteSettings, sizes: tuple[int, int]
) -> pa.RecordBatch:
    arrays = {
        "row_index": block.row_index,
        "n_ratings": block.degrees.astype(np.int32),
        "vectors": solution.vectors,
        "exponents": np.maximum.reduce([column_exponents(part) for part in _designs(solution.vectors, settings)]),
    }
    stored = block.row_index.nbytes + solution.vectors.nbytes
    measured = dict(zip(SIZES, (block.nbytes, peak_memory(), *sizes, stored), strict=True))
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            **{name: pa.array([array.tobytes()], pa.binary()) for name, array in arrays.items()},
            **{name: pa.array([math.fsum(getattr(solution, name))], pa.float64()) for name in Shares._fields},
            **{name: pa.array([value], pa.int64()) for name, value in measured.items()},
        }
    )


def _missing(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            **{name: pa.nulls(1, pa.binary()) for name in ("row_index", "n_ratings", "vectors", "exponents")},
            **{name: pa.array([0.0], pa.float64()) for name in Shares._fields},
            **{name: pa.array([0], pa.int64()) for name in SIZES},
        }
    )


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
            matrix = matrix_of(vectors, _width(columns, vectors)) if vectors.is_valid else None
            yield batch["target"][place].as_py(), batch["source"][place].as_py(), columns, matrix


def _width(columns: pa.Scalar, vectors: pa.Scalar) -> int:
    """Return the entries of each vector; 1 where there are none."""
    n_vectors = len(columns.as_buffer()) // 4
    return len(vectors.as_buffer()) // 4 // n_vectors if n_vectors else 1
