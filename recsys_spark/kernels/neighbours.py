"""The most similar rows of every row, exactly: by their vectors, or by what they have in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.common_ratings import ComparedRows, compare_rows
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.full_ranking import best_of_rows
from recsys_spark.kernels.similarity import USES_RATINGS, RowSizes, evidence, similarity
from recsys_spark.kernels.top_n import top_n

# Results that are given back together: a group of rows that are compared together may be very few.
_ENTRIES_AT_ONCE = 1 << 18
_Found: TypeAlias = tuple[Int32Array, Float32Array, Int64Array]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The neighbours of m rows, most similar first, equal similarities by lower candidate.

    Attributes
    ----------
    candidates : int32 array of shape (m, n)
        -1 where fewer than n are similar at all.
    similarities : float32 array of shape (m, n)
        Above 0; NaN where there is no neighbour.
    n_common : int64 array of shape (m, n) or None
        Columns in common with each; None where the similarity does not know.
    """

    candidates: Int32Array
    similarities: Float32Array
    n_common: Int64Array | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """How rows are compared by what they have in common: see `similarity`, times c / (c + shrink) for c in common."""

    name: str
    shrink: float
    n_columns: int


@dataclass(frozen=True, slots=True)
class Comparable:
    """What the rows are compared with.

    Attributes
    ----------
    candidate_of_index : int32 array of shape (n_rows,)
        By index: the number of a candidate, from 0, or -1 where a row may be nobody's neighbour.
    index_of_candidate : int64 array of shape (n_candidates,)
    sizes : RowSizes
        By index.
    """

    candidate_of_index: Int32Array
    index_of_candidate: Int64Array
    sizes: RowSizes


def neighbours_by_vectors(
    rows: Float32Array, own_candidates: Int32Array, candidates: Float32Array, n: int
) -> Neighbours:
    """Find the candidates whose product with each row is largest, as far as it is above 0.

    Parameters
    ----------
    rows : float32 array of shape (m, rank)
        From `similarity_vectors`.
    own_candidates : int32 array of shape (m,)
        Which candidate each row is itself, or -1: it is left out inside the ranking.
    candidates : float32 array of shape (n_candidates, rank)
        From `similarity_vectors` too.
    n : int >= 1

    Returns
    -------
    Neighbours

    Notes
    -----
    Cost and exactness are those of `top_n`.
    """
    is_candidate = own_candidates >= 0
    found, similarities = top_n(
        rows,
        candidates,
        biases=False,
        global_mean=0.0,
        n=n,
        excluded_indptr=np.concatenate([[0], np.cumsum(is_candidate, dtype=np.int64)]),
        excluded_columns=own_candidates[is_candidate],
    )
    # Sorted, so that those which are similar at all come first. NaN is not above 0 either.
    is_similar = similarities > 0
    return Neighbours(np.where(is_similar, found, -1), np.where(is_similar, similarities, np.float32(np.nan)))


def neighbours_by_common(
    block: CsrBlock, comparable: Comparable, measure: Measure, n: int, *, part: int, n_parts: int
) -> Iterator[tuple[Int32Array, Neighbours]]:
    """Find the most similar candidates of the rows whose index is ``part`` modulo ``n_parts``.

    Parameters
    ----------
    block : CsrBlock
        The ratings by holder, see `compare_rows`.
    comparable : Comparable
    measure : Measure
    n : int >= 1
    part, n_parts : int

    Yields
    ------
    rows : int32 array of shape (m,)
        Indexes of some rows, ascending.
    neighbours : Neighbours
        Of as many columns as there can be neighbours: at most n.

    Notes
    -----
    Cost and memory as for `compare_rows`, and one partial sort of each row's candidates. A similarity is rounded
    to float32, and then compared.
    """
    width = min(n, len(comparable.index_of_candidate))
    rows: list[Int32Array] = []
    found: list[_Found] = []
    for compared in compare_rows(
        block,
        comparable.candidate_of_index,
        len(comparable.index_of_candidate),
        part=part,
        n_parts=n_parts,
        with_values=measure.name in USES_RATINGS,
        with_squares=measure.name == "pearson",
    ):
        rows.append(compared.rows)
        found.append(_best(compared, comparable, measure, width))
        if sum(map(len, rows)) * n >= _ENTRIES_AT_ONCE:
            yield np.concatenate(rows), _joined(found)
            rows, found = [], []
    if rows:
        yield np.concatenate(rows), _joined(found)


def _joined(found: list[_Found]) -> Neighbours:
    candidates, similarities, n_common = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Neighbours(candidates, similarities, n_common)


def _best(compared: ComparedRows, comparable: Comparable, measure: Measure, n: int) -> _Found:
    own = comparable.sizes.take(compared.rows)
    others = comparable.sizes.take(comparable.index_of_candidate[compared.candidates])
    similarities = similarity(measure.name, compared.sums, own, others, measure.n_columns)
    similarities *= evidence(compared.sums.n_common, measure.shrink)
    scores = similarities.astype(np.float32)
    is_itself = comparable.index_of_candidate[compared.candidates] == compared.rows[:, None]
    scores[is_itself | ~(scores > 0)] = -np.inf
    m, n_found = len(compared.rows), min(n, len(compared.candidates))
    candidates = np.full((m, n), -1, np.int32)
    found_scores = np.full((m, n), np.nan, np.float32)
    n_common = np.zeros((m, n), np.int64)
    if n_found:
        columns, best = best_of_rows(scores, n_found)
        is_similar = best > 0
        candidates[:, :n_found][is_similar] = compared.candidates[columns][is_similar]
        found_scores[:, :n_found][is_similar] = best[is_similar]
        n_common[:, :n_found][is_similar] = np.take_along_axis(compared.sums.n_common, columns, axis=1)[is_similar]
    return candidates, found_scores, n_common
