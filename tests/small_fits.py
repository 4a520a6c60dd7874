"""Small fits and lists whose result can be compared between sessions of any kind."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import TrainConfig
from recsys_spark.kernels import hot_rows
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import USERS
from recsys_spark.recommend import Candidates, users_with_history, write_lists
from recsys_spark.session import build_session
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, Factorization, fit_factors
from tests.train.test_fit_factors import LOSSES, N_ITEMS, N_USERS, observations, weighted_frame


def fit(spark: SparkSession, folder: Path, exchange: str, **settings: Any) -> Factorization:
    """Fit the observations of the tests with an exchange, whose vectors may lie in the folder."""
    config = TrainConfig(
        **{
            "rank": 5,
            "iterations": 3,
            "tolerance": 0.0,
            "n_blocks": 3,
            "exchange": exchange,
            "solver": "cg",
            **settings,
        }
    )
    continuation = Continuation(storage=LocalStorage(), folder=f"{folder.absolute()}/{exchange}")
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    ratings = weighted_frame(spark, observations())
    model = fit_factors(spark, ratings, config, progress=Progress(), continuation=continuation, **sizes)
    return model.collected()


def arrays_of(model: Factorization, name: str) -> dict[str, np.ndarray]:
    """Return what has to be equal, to the last bit."""
    objectives = np.array([step.objective for step in model.history])
    arrays = {"users": model.user_vectors, "items": model.item_vectors, "objectives": objectives}
    return {f"{name} {key}": value for key, value in arrays.items()}


def lists_of(spark: SparkSession, model: Factorization, folder: Path) -> dict[str, np.ndarray]:
    """Return the top items of every user: indexes and scores, by user."""
    ratings = weighted_frame(spark, observations())
    users = spark.range(N_USERS).select(
        F.col("id").cast("int").alias("user_index"), F.col("id").cast("int").alias("user")
    )
    index = np.arange(N_ITEMS, dtype=np.int32)
    candidates = Candidates.from_items(
        pa.array(index),
        index,
        model.item_vectors,
        model.item_degrees,
        n_items=N_ITEMS,
        global_mean=model.global_mean,
        biases=model.biases,
    )
    path = f"{folder.absolute()}/lists"
    factors = model.rows(spark, USERS)
    write_lists(users_with_history(users, factors, ratings), candidates, n=4, path=path)
    entries = F.col("recommendations")
    rows = spark.read.parquet(path).select("user", entries["item_id"].alias("items"), entries["score"].alias("scores"))
    found = sorted((row["user"], row["items"], row["scores"]) for row in rows.collect())
    return {
        "list users": np.array([user for user, items, _ in found for _ in items]),
        "list items": np.array([item for _, items, _ in found for item in items]),
        "list scores": np.array([score for _, _, scores in found for score in scores], np.float32),
    }


def fits_and_lists(spark: SparkSession, folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of fits with both exchanges and two losses, two with hot rows; and the last one's lists."""
    found: dict[str, np.ndarray] = {}
    for exchange, loss, floor in (("replicate", "squared", 50_000), ("replicate", "ials", 9), ("route", "ials", 9)):
        with patch.object(hot_rows, "HOT_FLOOR", floor):
            model = fit(spark, folder, exchange, iterations=2, **LOSSES[loss])
        found |= arrays_of(model, f"{exchange} {loss}")
    return found | lists_of(spark, model, folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    session = build_session("recsys-small-fits")
    if "LARGEST_IN_FUNCTION" in os.environ:
        from recsys_spark import shared_value

        shared_value._LARGEST_IN_FUNCTION = int(os.environ["LARGEST_IN_FUNCTION"])
    np.savez(target / "arrays.npz", **fits_and_lists(session, target))
    session.stop()
