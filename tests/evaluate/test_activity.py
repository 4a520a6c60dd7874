"""Errors by activity, as the worker sums them and the driver adds them up."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

from recsys_spark.evaluate.activity import _added_up, _name, sum_by_activity

COUNTS = [0, 1, 4, 5, 30, 30, 49, 200, 1000, 49]


def summed(ratings: np.ndarray, scores: np.ndarray, **settings: object) -> dict[str, object]:
    batch = pa.RecordBatch.from_pydict(
        {"rating": pa.array(ratings, pa.float32()), "score": pa.array(scores), "n_training": pa.array(COUNTS)}
    )
    parts = [batch.slice(0, 3), batch.slice(3, 3), batch.slice(6), batch.slice(0, 0)]
    rows = [row for part in sum_by_activity(iter(parts), **settings) for row in part.to_pylist()]
    buckets = sorted({row["bucket"] for row in rows})
    return {_name(k): _added_up([row for row in rows if row["bucket"] == k], k) for k in buckets}


def test_errors_of_ratings_are_told_by_bucket() -> None:
    rng = np.random.default_rng(1)
    ratings, scores = rng.integers(1, 6, 10).astype(float), rng.normal(3, 3, 10)
    ratings[[4, 5, 6, 9]] = [4, 2, 5, 3]
    found = summed(ratings, scores, is_label=False, threshold=4.0, limits=(1.0, 5.0))
    assert list(found) == ["0 ratings", "1 to 4 ratings", "5 to 9 ratings", "20 to 49 ratings", "200 ratings or more"]
    one, places = found["20 to 49 ratings"], [4, 5, 6, 9]
    cut = np.clip(scores, 1, 5)
    assert one.n == 4
    assert one.rmse == pytest.approx(mean_squared_error(ratings[places], cut[places]) ** 0.5)
    assert one.mae == pytest.approx(mean_absolute_error(ratings[places], cut[places]))
    assert one.auc == pytest.approx(roc_auc_score(ratings[places] >= 4, scores[places]), abs=1e-3)
    assert math.isnan(one.log_loss)
    assert math.isnan(found["5 to 9 ratings"].auc), "one label alone has no curve"


def test_errors_of_labels_are_told_by_bucket() -> None:
    rng = np.random.default_rng(2)
    labels, scores = (rng.random(10) < 0.5).astype(float), rng.normal(0, 2, 10)
    labels[[7, 8]] = [0, 1]
    one = summed(labels, scores, is_label=True, threshold=1.0, limits=None)["200 ratings or more"]
    probabilities = 1 / (1 + np.exp(-scores[[7, 8]]))
    assert one.log_loss == pytest.approx(log_loss(labels[[7, 8]], probabilities))
    assert one.auc == roc_auc_score(labels[[7, 8]], scores[[7, 8]])
    assert math.isnan(one.rmse)
