"""Measure the quality of models beside other libraries, on public data, in one run.

    python benchmarks/quality.py --data FOLDER

``--data`` is a folder with ``ml-100k`` (MovieLens 100K) and ``hetrec-lastfm-2k`` (HetRec 2011 Last.fm) in it,
both from https://grouplens.org, and ``online-retail`` (UCI Online Retail, a file per day in ``by-day``). Needs
scikit-surprise and implicit beside this package; what is missing is reported as not measured. Measured numbers and
the protocol are in ``docs/quality.md``. The last line is ``RESULT {json}``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.local_spark import set_environment

set_environment()

import numpy as np
import numpy.typing as npt
from pyspark.sql import SparkSession

from benchmarks import feature_models, play_count_lists, rankings, rating_errors, user_fields
from benchmarks.datasets import movielens, movielens_folds
from benchmarks.peer_models import Factors, Ratings, mllib_estimator, mllib_factors, objective
from benchmarks.quality_fits import N_BLOCKS, fit, frame_of
from benchmarks.rating_errors import model_scores
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.label_metrics import auc, log_losses
from recsys_spark.session import build_session

# Folder, and how it is read and split.
RANKINGS = {
    "ml100k_lists": ("ml-100k", rankings.movielens_case),
    "lastfm_lists": ("hetrec-lastfm-2k", rankings.lastfm_case),
    "lastfm_fifth_lists": ("hetrec-lastfm-2k", rankings.lastfm_fifth_case),
    "retail_lists": ("online-retail", rankings.retail_case),
}
SECTIONS = ("rmse", "logistic", "lastfm", "mllib", "features", "user_fields", "books", *RANKINGS)
SEED = 0
# Counted as this many more ratings with the mean label of all items; the best of 1, 2, 5 and 10.
LABEL_SMOOTHING = 5

LABELS_SETTING = TrainConfig(
    loss="logistic",
    positive_threshold=4.0,
    rank=8,
    iterations=10,
    reg_param=2.0,
    reg_exponent=0.3,
    bias_reg_param=0.5,
    tolerance=0.0,
    n_blocks=N_BLOCKS,
)


def main() -> None:
    """Run the sections and print the result."""
    arguments = parse_arguments()
    chosen = arguments.only or SECTIONS
    if arguments.without_spark:
        measure_without_spark(arguments)
        return
    spark = build_session("recsys-benchmark-quality")
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "rmse": lambda: measure_rating_errors(spark, arguments),
        "logistic": lambda: measure_label_errors(spark, arguments.data / "ml-100k"),
        "lastfm": lambda: measure_lists(spark, arguments),
        "mllib": lambda: measure_equivalence(spark, arguments.data / "ml-100k"),
        "features": lambda: measure_feature_models(spark, arguments.data / "ml-100k"),
        "user_fields": lambda: measure_user_fields(arguments.data / "ml-100k"),
        "books": lambda: measure_similar_books(ROOT / "examples" / "goodbooks"),
        **{name: partial(measure_rankings, spark, name, arguments) for name in RANKINGS},
    }
    result = {section: measure[section]() for section in SECTIONS if section in chosen}
    print("RESULT " + json.dumps(result), flush=True)


def measure_without_spark(arguments: argparse.Namespace) -> None:
    """Run the sections that can do without Spark, with our models fitted by their kernels alone."""
    result = {}
    for name in arguments.only or ("rmse", *RANKINGS):
        if name == "rmse":
            result[name] = measure_rating_errors(None, arguments)
        else:
            result[name] = measure_rankings(None, name, arguments)
    print("RESULT " + json.dumps(result), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the quality of models beside other libraries.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", help="some of the sections (default: all)")
    parser.add_argument("--models", nargs="+", help="rmse and ..._lists: only models whose names begin like this")
    parser.add_argument("--hold-outs", type=int, default=5, help="lastfm: random hold-outs (default 5)")
    parser.add_argument(
        "--kernels", action="store_true", help="..._lists: ours by their kernels alone, which gives the same bits"
    )
    parser.add_argument(
        "--without-spark",
        action="store_true",
        help="only the sections rmse and ..._lists: ours by their kernels alone, which gives the same bits; no MLlib",
    )
    arguments = parser.parse_args()
    if arguments.without_spark and set(arguments.only or ()) - {"rmse", *RANKINGS}:
        parser.error("--without-spark is for rmse and ..._lists")
    if not arguments.data.is_dir():
        parser.exit(
            2,
            f"{arguments.data.resolve()} is not there: get ml-100k and hetrec-lastfm-2k from https://grouplens.org "
            "and pass --data FOLDER\n",
        )
    return arguments


def measure_rating_errors(spark: SparkSession | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare RMSE and MAE on the official folds of MovieLens 100K with Surprise's models."""
    errors = rating_errors.measure(spark, arguments.data / "ml-100k", arguments.models or ())
    means = {name: np.mean(found, axis=0) for name, found in errors.items()}
    print_table(
        "RMSE on MovieLens 100K, official folds u1 to u5, and MAE",
        ["model", "mean", "MAE", *(f"u{n}" for n in range(1, 6))],
        [[name, *means[name].tolist(), *(pair[0] for pair in found)] for name, found in errors.items()],
    )
    return {
        f"{name} {metric}": round(float(mean[place]), 5)
        for name, mean in means.items()
        for place, metric in enumerate(("rmse", "mae"))
    }


def measure_label_errors(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """Compare log-loss and AUC of the logistic loss with each item's mean label, on the same folds."""
    threshold = LABELS_SETTING.positive_threshold
    assert threshold is not None
    found: dict[str, list[tuple[float, float]]] = {"ours, logistic": [], "item's mean label": []}
    for training, test in movielens_folds(folder):
        labels = (test.values >= threshold).astype(np.float64)
        scores = model_scores(fit(spark, training, LABELS_SETTING), test)
        found["ours, logistic"].append(label_errors(1.0 / (1.0 + np.exp(-scores)), labels))
        means = mean_labels(training, threshold)
        found["item's mean label"].append(label_errors(means[test.items], labels))
    means_of = {name: np.mean(pairs, axis=0) for name, pairs in found.items()}
    print_table(
        f"Is the rating at least {threshold:g}? MovieLens 100K, mean of folds u1 to u5",
        ["model", "log-loss", "AUC"],
        [[name, *pair] for name, pair in means_of.items()],
    )
    return {
        name: {"log_loss": round(float(pair[0]), 5), "auc": round(float(pair[1]), 5)} for name, pair in means_of.items()
    }


def mean_labels(training: Ratings, threshold: float) -> npt.NDArray[np.float64]:
    """Return each item's mean label, drawn towards the mean of all by a few ratings."""
    labels = (training.values >= threshold).astype(np.float64)
    counts = np.bincount(training.items, minlength=training.n_items)
    sums = np.bincount(training.items, labels, training.n_items)
    return np.asarray((sums + LABEL_SMOOTHING * labels.mean()) / (counts + LABEL_SMOOTHING))


def label_errors(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return mean log-loss and AUC."""
    return float(log_losses(probabilities, labels).mean()), auc(probabilities, labels > 0.5)


def measure_lists(spark: SparkSession, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare lists from play counts, over several hold-outs."""
    models = play_count_lists.measure(spark, arguments.data / "hetrec-lastfm-2k", arguments.hold_outs)
    rows = play_count_lists.table_rows(models)
    n = play_count_lists.LENGTH
    print_table(
        f"HetRec Last.fm, one held-out artist per user, mean of {arguments.hold_outs} hold-outs",
        ["model", "chosen settings", f"recall@{n}", f"NDCG@{n}", "ours ahead by (recall)", "ours ahead by (NDCG)"],
        rows,
    )
    return {row[0]: {"setting": row[1], "recall": round(row[2], 4), "ndcg": round(row[3], 4)} for row in rows}


def measure_rankings(spark: SparkSession | None, section: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare lists of all models on one data set, each tuned over as many settings on validation data."""
    folder, read = RANKINGS[section]
    case = read(arguments.data / folder)
    by_kernels, models = arguments.kernels, arguments.models or ()
    rows, result = rankings.measure(spark, case, by_kernels=by_kernels, models=models)
    n_users = len(np.unique(case.test.users[case.test.values >= case.relevant]))
    header = ["model", "chosen setting", "NDCG@10", "95% interval", "recall@10", "MAP@10", "ours is ahead by"]
    print_table(f"{case.name}, {n_users:,} users with something to find", header, rows)
    return result


def measure_equivalence(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """Evaluate our objective at our factors and at MLlib's, after 10 iterations at the same setting."""
    ratings = movielens(folder)
    common = {"rank": 10, "iterations": 10, "reg_exponent": 1.0, "biases": False, "tolerance": 0.0}
    settings = {
        "explicit": TrainConfig.model_validate(common | {"reg_param": 0.1, "n_blocks": N_BLOCKS}),
        "implicit": TrainConfig.model_validate(
            common | {"loss": "implicit", "alpha": 1.0, "reg_param": 0.1, "n_blocks": N_BLOCKS}
        ),
    }
    rows, result = [], {}
    for name, setting in settings.items():
        model = fit(spark, ratings, setting)
        theirs = mllib_factors(
            mllib_estimator(setting, N_BLOCKS).fit(frame_of(spark, ratings)), ratings.n_users, ratings.n_items
        )
        mine = objective(Factors(model.user_vectors, model.item_vectors), ratings, setting)
        peer = objective(theirs, ratings, setting)
        reported = model.history[-1].objective
        rows.append([name, f"{mine:,.1f}", f"{reported:,.1f}", f"{peer:,.1f}", f"{mine / peer - 1:+.3%}"])
        result[name] = {"ours": round(mine, 2), "mllib": round(peer, 2), "difference": round(mine / peer - 1, 6)}
    print_table(
        "Our objective on MovieLens 100K after 10 iterations, rank 10",
        ["loss", "ours", "ours, as reported by the fit", "MLlib", "difference"],
        rows,
    )
    return result


def measure_feature_models(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """Measure what genres and years are worth: for ratings, for films that are new, and for similar films."""
    errors = feature_models.rating_errors(spark, folder)
    few = feature_models.FEW_RATINGS
    print_table(
        "RMSE on MovieLens 100K with genres and years, official folds u1 to u5",
        ["model", "mean", *(f"u{n}" for n in range(1, 6)), f"films with fewer than {few} training ratings"],
        [[name, np.mean(of["all"]), *of["all"], np.mean(of["few"])] for name, of in errors.items()],
    )
    lists = feature_models.new_item_lists(spark, folder)
    n = feature_models.LIST_LENGTH
    print_table(
        "Lists of films that nobody has rated: a fifth of all films at a time, MovieLens 100K",
        ["ordered by", f"recall@{n}", f"NDCG@{n}"],
        [[name, *found] for name, found in lists.items()],
    )
    blends = feature_models.film_hits(spark, folder)
    print_blends(blends, "film")
    return {"rmse": errors, "new items": lists, "blends": blends}


def measure_user_fields(folder: Path) -> dict[str, dict[str, Sequence[float]]]:
    """Measure what fields of the users would be worth; they are no part of the models."""
    errors = user_fields.errors_with_user_fields(folder)
    print_table(
        "RMSE on MovieLens 100K with age, gender and occupation of the users, mean of the official folds",
        ["model", "all", "films with few ratings", "users with few ratings"],
        [[name, *found] for name, found in errors.items()],
    )
    of_new = user_fields.errors_of_new_users(folder)
    print_table(
        "RMSE for users who have kept few of their ratings, a fifth of all users at a time",
        ["model", *(f"{left} ratings kept" for left in user_fields.RATINGS_LEFT)],
        [[name, *found] for name, found in of_new.items()],
    )
    return {"folds": errors, "new users": of_new}


def measure_similar_books(folder: Path) -> dict[float, tuple[float, float]]:
    """Measure what authors are worth for similar books, on the demo's data."""
    blends = feature_models.book_hits(folder)
    print_blends(blends, "book")
    return blends


def print_blends(blends: dict[float, tuple[float, float]], kind: str) -> None:
    """Print how often neighbours are liked, by the weight of their features."""
    print_table(
        f"Is a liked {kind} among the {feature_models.NEIGHBOURS} nearest of another that the same user likes?",
        ["content_weight", f"all {kind}s", f"{kind}s with fewer than {feature_models.FEW_RATINGS} training ratings"],
        [[f"{weight:g}", *hits] for weight, hits in blends.items()],
    )


def print_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a Markdown table; numbers with four digits."""
    cells = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    print("\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n", flush=True)


if __name__ == "__main__":
    main()
