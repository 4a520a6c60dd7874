"""Regression on known features: one pass over blocked ratings, with the features of all items in every task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.factor_tables import factor_batch, factor_rows
from recsys_spark.features import ItemFeatures
from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.feature_regression import PopulationModel, no_population, population_model, user_problem
from recsys_spark.kernels.fixed_side import FixedSide, make_fixed_side
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from recsys_spark.rating_blocks import ITEMS, USERS, blocks_from_arrow, choose_n_blocks, pass_blocks, rating_blocks
from recsys_spark.session import session_limits
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.storage import Storage, join
from recsys_spark.train.global_mean import exact_sums
from recsys_spark.train.half_iteration import row_problem
from recsys_spark.train.model import Factorization, HalfIteration
from recsys_spark.train.observations import Observations, constant_of_rows, observations
from recsys_spark.train.row_errors import with_row

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.progress import Progress

_SCHEMA = (
    "user_index int, factors array<float>, bias float, n_ratings int, weights array<float>, intercept float, "
    "observed double, penalty double"
)


@dataclass(frozen=True, slots=True, repr=False)
class FeatureModel(Factorization):
    """A model whose item vectors are known: features, and as bias what the population thinks of the item.

    User vectors are deviations from the population; ``frames`` of the users has their whole ``weights`` and
    ``intercept`` too, with ``score = intercept + weights . features``.

    Attributes
    ----------
    population : PopulationModel or None
        Never None.
    column_names : list of str
        Of the features.
    """

    population: PopulationModel | None = None
    column_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserTask:
    """What every task is given: the items as the fixed side, what is minimised, and the population's weights."""

    fixed: FixedSide
    problem: RowProblem
    weights: Float32Array
    intercept: float


def fit_feature_regression(
    spark: SparkSession,
    ratings: DataFrame,
    config: TrainConfig,
    features: ItemFeatures,
    *,
    n_users: int,
    n_items: int,
    progress: Progress,
    title: str,
    storage: Storage,
    folder: str,
) -> FeatureModel:
    """Fit the population's model, and then every user's own; see ``kernels.feature_regression`` for the mathematics.

    Parameters
    ----------
    spark : SparkSession
    ratings : DataFrame
        As for ``fit_factors``.
    config : TrainConfig
        With ``model`` feature_regression.
    features : ItemFeatures
    n_users, n_items : int
        Sizes of the indexes.
    progress : Progress
    title : str
        Names this fit in the progress.
    storage, folder : Storage and str
        Where the users' rows are written, and stay for the model.

    Returns
    -------
    FeatureModel
        Equal bit for bit for every number of blocks and partitions. ``history`` has one step: the objective is summed
        over all users, with the penalties of their deviations and of the population.

    Raises
    ------
    NumericalError
        If there is nothing to train on.
    RowError
        If a user's solution is not finite.
    ContractError
        If the logistic loss is given no labels.

    Notes
    -----
    One shuffle of the ratings' sums by item, and one of the ratings, as blocks of users. The features go to every
    task; the users' vectors stay in files. The driver receives two numbers per item, and one per user.
    """
    started = time.monotonic()
    given = observations(ratings, config)
    design = features.dense()[:n_items]
    population, item_degrees = _fit_population(given, config, design)
    item_vectors = population.item_vectors(design)
    problem, constant = row_problem(config), constant_of_rows(config, given.constant)
    task = UserTask(
        make_fixed_side(item_vectors, constant, biases=True),
        user_problem(problem, config.iterations),
        population.weights.astype(np.float32),
        given.constant + population.bias,
    )
    path = join(folder, "users")
    storage.remove(path)
    try:
        users = _solve(spark, given, task, config.n_blocks, path)
    except Exception as error:
        raise with_row(error, USERS, title) from error
    step = _summed_up(users, population, time.monotonic() - started)
    progress.say(f"{title}: {features.width:,} weights for each user, objective {step.objective:,.6g}")
    listed = np.flatnonzero((item_degrees > 0) | features.is_known[:n_items]).astype(np.int32)
    items = factor_rows(spark, ITEMS, item_vectors, item_degrees, biases=True, index=listed)
    return FeatureModel(
        np.zeros((0, features.width + 1), np.float32),
        item_vectors,
        _degrees(users, n_users),
        item_degrees,
        given.mean_rating,
        True,
        given.constant,
        config.loss,
        [step],
        frames={USERS: users, ITEMS: items},
        population=population,
        column_names=tuple(features.column_names),
    )


def _fit_population(
    given: Observations, config: TrainConfig, design: Float32Array
) -> tuple[PopulationModel, Int32Array]:
    """Return the population's model, and each item's number of ratings."""
    counts, means, degrees = _item_means(given.frame, len(design))
    settings = config.feature_regression
    if not settings.population:
        return no_population(design.shape[1]), degrees
    constant = constant_of_rows(config, given.constant)
    reg_param = settings.population_reg_param
    return population_model(design, counts, means, constant, row_problem(config), reg_param), degrees


def _solve(spark: SparkSession, given: Observations, task: UserTask, n_blocks: int | None, path: str) -> DataFrame:
    """Solve all users, and return their rows as they were written."""
    n_blocks = n_blocks or choose_n_blocks(session_limits(spark).cores, given.n)
    with shared(spark, task) as everywhere:
        blocks = rating_blocks(given.frame, (USERS,), n_blocks, pass_blocks)
        blocks.mapInArrow(partial(solve_users, task=everywhere), _SCHEMA).write.mode("error").parquet(path)
    return spark.read.parquet(path)


def _degrees(users: DataFrame, n_users: int) -> Int32Array:
    degrees = np.zeros(n_users, np.int32)
    found = users.select("user_index", "n_ratings").toArrow()
    degrees[found["user_index"].to_numpy()] = found["n_ratings"].to_numpy()
    return degrees


def _item_means(observed: DataFrame, n_items: int) -> tuple[Float64Array, Float64Array, Int32Array]:
    """Return each item's number of ratings at their weights, their weighted mean, and their plain number."""
    weight = F.col("weight").cast("double") if "weight" in observed.columns else F.lit(1.0)
    sums = {"weight": weight, "total": weight * F.col("rating").cast("double")}
    rows = exact_sums(observed, sums, "item_index").toArrow()
    index = rows["item_index"].to_numpy()
    counts, means, degrees = np.zeros(n_items), np.zeros(n_items), np.zeros(n_items, np.int32)
    counts[index] = rows["weight"].to_numpy()
    totals = rows["total"].to_numpy()
    # Weights of very old ratings may have come to nothing.
    means[index] = np.divide(totals, counts[index], out=np.zeros(len(totals)), where=counts[index] > 0)
    degrees[index] = rows["n"].to_numpy()
    return counts, means, degrees


def _summed_up(users: DataFrame, population: PopulationModel, seconds: float) -> HalfIteration:
    """Return the objective summed over users; in 12 digits, which agree however the users are spread."""
    row = users.agg(F.sum("observed").alias("observed"), F.sum("penalty").alias("penalty")).collect()[0]
    observed, penalty = row["observed"], row["penalty"] + population.penalty
    objective, observed, penalty = (float(f"{value:.12g}") for value in (observed + penalty, observed, penalty))
    return HalfIteration(1, "users", objective, observed, 0.0, penalty, round(seconds, 4))


def solve_users(batches: Iterator[pa.RecordBatch], task: SharedValue[UserTask]) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of users -> their deviations, whole weights, and shares of the objective."""
    for _, block in blocks_from_arrow(batches):
        given = task.value
        found = solve_rows(block, given.fixed, given.problem)
        batch = factor_batch(USERS, block.row_index, found.vectors, block.degrees, biases=True)
        weights = found.vectors[:, :-1] + given.weights
        offsets = pa.array(np.arange(len(weights) + 1, dtype=np.int32) * weights.shape[1])
        columns = {
            "weights": pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(weights).ravel())),
            "intercept": pa.array((found.vectors[:, -1] + given.intercept).astype(np.float32)),
            "observed": pa.array(found.observed),
            "penalty": pa.array(found.penalty),
        }
        yield pa.RecordBatch.from_arrays([*batch.columns, *columns.values()], names=[*batch.schema.names, *columns])
