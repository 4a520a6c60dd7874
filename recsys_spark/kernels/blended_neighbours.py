"""The most similar rows by two kinds of vectors at once, of which one is mostly zeros: factors, and known features."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.kernels.csr_block import entries_of_rows
from recsys_spark.kernels.neighbour_average import SparseRows, sparse_rows
from recsys_spark.kernels.neighbours import Neighbours
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.kernels.ragged_rows import RaggedRows, starts
from recsys_spark.kernels.similarity import blended_vectors
from recsys_spark.kernels.top_n import top_n

# A column that more rows have costs less as one more column of a matrix product than pair by pair.
_ROWS_PER_HOLDER = 128
# Pairs that share a column and are looked at together, and floats of their vectors.
_MAX_PAIRS = 1 << 20
_MAX_FLOATS = 1 << 22


@dataclass(frozen=True, slots=True)
class BlendedRows:
    """Rows that are compared by the product of their vectors plus that of their sparse rows.

    Attributes
    ----------
    vectors : float32 array of shape (n, width)
    sparse : SparseRows
        Of n rows, and ``n_columns`` columns.
    n_columns : int
    """

    vectors: Float32Array
    sparse: SparseRows
    n_columns: int

    def take(self, index: Int64Array) -> "BlendedRows":
        """Return some of the rows."""
        return BlendedRows(self.vectors[index], self.sparse.take(index), self.n_columns)


def frequent_columns(content: SparseRows, n_columns: int) -> BoolArray:
    """Return which columns of sparse rows are worth being dense: bool array of shape (n_columns,)."""
    held = np.bincount(content.columns, minlength=n_columns)
    return np.asarray((held > 0) & (held * _ROWS_PER_HOLDER > content.n_rows))


def blended_rows(collaborative: Float32Array, content: SparseRows, n_columns: int, weight: float) -> BlendedRows:
    """Return rows whose product is ``1 - weight`` of that of their vectors, and ``weight`` of the cosine of features.

    Parameters
    ----------
    collaborative : float32 array of shape (n, rank)
        From `similarity_vectors`; a row of zeros is similar to nothing.
    content : SparseRows
        The features of n rows.
    n_columns : int
        Of the features.
    weight : float
        Above 0, up to 1.

    Returns
    -------
    BlendedRows
        `frequent_columns` stand beside the vectors, the others are sparse.

    Raises
    ------
    ShapeError
        If there is not one row of features per vector.
    """
    if content.n_rows != len(collaborative):
        raise ShapeError(f"{len(collaborative)} vectors need as many rows of features, got {content.n_rows}")
    rows = np.repeat(np.arange(content.n_rows), np.diff(content.indptr))
    squares = np.bincount(rows, content.values.astype(np.float64) ** 2, minlength=content.n_rows)
    values = (content.values / np.sqrt(squares)[rows]).astype(np.float32)
    is_frequent = frequent_columns(content, n_columns)
    place = np.cumsum(is_frequent) - 1
    is_dense = is_frequent[content.columns]
    dense = np.zeros((content.n_rows, int(is_frequent.sum())), np.float32)
    dense[rows[is_dense], place[content.columns[is_dense]]] = values[is_dense]
    rare = values[~is_dense] * np.float32(np.sqrt(weight))
    sparse = sparse_rows(rows[~is_dense], content.columns[~is_dense], rare, content.n_rows)
    return BlendedRows(blended_vectors(collaborative, dense, weight), sparse, n_columns)


def neighbours_by_blend(
    rows: BlendedRows, own_candidates: Int32Array, candidates: BlendedRows, n: int
) -> Iterator[tuple[int, int, Neighbours]]:
    """Find the candidates that are most similar to each row, as far as their similarity is above 0.

    Parameters
    ----------
    rows : BlendedRows
        Of m rows.
    own_candidates : int32 array of shape (m,)
        Which candidate each row is itself, or -1.
    candidates : BlendedRows
    n : int >= 1

    Yields
    ------
    first, last : int
        Some rows.
    neighbours : Neighbours
        Theirs.

    Notes
    -----
    Exact, and the same whatever the other rows. A similarity is `pair_scores` of the vectors plus, in float64 and by
    ascending column, the products of what is sparse, rounded to float32. Candidates that have no sparse column in
    common with a row are ranked by `top_n` of the vectors; the others are scored one by one, and both are put together.
    That takes time in proportion to the pairs that share a column, and memory of a million of them.
    """
    holders = candidates.sparse.transposed(candidates.n_columns)
    work = np.diff(holders.indptr)[rows.sparse.columns]
    done = np.concatenate([[0], np.cumsum(work)])[rows.sparse.indptr]
    first, n_rows = 0, rows.sparse.n_rows
    while first < n_rows:
        last = max(first + 1, int(np.searchsorted(done, done[first] + _MAX_PAIRS, side="right")) - 1)
        part = rows.take(np.arange(first, last))
        yield first, last, _best(part, own_candidates[first:last], candidates, holders, n)
        first = last


def _best(rows: BlendedRows, own: Int32Array, candidates: BlendedRows, holders: SparseRows, n: int) -> Neighbours:
    shared, products = sparse_products(rows.sparse, holders, len(candidates.vectors))
    is_candidate = own >= 0
    itself = RaggedRows(starts(is_candidate.astype(np.int64)), own[is_candidate])
    others, of_others = _best_by_vectors(rows.vectors, candidates.vectors, n, shared.beside(itself))

    m = len(rows.vectors)
    row = np.concatenate([np.repeat(np.arange(m), shared.lengths), np.repeat(np.arange(m), n)])
    found = np.concatenate([shared.values, others.reshape(-1)])
    scores = products + _products_of_vectors(rows.vectors, candidates.vectors, row[: len(products)], shared.values)
    similarities = np.concatenate([scores.astype(np.float32), of_others.reshape(-1)])
    # NaN is not above 0 either.
    kept = np.flatnonzero((similarities > 0) & (found != own[row]))
    kept = kept[np.lexsort((found[kept], -similarities[kept], row[kept]))]
    place = np.arange(len(kept)) - starts(np.bincount(row[kept], minlength=m))[row[kept]]
    kept, place = kept[place < n], place[place < n]
    best, of_best = np.full((m, n), -1, np.int32), np.full((m, n), np.nan, np.float32)
    best[row[kept], place], of_best[row[kept], place] = found[kept], similarities[kept]
    return Neighbours(best, of_best)


def sparse_products(left: SparseRows, right: SparseRows, n_columns: int) -> tuple[RaggedRows, Float64Array]:
    """Multiply two sparse matrices.

    Parameters
    ----------
    left : SparseRows
        Its columns are the rows of ``right``.
    right : SparseRows
        Of ``n_columns`` columns.
    n_columns : int

    Returns
    -------
    columns : RaggedRows
        A row per row of ``left``, ascending: the columns that any of its entries leads to.
    products : float64 array
        Of each of them, added up in the order of the row's entries (Gustavson's algorithm, 1978).
    """
    lengths = np.diff(right.indptr)[left.columns]
    entries = entries_of_rows(right.indptr[left.columns], lengths)
    rows = np.repeat(np.repeat(np.arange(left.n_rows), np.diff(left.indptr)), lengths)
    terms = np.repeat(left.values.astype(np.float64), lengths) * right.values[entries]
    keys, place = np.unique(rows * np.int64(max(n_columns, 1)) + right.columns[entries], return_inverse=True)
    row_of_key = keys // max(n_columns, 1)
    columns = (keys % max(n_columns, 1)).astype(np.int32)
    indptr = starts(np.bincount(row_of_key, minlength=left.n_rows))
    return RaggedRows(indptr, columns), np.asarray(np.bincount(place, terms, minlength=len(keys)), np.float64)


def _best_by_vectors(
    rows: Float32Array, candidates: Float32Array, n: int, excluded: RaggedRows
) -> tuple[Int32Array, Float32Array]:
    """Rank candidates by the product of their vectors; a row of zeros, which is similar to none, gets none."""
    columns, scores = np.full((len(rows), n), -1, np.int32), np.full((len(rows), n), np.nan, np.float32)
    some = np.flatnonzero(rows.any(axis=1))
    if len(some):
        left_out = excluded.take(some)
        columns[some], scores[some] = top_n(
            rows[some],
            candidates,
            biases=False,
            global_mean=0.0,
            n=n,
            excluded_indptr=left_out.indptr,
            excluded_columns=left_out.values,
        )
    return columns, scores


def _products_of_vectors(
    rows: Float32Array, candidates: Float32Array, row: Int64Array, candidate: Int32Array
) -> Float64Array:
    """Return the products of pairs, a few at a time: their vectors are copied."""
    step = max(1, _MAX_FLOATS // max(1, rows.shape[1]))
    parts = [slice(first, first + step) for first in range(0, len(row), step)]
    found = [pair_scores(rows[row[part]], candidates[candidate[part]], 0.0, biases=False) for part in parts]
    return np.concatenate([np.zeros(0), *found])
