"""What tasks do in the ``route`` exchange: find links, send rows, solve with what they received."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from recsys_spark.kernels.arrays import Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import AllPairs, FixedSide, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import column_exponents, partial_gramian
from recsys_spark.kernels.hot_rows import HotRows, cut_hot_rows
from recsys_spark.kernels.hot_solutions import solve_in_one_place
from recsys_spark.kernels.hot_sums import Bounds, hot_task
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem, RowSolution, solve_rows
from recsys_spark.rating_blocks import blocks_from_arrow
from recsys_spark.shared_value import SharedValue
from recsys_spark.train.half_iteration import needs_start
from recsys_spark.train.local_copies import open_copy, save_copy
from recsys_spark.train.shares import Shares

FACTOR_BLOCK_SCHEMA = "block int, row_index binary, n_ratings binary, vectors binary, exponents binary, " + ", ".join(
    f"{name} double" for name in Shares._fields
)
# One schema for all that is sent: a link has no vectors, and NOT_SENT for a source or target says what else it is.
MESSAGE_SCHEMA = "placement int, target int, source int, columns binary, vectors binary"
NOT_SENT = -1
GRAMIAN_SCHEMA = "high binary, low binary"


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
    """

    problem: RowProblem
    constant: float
    all_pairs: AllPairs | None = None
    hot: HotRows | None = None
    bounds: Bounds | None = None


def find_links(batches: Iterator[pa.RecordBatch], places: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: rating blocks -> the columns that each needs of each block of the other side."""
    for target, block in blocks_from_arrow(batches):
        needed = np.unique(block.column_index)
        for source in np.unique(needed % len(places)).tolist():
            yield _message(places[source], target, source, needed[needed % len(places) == source], None)


def send_rows(batches: Iterator[pa.RecordBatch], places: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: a block of vectors and its links -> one message for each block that needs some of them."""
    blocks: dict[int, tuple[Int32Array, Float32Array]] = {}
    links: list[tuple[int, int, Int32Array]] = []
    for target, source, columns, vectors in _read_messages(batches):
        if vectors is not None:
            blocks[source] = columns, vectors
        else:
            links.append((target, source, columns))
    for target, source, columns in links:
        index, vectors = blocks[source]
        yield _message(places[target], target, source, columns, vectors[np.searchsorted(index, columns)])


def solve_routed(
    batches: Iterator[pa.RecordBatch], settings: SharedValue[RouteSettings], copies: str
) -> Iterator[pa.RecordBatch]:
    """Worker: all messages of a block -> its solved rows, or nulls where this machine has no copy of it."""
    received: dict[int, list[tuple[int, Int32Array, Float32Array]]] = defaultdict(list)
    for target, source, columns, vectors in _read_messages(batches):
        assert vectors is not None
        received[target].append((source, columns, vectors))
    for target in sorted(received):
        block, messages = open_copy(copies, target), received.pop(target)
        yield _missing(target) if block is None else _solve(target, block, messages, settings.value)


def _solve(
    number: int, block: CsrBlock, messages: list[tuple[int, Int32Array, Float32Array]], settings: RouteSettings
) -> pa.RecordBatch:
    sent = [(columns, vectors) for source, columns, vectors in messages if source != NOT_SENT]
    columns = np.concatenate([part for part, _ in sent])
    order = np.argsort(columns)
    problem = settings.problem
    vectors = np.concatenate([part for _, part in sent])[order]
    fixed = make_fixed_side(vectors, settings.constant, problem.regularization.biases)
    if settings.all_pairs is not None:
        fixed = in_basis(fixed, settings.all_pairs)
    compact = replace(block, column_index=np.searchsorted(columns[order], block.column_index).astype(np.int32))
    starts = [part for source, _, part in messages if source == NOT_SENT]
    start = starts[0] if starts else np.zeros((block.n_rows, fixed.width), np.float32)
    left_out = None if settings.hot is None else settings.hot.are_in(block)
    solution = solve_rows(compact, fixed, problem, start if needs_start(problem) else None, left_out)
    if left_out is not None and left_out.any():
        _solve_hot(solution, block, columns[order], fixed, settings, start)
    return _factor_block(number, block.row_index, block.degrees, solution, settings)


def _solve_hot(
    solution: RowSolution,
    block: CsrBlock,
    columns: Int32Array,
    fixed: FixedSide,
    settings: RouteSettings,
    start: Float32Array,
) -> None:
    """Put the hot rows of a block into its solution: the bits of ``replicate``, but all pieces in this task."""
    hot, bounds, problem = settings.hot, settings.bounds, settings.problem
    assert hot is not None
    assert bounds is not None
    positions = np.flatnonzero(hot.are_in(block))
    places = np.searchsorted(hot.rows, block.row_index[positions])
    start_of_all = np.zeros((len(hot.rows), fixed.width), np.float32)
    start_of_all[places] = start[positions]
    task = hot_task(hot, bounds, problem, fixed.all_pairs, start_of_all).of(places)
    pieces = cut_hot_rows(block, task.hot)
    compact = replace(pieces, column_index=np.searchsorted(columns, pieces.column_index).astype(np.int32))
    solved = solve_in_one_place(compact, fixed, problem, task)
    for name in ("vectors", "observed", "unobserved", "penalty"):
        getattr(solution, name)[positions] = getattr(solved, name)


def first_factor_blocks(
    batches: Iterator[pa.RecordBatch],
    settings: RouteSettings,
    seed: int,
    side: int,
    rank: int,
    unobserved_degree: float,
) -> Iterator[pa.RecordBatch]:
    """Worker: rating blocks -> the first vectors of their rows."""
    regularization = settings.problem.regularization
    for number, block in blocks_from_arrow(batches):
        vectors = np.zeros((block.n_rows, rank + regularization.biases), np.float32)
        vectors[:, :rank] = initial_factors(seed, side, block.row_index, rank)
        if settings.problem.nonnegative:
            np.abs(vectors, out=vectors)
        penalties = row_penalties(block.degrees, vectors.shape[1], regularization, unobserved_degree)
        nothing = np.zeros(block.n_rows)
        solution = RowSolution(vectors, nothing, nothing, penalty(vectors, penalties))
        yield _factor_block(number, block.row_index, block.degrees, solution, settings)


def block_gramians(
    batches: Iterator[pa.RecordBatch], settings: RouteSettings, exponents: Int32Array
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> their exact Gramians."""
    for batch in batches:
        for values in batch["vectors"]:
            part = partial_gramian(_designs(matrix_of(values, len(exponents) - 1), settings), exponents)
            limbs = {"high": part.high, "low": part.low}
            yield pa.RecordBatch.from_pydict({k: pa.array([v.tobytes()], pa.binary()) for k, v in limbs.items()})


def restore_copies(batches: Iterator[pa.RecordBatch], copies: str) -> Iterator[pa.RecordBatch]:
    """Worker: blocks -> a copy of each on this machine."""
    for number, block in blocks_from_arrow(batches):
        save_copy(copies, number, block)
        yield pa.RecordBatch.from_pydict({"block": pa.array([number], pa.int32())})


def unpack_factor_blocks(batches: Iterator[pa.RecordBatch], index_name: str, biases: bool) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> one row per vector."""
    for batch in batches:
        for row, counts, values in zip(batch["row_index"], batch["n_ratings"], batch["vectors"], strict=True):
            index = np.frombuffer(row.as_buffer(), np.int32)
            vectors = np.frombuffer(values.as_buffer(), np.float32).reshape(len(index), -1)
            rank = vectors.shape[1] - biases
            offsets = np.arange(len(index) + 1, dtype=np.int32) * rank
            factors = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors[:, :rank].ravel()))
            bias = vectors[:, -1] if biases else np.zeros(len(index), np.float32)
            yield pa.RecordBatch.from_arrays(
                [pa.array(index), factors, pa.array(np.ascontiguousarray(bias)), _int32s(counts)],
                names=[index_name, "factors", "bias", "n_ratings"],
            )


def _designs(vectors: Float32Array, settings: RouteSettings) -> Float32Array:
    return with_offsets(make_fixed_side(vectors, settings.constant, settings.problem.regularization.biases))


def _factor_block(
    number: int, row_index: Int32Array, degrees: Int64Array, solution: RowSolution, settings: RouteSettings
) -> pa.RecordBatch:
    exponents = column_exponents(_designs(solution.vectors, settings))
    arrays = {
        "row_index": row_index,
        "n_ratings": degrees.astype(np.int32),
        "vectors": solution.vectors,
        "exponents": exponents,
    }
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            **{name: pa.array([array.tobytes()], pa.binary()) for name, array in arrays.items()},
            **{name: pa.array([math.fsum(getattr(solution, name))], pa.float64()) for name in Shares._fields},
        }
    )


def _missing(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            **{name: pa.nulls(1, pa.binary()) for name in ("row_index", "n_ratings", "vectors", "exponents")},
            **{name: pa.array([0.0], pa.float64()) for name in Shares._fields},
        }
    )


def _message(
    placement: int, target: int, source: int, columns: Int32Array, vectors: Float32Array | None
) -> pa.RecordBatch:
    numbers = {"placement": placement, "target": target, "source": source}
    return pa.RecordBatch.from_pydict(
        {
            **{name: pa.array([value], pa.int32()) for name, value in numbers.items()},
            "columns": pa.array([columns.tobytes()], pa.binary()),
            "vectors": pa.array([None if vectors is None else vectors.tobytes()], pa.binary()),
        }
    )


def _read_messages(
    batches: Iterator[pa.RecordBatch],
) -> Iterator[tuple[int, int, Int32Array, Float32Array | None]]:
    for batch in batches:
        for place in range(batch.num_rows):
            columns = _int32s_of(batch["columns"][place])
            vectors = batch["vectors"][place]
            matrix = matrix_of(vectors, len(vectors.as_buffer()) // 4 // len(columns)) if vectors.is_valid else None
            yield batch["target"][place].as_py(), batch["source"][place].as_py(), columns, matrix


def _int32s_of(value: pa.Scalar) -> Int32Array:
    return np.frombuffer(value.as_buffer(), np.int32)


def _int32s(value: pa.Scalar) -> pa.Array:
    return pa.array(_int32s_of(value))


def matrix_of(value: pa.Scalar, width: int) -> Float32Array:
    """Return vectors from their bytes: float32 array of shape (n, width), a view."""
    return np.frombuffer(value.as_buffer(), np.float32).reshape(-1, width)
