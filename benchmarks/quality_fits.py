"""Fits of our model to arrays, and what the sections of the quality benchmark share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from benchmarks.peer_models import Factors, Ratings
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.solve_rows import solve_rows
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.train import (
    Factorization,
    SeveralFits,
    fit_factors,
    observation_key,
    prepare_fixed,
    row_problem,
)
from recsys_spark.train.first_vectors import first_rows

N_BLOCKS = 2


def fit(spark: SparkSession, ratings: Ratings, setting: TrainConfig) -> Factorization:
    """Fit our model on Spark."""
    return fit_factors(
        spark,
        frame_of(spark, ratings),
        setting,
        n_users=ratings.n_users,
        n_items=ratings.n_items,
        progress=Progress(),
    )


def fit_all(spark: SparkSession, ratings: Ratings, settings: Sequence[TrainConfig]) -> Iterator[Factorization]:
    """Fit our model on Spark with several settings, in their order: one job per half-iteration for all of a kind."""
    frame = frame_of(spark, ratings)
    sizes = {"n_users": ratings.n_users, "n_items": ratings.n_items, "n_blocks": N_BLOCKS}
    models: dict[int, Factorization] = {}
    for key in dict.fromkeys(observation_key(setting) for setting in settings):
        of_kind = [number for number, setting in enumerate(settings) if observation_key(setting) == key]
        fits = SeveralFits(spark, frame, settings[of_kind[0]], **sizes)
        try:
            for number in of_kind:
                fits.begin(number, settings[number])
            fits.advance(of_kind, max(settings[number].iterations for number in of_kind))
            models |= {number: fits.model(number) for number in of_kind}
        finally:
            fits.release()
    yield from (models[number] for number in range(len(settings)))


def fit_alone(ratings: Ratings, setting: TrainConfig) -> Factors:
    """Fit our model in this process by the kernels alone: bit for bit what `fit` gives, with less around it.

    Only for settings without a constant part of all scores: losses over all pairs.
    """
    if setting.loss == "logistic" or (setting.loss == "squared" and setting.unobserved_weight == 0):
        raise ValueError("fit_alone is for losses over all pairs")
    ratings, problem = liked(ratings, setting.positive_threshold), row_problem(setting)
    sides, indexes = {USERS: ratings.users, ITEMS: ratings.items}, {USERS: ratings.n_users, ITEMS: ratings.n_items}
    blocks = {
        USERS: build_csr_block(ratings.users, ratings.items, ratings.values),
        ITEMS: build_csr_block(ratings.items, ratings.users, ratings.values),
    }
    is_trained = {side: np.bincount(sides[side], minlength=indexes[side]) > 0 for side in blocks}
    vectors = {
        side: first_rows(side, np.arange(indexes[side], dtype=np.int32), setting.seed, setting.rank, problem)
        * is_trained[side][:, None]
        for side in blocks
    }
    for _ in range(setting.iterations):
        for rows, fixed in ((USERS, ITEMS), (ITEMS, USERS)):
            block = blocks[rows]
            given = prepare_fixed(vectors[fixed], is_trained[fixed], 0.0, problem)
            solved = solve_rows(block, given, problem, vectors[rows][block.row_index])
            vectors[rows] = np.zeros_like(vectors[rows])
            vectors[rows][block.row_index] = solved.vectors
    return Factors(vectors[USERS], vectors[ITEMS])


def liked(ratings: Ratings, threshold: float | None) -> Ratings:
    """Return the ratings from a threshold up."""
    return ratings if threshold is None else ratings.where(ratings.values >= threshold)


def frame_of(spark: SparkSession, ratings: Ratings) -> DataFrame:
    """Return ratings as indexed ratings in Spark."""
    table = pa.table({"user_index": ratings.users, "item_index": ratings.items, "rating": ratings.values})
    return spark.createDataFrame(table).repartition(N_BLOCKS)


def rows_of(
    users: npt.NDArray[np.int32], items: npt.NDArray[np.int32], n_users: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return each user's items as ``indptr`` and columns."""
    indptr = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
    return indptr, items[np.argsort(users, kind="stable")]


def is_installed(name: str) -> bool:
    """Return whether a library is there, and say so where it is not."""
    found = importlib.util.find_spec(name) is not None
    if not found:
        print(f"{name} is not installed: its rows are not measured", flush=True)
    return found
