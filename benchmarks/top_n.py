"""Time the lists of all users beside another library, from the same factors.

Factors are random, seen items follow a power law. Beside the kernel stands its own matrix product alone, on one
core. Against Spark MLlib, ``recommendForUserSubset`` excludes nothing, leaves indexes instead of ids, and is timed
on two groups of users: its time for all is extrapolated from them. Ours writes every user's list with string ids as
Parquet, from factors and histories that both sides find persisted. Against the ``implicit`` library, its
``recommend`` with liked items filtered on two threads stands beside our kernel in two processes: scoring and
selection alone. Rounds of both alternate, and the median round is reported.

    python benchmarks/top_n.py --users 138000 --items 27000 --against mllib
    python benchmarks/top_n.py --users 138000 --items 27000 --against implicit
    python benchmarks/top_n.py --users 2000 --items 1e6 --against nothing
    python benchmarks/top_n.py --users 4000 --items 20000 --max-per-category 1 --categories 20 --mmr-pool 50

With limits per category, an item's category is the nearest of some random directions, so that users' best items
crowd in few of them; with marginal relevance, lists are chosen from a pool. Both are timed beside plain lists.

The last line is ``RESULT {json}``: ``mllib_ratio`` is MLlib's time by ours, ``implicit_ratio`` ours by the
library's, ``gemm_ratio`` the kernel's by its product's, ``peak_mb`` the most that the kernel's process has held, and
``factors_mb`` what of it are factors; ``capped_ratio``, ``mmr_ratio`` and ``capped_mmr_ratio`` are by the plain kernel.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The folder of this file would hide the package that has its name.
sys.path[:1] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.factor_tables import factor_rows
from recsys_spark.kernels.capped_top_n import capped_top_n
from recsys_spark.kernels.marginal_relevance import rerank
from recsys_spark.kernels.top_n import top_n
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.recommend import Candidates, users_with_history, write_lists
from recsys_spark.session import build_session
from recsys_spark.train.peak_memory import peak_memory

SEEN_PER_USER = 115
_ZIPF_EXPONENT = 0.9
_USERS_PER_PRODUCT = 256
_ITEMS_PER_PRODUCT = 1 << 15
_PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Model:
    """Factors without biases, and each user's seen items as CSR."""

    users: npt.NDArray[np.float32]
    items: npt.NDArray[np.float32]
    indptr: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int32]

    def excluded(self, first: int, last: int) -> dict[str, Any]:
        """Return what the users first to last have seen, as the kernels take it."""
        return {
            "excluded_indptr": self.indptr[first : last + 1] - self.indptr[first],
            "excluded_columns": self.seen[self.indptr[first] : self.indptr[last]],
        }

    def lists(self, first: int, last: int, n: int) -> npt.NDArray[np.int32]:
        """Rank the users first to last by our kernel."""
        columns, _ = top_n(
            self.users[first:last],
            self.items,
            biases=False,
            global_mean=0.0,
            n=n,
            **self.excluded(first, last),
        )
        return columns


def main() -> None:
    """Run the comparison and print the result."""
    arguments = parse_arguments()
    n_users, n_items = int(arguments.users), int(arguments.items)
    print(f"drawing factors and histories of {n_users:,} users and {n_items:,} items", flush=True)
    model = make_model(n_users, n_items, arguments.rank, arguments.seed)
    result: dict[str, Any] = {"users": n_users, "items": n_items, "rank": arguments.rank, "n": arguments.n}
    result |= time_kernel(model, arguments.n, min(n_users, arguments.kernel_users), arguments.rounds)
    result |= time_variety(model, arguments)
    if arguments.against == "mllib":
        result |= beside_mllib(model, arguments)
    elif arguments.against == "implicit":
        result |= beside_implicit(model, arguments)
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time top-N lists beside another library.")
    parser.add_argument("--users", type=float, default=10_000)
    parser.add_argument("--items", type=float, default=5_000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--against", choices=["mllib", "implicit", "nothing"], default="nothing")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of both sides")
    parser.add_argument("--kernel-users", type=int, default=4096, help="of the kernel beside its product")
    parser.add_argument("--subset", type=float, default=0.1, help="share of users in MLlib's larger group")
    parser.add_argument("--max-per-category", type=int, help="time lists with such a limit too")
    parser.add_argument("--categories", type=int, default=20, help="how many there are")
    parser.add_argument("--mmr-pool", type=int, help="time lists chosen from such a pool too")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make_model(n_users: int, n_items: int, rank: int, seed: int) -> Model:
    """Draw factors, and distinct seen items by a Zipf law."""
    rng = np.random.default_rng(seed)
    users, items = (rng.standard_normal((n, rank), np.float32) for n in (n_users, n_items))
    popularity = np.cumsum(1.0 / np.arange(1, n_items + 1) ** _ZIPF_EXPONENT)
    drawn = np.searchsorted(popularity / popularity[-1], rng.random((n_users, SEEN_PER_USER)))
    keys = np.unique(np.arange(n_users)[:, None] * n_items + np.minimum(drawn, n_items - 1))
    indptr = np.searchsorted(keys, np.arange(n_users + 1) * n_items)
    return Model(users, items, indptr.astype(np.int64), (keys % n_items).astype(np.int32))


def time_kernel(model: Model, n: int, n_users: int, n_rounds: int) -> dict[str, float]:
    """Time the kernel beside its own product in the same tiles, alternating."""
    tile = np.empty((_USERS_PER_PRODUCT, min(len(model.items), _ITEMS_PER_PRODUCT)), np.float32)

    def products() -> None:
        for first in range(0, n_users, _USERS_PER_PRODUCT):
            users = model.users[first : min(first + _USERS_PER_PRODUCT, n_users)]
            for low in range(0, len(model.items), _ITEMS_PER_PRODUCT):
                items = model.items[low : low + _ITEMS_PER_PRODUCT]
                np.matmul(users, items.T, out=tile[: len(users), : len(items)])

    model.lists(0, min(n_users, _USERS_PER_PRODUCT), n)
    rounds = [(seconds_of(lambda: model.lists(0, n_users, n)), seconds_of(products)) for _ in range(n_rounds)]
    print("kernel and its product: " + ", ".join(f"{ours:.2f} s and {gemm:.2f} s" for ours, gemm in rounds), flush=True)
    return {
        "kernel_users": n_users,
        "kernel_s": round(statistics.median(ours for ours, _ in rounds), 3),
        "gemm_s": round(statistics.median(gemm for _, gemm in rounds), 3),
        "gemm_ratio": round(statistics.median(ours / gemm for ours, gemm in rounds), 3),
        "peak_mb": round(peak_memory() / 2**20),
        "factors_mb": round((model.users.nbytes + model.items.nbytes) / 2**20),
    }


def time_variety(model: Model, arguments: argparse.Namespace) -> dict[str, float]:
    """Time limits per category, marginal relevance, and both, beside plain lists of the same users."""
    n_users, pool = min(len(model.users), arguments.kernel_users), arguments.mmr_pool
    limit = {"max_per_category": arguments.max_per_category, "categories": draw_categories(model, arguments)}
    kinds = {
        "capped": (arguments.max_per_category is not None, limit, None),
        "mmr": (pool is not None, {}, pool),
        "capped_mmr": (arguments.max_per_category is not None and pool is not None, limit, pool),
    }

    def varied(limit: dict[str, Any], pool: int | None) -> None:
        columns, scores = (capped_top_n if limit else top_n)(
            model.users[:n_users],
            model.items,
            biases=False,
            global_mean=0.0,
            n=pool or arguments.n,
            **limit,
            **model.excluded(0, n_users),
        )
        if pool is not None:
            rerank(columns, scores, model.items, relevance_weight=0.7, n=arguments.n)

    found: dict[str, float] = {}
    for name, (is_wanted, *how) in kinds.items():
        if is_wanted:
            rounds = [
                (seconds_of(lambda how=how: varied(*how)), seconds_of(lambda: model.lists(0, n_users, arguments.n)))
                for _ in range(arguments.rounds)
            ]
            print(f"{name} and plain: " + ", ".join(f"{a:.2f} s and {b:.2f} s" for a, b in rounds), flush=True)
            found[f"{name}_ratio"] = round(statistics.median(a / b for a, b in rounds), 3)
    return found


def draw_categories(model: Model, arguments: argparse.Namespace) -> npt.NDArray[np.int32]:
    """Give each item the category whose random direction is nearest."""
    rng = np.random.default_rng(arguments.seed + 1)
    directions = rng.standard_normal((model.items.shape[1], arguments.categories), np.float32)
    return (model.items @ directions).argmax(axis=1).astype(np.int32)


def beside_mllib(model: Model, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time whole jobs, from persisted factors to Parquet."""
    spark = build_session("recsys-benchmark-top-n")
    folder = Path(tempfile.mkdtemp(prefix="recsys-benchmark-"))
    try:
        ours = our_job(spark, model, arguments.n)
        theirs = mllib_job(spark, model, arguments.n)
        n_users = len(model.users)
        large = max(2, int(arguments.subset * n_users))
        small = max(1, large // 4)
        ours(str(folder / "warm-ours"))
        theirs(str(folder / "warm-theirs"), small)
        seconds: list[tuple[float, float]] = []
        for number in range(arguments.rounds):
            mine = seconds_of(lambda number=number: ours(str(folder / f"ours-{number}")))
            few, many = (
                seconds_of(lambda number=number, size=size: theirs(str(folder / f"theirs-{number}-{size}"), size))
                for size in (small, large)
            )
            whole = many + max(0.0, many - few) / (large - small) * (n_users - large)
            seconds.append((mine, whole))
            print(
                f"round {number + 1}: ours {mine:.1f} s, MLlib {few:.1f} s for {small:,} and {many:.1f} s for "
                f"{large:,} users, so {whole:.1f} s for all",
                flush=True,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "ours_s": round(statistics.median(mine for mine, _ in seconds), 2),
        "mllib_s_extrapolated": round(statistics.median(whole for _, whole in seconds), 2),
        "mllib_users_timed": [small, large],
        "mllib_ratio": round(statistics.median(whole / mine for mine, whole in seconds), 2),
    }


def our_job(spark: SparkSession, model: Model, n: int) -> Callable[[str], None]:
    """Return a function that writes every user's list, seen items excluded."""
    n_users, n_items = len(model.users), len(model.items)
    labels = spark.range(n_users).select(
        F.col("id").cast("int").alias("user_index"), F.format_string("user %d", "id").alias("user")
    )
    factors = persisted(_rows(spark, USERS, model.users))
    rated = pa.table(
        {
            "user_index": np.repeat(np.arange(n_users, dtype=np.int32), np.diff(model.indptr)),
            "item_index": model.seen,
        }
    )
    ratings = persisted(spark.createDataFrame(rated))
    candidates = Candidates.from_items(
        pa.array([f"item {k}" for k in range(n_items)]),
        np.arange(n_items, dtype=np.int32),
        model.items,
        np.ones(n_items),
        n_items=n_items,
        global_mean=0.0,
        biases=False,
    )

    def write(path: str) -> None:
        write_lists(users_with_history(labels, factors, ratings), candidates, n=n, path=path)

    return write


def mllib_job(spark: SparkSession, model: Model, n: int) -> Callable[[str, int], None]:
    """Return a function that writes MLlib's lists of the first users, nothing excluded."""
    from pyspark.ml.recommendation import ALSModel

    sides = [
        persisted(_rows(spark, side, vectors).selectExpr(f"{side.rows} as id", "factors as features"))
        for side, vectors in ((USERS, model.users), (ITEMS, model.items))
    ]
    jvm: Any = spark._jvm
    java_model = jvm.org.apache.spark.ml.recommendation.ALSModel(
        "benchmark", model.items.shape[1], sides[0]._jdf, sides[1]._jdf
    )
    java_model.set(java_model.userCol(), "user_index")
    java_model.set(java_model.itemCol(), "item_index")
    als = ALSModel(java_model)

    def write(path: str, n_users: int) -> None:
        subset = spark.range(n_users).select(F.col("id").cast("int").alias("user_index"))
        als.recommendForUserSubset(subset, n).write.parquet(path)

    return write


def _rows(spark: SparkSession, side: Side, vectors: npt.NDArray[np.float32]) -> DataFrame:
    return factor_rows(spark, side, vectors, np.ones(len(vectors), np.int32), biases=False)


def persisted(frame: DataFrame) -> DataFrame:
    """Return a frame that is held in memory already."""
    frame = frame.repartition(4).persist()
    frame.count()
    return frame


def beside_implicit(model: Model, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time scoring and selection alone, on two threads and in two processes."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    n_users = len(model.users)
    theirs = AlternatingLeastSquares(factors=model.items.shape[1], num_threads=_PROCESSES)
    theirs.user_factors, theirs.item_factors = model.users, model.items
    ones = np.ones(len(model.seen), np.float32)
    seen = csr_matrix((ones, model.seen, model.indptr), shape=(n_users, len(model.items)))
    everybody = np.arange(n_users)
    bounds = np.linspace(0, n_users, 4 * _PROCESSES + 1).astype(int)
    parts = list(zip(bounds[:-1], bounds[1:], [arguments.n] * (len(bounds) - 1), strict=True))
    seconds = []
    # Forked, so that the processes have the model already, as a Spark worker has its broadcast.
    with multiprocessing.get_context("fork").Pool(_PROCESSES, _remember, (model,)) as pool:
        pool.starmap(_lists_of_part, [(0, min(64, n_users), arguments.n)] * _PROCESSES)
        for number in range(arguments.rounds):
            mine = seconds_of(lambda: pool.starmap(_lists_of_part, parts, chunksize=1))
            other = seconds_of(lambda: theirs.recommend(everybody, seen, arguments.n, filter_already_liked_items=True))
            seconds.append((mine, other))
            print(f"round {number + 1}: ours {mine:.2f} s, implicit {other:.2f} s", flush=True)
    return {
        "ours_s": round(statistics.median(mine for mine, _ in seconds), 3),
        "implicit_s": round(statistics.median(other for _, other in seconds), 3),
        "implicit_ratio": round(statistics.median(mine / other for mine, other in seconds), 3),
    }


_models: list[Model] = []


def _remember(model: Model) -> None:
    _models.append(model)


def _lists_of_part(first: int, last: int, n: int) -> int:
    return len(_models[0].lists(first, last, n))


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
