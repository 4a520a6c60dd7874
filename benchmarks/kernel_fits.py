"""Factorizations by the kernels alone, in one process: what a fit on Spark does, without Spark."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.peer_models import Ratings
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.neighbour_average import sparse_rows
from recsys_spark.kernels.side_information import SideInformation
from recsys_spark.kernels.solve_rows import solve_rows
from recsys_spark.train import Factorization, prepare_fixed, row_problem

USERS, ITEMS = 0, 1
# Features of a side, and the penalty of what they say of its vectors.
Told = tuple[npt.NDArray[np.float32], float]


def side_information(
    features: npt.NDArray[np.float32], degrees: npt.NDArray[np.int32], config: TrainConfig, penalty: float
) -> SideInformation:
    """Return what draws a side's rows towards their features, float32 (n_rows, n_features)."""
    rows, columns = np.nonzero(features)
    entries = sparse_rows(rows, columns, features[rows, columns], len(features))
    return SideInformation(entries, features.shape[1], degrees, row_problem(config).regularization, 0.0, penalty)


def fit_by_kernels(training: Ratings, config: TrainConfig, told: dict[int, Told] | None = None) -> Factorization:
    """Fit ratings with biases, by the squared loss, with what features of the users or of the items say of them."""
    problem = row_problem(config)
    mean = float(training.values.mean()) if config.unobserved_weight == 0 else 0.0
    values = (training.values - mean).astype(np.float32)
    by_side = (training.users, training.items)
    blocks = [build_csr_block(by_side[side], by_side[1 - side], values) for side in (USERS, ITEMS)]
    vectors, degrees, information = [], [], []
    for side, n_rows in ((USERS, training.n_users), (ITEMS, training.n_items)):
        degrees.append(np.bincount(by_side[side], minlength=n_rows).astype(np.int32))
        vectors.append(np.zeros((n_rows, config.rank + 1), np.float32))
        features, penalty = (told or {}).get(side, (None, 0.0))
        said = None if features is None else side_information(features, degrees[side], config, penalty)
        information.append(said)
    vectors[ITEMS][:, :-1] = initial_factors(config.seed, ITEMS, np.arange(training.n_items), config.rank)
    vectors[ITEMS][degrees[ITEMS] == 0] = 0
    for _ in range(config.iterations):
        for side in (USERS, ITEMS):
            block, own, said = blocks[side], vectors[side], information[side]
            fixed = prepare_fixed(vectors[1 - side], degrees[1 - side] > 0, 0.0, problem)
            expected = None if said is None else said.expected(own)[block.row_index]
            own[block.row_index] = solve_rows(block, fixed, problem, own[block.row_index], None, expected).vectors
    return Factorization(*vectors, *degrees, float(training.values.mean()), True, mean)
