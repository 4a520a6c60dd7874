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
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Factorization, TrainingPlan, fit_factors
from recsys_spark.train.alternating import Continuation
from recsys_spark.train.exchange_choice import ExchangePlans, choose_exchange, plan_exchanges
from recsys_spark.train.peak_memory import peak_memory
from recsys_spark.train.training_plan import DRIVER_BASE, Footprint, refuse_what_cannot_fit

MIB, GIB = 1 << 20, 1 << 30
NOWHERE = Continuation()
ROOMY = SessionLimits(cores=4)


def plans(
    n_users: int = 5_000, n_items: int = 300, degree: int = 20, limits: SessionLimits = ROOMY, **settings: Any
) -> ExchangePlans:
    config = TrainConfig(**{"rank": 64, "n_blocks": 4, **settings})
    users = np.full(n_users, degree, np.int32)
    items = np.full(n_items, n_users * degree // n_items, np.int32)
    return plan_exchanges(config, users, items, config.n_blocks or 1, limits, weighted=False)


def plan(**settings: Any) -> TrainingPlan:
    return plans(**settings).replicate


def test_a_plan_that_fits_is_accepted_and_can_be_written_down() -> None:
    for made in plans():
        refuse_what_cannot_fit(made)
        written = json.loads(json.dumps(made.as_dict()))
        assert written["exchange"] == made.exchange
        assert written["n_blocks"] == 4
        assert sum(written["users"]["rows_by_method"].values()) == 5_000
        assert (written["shuffle_bytes_per_iteration"] > 0) == (made.exchange == "route")
        assert written["shuffle_bytes"] == 2 * 12 * 100_000
        assert asdict(made.predicted).keys() <= written.keys()
        first, second = made.lines("as configured")
        assert first.startswith(f"{made.exchange} exchange (as configured), 2 x 4 blocks")
        assert "users by " in first
        assert "per iteration" in second


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


def test_the_reserve_of_a_pool_is_named_where_it_counts() -> None:
    large: dict[str, Any] = {"n_users": 300_000, "degree": 2, "rank": 128}
    for reserved, is_named in ((80 * MIB, False), (GIB + 80 * MIB, True)):
        limits = replace(ROOMY, worker_bytes=200 * MIB, reserved_bytes=reserved)
        with pytest.raises(ConfigError) as refused:
            refuse_what_cannot_fit(plan(limits=limits, **large))
        assert ("ARROW_DEFAULT_MEMORY_POOL=system" in str(refused.value)) == is_named


def test_over_connect_a_block_of_vectors_has_to_fit_into_a_message() -> None:
    limits = replace(ROOMY, message_bytes=64 * MIB)
    made = plans(n_users=2_000_000, n_items=300, degree=1, limits=limits)
    with pytest.raises(ConfigError, match="the vectors of one block of users are too large") as refused:
        refuse_what_cannot_fit(made.replicate)
    refuse_what_cannot_fit(made.route)
    n_blocks = int(str(refused.value).split("set train.n_blocks to at least ")[1].split(",")[0])
    refuse_what_cannot_fit(plan(n_users=2_000_000, n_items=300, degree=1, limits=limits, n_blocks=n_blocks))


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
    large = {"limits": replace(ROOMY, result_bytes=100_000)}

    def chosen(has_storage: bool = True, exchange: str = "auto", **sizes: Any) -> tuple[str, str]:
        config = TrainConfig(**{"exchange": exchange})
        made, reason = choose_exchange(config, plans(**sizes), has_storage=has_storage)
        return made.exchange, reason

    assert chosen() == ("replicate", "the vectors fit whole into every worker")
    assert chosen(exchange="route") == ("route", "as configured")
    assert chosen(exchange="replicate") == ("replicate", "as configured")
    too_large = "the user vectors are more than one job may return"
    assert chosen(**large) == ("route", f"replicate does not fit: {too_large}")
    for has_storage, exchange in ((False, "auto"), (True, "replicate")):
        with pytest.raises(ConfigError, match=too_large):
            chosen(has_storage, exchange, **large)
    with pytest.raises(ConfigError, match="of one block of users are too large"):
        chosen(exchange="route", n_users=9_000_000, degree=1, n_blocks=1)


def test_what_cannot_be_routed_is_refused_with_more_blocks_as_the_way_out() -> None:
    sparse: dict[str, Any] = {"n_users": 400_000, "n_items": 400_000, "degree": 2, "rank": 127}
    limits = replace(ROOMY, worker_bytes=300 * MIB)
    with pytest.raises(ConfigError, match="a worker needs more than its part") as refused:
        choose_exchange(TrainConfig(rank=127), plans(limits=limits, **sparse), has_storage=True)
    assert "raise train.n_blocks above 4, or" in str(refused.value)
    assert "train.exchange: route" not in str(refused.value), "that is what was tried last"
    made, _ = choose_exchange(TrainConfig(rank=127), plans(limits=limits, n_blocks=32, **sparse), has_storage=True)
    assert made.exchange == "route"


def fit(
    spark: SparkSession, n_rows: tuple[int, int], continuation: Continuation = NOWHERE, **settings: Any
) -> Factorization:
    """Fit few ratings of large indexes: much to send, little to compute."""
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, [3_000, 1_000], (20_000, 2)), axis=0).astype(np.int32)
    columns = {"user_index": pairs[:, 0], "item_index": pairs[:, 1], "rating": rng.random(len(pairs)) * 4 + 1}
    frame = spark.createDataFrame(pa.table(columns)).selectExpr("user_index", "item_index", "float(rating) as rating")
    config = TrainConfig(**{"rank": 63, "iterations": 2, "tolerance": 0.0, "n_blocks": 3, **settings})
    sizes = {"n_users": n_rows[0], "n_items": n_rows[1]}
    return fit_factors(spark, frame, config, progress=Progress(), continuation=continuation, **sizes)


def forget_peak() -> None:
    """Let this process's peak memory count from now on, where the system can."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")


@pytest.mark.parametrize(
    "settings", [{}, {"solver": "cholesky", "loss": "ials", "unobserved_weight": 0.1}, {"exchange": "route"}]
)
def test_predicted_bytes_and_memory_are_within_twice_of_what_is_taken(
    spark: SparkSession, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_peak()
    # What other tests have left in this process is not the driver's.
    left_over = max(0, peak_memory() - DRIVER_BASE)
    # Workers of another environment are new ones: those of other tests have had peaks of their own.
    monkeypatch.setitem(spark.sparkContext.environment, "RECSYS_TEST_FOLDER", str(tmp_path))
    place = Continuation(storage=LocalStorage(), folder=str(tmp_path))
    model = fit(spark, (400_000, 150_000), place, **settings)
    assert model.plan is not None
    assert model.footprint is not None
    predicted, actual = asdict(model.plan.predicted), asdict(model.footprint)
    actual["driver_bytes"] -= left_over
    assert predicted.keys() == {field for field in Footprint.__slots__}
    compared = {"largest_block_bytes", "worker_bytes", "driver_bytes"}
    compared |= {"shuffle_bytes_per_iteration"} if model.frames else {"broadcast_bytes", "returned_bytes"}
    for name in compared:
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
