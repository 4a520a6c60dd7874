"""Time the tasks of a half-iteration where one item is rated by every user, with that item whole and split.

    python benchmarks/hot_rows.py --ratings 1e6 --rank 64 --blocks 16
    python benchmarks/hot_rows.py --ratings 1e6 --rank 64 --blocks 16 --exchange route

Every user rates the first item and a few others at random. A task's time is that of the processor in its worker.
The last line is ``RESULT {json}``: ``slowest_to_median_task`` is the slowest task of the half-iteration that solves
the items, over the median one; ``..._whole`` is the same with no row split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.kernels import hot_rows
from recsys_spark.session import build_session
from recsys_spark.storage import LocalStorage
from recsys_spark.train.exchange import Exchange
from recsys_spark.train.observations import observations
from recsys_spark.train.replicate import ReplicateExchange
from recsys_spark.train.route import RouteExchange
from recsys_spark.train.side_blocks import SideBlocks, block_ratings

_RATINGS_PER_USER = 10


@dataclass(frozen=True, slots=True)
class Balance:
    """Of the items' half-iterations: slowest task over median task, and seconds of the whole, medians of both."""

    slowest_to_median: float
    seconds: float
    n_split: int


def main() -> None:
    """Run the measurement and print the result."""
    arguments = parse_arguments()
    spark = build_session("recsys-benchmark-hot-rows")
    frame, n_users, n_items = make_ratings(spark, int(arguments.ratings), arguments.seed)
    config = TrainConfig(rank=arguments.rank, loss=arguments.loss, n_blocks=arguments.blocks)
    # The first one warms up.
    floors = (arguments.floor, 1 << 31, arguments.floor)
    _, whole, split = (measure(spark, frame, (n_users, n_items), config, floor, arguments) for floor in floors)
    for name, found in (("whole", whole), ("split", split)):
        print(
            f"{name}: {found.n_split} items split, slowest task {found.slowest_to_median:.2f} times the median, "
            f"{found.seconds:.2f} s for the items",
            flush=True,
        )
    result = {
        "ratings": int(arguments.ratings),
        "users": n_users,
        "items": n_items,
        "rank": arguments.rank,
        "loss": arguments.loss,
        "blocks": arguments.blocks,
        "exchange": arguments.exchange,
        "items_split": split.n_split,
        "slowest_to_median_task_whole": round(whole.slowest_to_median, 2),
        "slowest_to_median_task": round(split.slowest_to_median, 2),
        "items_s_whole": round(whole.seconds, 3),
        "items_s": round(split.seconds, 3),
    }
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time tasks where one item is rated by every user.")
    parser.add_argument("--ratings", type=float, default=1e6, help="how many (default 1e6)")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--loss", choices=["squared", "implicit"], default="squared")
    parser.add_argument("--blocks", type=int, default=16, help="per side")
    parser.add_argument("--exchange", choices=["replicate", "route"], default="replicate")
    parser.add_argument("--floor", type=int, default=hot_rows.HOT_FLOOR, help="shorter rows are not split")
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_ratings(spark: SparkSession, n_ratings: int, seed: int) -> tuple[DataFrame, int, int]:
    """Return ratings in Spark, persisted, and the numbers of users and items."""
    rng = np.random.default_rng(seed)
    n_users, n_items = n_ratings // _RATINGS_PER_USER, max(100, n_ratings // 250)
    drawn = rng.integers(1, n_items, n_users * (_RATINGS_PER_USER - 1))
    others = np.repeat(np.arange(n_users), _RATINGS_PER_USER - 1) * n_items + drawn
    keys = rng.permutation(np.unique(np.concatenate([np.arange(n_users) * n_items, others])))
    users, items = (keys // n_items).astype(np.int32), (keys % n_items).astype(np.int32)
    values = rng.integers(1, 11, len(keys)).astype(np.float32) / 2
    table = pa.table({"user_index": users, "item_index": items, "rating": values})
    frame = spark.createDataFrame(table).persist()
    frame.count()
    return frame, n_users, n_items


def measure(
    spark: SparkSession,
    frame: DataFrame,
    sizes: tuple[int, int],
    config: TrainConfig,
    floor: int,
    arguments: argparse.Namespace,
) -> Balance:
    """Train with rows above a floor split, and time the tasks that solve the items."""
    hot_rows.HOT_FLOOR = floor
    held: list[SideBlocks | Exchange] = []
    try:
        users, items = block_ratings(observations(frame, config).frame, *sizes, arguments.blocks)
        exchange = make_exchange(spark, config, arguments)
        held += [exchange, users, items]
        exchange.begin(users, items, None)
        ratios, seconds = [], []
        for _ in range(arguments.iterations):
            exchange.solve(users, items)
            started = time.perf_counter()
            exchange.solve(items, users)
            seconds.append(time.perf_counter() - started)
            tasks = exchange.sizes[-1].task_seconds
            ratios.append(max(tasks) / statistics.median(tasks))
        n_split = 0 if items.hot is None else len(items.hot.rows.rows)
        return Balance(statistics.median(ratios), statistics.median(seconds), n_split)
    finally:
        for one in held:
            one.release()


def make_exchange(spark: SparkSession, config: TrainConfig, arguments: argparse.Namespace) -> Exchange:
    """Return the exchange that is measured; routed vectors lie in a folder for temporary files."""
    if arguments.exchange == "replicate":
        return ReplicateExchange(spark, config, 0.0)
    folder = tempfile.mkdtemp(prefix="recsys-benchmark-")
    return RouteExchange(spark, config, 0.0, arguments.blocks, LocalStorage(), folder)


if __name__ == "__main__":
    main()
