"""A job that trains on a side that is larger than a worker may be, and writes down what it met and took."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import ITEMS
from recsys_spark.session import build_session, session_limits
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, Factorization, alternating, fit_factors
from recsys_spark.train.peak_memory import peak_memory

N_USERS, N_ITEMS, RANK, N_BLOCKS = 40_000, 720_000, 255, 48
SIDE_BYTES = N_ITEMS * (RANK + 1) * 4


def sparse_ratings(spark: SparkSession) -> DataFrame:
    """Return one rating of every item, and a second one of every fourth."""
    first = spark.range(N_ITEMS).selectExpr("int(id) as item_index", "id as seed")
    second = first.where("item_index % 4 = 0").selectExpr("item_index", f"seed + {N_ITEMS} as seed")
    # Two different users: the second one has an odd number, the first an even one.
    user = f"2 * pmod(xxhash64(seed), {N_USERS // 2}) + int(seed >= {N_ITEMS})"
    return first.unionByName(second).selectExpr(
        f"int({user}) as user_index", "item_index", "float(1 + pmod(xxhash64(seed, 1), 5)) as rating"
    )


def fit(spark: SparkSession, folder: Path, exchange: str) -> Factorization:
    """Train one iteration: either side is solved once."""
    config = TrainConfig(rank=RANK, iterations=1, tolerance=0.0, exchange=exchange, n_blocks=N_BLOCKS)
    continuation = Continuation(storage=LocalStorage(), folder=f"{folder}/vectors")
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    return fit_factors(spark, sparse_ratings(spark), config, progress=Progress(), continuation=continuation, **sizes)


def replicate_in_spite(spark: SparkSession, folder: Path) -> dict[str, str]:
    """Return what is said when the side shall go whole to every worker, and what happens when it is sent then."""
    choose = alternating.choose_exchange
    told = {"refusal": "", "failure": ""}

    def note_and_go_on(config: TrainConfig, plans: Any, has_storage: bool) -> Any:
        try:
            choose(config, plans, has_storage=has_storage)
        except ConfigError as error:
            told["refusal"] = str(error)
        return plans.replicate, "whatever it takes"

    alternating.choose_exchange = note_and_go_on
    try:
        fit(spark, folder, "replicate")
    except Exception as error:
        told["failure"] = str(error)
    finally:
        alternating.choose_exchange = choose
    return told


def limits_of_workers(batches: Iterator[pa.RecordBatch], n_bytes: int) -> Iterator[pa.RecordBatch]:
    """Worker: say what limit is set, and whether so many bytes can be had."""
    for _ in batches:
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        try:
            can_have = bool(np.ones(n_bytes, np.uint8)[-1])
        except MemoryError:
            can_have = False
        yield pa.RecordBatch.from_pydict({"limit": [limit], "can_have": [can_have]})


def address_limit(spark: SparkSession) -> dict[str, Any]:
    """Return a worker's limit, and whether it could hold the side."""
    ask = partial(limits_of_workers, n_bytes=SIDE_BYTES)
    return spark.range(1).mapInArrow(ask, "limit long, can_have boolean").collect()[0].asDict()


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    session = build_session("recsys-large-fixed-side")
    found: dict[str, Any] = {
        "side_bytes": SIDE_BYTES,
        "worker": address_limit(session),
        "planned_limit": session_limits(session).worker_bytes,
    }
    model = fit(session, target, "auto")
    assert model.plan is not None
    assert model.footprint is not None
    found |= {
        "exchange": model.plan.exchange,
        "objectives": [step.objective for step in model.history],
        "predicted": model.plan.as_dict(),
        "actual": {name: getattr(model.footprint, name) for name in model.footprint.__slots__},
        "driver_peak": peak_memory(),
        "n_trained": model.rows(session, ITEMS).count(),
    }
    found |= replicate_in_spite(session, target)
    (target / "found.json").write_text(json.dumps(found))
    session.stop()
