"""Time the regression on known features for very many users: one pass over blocked ratings, features in every task.

Users draw their number of ratings from a lognormal distribution, items from a power law; ratings follow each user's own
weights of the features, and noise. The fit is the one of ``train.model: feature_regression``, from a Parquet file of
ratings to the files of all users' weights. Memory is the highest that any of Spark's Python workers has held.

    python benchmarks/feature_regression.py --users 1e6 --ratings-per-user 8

The last line is ``RESULT {json}``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peer_models import Ratings
from recsys_spark.config import TrainConfig
from recsys_spark.features import ItemFeatures
from recsys_spark.kernels.neighbour_average import sparse_rows
from recsys_spark.progress import Progress
from recsys_spark.session import build_session, default_parallelism
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, fit_model

PAIRS_AT_ONCE = 1 << 18
SECONDS_BETWEEN_LOOKS = 0.5
SIGMA, EXPONENT, NOISE = 1.2, 0.9, 0.8


def main() -> None:
    """Make the ratings, fit, and print what it took."""
    arguments = parse_arguments()
    features = make_features(arguments.items, arguments.features)
    ratings = make_ratings(int(arguments.users), arguments.ratings_per_user, features.dense())
    sizes = {
        "users": len(np.unique(ratings.users)),
        "ratings": len(ratings.users),
        "items": ratings.n_items,
        "features": features.width,
    }
    print(", ".join(f"{value:,} {name}" for name, value in sizes.items()), flush=True)
    spark = build_session("recsys-benchmark")
    config = TrainConfig.model_validate(
        {"model": "feature_regression", "loss": arguments.loss, "positive_threshold": arguments.threshold}
    )
    with tempfile.TemporaryDirectory(prefix="recsys_benchmark_") as folder, PeakMemory() as peak:
        table = pa.table({"user_index": ratings.users, "item_index": ratings.items, "rating": ratings.values})
        pq.write_table(table, f"{folder}/ratings.parquet", row_group_size=1 << 20)
        del table
        started = time.perf_counter()
        model = fit_model(
            spark, spark.read.parquet(f"{folder}/ratings.parquet"), config, n_users=ratings.n_users,
            n_items=ratings.n_items, progress=Progress(), features=features,
            continuation=Continuation(storage=LocalStorage(), folder=folder),
        )  # fmt: skip
        seconds = time.perf_counter() - started
        written = sum(file.stat().st_size for file in Path(folder, "users").glob("*.parquet"))
    result = {
        **sizes,
        "loss": arguments.loss,
        "cores": default_parallelism(spark),
        "seconds": round(seconds, 1),
        "objective": model.history[-1].objective,
        "largest_worker_mb": peak.megabytes,
        "users_mb": round(written / 2**20),
    }
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time the regression on known features for very many users.")
    parser.add_argument("--users", type=float, default=1e6, help="how many (default 1e6)")
    parser.add_argument("--ratings-per-user", type=float, default=8.0, help="in the mean")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=40)
    parser.add_argument("--loss", choices=["squared", "logistic"], default="squared")
    arguments = parser.parse_args()
    arguments.threshold = 3.5 if arguments.loss == "logistic" else None
    return arguments


def make_features(n_items: int, width: int) -> ItemFeatures:
    """Return one number and many flags, of which an item has two or three."""
    rng = np.random.default_rng(0)
    dense = np.zeros((n_items, width), np.float32)
    dense[:, 0] = rng.normal(size=n_items)
    dense[:, 1:] = rng.random((n_items, width - 1)) < 2.5 / (width - 1)
    rows, columns = np.nonzero(dense)
    entries = sparse_rows(rows, columns, dense[rows, columns], n_items)
    return ItemFeatures(entries, np.ones(n_items, np.bool_), [f"f{k}" for k in range(width)], n_items)


def make_ratings(n_users: int, mean_degree: float, features: npt.NDArray[np.float32]) -> Ratings:
    """Draw distinct pairs and rate them from 1 to 5; every user has a rating."""
    rng = np.random.default_rng(1)
    n_items = len(features)
    degrees = rng.lognormal(0.0, SIGMA, n_users)
    degrees = np.clip(np.rint(degrees * mean_degree / degrees.mean()), 1, n_items // 4).astype(np.int64)
    popularity = np.cumsum(1.0 / np.arange(1, n_items + 1) ** EXPONENT)
    drawn = np.searchsorted(popularity, rng.random(int(degrees.sum())) * popularity[-1])
    keys = np.unique(np.repeat(np.arange(n_users), degrees) * n_items + drawn)
    users, items = (keys // n_items).astype(np.int32), (keys % n_items).astype(np.int32)
    weights = rng.normal(scale=0.5, size=(n_users, features.shape[1])).astype(np.float32)
    values = np.empty(len(users), np.float32)
    for first in range(0, len(users), PAIRS_AT_ONCE):
        part = slice(first, first + PAIRS_AT_ONCE)
        values[part] = (features[items[part]] * weights[users[part]]).sum(axis=1)
    values += 3.3 + rng.normal(scale=NOISE, size=len(values))
    return Ratings(users, items, np.clip(np.rint(values), 1, 5).astype(np.float32), n_users, n_items)


class PeakMemory:
    """The highest resident memory of any Python process that this one has started, itself aside."""

    def __init__(self) -> None:
        self.megabytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look for the last time."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            is_last = self._is_over.wait(SECONDS_BETWEEN_LOOKS)
            # The system keeps each process's own maximum: between two looks, nothing is missed but short lives.
            self.megabytes = max([self.megabytes, *(kilobytes // 1024 for kilobytes in worker_peaks())])
            if is_last:
                return


def worker_peaks() -> list[int]:
    """Return the highest resident memory, in kB, of the Python processes below this one."""
    found: dict[int, tuple[int, str, int]] = {}
    for place in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in place.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        peak = int(fields.get("VmHWM", "0 kB").split()[0])
        found[int(place.parent.name)] = (int(fields["PPid"]), fields["Name"].strip(), peak)
    own = os.getpid()

    def is_below(process: int) -> bool:
        parent = found[process][0]
        return parent == own or (parent in found and is_below(parent))

    return [peak for process, (_, name, peak) in found.items() if name.startswith("python") and is_below(process)]


if __name__ == "__main__":
    main()
