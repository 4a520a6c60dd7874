"""Lists of several models beside each other: each tuned over as many settings, on validation data alone."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import SparkSession

from benchmarks.datasets import hold_out_two, movielens, play_counts
from benchmarks.peer_models import Factors, Ratings, implicit_factors, mllib_estimator, mllib_factors
from benchmarks.quality_fits import N_BLOCKS, fit, frame_of, is_installed, rows_of
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.bootstrap import interval, replicated_sums
from recsys_spark.kernels.full_ranking import best_of_rows
from recsys_spark.kernels.ranking_metrics import measures_of_lists

SEED = 0
REPLICATES = 500
LENGTH = 10
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """A data set, split: ``relevant`` says which held-out ratings count as hits."""

    name: str
    training: Ratings
    validation: Ratings
    test: Ratings
    relevant: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model: its settings, and how scores of all pairs come from a setting and ratings."""

    name: str
    settings: Sequence[Any]
    scores: Callable[[Any, Ratings], Scores]


def movielens_case(folder: Path) -> Case:
    """Hold out a random 20% of MovieLens 100K for the test, and 10% for validation; ratings of 4 and 5 are hits."""
    ratings = movielens(folder)
    place = np.random.default_rng(SEED).random(len(ratings.users))
    parts = (place >= 0.3, (place >= 0.2) & (place < 0.3), place < 0.2)
    return Case("MovieLens 100K", *(ratings.where(part) for part in parts), relevant=4.0)


def lastfm_case(folder: Path) -> Case:
    """Hold out two artists of every user of HetRec Last.fm."""
    return Case("HetRec Last.fm", *hold_out_two(play_counts(folder), SEED), relevant=-np.inf)


def retail_case(folder: Path) -> Case:
    """Split Online Retail by time: ten months, of which the last is for validation; the rest is the test.

    A pair counts once, at its first purchase, with log(1 + pieces bought in that part): what was bought before cannot
    be bought for the first time again. Rows without a customer and cancellations are left out.
    """
    rows: list[tuple[str, str, str, int]] = []
    for path in sorted((folder / "by-day").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if row["CustomerID"] and int(row["Quantity"]) > 0:
                    rows.append((path.stem, row["CustomerID"], row["StockCode"], int(row["Quantity"])))
    days = np.array([row[0] for row in rows])
    customers, users = np.unique([row[1] for row in rows], return_inverse=True)
    codes, items = np.unique([row[2] for row in rows], return_inverse=True)
    pieces = np.array([row[3] for row in rows])
    part = (days >= "2011-09-01").astype(int) + (days >= "2011-10-01").astype(int)
    pair = users.astype(np.int64) * len(codes) + items
    parts, seen = [], np.zeros(0, np.int64)
    for number in range(3):
        distinct, place = np.unique(pair[part == number], return_inverse=True)
        bought = np.bincount(place, pieces[part == number])
        is_new = ~np.isin(distinct, seen)
        seen = np.union1d(seen, distinct)
        chosen = distinct[is_new]
        values = np.log1p(bought[is_new]).astype(np.float32)
        index = (chosen // len(codes)).astype(np.int32), (chosen % len(codes)).astype(np.int32)
        parts.append(Ratings(*index, values, len(customers), len(codes)))
    return Case("Online Retail, by time", *parts, relevant=-np.inf)


def candidates(spark: SparkSession, *, are_ratings: bool) -> list[Candidate]:
    """Return what is compared, six settings each."""

    def settings(**values: Sequence[float]) -> list[TrainConfig]:
        common: dict[str, Any] = {"rank": 32, "iterations": 10, "tolerance": 0.0, "n_blocks": N_BLOCKS}
        fixed = {name: value[0] for name, value in values.items() if len(value) == 1}
        (first, many), (second, few) = [(name, value) for name, value in values.items() if len(value) > 1]
        loss = "implicit" if "alpha" in values else "ials" if "positive" in values else "squared"
        fixed.pop("positive", None)
        return [
            TrainConfig.model_validate({**common, **fixed, "loss": loss, first: one, second: other})
            for one in many
            for other in few
        ]

    def ours(setting: TrainConfig, ratings: Ratings) -> Scores:
        model = fit(spark, ratings, setting)
        return products(Factors(model.user_vectors, model.item_vectors), model.biases)

    def mllib(setting: TrainConfig, ratings: Ratings) -> Scores:
        model = mllib_estimator(setting, N_BLOCKS).fit(frame_of(spark, ratings))
        return products(mllib_factors(model, ratings.n_users, ratings.n_items), biases=False)

    by_degree, plain = (1.0,), (0.0,)
    positives = settings(
        positive=(1,), reg_exponent=by_degree, unobserved_weight=(0.05, 0.2, 0.5), reg_param=(0.001, 0.003)
    )
    found = [
        Candidate("ours, ials", positives, ours),
        Candidate(
            "ours, implicit", settings(reg_exponent=plain, alpha=(1.0, 3.0), reg_param=(10.0, 30.0, 100.0)), ours
        ),
        Candidate(
            "MLlib ALS, implicitPrefs",
            settings(reg_exponent=by_degree, alpha=(1.0, 3.0), reg_param=(0.03, 0.1, 0.5)),
            mllib,
        ),
    ]
    if are_ratings:
        weights, reg_params = (0.02, 0.05, 0.1), (0.003, 0.01)
        weighted = settings(reg_exponent=by_degree, unobserved_weight=weights, reg_param=reg_params)
        found.insert(0, Candidate("ours, squared with unobserved_weight", weighted, ours))
        explicit = settings(reg_exponent=by_degree, rank=(16, 32), reg_param=(0.03, 0.1, 0.3))
        explicit = [setting.model_copy(update={"biases": False}) for setting in explicit]
        found.append(Candidate("MLlib ALS, ratings", explicit, mllib))
    if is_installed("implicit"):
        plain_penalty = settings(reg_exponent=(0.0,), alpha=(1.0, 3.0), reg_param=(10.0, 30.0, 100.0))
        found.append(Candidate("implicit's ALS", plain_penalty, implicit_scores))
        knn = [(kind, k) for kind in ("CosineRecommender", "TFIDFRecommender") for k in (20, 50, 200)]
        found.append(Candidate("item_knn (implicit's cosine and TF-IDF)", knn, neighbour_scores))
    return [*found, Candidate("popularity", [None], popularity_scores)]


def measure(spark: SparkSession, case: Case, *, are_ratings: bool) -> tuple[list[list[Any]], dict[str, Any]]:
    """Choose each model's setting on the validation part, fit it to both parts, and measure it on the test part.

    Returns
    -------
    rows : list
        Model, chosen setting, NDCG and its 95% interval, recall, MAP.
    result : dict
    """
    both = joined(case.training, case.validation)
    rows, result = [], {}
    for candidate in candidates(spark, are_ratings=are_ratings):
        tried = []
        for setting in candidate.settings:
            if len(candidate.settings) == 1:
                break
            scores = candidate.scores(setting, case.training)
            tried.append(
                (list_measures(scores, case.training, case.validation, case.relevant)["ndcg@10"].mean(), setting)
            )
            print(f"{case.name}, {candidate.name}, {say(setting)}: validation NDCG {tried[-1][0]:.4f}", flush=True)
        setting = max(tried, key=lambda entry: entry[0])[1] if tried else candidate.settings[0]
        measures = list_measures(candidate.scores(setting, both), both, case.test, case.relevant)
        ndcg = measures[f"ndcg@{LENGTH}"]
        low, high = interval_of_mean(ndcg)
        means = [float(measures[f"{name}@{LENGTH}"].mean()) for name in ("ndcg", "recall", "map")]
        rows.append([candidate.name, say(setting), means[0], f"{low:.4f} to {high:.4f}", *means[1:]])
        result[candidate.name] = {
            "setting": say(setting),
            "ndcg": round(means[0], 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
    return rows, result


def list_measures(
    scores: Scores, known: Ratings, held_out: Ratings, relevant: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Rank all unseen items of every user who has hits to find; a measure per such user."""
    hits = held_out.where(held_out.values >= relevant)
    masked = scores.copy()
    masked[known.users, known.items] = -np.inf
    users = np.unique(hits.users)
    columns, values = best_of_rows(masked[users], LENGTH)
    indptr, relevant_columns = rows_of(np.searchsorted(users, hits.users).astype(np.int32), hits.items, len(users))
    lists = np.where(np.isfinite(values), columns, -1).astype(np.int32)
    return measures_of_lists(lists, indptr, relevant_columns, (LENGTH,))


def interval_of_mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the bootstrap interval of a mean over users."""
    both = np.stack([values, np.ones(len(values))], axis=1)
    sums = replicated_sums(both, np.arange(len(values)), REPLICATES, SEED)
    return interval(sums[1:, 0] / sums[1:, 1])


def products(factors: Factors, biases: bool) -> Scores:
    """Score all pairs, but for what is the same for all items of a user."""
    if not biases:
        return factors.users @ factors.items.T
    return factors.users[:, :-1] @ factors.items[:, :-1].T + factors.items[:, -1]


def implicit_scores(setting: TrainConfig, ratings: Ratings) -> Scores:
    """Fit the implicit library's ALS."""
    return products(implicit_factors(ratings, setting, n_threads=2), biases=False)


def neighbour_scores(setting: tuple[str, int], ratings: Ratings) -> Scores:
    """Fit one of the implicit library's item-item models."""
    import implicit.nearest_neighbours as models
    from scipy.sparse import csr_matrix

    kind, k = setting
    shape = (ratings.n_users, ratings.n_items)
    matrix = csr_matrix((ratings.values.astype(np.float64), (ratings.users, ratings.items)), shape=shape)
    model = getattr(models, kind)(K=k, num_threads=2)
    model.fit(matrix, show_progress=False)
    return np.asarray((matrix @ model.similarity).todense(), np.float32)


def popularity_scores(setting: None, ratings: Ratings) -> Scores:
    """Score each item by its number of ratings."""
    counts = np.bincount(ratings.items, minlength=ratings.n_items).astype(np.float32)
    return np.tile(counts, (ratings.n_users, 1))


def joined(one: Ratings, other: Ratings) -> Ratings:
    """Return the ratings of both."""
    arrays = [np.concatenate([getattr(part, name) for part in (one, other)]) for name in ("users", "items", "values")]
    return Ratings(*arrays, one.n_users, one.n_items)


def say(setting: Any) -> str:
    """Return what differs between settings."""
    if setting is None:
        return ""
    if isinstance(setting, tuple):
        return f"{setting[0].removesuffix('Recommender')}, k {setting[1]}"
    weight = f"alpha {setting.alpha:g}" if setting.loss == "implicit" else f"unobserved {setting.unobserved_weight:g}"
    return f"{weight}, reg_param {setting.reg_param:g}"
