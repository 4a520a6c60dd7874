"""Small random problems that several kernel tests share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.neighbour_average import sparse_rows
from recsys_spark.kernels.objective import Regularization

SOLVERS = ("auto", "cholesky", "dual", "cg")
LOSSES = {
    "squared": Loss("squared"),
    "unobserved": Loss("squared", unobserved_weight=0.2),
    "implicit": Loss("implicit", alpha=3.0),
    "ials": Loss("ials", unobserved_weight=0.3),
    "logistic": Loss("logistic"),
}


def block_of_degrees(degrees, n_fixed, rng, first_row=5, row_step=3):
    """A block with the given row degrees, columns drawn without replacement, ratings 0.5 to 5."""
    columns = [np.sort(rng.choice(n_fixed, size=degree, replace=False)) for degree in degrees]
    nnz = int(np.sum(degrees))
    return CsrBlock(
        row_index=(first_row + row_step * np.arange(len(degrees))).astype(np.int32),
        indptr=np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64),
        column_index=np.concatenate([*columns, []]).astype(np.int32),
        values=(rng.integers(1, 11, size=nnz) / 2).astype(np.float32),
    )


def sparse(dense):
    """The rows of a dense matrix, without its zeros."""
    rows, columns = np.nonzero(dense)
    return sparse_rows(rows, columns, dense[rows, columns].astype(np.float32), len(dense))


def rows_of(block, first, last):
    """The rows first to last of a block, as a block of its own."""
    low, high = block.indptr[first], block.indptr[last]
    return CsrBlock(
        row_index=block.row_index[first:last],
        indptr=block.indptr[first : last + 1] - low,
        column_index=block.column_index[low:high].copy(),
        values=block.values[low:high].copy(),
    )


def triples(block):
    """(row position, column, value) of every observation."""
    rows = np.repeat(np.arange(block.n_rows), block.degrees)
    return list(zip(rows.tolist(), block.column_index.tolist(), block.values.tolist(), strict=True))


def random_vectors(n, width, rng):
    return rng.normal(scale=0.6, size=(n, width)).astype(np.float32)


@st.composite
def explicit_problems(draw, max_degree=40):
    """(block, fixed vectors, global mean, regularization) over all widths, with and without biases."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    degrees = draw(st.lists(st.integers(1, max_degree), min_size=1, max_size=12))
    n_fixed = max_degree + draw(st.integers(0, 5))
    regularization = Regularization(
        reg_param=draw(st.sampled_from([0.02, 0.1, 1.0])),
        bias_reg_param=draw(st.sampled_from([0.01, 0.5])),
        reg_exponent=draw(st.sampled_from([0.0, 0.5, 1.0])),
        biases=draw(st.booleans()),
    )
    vectors = random_vectors(n_fixed, draw(st.integers(1, 12)), rng)
    return block_of_degrees(degrees, n_fixed, rng), vectors, 3.4, regularization
