"""What tasks do in the ``route`` exchange: find links, send rows, solve with what they received."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array, Int32Array, Int64Array, IntArray
from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block, split_by_block
from recsys_spark.kernels.fixed_side import AllPairs, FixedSide, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import ExactSum, column_exponents, partial_gramian
from recsys_spark.kernels.hot_rows import HotRows
from recsys_spark.kernels.hot_sums import Halvings, HotTask, add_up_pieces, evaluate_pieces
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem, RowSolution, solve_rows
from recsys_spark.rating_blocks import Side, block_to_arrow, blocks_from_arrow
from recsys_spark.shared_value import SharedValue
from recsys_spark.train.first_vectors import first_rows, make_feasible
from recsys_spark.train.half_iteration import needs_start, peak_memory
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.shares import Shares
from recsys_spark.train.vector_blocks import int32s_of, matrix_of

# What a task measured: the rating block, its own peak memory, what it was sent, the column numbers among that, and
# the vectors that it leaves with their row numbers.
SIZES = ("block_bytes", "worker_bytes", "received_bytes", "link_bytes", "stored_bytes")
FACTOR_BLOCK_SCHEMA = (
    "block int, row_index binary, n_ratings binary, vectors binary, exponents binary, sums binary, seconds double, "
    + ", ".join([*(f"{name} double" for name in Shares._fields), *(f"{name} long" for name in SIZES)])
)
# One schema for all that is sent. A link has no vectors. Where source or target is no block: NOT_SENT, vectors of
# the block's own rows; RATINGS and PIECES, the block itself and its pieces of hot rows, for a machine that has no
# copy of them.
MESSAGE_SCHEMA = "placement int, target int, source int, columns binary, vectors binary"
NOT_SENT, RATINGS, PIECES = -1, -2, -3
LOSSES_SCHEMA = "block int, losses binary, received_bytes long, link_bytes long"
GRAMIAN_SCHEMA = "high binary, low binary"
# The designs of so many rows are held at once; a multiple of the rows of one exact product.
_ROWS_AT_ONCE = 1 << 14

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
    """

    problem: RowProblem
    constant: float
    all_pairs: AllPairs | None = None
    hot: HotTask | None = None


@dataclass(frozen=True, slots=True)
class FirstRows:
    """How the rows of a side begin: by seed, but those that were sent as they are; and their penalty's degree."""

    side: Side
    seed: int
    rank: int
    unobserved_degree: float


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
        yield _message(places[target], target, source, wanted, _pick(parts[source], wanted))


def find_rows(batches: Iterator[pa.RecordBatch], rows: Int32Array) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> those of some rows, ascending, in as many blocks."""
    for batch in batches:
        for index, vectors in zip(batch["row_index"], batch["vectors"], strict=True):
            own = int32s_of(index)
            place = np.flatnonzero(np.isin(own, rows))
            if len(place):
                found = matrix_of(vectors, _width(index, vectors))[place]
                columns = {"row_index": own[place], "vectors": found}
                yield pa.RecordBatch.from_pydict({k: pa.array([v.tobytes()], pa.binary()) for k, v in columns.items()})


def begin_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: Copies, first: FirstRows
) -> Iterator[pa.RecordBatch]:
    """Worker: what is known of each block's rows -> the block's first vectors."""
    for received in _received(batches, copies):
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
    for received in _received(batches, copies):
        if received.ratings is None or received.pieces is None:
            yield _missing(received.number)
            continue
        yield from _solve(received, received.ratings, received.pieces, settings.value, started)
        started = time.process_time()


def evaluate_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: Copies, tried: Halvings
) -> Iterator[pa.RecordBatch]:
    """Worker: all messages of a block -> the losses of its pieces at the ends of halved steps; nulls as above."""
    for received in _received(batches, copies):
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


def add_sums(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: sums of pieces of hot rows, or nulls -> one row with their sum, or none."""
    total: Int64Array | None = None
    for batch in batches:
        for value in batch["sums"]:
            if value.is_valid:
                part = np.frombuffer(value.as_buffer(), np.int64)
                total = part if total is None else total + part
    if total is not None:
        yield pa.RecordBatch.from_pydict({"sums": pa.array([total.tobytes()], pa.binary())})


def _received(batches: Iterator[pa.RecordBatch], copies: Copies) -> Iterator[Received]:
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
    start = _pick(own, cold.row_index, fixed.width) if needs_start(settings.problem) else None
    del own
    solution = solve_rows(_with_places(cold, columns), fixed, settings.problem, start)
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


def _pick(parts: list[Rows], rows: Int32Array, width: int = 0) -> Float32Array:
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
