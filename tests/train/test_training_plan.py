"""What a training is said to take, beside what it takes; and what is refused before it starts."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError
from recsys_spark.progress import Progress
from recsys_spark.session import SessionLimits, session_limits
from recsys_spark.train import Factorization, TrainingPlan, fit_factors
from recsys_spark.train.training_plan import Footprint, plan_training, refuse_what_cannot_fit, why_route

MIB, GIB = 1 << 20, 1 << 30
ROOMY = SessionLimits(cores=4)


def plan(
    n_users: int = 5_000, n_items: int = 300, degree: int = 20, limits: SessionLimits = ROOMY, **settings: Any
) -> TrainingPlan:
    config = TrainConfig(**{"rank": 64, "n_blocks": 4, **settings})
    users = np.full(n_users, degree, np.int32)
    items = np.full(n_items, n_users * degree // n_items, np.int32)
    return plan_training(config, users, items, config.n_blocks or 1, limits, weighted=False)


def test_a_plan_that_fits_is_accepted_and_can_be_written_down() -> None:
    made = plan()
    refuse_what_cannot_fit(made)
    written = json.loads(json.dumps(made.as_dict()))
    assert written["exchange"] == "replicate"
    assert written["n_blocks"] == 4
    assert sum(written["users"]["rows_by_method"].values()) == 5_000
    assert written["shuffle_bytes_per_iteration"] == 0
    assert written["shuffle_bytes"] == 2 * 12 * 100_000
    assert asdict(made.predicted).keys() <= written.keys()
    assert "users by " in made.lines()[0]
    assert "per iteration" in made.lines()[1]


TIGHT: dict[str, tuple[dict[str, int], str, str]] = {
    "results": (
        {"result_bytes": 100 * MIB},
        "the user vectors are more than one job may return",
        "maxResultSize to at",
    ),
    "heap": ({"driver_heap_bytes": 550 * MIB}, "need more than the driver's heap has", "spark.driver.memory to at"),
    "worker": ({"worker_bytes": 350 * MIB}, "a worker needs more than its part", "raise train.n_blocks above 4, or"),
    "machine": ({"machine_bytes": 900 * MIB}, "need more than this machine has", "a machine with more memory"),
}


@pytest.mark.parametrize("is_local", [False, True])
@pytest.mark.parametrize("name", TIGHT)
def test_what_cannot_fit_is_refused_with_a_rank_that_does(name: str, is_local: bool) -> None:
    limit, what, remedy = TIGHT[name]
    limits = SessionLimits(cores=4, is_local=is_local, **limit)
    large: dict[str, Any] = {"n_users": 300_000, "degree": 2, "limits": limits}
    with pytest.raises(ConfigError) as refused:
        refuse_what_cannot_fit(plan(rank=128, **large))
    text = str(refused.value)
    assert what in text
    assert "where: train.rank 128" in text
    assert re.search(r"got: \d[\d,.]+ [MG]iB", text)
    assert remedy in text
    if "lower train.rank to at most" in text:
        rank = int(text.split("lower train.rank to at most ")[1].split(",")[0])
        assert 1 <= rank < 128
        refuse_what_cannot_fit(plan(rank=rank, **large))
        with pytest.raises(ConfigError):
            refuse_what_cannot_fit(plan(rank=rank + rank // 2 + 2, **large))
    else:
        with pytest.raises(ConfigError):
            refuse_what_cannot_fit(plan(rank=1, **large))


def test_without_hope_no_rank_is_named() -> None:
    with pytest.raises(ConfigError) as refused:
        refuse_what_cannot_fit(plan(limits=replace(ROOMY, driver_heap_bytes=100 << 20)))
    assert "train.rank to at most" not in str(refused.value)
    assert "remedy: raise spark.driver.memory to at least" in str(refused.value)


def test_blocks_that_no_cell_holds_are_refused() -> None:
    with pytest.raises(ConfigError, match="the vectors of one block of users are too large") as refused:
        refuse_what_cannot_fit(plan(n_users=9_000_000, degree=1, n_blocks=1))
    remedy = str(refused.value)
    n_blocks = int(remedy.split("set train.n_blocks to at least ")[1].split(",")[0])
    refuse_what_cannot_fit(plan(n_users=9_000_000, degree=1, n_blocks=n_blocks))
    with pytest.raises(ConfigError, match="the ratings of one block of users are too large"):
        refuse_what_cannot_fit(plan(n_users=1_000_000, n_items=2, degree=300, rank=1, n_blocks=1))


def test_routing_is_the_way_out_where_there_is_one_and_it_helps() -> None:
    large = plan(limits=replace(ROOMY, result_bytes=100_000))
    assert why_route(TrainConfig(), plan(), has_storage=True) == ""
    assert why_route(TrainConfig(exchange="route"), plan(), has_storage=True) == "as configured"
    assert why_route(TrainConfig(), large, has_storage=True) == "the user vectors are more than one job may return"
    for config, has_storage in (
        (TrainConfig(), False),
        (TrainConfig(exchange="replicate"), True),
        (TrainConfig(validation_share=0.1), True),
    ):
        with pytest.raises(ConfigError, match="more than one job may return"):
            why_route(config, large, has_storage=has_storage)
    with pytest.raises(ConfigError, match="of one block of users are too large"):
        why_route(TrainConfig(exchange="route"), plan(n_users=9_000_000, degree=1, n_blocks=1), has_storage=True)


def fit(spark: SparkSession, n_rows: tuple[int, int], **settings: Any) -> Factorization:
    """Fit few ratings of large indexes: much to send, little to compute."""
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, [3_000, 1_000], (20_000, 2)), axis=0).astype(np.int32)
    columns = {"user_index": pairs[:, 0], "item_index": pairs[:, 1], "rating": rng.random(len(pairs)) * 4 + 1}
    frame = spark.createDataFrame(pa.table(columns)).selectExpr("user_index", "item_index", "float(rating) as rating")
    config = TrainConfig(**{"rank": 63, "iterations": 2, "tolerance": 0.0, "n_blocks": 3, **settings})
    return fit_factors(spark, frame, config, n_users=n_rows[0], n_items=n_rows[1], progress=Progress())


def forget_peak() -> None:
    """Let this process's peak memory count from now on, where the system can."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")


@pytest.mark.parametrize("settings", [{}, {"solver": "cholesky", "loss": "ials", "unobserved_weight": 0.1}])
def test_predicted_bytes_and_memory_are_within_twice_of_what_is_taken(
    spark: SparkSession, settings: dict[str, Any]
) -> None:
    forget_peak()
    model = fit(spark, (400_000, 150_000), **settings)
    assert model.plan is not None
    assert model.footprint is not None
    predicted, actual = asdict(model.plan.predicted), asdict(model.footprint)
    assert predicted.keys() == {field for field in Footprint.__slots__}
    for name in ("broadcast_bytes", "returned_bytes", "largest_block_bytes", "worker_bytes", "driver_bytes"):
        assert actual[name] / 2 <= predicted[name] <= actual[name] * 2, (name, predicted[name], actual[name])
    assert predicted["largest_block_bytes"] == actual["largest_block_bytes"]
    assert actual["blocking_seconds"] > 0
    assert actual["iteration_seconds"] > 0


def test_a_training_that_cannot_fit_does_not_start(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys_spark.train import alternating

    # Without a place to route them through, the vectors can only go whole.
    tight = replace(session_limits(spark), result_bytes=100_000)
    monkeypatch.setattr(alternating, "session_limits", lambda spark: tight)
    with pytest.raises(ConfigError, match="the user vectors are more than one job may return"):
        fit(spark, (3_000, 1_000))


def test_limits_are_those_of_the_session(spark: SparkSession) -> None:
    limits = session_limits(spark)
    assert limits.cores >= 1
    assert limits.is_local
    assert limits.driver_heap_bytes == 4 * GIB, "conf/local"
    assert limits.result_bytes == GIB, "Spark's default"
    assert limits.worker_bytes is None
    assert limits.machine_bytes is None or limits.machine_bytes > GIB // 4
