"""Time one training iteration beside Spark MLlib's ALS, on the same ratings, cores and Spark session.

Both minimise the same objective (squared error, no biases, regularisation times each row's degree), at the
same rank and number of blocks. MLlib's input is persisted and both are warmed up first. The cost of an
iteration is the difference of two fits with different numbers of iterations, divided by that number, so that
blocking and start-up do not count; rounds of both libraries alternate, and the median round is reported.

    python benchmarks/training.py --ratings 2e6 --rank 64

The last line is ``RESULT {json}``. Needs about 10 GB of memory at 15 million ratings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("SPARK_CONF_DIR", str(ROOT / "conf" / "local"))
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.setdefault("PYSPARK_SUBMIT_ARGS", "--driver-memory 10g pyspark-shell")
sys.path[:0] = [str(ROOT)]

import numpy as np
import pyarrow as pa
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession

from benchmarks.power_law import power_law_ratings
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.progress import Progress
from recsys_spark.session import build_session, default_parallelism
from recsys_spark.train import Factorization, fit_factors

REG_PARAM = 0.05
HELD_OUT = 0.05


def main() -> None:
    """Run the comparison and print the result."""
    arguments = parse_arguments()
    spark = build_session("recsys-benchmark-training")
    print(f"generating {arguments.ratings:,.0f} ratings", flush=True)
    made = power_law_ratings(int(arguments.ratings), arguments.seed)
    is_held_out = np.random.default_rng(1).random(len(made.users)) < HELD_OUT
    columns = {"user_index": made.users, "item_index": made.items, "rating": made.ratings}
    training, held_out = (
        pa.table({name: values[chosen] for name, values in columns.items()}) for chosen in (~is_held_out, is_held_out)
    )
    n_blocks = arguments.blocks or default_parallelism(spark)
    ratings = spark.createDataFrame(training).repartition(n_blocks).persist()
    n_ratings = ratings.count()
    print(
        f"{n_ratings:,} training ratings, {made.n_users:,} users, {made.n_items:,} items, {n_blocks} blocks",
        flush=True,
    )

    def ours(iterations: int) -> Factorization:
        config = TrainConfig(
            rank=arguments.rank,
            iterations=iterations,
            reg_param=REG_PARAM,
            reg_exponent=1.0,
            biases=False,
            tolerance=0.0,
            solver=arguments.solver,
            n_blocks=n_blocks,
        )
        return fit_factors(
            spark,
            ratings,
            config,
            n_users=made.n_users,
            n_items=made.n_items,
            progress=Progress(),
            title="ours",
        )

    result = {
        "ratings": n_ratings,
        "rank": arguments.rank,
        "users": made.n_users,
        "items": made.n_items,
        "blocks": n_blocks,
    }
    if arguments.against == "mllib":
        result |= compare(ours, mllib_fit(ratings, arguments.rank, n_blocks), arguments)
    else:
        ours(1)
        rounds = [seconds_per_iteration(ours, 1, arguments.iterations) for _ in range(arguments.rounds)]
        result["ours_s_per_iter"] = round(statistics.median(seconds for seconds, _ in rounds), 3)
    model = ours(arguments.iterations)
    result["ours_blocking_s"] = round(model.blocking_seconds, 2)
    result["ours_rmse"] = round(our_rmse(model, held_out), 5)
    if arguments.against == "mllib":
        mllib_model = mllib_fit(ratings, arguments.rank, n_blocks)(arguments.iterations)
        result["mllib_rmse"] = round(mllib_rmse(spark, mllib_model, held_out), 5)
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time one training iteration beside Spark MLlib's ALS.")
    parser.add_argument("--ratings", type=float, default=2e6, help="how many (default 2e6)")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--against", choices=["mllib", "nothing"], default="mllib")
    parser.add_argument("--iterations", type=int, default=5, help="of the longer fit, at least 2")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of both libraries")
    parser.add_argument("--solver", choices=["auto", "cholesky", "dual", "cg"], default="auto")
    parser.add_argument("--blocks", type=int, default=0, help="per side; default: one per core")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.iterations < 2:
        parser.error("--iterations must be at least 2")
    return arguments


def compare(
    ours: Callable[[int], object], mllib: Callable[[int], object], arguments: argparse.Namespace
) -> dict[str, float]:
    """Alternate rounds of both libraries and return their median seconds per iteration."""
    print("warming up", flush=True)
    ours(1)
    mllib(1)
    seconds: dict[str, list[float]] = {"ours": [], "mllib": []}
    for number in range(1, arguments.rounds + 1):
        for name, fit in (("ours", ours), ("mllib", mllib)):
            per_iteration, whole = seconds_per_iteration(fit, 1, arguments.iterations)
            seconds[name].append(per_iteration)
            print(
                f"round {number}: {name} {per_iteration:.2f} s per iteration ({whole:.1f} s for the fit)",
                flush=True,
            )
    ratios = [theirs / mine for theirs, mine in zip(seconds["mllib"], seconds["ours"], strict=True)]
    return {
        "ours_s_per_iter": round(statistics.median(seconds["ours"]), 3),
        "mllib_s_per_iter": round(statistics.median(seconds["mllib"]), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_lowest": round(min(ratios), 2),
        "ratio_highest": round(max(ratios), 2),
    }


def seconds_per_iteration(fit: Callable[[int], object], few: int, many: int) -> tuple[float, float]:
    """Return the cost of one iteration from two fits, and the time of the longer fit."""
    times = []
    for iterations in (few, many):
        started = time.perf_counter()
        fit(iterations)
        times.append(time.perf_counter() - started)
    return (times[1] - times[0]) / (many - few), times[1]


def mllib_fit(ratings: DataFrame, rank: int, n_blocks: int) -> Callable[[int], object]:
    """Return MLlib's fit at the same settings; its loss and scaling of the regularisation are the same."""

    def fit(iterations: int) -> object:
        estimator = ALS(
            rank=rank,
            maxIter=iterations,
            regParam=REG_PARAM,
            numUserBlocks=n_blocks,
            numItemBlocks=n_blocks,
            userCol="user_index",
            itemCol="item_index",
            ratingCol="rating",
            coldStartStrategy="drop",
            seed=1,
        )
        model = estimator.fit(ratings)
        # Factors are computed when they are asked for.
        model.itemFactors.count()
        return model

    return fit


def our_rmse(model: Factorization, held_out: pa.Table) -> float:
    """Return the error on held-out ratings whose user and item were both trained."""
    users, items, ratings = (held_out[name].to_numpy() for name in ("user_index", "item_index", "rating"))
    known = (model.user_degrees[users] > 0) & (model.item_degrees[items] > 0)
    users, items, ratings = users[known], items[known], ratings[known]
    scores = pair_scores(model.user_vectors[users], model.item_vectors[items], model.global_mean, model.biases)
    return float(np.sqrt(np.mean((scores - ratings) ** 2)))


def mllib_rmse(spark: SparkSession, model: object, held_out: pa.Table) -> float:
    """Return MLlib's error on the same ratings (it drops the unknown ones too)."""
    predicted = model.transform(spark.createDataFrame(held_out))  # type: ignore[attr-defined]
    return float(RegressionEvaluator(labelCol="rating", predictionCol="prediction").evaluate(predicted))


if __name__ == "__main__":
    main()
