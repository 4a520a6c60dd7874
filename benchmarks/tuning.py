"""Time a search for settings beside fitting and scoring each setting by itself, in one run.

    python benchmarks/tuning.py --data FOLDER --settings 20

On MovieLens 100K (``ml-100k`` in the folder), from https://grouplens.org. The same settings, on the same split:

* by themselves: every fit blocks the ratings and has its jobs to itself, then its lists are scored;
* side by side: the grid search of ``recsys-spark tune``, blocked once, ``tune.at_once`` settings per job;
* halving: the same search, where the best third goes on after each rung.

Reading the ratings and splitting them is counted for the searches, and not for the settings by themselves. With
``--alone``, only some settings are fitted by themselves, and their mean stands for all. The scores of the first two are
compared, and have to be the same. The last line is ``RESULT {json}``, with seconds and ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
from pyspark.sql import SparkSession

from benchmarks.datasets import movielens
from recsys_spark.config import PipelineConfig
from recsys_spark.evaluate.trial_scores import TrialInput, score_trials
from recsys_spark.evaluate.trials import make_trials
from recsys_spark.evaluate.tuning import judged_ratings, search
from recsys_spark.pipeline import run_stages, stages
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.session import build_session
from recsys_spark.storage import storage_for
from recsys_spark.train import fit_factors

# Twenty settings: what a search for lists from ratings would vary.
SPACE: dict[str, list[float]] = {
    "rank": [16, 32],
    "reg_param": [0.005, 0.01, 0.02, 0.03, 0.05],
    "unobserved_weight": [0.2, 0.5],
}


def main() -> None:
    """Run the measurements and print the result."""
    arguments = parse_arguments()
    spark = build_session("recsys-benchmark-tuning")
    with tempfile.TemporaryDirectory(prefix="recsys-benchmark-") as folder:
        write_ratings(arguments.data / "ml-100k", Path(folder))
        grid = context_of(spark, Path(folder), "grid", arguments)
        # The first jobs of a session are slower than the others; nobody should gain by being last.
        measure_alone(grid, 1)
        side_by_side = search(grid)
        print(f"side by side: {side_by_side.seconds:.1f} s", flush=True)
        seconds, scores = measure_alone(grid, arguments.alone or arguments.settings)
        halving = None
        if arguments.halving:
            halving = search(context_of(spark, Path(folder), "halving", arguments))
    found = side_by_side.rungs[-1]["scores"]
    if scores != {number: found[number] for number in scores}:
        raise SystemExit("settings do not score the same side by side and by themselves")
    by_themselves = float(np.mean(seconds)) * len(found)
    result = {
        "settings": len(found),
        "iterations": arguments.iterations,
        "at_once": arguments.at_once,
        "measured_by_themselves": len(seconds),
        "one_by_itself_s": round(float(np.mean(seconds)), 2),
        "all_by_themselves_s": round(by_themselves, 1),
        "side_by_side_s": round(side_by_side.seconds, 1),
        "side_by_side_ratio": round(side_by_side.seconds / by_themselves, 3),
    }
    if halving is not None:
        result |= {
            "halving_s": round(halving.seconds, 1),
            "halving_ratio": round(halving.seconds / by_themselves, 3),
            "best": [side_by_side.best.tried, halving.best.tried],
        }
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Time a search for settings beside each setting by itself.")
    parser.add_argument("--data", type=Path, required=True, help="folder with ml-100k")
    parser.add_argument("--settings", type=int, default=20, help="from 2 to 20")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=10, help="settings per job")
    parser.add_argument("--alone", type=int, help="settings that are also fitted by themselves (default: all)")
    parser.add_argument("--no-halving", dest="halving", action="store_false", help="leave halving out")
    return parser.parse_args()


def write_ratings(source: Path, folder: Path) -> None:
    """Write MovieLens 100K as a log with a header."""
    ratings = movielens(source)
    table = np.column_stack([ratings.users, ratings.items, ratings.values])
    np.savetxt(folder / "ratings.csv", table, "%d", delimiter=",", header="user_id,item_id,rating", comments="")


def context_of(spark: SparkSession, folder: Path, method: str, arguments: argparse.Namespace) -> StageContext:
    """Return a run of its own whose index stage is done."""
    columns = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": None}
    config = PipelineConfig.model_validate(
        {
            "name": "tuning",
            "input": {"path": str(folder / "ratings.csv"), "columns": columns},
            "ingest": {"rating_range": [1, 5], "duplicates": "mean"},
            "train": {"iterations": arguments.iterations, "reg_exponent": 1.0, "bias_reg_param": 0.1, "tolerance": 0.0},
            "evaluate": {"relevant_rating": 4},
            "tune": {
                "method": "halving" if method == "halving" else "random",
                "trials": arguments.settings,
                "space": SPACE,
                "at_once": arguments.at_once,
            },
            "output": {"path": str(folder / "output")},
        }
    )
    run = Run(config.output.path, method, "2026-01-01")
    context = StageContext(spark, config, run, storage_for(config.output.path, spark), Progress())
    run_stages(context, stages(("ingest", "index")))
    return context


def measure_alone(context: StageContext, n: int) -> tuple[list[float], dict[int, float]]:
    """Fit and score some settings, each by itself; return the seconds of each, and the scores."""
    trials, _ = make_trials(context.config.train, context.config.tune)
    trials = trials[:: -(-len(trials) // n)]
    sizes = context.record("index")
    seconds, scores = [], {}
    with judged_ratings(context) as judged:
        for trial in trials:
            started = time.monotonic()
            model = fit_factors(
                context.spark,
                judged.training,
                trial.config,
                n_users=sizes["n_users"],
                n_items=sizes["n_items"],
                progress=Progress(),
            )
            tune, limits = context.config.tune, context.config.ingest.rating_range
            given = TrialInput({trial.number: model}, tune.metric, context.config.evaluate.n, limits, judged.n_shares)
            scores |= score_trials(judged.rows, given)
            seconds.append(time.monotonic() - started)
            told = scores[trial.number]
            print(f"by itself: {tune.metric} {told:.5f} of {describe(trial.tried)}, {seconds[-1]:.1f} s", flush=True)
    return seconds, scores


def describe(tried: dict[str, Any]) -> str:
    """Return the settings of a trial as text."""
    return ", ".join(f"{name} {value:g}" for name, value in tried.items())


if __name__ == "__main__":
    main()
