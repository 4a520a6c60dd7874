"""Fits of our model to arrays, and what the sections of the quality benchmark share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from benchmarks.peer_models import Ratings
from recsys_spark.config import TrainConfig
from recsys_spark.progress import Progress
from recsys_spark.train import Factorization, SeveralFits, fit_factors, observation_key

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
