"""Vectors for users from the item factors as they are: those that training has not seen, or not with these ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.factor_tables import collect_rows, factor_batch
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.fold_in import fold_in
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import ITEMS, USERS, blocks_from_arrow, pass_blocks, rating_blocks
from recsys_spark.shared_value import SharedValue
from recsys_spark.tables import ITEM_FACTORS
from recsys_spark.train.half_iteration import prepare_fixed, row_problem
from recsys_spark.train.observations import constant_of_rows

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig
    from recsys_spark.runs.run_directory import StageContext

_SCHEMA = "user_index int, factors array<float>, bias float, n_ratings int"


@dataclass(frozen=True, slots=True)
class FoldInInput:
    """What every task is given: the trained items as the fixed side, and what is minimised."""

    fixed: FixedSide
    problem: RowProblem
    biases: bool


def fold_in_users(observations: DataFrame, given: SharedValue[FoldInInput], n_blocks: int) -> DataFrame:
    """Solve a vector for every user of some observations.

    Parameters
    ----------
    observations : DataFrame
        As ``further_observations`` returns them; each pair once.
    given : SharedValue of FoldInInput
    n_blocks : int

    Returns
    -------
    DataFrame
        ``user_index, factors, bias, n_ratings``, the same bit for bit for every number of blocks. One shuffle, see
        `rating_blocks`; nothing reaches the driver.
    """
    blocks = rating_blocks(observations, (USERS,), n_blocks, pass_blocks)
    return blocks.mapInArrow(partial(fold_in_blocks, given=given), _SCHEMA)


def fold_in_blocks(batches: Iterator[pa.RecordBatch], given: SharedValue[FoldInInput]) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of users -> their vectors."""
    for _, block in blocks_from_arrow(batches):
        vectors = fold_in(block, given.value.fixed, given.value.problem).vectors
        yield factor_batch(USERS, block.row_index, vectors, block.degrees, biases=given.value.biases)


def fold_in_input(
    index: Int32Array, found: Float32Array, n_items: int, config: TrainConfig, global_mean: float, *, biases: bool
) -> FoldInInput:
    """Prepare what every task is given to fold users in.

    Parameters
    ----------
    index : int32 array of shape (n,)
        The trained items.
    found : float32 array of shape (n, width)
        Their vectors, the bias last.
    n_items : int
        Size of the item index.
    config : TrainConfig
        Of the model.
    global_mean : float
    biases : bool
    """
    vectors, is_trained = np.zeros((n_items, found.shape[1]), np.float32), np.zeros(n_items, np.bool_)
    vectors[index], is_trained[index] = found, True
    problem = row_problem(config)
    constant = constant_of_rows(config, global_mean)
    return FoldInInput(prepare_fixed(vectors, is_trained, constant, problem), problem, biases)


def stored_fold_in_input(context: StageContext, model: Mapping[str, Any]) -> FoldInInput:
    """Prepare the same from the run's ``item_factors``, which come to the driver; ``model``: record of the training."""
    index, found = collect_rows(context.read(ITEM_FACTORS), ITEMS, biases=model["biases"])
    n_items = context.record("index")["n_items"]
    return fold_in_input(index, found, n_items, context.config.train, model["global_mean"], biases=model["biases"])
