"""What rows have in common: a sparse matrix of ratings times itself, a few of its rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.csr_block import CsrBlock, entries_of_rows
from recsys_spark.kernels.similarity import CommonSums

# Pairs that are looked at together, and sums that are held: some 100 MB with what it takes to make them.
_MAX_PAIRS = 1 << 21
_MAX_SUMS = 1 << 21
# Rows that have little in common with each other's candidates make sums that stay empty: so many per pair at most,
# unless there are few of them.
_MAX_SUMS_PER_PAIR = 4
_FEW_SUMS = 1 << 14


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """Some rows beside all candidates with which they have anything in common.

    Attributes
    ----------
    rows : int32 array of shape (m,)
        Index of each row.
    candidates : int64 array of shape (p,)
        Ascending.
    sums : CommonSums
        Of shape (m, p).
    """

    rows: Int32Array
    candidates: Int64Array
    sums: CommonSums


@dataclass(frozen=True, slots=True)
class _Entries:
    """Ratings of the rows that are compared, by row and then by holder, the block's row that has the rating."""

    rows: Int32Array
    starts: Int64Array
    holders: Int64Array
    values: Float32Array
    work: Int64Array
    """Pairs that each rating makes: ratings of its holder that belong to candidates."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Every holder's ratings of candidates."""

    indptr: Int64Array
    candidates: Int32Array
    values: Float32Array


def compare_rows(
    block: CsrBlock,
    candidate_of_index: Int32Array,
    n_candidates: int,
    *,
    part: int,
    n_parts: int,
    with_values: bool,
    with_squares: bool,
) -> Iterator[ComparedRows]:
    """Sum up what some rows have in common with all candidates.

    Parameters
    ----------
    block : CsrBlock
        The ratings by holder: to compare items, its rows are the users, its columns the items. It has all ratings of
        every holder who has rated one of the rows.
    candidate_of_index : int32 array
        By index: the number of a candidate, from 0, or -1 where a row is none.
    n_candidates : int
    part, n_parts : int
        The rows are those whose index is ``part`` modulo ``n_parts``.
    with_values : bool
        Whether to sum products of values.
    with_squares : bool
        Whether to sum squares of values too.

    Yields
    ------
    ComparedRows
        A few rows at a time, in the order of their index; a row is compared with itself as well.

    Notes
    -----
    Time is in proportion to the number of pairs, the sum over the rows' ratings of their holders' numbers of ratings:
    a holder of d ratings, all of them compared, costs d**2, and memory of 16 d bytes. Memory is that of a few million
    pairs, and of a few sums per candidate, however many pairs there are (Gustavson's algorithm, 1978).

    Values are added in float64 in the order of the holders, so that a row's sums do not depend on the other rows.
    """
    entries, held = _entries_and_held(block, candidate_of_index, part, n_parts)
    # Of use only where a group has met a candidate.
    place = np.zeros(n_candidates, np.int64)
    for first, last in _groups_of_rows(entries, n_candidates):
        own = slice(entries.starts[first], entries.starts[last])
        pieces = _pieces(entries.work[own], int(entries.starts[first]))
        candidates = _candidates_met(entries, held, pieces, n_candidates)
        place[candidates] = np.arange(len(candidates))
        sums = _add_up(
            entries, held, pieces, place, (first, last, len(candidates)), with_values=with_values, squares=with_squares
        )
        yield ComparedRows(entries.rows[first:last], candidates, sums)


def _entries_and_held(
    block: CsrBlock, candidate_of_index: Int32Array, part: int, n_parts: int
) -> tuple[_Entries, _Held]:
    candidates = candidate_of_index[block.column_index]
    is_candidate = candidates >= 0
    kept_before = np.concatenate([[0], np.cumsum(is_candidate, dtype=np.int64)])
    held = _Held(kept_before[block.indptr], candidates[is_candidate], block.values[is_candidate])

    chosen = np.flatnonzero(block.column_index % n_parts == part)
    # Stable: within a row, holders stay in the order of the block.
    chosen = chosen[np.argsort(block.column_index[chosen], kind="stable")]
    index = block.column_index[chosen]
    starts = np.flatnonzero(np.concatenate([[True], index[1:] != index[:-1], [True]])) if len(index) else np.zeros(1)
    starts = starts.astype(np.int64)
    holders = np.repeat(np.arange(block.n_rows), block.degrees)[chosen]
    work = np.diff(held.indptr)[holders]
    return _Entries(index[starts[:-1]], starts, holders, block.values[chosen], work), held


def _groups_of_rows(entries: _Entries, n_candidates: int) -> Iterator[tuple[int, int]]:
    """Cut the rows where their pairs or sums would be too many; one row alone may have more pairs than that."""
    done = np.concatenate([[0], np.cumsum(entries.work)])[entries.starts]
    n_rows = len(entries.rows)
    first = 0
    while first < n_rows:
        last = first + 1
        while last < n_rows:
            pairs = done[last + 1] - done[first]
            n_sums = (last + 1 - first) * min(pairs, n_candidates)
            if pairs > _MAX_PAIRS or n_sums > min(_MAX_SUMS, max(_MAX_SUMS_PER_PAIR * pairs, _FEW_SUMS)):
                break
            last += 1
        yield first, last
        first = last


def _pieces(work: Int64Array, start: int) -> list[tuple[int, int]]:
    """Cut entries so that each piece makes at most about ``_MAX_PAIRS`` pairs; counted from ``start``."""
    done = np.cumsum(work)
    n_pieces = int(done[-1] // _MAX_PAIRS) + 1
    cuts = np.searchsorted(done, _MAX_PAIRS * np.arange(1, n_pieces), side="right")
    bounds = np.unique(np.concatenate([[0], cuts, [len(work)]])) + start
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _candidates_met(entries: _Entries, held: _Held, pieces: list[tuple[int, int]], n_candidates: int) -> Int64Array:
    """Return the candidates of a group's pairs, or all where that is no fewer."""
    chosen = slice(pieces[0][0], pieces[-1][1])
    work = entries.work[chosen]
    if work.sum() >= n_candidates:
        return np.arange(n_candidates)
    met = held.candidates[entries_of_rows(held.indptr[entries.holders[chosen]], work)]
    return np.unique(met).astype(np.int64)


def _add_up(
    entries: _Entries,
    held: _Held,
    pieces: list[tuple[int, int]],
    place: Int64Array,
    group: tuple[int, int, int],
    *,
    with_values: bool,
    squares: bool,
) -> CommonSums:
    first_row, last_row, n_met = group
    shape = (last_row - first_row, n_met)
    size = shape[0] * n_met
    n_common = np.zeros(size, np.int64)
    products, both_squares = np.zeros(size), np.zeros((2, size))
    row_of_entry = np.repeat(np.arange(shape[0]), np.diff(entries.starts[first_row : last_row + 1]))
    start = int(entries.starts[first_row])
    for first, last in pieces:
        lengths = entries.work[first:last]
        found = entries_of_rows(held.indptr[entries.holders[first:last]], lengths)
        pair = np.repeat(row_of_entry[first - start : last - start] * n_met, lengths) + place[held.candidates[found]]
        n_common += np.bincount(pair, minlength=size)
        if with_values:
            own, other = _float64(np.repeat(entries.values[first:last], lengths)), _float64(held.values[found])
            products += np.bincount(pair, own * other, minlength=size)
            if squares:
                both_squares[0] += np.bincount(pair, own**2, minlength=size)
                both_squares[1] += np.bincount(pair, other**2, minlength=size)
    return CommonSums(
        n_common.reshape(shape),
        products.reshape(shape) if with_values else None,
        both_squares.reshape(2, *shape) if squares else None,
    )


def _float64(values: Float32Array) -> Float64Array:
    return values.astype(np.float64)
