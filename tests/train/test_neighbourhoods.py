"""Neighbourhood models on Spark, against a plain reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.config.neighbours import KnnConfig
from recsys_spark.errors import ConfigError, NumericalError
from recsys_spark.kernels.neighbour_average import NeighbourAverages, sparse_rows
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS, USERS
from recsys_spark.session import SessionLimits
from recsys_spark.shared_value import SharedValue
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, fit_model, neighbourhoods
from recsys_spark.train.neighbourhoods import average_pairs
from tests.reference_neighbours import Ratings, predictions

N_USERS, N_ITEMS = 11, 9
SCHEMA = "user_index int, item_index int, rating float"


def ratings(seed: int) -> Ratings:
    """Ratings of all but the last user and the last item."""
    rng = np.random.default_rng(seed)
    known = rng.random((N_USERS - 1, N_ITEMS - 1)) < 0.55
    return [(int(u), int(i), float(rng.integers(2, 11)) / 2) for u, i in zip(*np.nonzero(known), strict=True)]


@pytest.mark.parametrize(
    ("model", "similarity", "k", "prior"), [("user_knn", "pearson", 3, 0.0), ("item_knn", "cosine", 4, 0.75)]
)
def test_predictions_of_all_pairs_equal_the_reference(
    spark: SparkSession, tmp_path: Path, model: str, similarity: str, k: int, prior: float
) -> None:
    found = ratings(4)
    knn = KnnConfig.model_validate({"k": k, "similarity": similarity, "shrink": 2.0, "prior_weight": prior})
    config = TrainConfig.model_validate({"model": model}).model_copy(update={"knn": knn})
    fitted = fit_model(
        spark, spark.createDataFrame(found, SCHEMA).repartition(3), config, n_users=N_USERS, n_items=N_ITEMS,
        progress=Progress(), continuation=Continuation(storage=LocalStorage(), folder=str(tmp_path / "fit")),
    )  # fmt: skip
    expected = predictions(found, N_USERS, N_ITEMS, model, similarity=similarity, k=k, shrink=2.0, prior=prior)
    pairs = spark.createDataFrame(
        [(u, i) for u in range(N_USERS) for i in range(N_ITEMS)], "user_index int, item_index int"
    )
    scored = fitted.with_scores(pairs, "model").toArrow()
    matrix = np.full((N_USERS, N_ITEMS), np.nan)
    matrix[scored["user_index"].to_numpy(), scored["item_index"].to_numpy()] = scored["model"].to_numpy()
    np.testing.assert_allclose(matrix, expected, rtol=1e-6)
    mean = np.mean([rating for _, _, rating in found])
    assert matrix[N_USERS - 1, N_ITEMS - 1] == pytest.approx(mean)
    # Whom nobody tells anything about gets no list from this model: every item would be predicted the same.
    for row in fitted.rows_for_lists(spark).toArrow().to_pylist():
        assert (row["factors"] is None) == (not row["evidence"])
    # Somebody's neighbours did know something.
    assert len(np.unique(matrix.round(6))) > N_USERS + N_ITEMS


def test_the_worker_averages_over_given_pairs() -> None:
    # Similarities of users 0 and 1 to user 2; deviations of user 2 for items 0 and 3.
    right = sparse_rows(np.array([2, 2]), np.array([0, 3]), np.float32([1.5, -1.0]), 3)
    batch = pa.RecordBatch.from_pydict(
        {
            "user_index": pa.array([0, 1, 2], pa.int32()),
            "items": pa.array([[3, 1], [], [0]], pa.list_(pa.int32())),
            "evidence": pa.array([[2], [2], None], pa.list_(pa.int32())),
            "evidence_values": pa.array([[0.5], [0.25], None], pa.list_(pa.float32())),
        }
    )
    everywhere = SharedValue(NeighbourAverages(right, 4, users_are_neighbours=True))
    (done,) = average_pairs(iter([batch.slice(0, 0), batch]), everywhere)
    assert done.to_pylist() == [
        {"user_index": 0, "item_index": 3, "average": -1.0},
        {"user_index": 0, "item_index": 1, "average": 0.0},
        {"user_index": 2, "item_index": 0, "average": 0.0},
    ]


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    tight, knn = SessionLimits(cores=2, result_bytes=11_999), KnnConfig(k=10)
    refuse = neighbourhoods._refuse_what_cannot_fit
    refuse(USERS, 999, 1_000_000, knn, tight)
    with pytest.raises(ConfigError, match=r"all 1,000 ratings have to go(.|\n)*user_knn: 12 KiB(.|\n)*item_knn"):
        refuse(USERS, 1_000, 10, knn, tight)
    with pytest.raises(ConfigError, match=r"10 neighbours of 150 items(.|\n)*lower train.knn.k"):
        refuse(ITEMS, 1, 150, knn, tight)
    refuse(USERS, 10**9, 10, knn, SessionLimits(cores=2))


def test_no_ratings_are_an_error(spark: SparkSession, tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"model": "item_knn"})
    with pytest.raises(NumericalError, match="no ratings to train on"):
        fit_model(
            spark, spark.createDataFrame([], SCHEMA), config, n_users=2, n_items=2, progress=Progress(),
            continuation=Continuation(storage=LocalStorage(), folder=str(tmp_path)),
        )  # fmt: skip
