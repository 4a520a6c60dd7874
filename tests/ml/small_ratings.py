"""A few ratings whose best model every start finds, and what a model of them has to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

N_USERS, N_ITEMS, RANK = 12, 9, 2
REG_PARAM, ALPHA = 0.7, 1.5
# With this penalty, five iterations from any start come within 0.1 % of the best.
SETTINGS: dict[str, Any] = {"rank": RANK, "maxIter": 5, "regParam": REG_PARAM, "seed": 3, "alpha": ALPHA}
Triples = list[tuple[int, int, float]]


def triples() -> Triples:
    """Ratings near a model of rank 2, with ids that are no indexes: users from 100, items from -5."""
    rng = np.random.default_rng(5)
    scores = rng.uniform(0.5, 2, (N_USERS, RANK)) @ rng.uniform(0.2, 1.5, (RANK, N_ITEMS))
    chosen = rng.random((N_USERS, N_ITEMS)) < 0.7
    scores += rng.normal(0, 0.1, scores.shape)
    return [(100 + 3 * int(u), int(i) - 5, float(np.float32(scores[u, i]))) for u, i in np.argwhere(chosen)]


def frame(spark: SparkSession, rows: Triples) -> DataFrame:
    users, items, ratings = zip(*rows, strict=True)
    return spark.createDataFrame(
        pa.table(
            {
                "user": pa.array(users, pa.int64()),
                "item": pa.array(items, pa.int64()),
                "rating": pa.array(ratings, pa.float64()),
            }
        )
    )


def factors(model: Any) -> tuple[dict[Any, np.ndarray], dict[Any, np.ndarray]]:
    users, items = (
        {row["id"]: np.array(row["features"], np.float64) for row in side.collect()}
        for side in (model.userFactors, model.itemFactors)
    )
    return users, items


def objective(model: Any, rows: Triples, implicit: bool = False) -> float:
    """What both estimators minimise, in double precision."""
    users, items = factors(model)
    total = 0.0
    for user, item, rating in rows:
        score = users[user] @ items[item]
        total += (1 + ALPHA * rating) * (1 - score) ** 2 - score**2 if implicit else (rating - score) ** 2
        total += REG_PARAM * (users[user] @ users[user] + items[item] @ items[item])
    if implicit:
        total += sum((u @ i) ** 2 for u in users.values() for i in items.values())
    return total


def brute_force(vectors: tuple[dict[Any, Any], dict[Any, Any]], user: int, n: int) -> list[tuple[int, float]]:
    """Return a user's best items and their scores, from both sides' `factors`."""
    users, items = vectors
    scores = [(item, np.float32(users[user] @ vector)) for item, vector in items.items()]
    return [(item, float(score)) for item, score in sorted(scores, key=lambda entry: (-entry[1], entry[0]))[:n]]


def entries(row: Any, name: str = "item") -> list[tuple[int, float]]:
    return [(entry[name], entry["rating"]) for entry in row["recommendations"]]
