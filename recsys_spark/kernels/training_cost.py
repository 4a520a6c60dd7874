"""What a half-iteration takes, before it is run: rows by method, bytes that travel, memory, time.

Bytes follow from shapes and are exact but for the envelopes around arrays. Seconds come from the same cost
model that chooses the methods, and are a forecast.
"""

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float64Array, Int64Array, IntArray
from recsys_spark.kernels.degree_ladder import possible_lengths
from recsys_spark.kernels.hot_rows import find_hot_rows
from recsys_spark.kernels.method_choice import (
    MAX_BATCH_FLOATS,
    Method,
    choose_methods,
    row_nanoseconds,
    working_floats,
)
from recsys_spark.kernels.solve_rows import RowProblem

# Per entry of a block's rows: start, solution and its penalty in float64, then the copies on their way out.
_BYTES_PER_SOLVED_ENTRY = 24
# Normal equations in double precision beside those in single precision: 1.7 at width 33, 2.5 at 129.
_COST_OF_EXACT_SUMS = 2.2
# A batch, and what a step makes of it: weighted and transposed copies, residuals, systems.
_COPIES_OF_BATCH = 4


@dataclass(frozen=True, slots=True)
class SideCost:
    """What it takes to solve all rows of one side once.

    Attributes
    ----------
    n_rows, n_trained, n_ratings : int
        Rows of the side, those that have observations, and observations.
    rows_by_method : dict
        Number of rows by the method that solves them, names in lower case.
    core_seconds : float
        Of the kernel, over all rows.
    seconds : float
        The same on all cores: at least that of the slowest block.
    largest_block_bytes : int
        Arrays of the largest block.
    largest_vectors_bytes : int
        Vectors of the block with the most rows.
    broadcast_bytes : int
        Sent to every worker: fixed side, term of all pairs, and start vectors where the methods use them.
    returned_bytes : int
        Solved vectors with their row indexes.
    solving_bytes : int
        Held by a worker while it solves a block, besides its interpreter.
    working_bytes : int
        The part of it that a smaller rank would not lower: the block, and a batch of its rows.
    n_split : int
        Rows that are split over all blocks, see ``hot_rows``.
    split_bytes : int
        The largest block of their pieces.
    sums_bytes : int
        What a task returns of them; part of ``returned_bytes``, once per task.
    """

    n_rows: int
    n_trained: int
    n_ratings: int
    rows_by_method: dict[str, int]
    core_seconds: float
    seconds: float
    largest_block_bytes: int
    largest_vectors_bytes: int
    broadcast_bytes: int
    returned_bytes: int
    solving_bytes: int
    working_bytes: int
    n_split: int
    split_bytes: int
    sums_bytes: int


def side_cost(
    degrees: IntArray,
    n_fixed: int,
    width: int,
    problem: RowProblem,
    *,
    n_blocks: int,
    cores: int,
    has_start: bool,
    weighted: bool,
    splits_hot: bool = True,
) -> SideCost:
    """Forecast one half-iteration.

    Parameters
    ----------
    degrees : integer array of shape (n_rows,)
        Observations of each row; row ``r`` is in block ``r % n_blocks``.
    n_fixed : int
        Rows of the fixed side.
    width : int
        Entries of a vector, the bias included.
    problem : RowProblem
    n_blocks, cores : int
        Blocks of this side, and tasks that run at once.
    has_start : bool
        Whether rows go on from where they were.
    weighted : bool
        Whether observations have weights.
    splits_hot : bool, default True
        Whether hot rows are split over all blocks.

    Returns
    -------
    SideCost

    Notes
    -----
    O(n_rows) time and memory, whatever the width: prices are worked out per padded length, not per row.
    """
    degrees = np.asarray(degrees)
    lengths = possible_lengths(int(degrees.max(initial=0)))
    rungs = np.searchsorted(lengths, degrees)
    nanoseconds, methods, largest_batch = _by_length(lengths, width, problem, has_start)
    hot = find_hot_rows(degrees if splits_hot else degrees[:0])
    n_pieces = int(hot.first_pieces[-1])
    nanoseconds_of_rows = nanoseconds[rungs]
    shared_out = _COST_OF_EXACT_SUMS * float(nanoseconds_of_rows[hot.rows].sum()) / n_blocks
    nanoseconds_of_rows[hot.rows] = 0.0
    nanoseconds_of_blocks = sum_by_block(nanoseconds_of_rows, n_blocks) + shared_out
    rows_of_blocks = sum_by_block((degrees > 0).astype(np.int64), n_blocks)
    bytes_of_blocks = block_bytes(rows_of_blocks, sum_by_block(degrees.astype(np.int64), n_blocks), weighted=weighted)
    core_seconds = float(nanoseconds_of_blocks.sum()) / 1e9
    n_trained, most_rows = int(rows_of_blocks.sum()), int(rows_of_blocks.max())
    broadcast = _broadcast_bytes(n_fixed, len(degrees), width, problem, has_start)
    pieces_of_block = -(-n_pieces // n_blocks)
    split_bytes = int(
        block_bytes(
            np.array([pieces_of_block]),
            np.array([pieces_of_block * int(hot.degrees.sum()) // max(1, n_pieces)]),
            weighted=weighted,
        )[0]
    )
    sums_bytes = len(hot.rows) * (width + 1) * (width + 2) // 2 * 8
    working = int(bytes_of_blocks.max()) + (split_bytes if n_pieces else 0) + _COPIES_OF_BATCH * 4 * largest_batch
    return SideCost(
        n_rows=len(degrees),
        n_trained=n_trained,
        n_ratings=int(degrees.sum(dtype=np.int64)),
        rows_by_method=_count_methods(np.bincount(rungs, minlength=len(lengths)), methods),
        core_seconds=core_seconds,
        seconds=max(core_seconds / min(cores, n_blocks), float(nanoseconds_of_blocks.max()) / 1e9),
        largest_block_bytes=int(bytes_of_blocks.max()),
        largest_vectors_bytes=most_rows * width * 4,
        broadcast_bytes=broadcast,
        returned_bytes=n_trained * (width * 4 + 4) + min(n_blocks, n_pieces) * sums_bytes,
        solving_bytes=broadcast + working + most_rows * width * _BYTES_PER_SOLVED_ENTRY + 2 * sums_bytes,
        working_bytes=working,
        n_split=len(hot.rows),
        split_bytes=split_bytes if n_pieces else 0,
        sums_bytes=sums_bytes,
    )


def block_bytes(n_rows: Int64Array, n_ratings: Int64Array, *, weighted: bool) -> Int64Array:
    """Return the bytes of blocks' arrays: ``row_index``, ``indptr``, and per rating its column, value and weight."""
    return n_rows * 4 + (n_rows + 1) * 8 + n_ratings * (12 if weighted else 8)


def _by_length(
    lengths: Int64Array, width: int, problem: RowProblem, has_start: bool
) -> tuple[Float64Array, Int64Array, int]:
    """Return time and method of a row of each length, and the floats of the largest batch."""
    methods = choose_methods(
        lengths,
        width,
        problem.solver,
        has_start=has_start,
        cg_steps=problem.cg_steps,
        is_positive=problem.regularization.is_positive,
        nonnegative=problem.nonnegative,
    )
    nanoseconds = row_nanoseconds(
        lengths, methods, width, cg_steps=problem.cg_steps, gradient_steps=problem.gradient_steps
    )
    if not problem.loss.is_quadratic:
        nanoseconds *= problem.newton_steps
    nanoseconds[0] = 0.0
    return nanoseconds, methods, max(MAX_BATCH_FLOATS, int(working_floats(lengths, methods, width).max()))


def _count_methods(rows_of_length: Int64Array, methods: Int64Array) -> dict[str, int]:
    counts = np.bincount(methods[1:], weights=rows_of_length[1:], minlength=len(Method))
    return {method.name.lower(): int(counts[method]) for method in Method if counts[method]}


def sum_by_block(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], n_blocks: int) -> Int64Array:
    """Sum the rows' values by block; row ``r`` is in block ``r % n_blocks``."""
    padded = np.zeros(-(-max(len(values), 1) // n_blocks) * n_blocks, dtype=values.dtype)
    padded[: len(values)] = values
    return np.asarray(padded.reshape(-1, n_blocks).sum(axis=0))


def _broadcast_bytes(n_fixed: int, n_rows: int, width: int, problem: RowProblem, has_start: bool) -> int:
    fixed = (n_fixed + 1) * (width + 1) * 4
    start = n_rows * width * 4 if has_start else 0
    # Into the basis and out of it, or the identity and the matrix; curvature and pull.
    pairs = (2 * width**2 + 2 * width) * 8 if problem.loss.all_pairs_weight > 0 else 0
    return fixed + start + pairs
