"""What tasks do in the ``route`` exchange with the rows that they received."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from recsys_spark.kernels.arrays import Float32Array, Int32Array, IntArray
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import AllPairs, FixedSide, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import ExactSum, column_exponents, partial_gramian
from recsys_spark.kernels.hot_sums import Halvings, HotTask, add_up_pieces, evaluate_pieces
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem, RowSolution, solve_rows
from recsys_spark.rating_blocks import Side
from recsys_spark.shared_value import SharedValue
from recsys_spark.train.first_vectors import first_rows, make_feasible
from recsys_spark.train.half_iteration import needs_start
from recsys_spark.train.peak_memory import peak_memory
from recsys_spark.train.route_messages import (
    NOT_SENT,
    Copies,
    Message,
    Received,
    pick_rows,
    received_by_blocks,
)
from recsys_spark.train.routed_features import Told
from recsys_spark.train.shares import Shares
from recsys_spark.train.vector_blocks import matrix_of

# What a task measured: the rating block, its own peak memory, what it was sent, the column numbers among that, and
# the vectors that it leaves with their row numbers.
SIZES = ("block_bytes", "worker_bytes", "received_bytes", "link_bytes", "stored_bytes")
FACTOR_BLOCK_SCHEMA = (
    "block int, row_index binary, n_ratings binary, vectors binary, exponents binary, sums binary, seconds double, "
    + ", ".join([*(f"{name} double" for name in Shares._fields), *(f"{name} long" for name in SIZES)])
)
LOSSES_SCHEMA = "block int, losses binary, received_bytes long, link_bytes long"
GRAMIAN_SCHEMA = "high binary, low binary"
# The designs of so many rows are held at once; a multiple of the rows of one exact product.
_ROWS_AT_ONCE = 1 << 14


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
    hot : HotTask or None
        Hot rows of the side that is solved, where there are some.
    told : Told or None
        What the features say of the side that is solved, where it is drawn towards that.
    """

    problem: RowProblem
    constant: float
    all_pairs: AllPairs | None = None
    hot: HotTask | None = None
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class FirstRows:
    """How the rows of a side begin: by seed, but those that were sent as they are; and their penalty's degree."""

    side: Side
    seed: int
    rank: int
    unobserved_degree: float


def begin_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: Copies, first: FirstRows
) -> Iterator[pa.RecordBatch]:
    """Worker: what is known of each block's rows -> the block's first vectors."""
    for received in received_by_blocks(batches, copies):
        if received.ratings is None:
            yield _missing(received.number)
        else:
            yield _begin(received.number, received.ratings, received.messages, settings.value, first)


def solve_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: Copies
) -> Iterator[pa.RecordBatch]:
    """Worker: all messages of a block -> its solved rows and the sums of its pieces of hot rows.

    Nulls where this machine has no copy of the block, or of the pieces.
    """
    started = time.process_time()
    for received in received_by_blocks(batches, copies):
        if received.ratings is None or received.pieces is None:
            yield _missing(received.number)
            continue
        yield from _solve(received, received.ratings, received.pieces, settings.value, started)
        started = time.process_time()


def evaluate_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: Copies, tried: Halvings
) -> Iterator[pa.RecordBatch]:
    """Worker: all messages of a block -> the losses of its pieces at the ends of halved steps; nulls as above."""
    for received in received_by_blocks(batches, copies):
        losses, sizes = None, (0, 0)
        if received.pieces is not None:
            columns, fixed, sizes = _gather(received.messages, settings.value)
            pieces = _with_places(received.pieces, columns)
            losses = evaluate_pieces(pieces, fixed, settings.value.problem.loss, tried).tobytes()
        yield pa.RecordBatch.from_pydict(
            {
                "block": pa.array([received.number], pa.int32()),
                "losses": pa.array([losses], pa.binary()),
                "received_bytes": pa.array([sizes[0]], pa.int64()),
                "link_bytes": pa.array([sizes[1]], pa.int64()),
            }
        )


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
    return factor_block(number, block.row_index, block.degrees, solution, settings, {"block_bytes": block.nbytes})


def _solve(
    received: Received, block: CsrBlock, pieces: CsrBlock, settings: RouteSettings, started: float
) -> Iterator[pa.RecordBatch]:
    own = [(rows, vectors) for source, rows, vectors in received.messages if source == NOT_SENT]
    own_bytes = sum(rows.nbytes + vectors.nbytes for rows, vectors in own)
    cold = block if settings.hot is None else settings.hot.hot.without(block)
    if not cold.n_rows + pieces.n_rows:
        return
    columns, fixed, (received_bytes, link_bytes) = _gather(received.messages, settings)
    start = pick_rows(own, cold.row_index, fixed.width) if needs_start(settings.problem) else None
    del own
    expected = None if settings.told is None else settings.told.expected(cold.row_index)
    solution = solve_rows(_with_places(cold, columns), fixed, settings.problem, start, None, expected)
    sums = None
    if settings.hot is not None:
        sums = add_up_pieces(_with_places(pieces, columns), fixed, settings.problem.loss, settings.hot).tobytes()
    sizes = {
        "block_bytes": block.nbytes,
        "received_bytes": own_bytes + received_bytes,
        "link_bytes": link_bytes,
    }
    seconds = time.process_time() - started
    yield factor_block(received.number, cold.row_index, cold.degrees, solution, settings, sizes, sums, seconds)


def _gather(messages: list[Message], settings: RouteSettings) -> tuple[Int32Array, FixedSide, tuple[int, int]]:
    """Put the fixed rows that were sent in order, and empty the messages.

    Returns
    -------
    columns : int32 array of shape (n_columns,)
        Their indexes, ascending.
    fixed : FixedSide
    sizes : tuple of int
        Bytes of what was sent, and of the columns' indexes among them.
    """
    sent = [(columns, vectors) for source, columns, vectors in messages if source != NOT_SENT]
    sizes = sum(columns.nbytes + vectors.nbytes for columns, vectors in sent), sum(part.nbytes for part, _ in sent)
    # Each part is let go as soon as it has been copied: the vectors are what a task's memory goes into.
    messages.clear()
    columns = np.sort(np.concatenate([part for part, _ in sent]))
    return columns, _fixed_side(columns, sent, settings), sizes


def _with_places(block: CsrBlock, columns: Int32Array) -> CsrBlock:
    """Return a block whose columns are counted among those that were sent."""
    return replace(block, column_index=np.searchsorted(columns, block.column_index).astype(np.int32))


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


def factor_block(
    number: int,
    row_index: Int32Array,
    degrees: IntArray,
    solution: RowSolution,
    settings: RouteSettings,
    sizes: dict[str, int],
    sums: bytes | None = None,
    seconds: float = 0.0,
) -> pa.RecordBatch:
    """Return solved rows of a block as one row of ``FACTOR_BLOCK_SCHEMA``."""
    arrays = {
        "row_index": row_index,
        "n_ratings": degrees.astype(np.int32),
        "vectors": solution.vectors,
        "exponents": np.maximum.reduce([column_exponents(part) for part in _designs(solution.vectors, settings)]),
    }
    stored = row_index.nbytes + solution.vectors.nbytes
    # Rows that the driver has solved are no task's.
    worker_bytes = peak_memory() if sizes else 0
    measured = dict.fromkeys(SIZES, 0) | {"worker_bytes": worker_bytes, "stored_bytes": stored} | sizes
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            **{name: pa.array([array.tobytes()], pa.binary()) for name, array in arrays.items()},
            "sums": pa.array([sums], pa.binary()),
            "seconds": pa.array([seconds], pa.float64()),
            **{name: pa.array([math.fsum(getattr(solution, name))], pa.float64()) for name in Shares._fields},
            **{name: pa.array([measured[name]], pa.int64()) for name in SIZES},
        }
    )


def _missing(number: int) -> pa.RecordBatch:
    nulls = ("row_index", "n_ratings", "vectors", "exponents", "sums")
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            **{name: pa.nulls(1, pa.binary()) for name in nulls},
            **{name: pa.array([0.0], pa.float64()) for name in ("seconds", *Shares._fields)},
            **{name: pa.array([0], pa.int64()) for name in SIZES},
        }
    )
