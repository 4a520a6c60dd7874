"""Time one training iteration beside another library, on the same ratings and cores.

Both minimise the same objective (no biases): the squared or the implicit loss beside Spark MLlib's ALS, whose
penalty is multiplied by each row's degree; the implicit loss beside the ``implicit`` library, whose penalty is the
same for all rows and which, like us, takes three conjugate gradient steps per row. Rank, number of cores and of
blocks are the same, MLlib's input is persisted, the other library's matrix is at hand, and all are warmed up
first. The cost of an iteration is the difference of two fits with different numbers of iterations, divided by that
number, so that blocking and start-up do not count; rounds of both libraries alternate, and the median round is
reported. Against nothing, an iteration's cost is the median of what our own fit tells. Blocking is timed beside a
plain shuffle of the same rows. At the end, our objective is evaluated at both models' factors after the same
number of iterations.

    python benchmarks/training.py --ratings 2e6 --rank 64
    python benchmarks/training.py --ratings 2e6 --rank 64 --loss implicit --against implicit --solver cg --cg-steps 2

The last line is ``RESULT {json}``. Needs about 10 GB of memory at 15 million ratings.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from benchmarks.peer_models import (
    Factors,
    Ratings,
    implicit_estimator,
    implicit_matrix,
    mllib_estimator,
    mllib_factors,
    objective,
)
from benchmarks.power_law import power_law_ratings
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import SIDES
from recsys_spark.session import build_session, default_parallelism
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, Factorization, fit_factors
from recsys_spark.train.observations import observations
from recsys_spark.train.side_blocks import block_ratings

# Times each row's degree, and plain: a row of the synthetic ratings has a hundred of them or more.
DEGREE_REG_PARAM = 0.05
PLAIN_REG_PARAM = 10.0
ALPHA = 1.0
HELD_OUT = 0.05


@dataclass(frozen=True, slots=True)
class Library:
    """A library to be timed: ``fit`` takes a number of iterations, ``factors`` what it returns.

    The longer fit has ``n_times`` as many iterations: those of a fast library would drown in the noise of the rest.
    """

    name: str
    fit: Callable[[int], Any]
    factors: Callable[[Any], Factors]
    n_times: int = 1


def main() -> None:
    """Run the comparison and print the result."""
    arguments = parse_arguments()
    spark = build_session("recsys-benchmark-training")
    print(f"generating {arguments.ratings:,.0f} ratings", flush=True)
    training, held_out = make_ratings(int(arguments.ratings), arguments.seed)
    cores = default_parallelism(spark)
    n_blocks = arguments.blocks or cores
    config = make_config(arguments, n_blocks)
    frame = frame_of(spark, training, n_blocks)
    sizes = {"ratings": len(training.users), "users": training.n_users, "items": training.n_items}
    result = sizes | {"rank": config.rank, "loss": config.loss, "cores": cores, "blocks": n_blocks}
    print(", ".join(f"{value:,} {name}" if name in sizes else f"{name} {value}" for name, value in result.items()))

    libraries = [our_library(spark, frame, training, config, arguments.our_times)]
    if arguments.against == "mllib":
        libraries.append(mllib_library(frame, training, config))
    elif arguments.against == "implicit":
        libraries.append(implicit_library(training, config, cores))
    if arguments.against == "nothing":
        models = [libraries[0].fit(arguments.iterations) for _ in range(arguments.rounds + 1)][1:]
        result["ours_s_per_iter"] = round(statistics.median(map(median_iteration_seconds, models)), 4)
    else:
        result |= time_iterations(libraries, arguments.iterations, arguments.rounds)
    result |= time_blocking(frame, training, config, arguments.rounds)
    if arguments.final_iterations:
        result |= compare_models(libraries, arguments.final_iterations, training, held_out, config)
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time one training iteration beside another library.")
    parser.add_argument("--ratings", type=float, default=2e6, help="how many (default 2e6)")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--loss", choices=["squared", "implicit"], default="squared")
    parser.add_argument("--against", choices=["mllib", "implicit", "nothing"], default="mllib")
    parser.add_argument("--iterations", type=int, default=5, help="of the longer fit, at least 2")
    parser.add_argument("--our-times", type=int, default=1, help="how many times as many iterations ours fits")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of both libraries")
    parser.add_argument("--final-iterations", type=int, default=10, help="of the models compared; 0: compare none")
    parser.add_argument("--solver", choices=["auto", "cholesky", "dual", "cg", "subspace"], default="auto")
    parser.add_argument("--cg-steps", type=int, default=3, help="of ours")
    parser.add_argument("--exchange", choices=["replicate", "route"], default="replicate", help="of ours")
    parser.add_argument("--blocks", type=int, default=0, help="per side; default: one per core")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.iterations < 2:
        parser.error("--iterations must be at least 2")
    if arguments.against == "implicit" and arguments.loss != "implicit":
        parser.error("the implicit library has no squared loss: add --loss implicit")
    return arguments


def make_ratings(n_ratings: int, seed: int) -> tuple[Ratings, Ratings]:
    """Generate ratings and split them into training and held-out ones."""
    made = power_law_ratings(n_ratings, seed)
    ratings = Ratings(made.users, made.items, made.ratings, made.n_users, made.n_items)
    is_held_out = np.random.default_rng(1).random(len(made.users)) < HELD_OUT
    return ratings.where(~is_held_out), ratings.where(is_held_out)


def make_config(arguments: argparse.Namespace, n_blocks: int) -> TrainConfig:
    """Return our configuration, with the penalties of the library that it is compared with."""
    is_plain = arguments.against == "implicit"
    return TrainConfig(
        loss=arguments.loss,
        alpha=ALPHA,
        rank=arguments.rank,
        reg_param=PLAIN_REG_PARAM if is_plain else DEGREE_REG_PARAM,
        reg_exponent=0.0 if is_plain else 1.0,
        biases=False,
        tolerance=0.0,
        solver=arguments.solver,
        exchange=arguments.exchange,
        cg_steps=arguments.cg_steps,
        n_blocks=n_blocks,
    )


def frame_of(spark: SparkSession, ratings: Ratings, n_blocks: int) -> DataFrame:
    """Return the ratings in Spark, persisted.

    From a file, as in a pipeline: a table from the driver would be part of every query's plan, and be compared
    with what is cached, row by row, whenever one is planned.
    """
    table = pa.table({"user_index": ratings.users, "item_index": ratings.items, "rating": ratings.values})
    with tempfile.TemporaryDirectory(prefix="recsys_benchmark_") as folder:
        pq.write_table(table, f"{folder}/ratings.parquet", row_group_size=1 << 18)
        frame = spark.read.parquet(f"{folder}/ratings.parquet").repartition(n_blocks).persist()
        frame.count()
    return frame


def our_library(
    spark: SparkSession, frame: DataFrame, training: Ratings, config: TrainConfig, n_times: int = 1
) -> Library:
    """Return this package."""

    def fit(iterations: int) -> Any:
        # What is routed lies there between half-iterations.
        with tempfile.TemporaryDirectory(prefix="recsys_benchmark_") as folder:
            return fit_factors(
                spark,
                frame,
                config.model_copy(update={"iterations": iterations}),
                n_users=training.n_users,
                n_items=training.n_items,
                progress=Progress(),
                continuation=Continuation(storage=LocalStorage(), folder=folder),
            )

    return Library("ours", fit, lambda model: Factors(model.user_vectors, model.item_vectors), n_times)


def mllib_library(frame: DataFrame, training: Ratings, config: TrainConfig) -> Library:
    """Return MLlib's ALS at the same setting."""

    def fit(iterations: int) -> Any:
        assert config.n_blocks is not None
        setting = config.model_copy(update={"iterations": iterations})
        model = mllib_estimator(setting, config.n_blocks).fit(frame)
        # Factors are computed when they are asked for.
        model.itemFactors.count()
        return model

    return Library("mllib", fit, lambda model: mllib_factors(model, training.n_users, training.n_items))


def implicit_library(training: Ratings, config: TrainConfig, cores: int) -> Library:
    """Return the implicit library's ALS at the same setting."""
    matrix = implicit_matrix(training, config)

    def fit(iterations: int) -> Any:
        model = implicit_estimator(config.model_copy(update={"iterations": iterations}), cores)
        model.fit(matrix, show_progress=False)
        return model

    return Library("implicit", fit, lambda model: Factors(model.user_factors, model.item_factors))


def time_iterations(libraries: list[Library], iterations: int, n_rounds: int) -> dict[str, float]:
    """Alternate rounds of the libraries and return their median seconds per iteration."""
    print("warming up", flush=True)
    for library in libraries:
        library.fit(1)
    seconds: dict[str, list[float]] = {library.name: [] for library in libraries}
    for number in range(1, n_rounds + 1):
        for library in libraries:
            per_iteration, whole = seconds_per_iteration(library.fit, 1, iterations * library.n_times)
            seconds[library.name].append(per_iteration)
            print(
                f"round {number}: {library.name} {per_iteration:.2f} s per iteration ({whole:.1f} s for the fit)",
                flush=True,
            )
    result = {f"{name}_s_per_iter": round(statistics.median(found), 3) for name, found in seconds.items()}
    for library in libraries[1:]:
        ratios = [theirs / ours for theirs, ours in zip(seconds[library.name], seconds["ours"], strict=True)]
        result["ratio"] = round(statistics.median(ratios), 2)
        result["ratio_lowest"], result["ratio_highest"] = round(min(ratios), 2), round(max(ratios), 2)
    return result


def median_iteration_seconds(model: Factorization) -> float:
    """Return the cost of one iteration from the times that our fit tells: steadier than a difference of two fits.

    The first iteration is left out where there are more: it has no rows to start from, and so its own methods.
    """
    steps = [step.seconds for step in model.history]
    iterations = [users + items for users, items in zip(steps[::2], steps[1::2], strict=True)]
    return statistics.median(iterations[1:] or iterations)


def seconds_per_iteration(fit: Callable[[int], object], few: int, many: int) -> tuple[float, float]:
    """Return the cost of one iteration from two fits, and the time of the longer fit."""
    times = [seconds_of(lambda iterations=iterations: fit(iterations)) for iterations in (few, many)]
    return (times[1] - times[0]) / (many - few), times[1]


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def time_blocking(frame: DataFrame, training: Ratings, config: TrainConfig, n_rounds: int) -> dict[str, float]:
    """Time the blocking of both sides beside a shuffle of the same rows that keeps nothing."""
    given = observations(frame, config)
    assert config.n_blocks is not None
    n_blocks = config.n_blocks

    def time_block() -> float:
        started = time.perf_counter()
        sides = block_ratings(given.frame, training.n_users, training.n_items, n_blocks)
        seconds = time.perf_counter() - started
        for blocks in sides:
            blocks.release()
        return seconds

    def shuffle_rows() -> None:
        for side in SIDES:
            frame.repartition(n_blocks, side.rows).write.format("noop").mode("overwrite").save()

    shuffle_rows()
    rounds = [(time_block(), seconds_of(shuffle_rows)) for _ in range(n_rounds)]
    print("blocking and row shuffle: " + ", ".join(f"{ours:.2f} s and {rows:.2f} s" for ours, rows in rounds))
    return {
        "ours_blocking_s": round(statistics.median(ours for ours, _ in rounds), 3),
        "row_shuffle_s": round(statistics.median(rows for _, rows in rounds), 3),
        "blocking_ratio": round(statistics.median(ours / rows for ours, rows in rounds), 2),
    }


def compare_models(
    libraries: list[Library], iterations: int, training: Ratings, held_out: Ratings, config: TrainConfig
) -> dict[str, float]:
    """Evaluate our objective, and for ratings the error on held-out ones, at every library's factors."""
    result: dict[str, float] = {"final_iterations": iterations}
    for library in libraries:
        factors = library.factors(library.fit(iterations))
        result[f"{library.name}_objective"] = round(objective(factors, training, config), 2)
        if config.loss == "squared":
            result[f"{library.name}_rmse"] = round(held_out_error(factors, training, held_out), 5)
    for library in libraries[1:]:
        result["objective_difference"] = round(result["ours_objective"] / result[f"{library.name}_objective"] - 1, 6)
    return result


def held_out_error(factors: Factors, training: Ratings, held_out: Ratings) -> float:
    """Return the error on held-out ratings whose user and item were both trained."""
    is_known = np.isin(held_out.users, training.users) & np.isin(held_out.items, training.items)
    known = held_out.where(is_known)
    scores = pair_scores(factors.users[known.users], factors.items[known.items], 0.0, biases=False)
    return float(np.sqrt(np.mean((scores - known.values) ** 2)))


if __name__ == "__main__":
    main()
