"""Measure on millions of held-out pairs with a driver that could not hold them, and tell what it received and held.

    python benchmarks/held_out_pairs.py --pairs 1e7

A driver with little memory and an executor of its own (Spark's local-cluster), so that the driver's memory is the
driver's alone. Pairs with the predictions of two models, and lists of two models, are written to Parquet first; then
the measures of the evaluate stage are computed from these files: errors with calibration and AUC, rankings, exposure,
with bootstrap intervals. RMSE and AUC of the first model are compared with those of all pairs at once, in NumPy,
which the benchmark reads for itself afterwards. The last line is ``RESULT {json}``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
DRIVER_MEMORY, MOST_RESULTS = "512m", "128m"
# Executors import this package from where it is.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ["PYSPARK_SUBMIT_ARGS"] = (
    f"--master local-cluster[1,2,4096] --driver-memory {DRIVER_MEMORY} --conf spark.executor.memory=4g "
    f"--conf spark.driver.maxResultSize={MOST_RESULTS} pyspark-shell"
)

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.evaluate.estimates import Estimate
from recsys_spark.evaluate.exposure import measure_exposure
from recsys_spark.evaluate.ranking import RankingInput, measure_ranking, relevant_items
from recsys_spark.evaluate.rating_errors import N_BINS, ErrorInput, measure_errors
from recsys_spark.evaluate.shares import item_classes, number_of_shares
from recsys_spark.kernels.label_metrics import auc
from recsys_spark.session import build_session
from recsys_spark.train.peak_memory import peak_memory

MODELS = ("model", "popularity")
ACTIVITY_BOUNDS = (10, 50)
LIKED = 4.0
LIST_LENGTH = 10
# Coprime to the number of items, so that a user's pairs are distinct.
STRIDE = 7919


@dataclass(slots=True)
class Received:
    """What came to the driver: rows, and their bytes as Arrow or, for rows of Python, 100 each."""

    rows: int = 0
    size: int = 0


def main() -> None:
    """Run the measures and print the result."""
    arguments = parse_arguments()
    n_pairs, n_items = int(arguments.pairs), arguments.items
    spark = build_session("recsys-benchmark-held-out-pairs")
    with tempfile.TemporaryDirectory(prefix="recsys-benchmark-") as folder:
        pairs, lists = write_tables(spark, n_pairs, arguments.users, n_items, Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
        before = memory_of_driver(spark)
        with received_by_driver(pairs) as received:
            seconds, estimates = measure(pairs, lists, n_pairs, n_items, arguments.replicates)
        after = memory_of_driver(spark)
        spark.stop()
        check(estimates, Path(folder))
    result = {
        "pairs": n_pairs,
        "users": arguments.users,
        "parquet_mb": round(size / 1e6),
        "driver_memory": DRIVER_MEMORY,
        "most_results": MOST_RESULTS,
        "received_rows": received.rows,
        "received_mb": round(received.size / 1e6, 1),
        "driver_python_mb": {"before": before[0], "peak": after[0]},
        "driver_jvm_mb": {"before": before[1], "peak": after[1]},
        "seconds": seconds,
        "estimates": len(estimates),
    }
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure on many held-out pairs without bringing them to the driver.")
    parser.add_argument("--pairs", type=float, default=1e7, help="held-out pairs")
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--items", type=int, default=20_000, help="no multiple of 7,919")
    parser.add_argument("--replicates", type=int, default=200)
    return parser.parse_args()


def write_tables(
    spark: SparkSession, n_pairs: int, n_users: int, n_items: int, folder: Path
) -> tuple[DataFrame, dict[str, DataFrame]]:
    """Write held-out pairs with predictions, and a list of each model for every user; return them as they are read."""
    user, place = F.col("id") % n_users, F.floor(F.col("id") / n_users)
    noise = [F.randn(seed) for seed in range(len(MODELS))]
    rating = (1 + F.pmod(F.xxhash64("id"), F.lit(5))).cast("float")
    pairs = spark.range(n_pairs).select(
        user.cast("int").alias("user_index"),
        _item_of(user, place, n_items).alias("item_index"),
        rating.alias("rating"),
        F.pmod(F.xxhash64(user, F.lit(1)), F.lit(80)).cast("int").alias("n_known"),
        *[(rating + (1 + n) * noise[n]).alias(name) for n, name in enumerate(MODELS)],
    )
    pairs.write.parquet(str(folder / "pairs"))
    for number, name in enumerate(MODELS):
        # Some of the user's own pairs, and some that are not: there are hits to find.
        entries = [_item_of(F.col("id"), F.lit(k * (number + 2)), n_items) for k in range(LIST_LENGTH)]
        users = spark.range(n_users).select(
            F.col("id").cast("int").alias("user_index"), F.array(*entries).alias("items")
        )
        users.write.parquet(str(folder / f"lists-{name}"))
    read = spark.read.parquet
    return read(str(folder / "pairs")), {name: read(str(folder / f"lists-{name}")) for name in MODELS}


def _item_of(user: Column, place: Column, n_items: int) -> Column:
    """Return an item of a user; other places are other items."""
    return F.pmod(F.pmod(F.xxhash64(user), F.lit(n_items)) + place * STRIDE, F.lit(n_items)).cast("int")


def measure(
    pairs: DataFrame, lists: dict[str, DataFrame], n_pairs: int, n_items: int, replicates: int
) -> tuple[dict[str, float], list[Estimate]]:
    """Return the seconds of each kind of measures, and what was measured."""
    n_ratings = np.arange(n_items, dtype=np.int64)
    classes, names = item_classes(n_ratings)
    common: dict[str, Any] = {
        "item_class": classes,
        "class_names": tuple(names),
        "activity_bounds": ACTIVITY_BOUNDS,
        "replicates": replicates,
        "seed": 0,
    }
    started = time.monotonic()
    errors = ErrorInput(MODELS, False, LIKED, None, 3.0, np.linspace(1, 5, N_BINS + 1)[1:-1], n_pairs=n_pairs, **common)
    estimates = measure_errors(pairs, errors).estimates
    seconds = {"errors": time.monotonic() - started}
    started = time.monotonic()
    ranking = RankingInput(
        kinds=MODELS,
        lengths=(5, LIST_LENGTH),
        n=LIST_LENGTH,
        n_ratings=n_ratings,
        n_users=n_pairs,
        item_vectors=None,
        n_shares=number_of_shares(n_pairs),
        **common,
    )
    n_known = pairs.groupBy("user_index").agg(F.first("n_known").alias("n_known"))
    relevant = relevant_items(pairs, LIKED).join(n_known, "user_index")
    estimates += measure_ranking(lists, relevant, ranking)
    estimates += measure_exposure(lists, LIST_LENGTH, n_items)
    seconds["lists"] = time.monotonic() - started
    return {name: round(value, 1) for name, value in seconds.items()}, estimates


@contextmanager
def received_by_driver(frame: DataFrame) -> Iterator[Received]:
    """Count what is collected meanwhile."""
    kind, received = type(frame), Received()
    to_arrow, collect = kind.toArrow, kind.collect

    def counted_arrow(self: DataFrame) -> Any:
        table = to_arrow(self)
        received.rows += table.num_rows
        received.size += table.nbytes
        return table

    def counted_rows(self: DataFrame) -> Any:
        rows = collect(self)
        received.rows += len(rows)
        received.size += 100 * len(rows)
        return rows

    kind.toArrow, kind.collect = counted_arrow, counted_rows
    try:
        yield received
    finally:
        kind.toArrow, kind.collect = to_arrow, collect


def memory_of_driver(spark: SparkSession) -> tuple[int, int]:
    """Return the most memory (MB) that the driver's two processes have held so far: Python's, and the JVM's."""
    python = peak_memory() / 2**20
    gateway = spark.sparkContext._gateway
    assert gateway is not None
    status = Path("/proc", str(_pid_of_jvm(spark)), "status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(python), round(int(peak.split()[1]) / 1024)


def _pid_of_jvm(spark: SparkSession) -> int:
    jvm: Any = spark.sparkContext._jvm
    return int(jvm.java.lang.ProcessHandle.current().pid())


def check(estimates: list[Estimate], folder: Path) -> None:
    """Compare with all pairs at once."""
    columns = ["rating", MODELS[0]]
    table = pq.read_table(folder / "pairs", columns=columns)
    ratings, predicted = (table[name].to_numpy().astype(np.float64) for name in columns)
    expected = {"rmse": float(np.sqrt(np.mean((predicted - ratings) ** 2))), "auc": auc(predicted, ratings >= LIKED)}
    for metric, value in expected.items():
        found = next(e for e in estimates if (e.model, e.metric, e.segment) == (MODELS[0], metric, "all"))
        print(f"{metric}: {found.value!r} on Spark, {value!r} from all pairs at once", flush=True)
        if not np.isclose(found.value, value, rtol=1e-9, atol=0):
            raise SystemExit(f"{metric} is not that of all pairs")


if __name__ == "__main__":
    main()
