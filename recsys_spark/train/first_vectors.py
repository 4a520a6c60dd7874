"""What training starts from where no model is known: random item factors, zeros for the users."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import penalty, row_penalties
from recsys_spark.kernels.side_information import SideInformation
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.train.model import Vectors
from recsys_spark.train.side_blocks import SideBlocks

if TYPE_CHECKING:
    # Workers import this module through its package, and have no pydantic.
    from recsys_spark.config import TrainConfig
    from recsys_spark.features import ItemFeatures

_ROWS_PER_PART = 1 << 12


def first_rows(side: Side, index: Int32Array, seed: int, rank: int, problem: RowProblem) -> Float32Array:
    """Return the first vectors of some rows of a side, float32 (len(index), width).

    Items begin as random factors of length about 1 without a bias; users, who are solved first, as zeros.
    """
    vectors = np.zeros((len(index), rank + problem.regularization.biases), np.float32)
    if side == ITEMS:
        # In parts: what a row is made from takes many times its size.
        for first in range(0, len(index), _ROWS_PER_PART):
            part = slice(first, first + _ROWS_PER_PART)
            vectors[part, :rank] = initial_factors(seed, side.number, index[part], rank)
        make_feasible(vectors, problem)
    return vectors


def make_feasible(vectors: Float32Array, problem: RowProblem) -> None:
    """Turn factors below 0 round where the problem allows none, in place."""
    if problem.nonnegative:
        factors = vectors[:, : vectors.shape[1] - problem.regularization.biases]
        np.abs(factors, out=factors)


def first_vectors(config: TrainConfig, problem: RowProblem, users: SideBlocks, items: SideBlocks) -> Vectors:
    """Return the first vectors of both sides; rows without ratings are zero."""
    found = {}
    for blocks in (users, items):
        index = np.arange(len(blocks.degrees), dtype=np.int32)
        found[blocks.side] = first_rows(blocks.side, index, config.seed, config.rank, problem)
        found[blocks.side][blocks.degrees == 0] = 0.0
    return Vectors(found[USERS], found[ITEMS])


def unobserved_degree(fixed: SideBlocks, problem: RowProblem) -> float:
    """Return what pairs that were not observed add to the degree of every row."""
    loss = problem.loss
    return float(loss.all_pairs_weight * fixed.is_trained.sum()) if loss.counts_unobserved else 0.0


def side_information(
    config: TrainConfig, features: ItemFeatures | None, users: SideBlocks, items: SideBlocks, problem: RowProblem
) -> SideInformation | None:
    """Return what draws the items towards their features, where the configuration asks for it."""
    if config.side_information is None or features is None:
        return None
    return SideInformation(
        features.of_rated(),
        features.width,
        items.degrees,
        problem.regularization,
        unobserved_degree(users, problem),
        config.side_information.reg_param,
    )


def penalty_of(vectors: Float32Array, rows: SideBlocks, fixed: SideBlocks, problem: RowProblem) -> float:
    """Return the regularisation of a side's vectors."""
    unobserved = unobserved_degree(fixed, problem)
    width, regularization = vectors.shape[1], problem.regularization
    # In parts: in double precision, and beside its penalties, a side is four times its size.
    parts = (slice(first, first + _ROWS_PER_PART) for first in range(0, len(vectors), _ROWS_PER_PART))
    shares = (
        penalty(vectors[part], row_penalties(rows.degrees[part], width, regularization, unobserved)) for part in parts
    )
    return math.fsum(itertools.chain.from_iterable(shares))
