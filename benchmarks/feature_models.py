"""What known features of items are worth: on MovieLens 100K, with genres and years of the films."""

from __future__ import annotations

import csv
import gzip
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from benchmarks.datasets import books, movielens, movielens_folds
from benchmarks.kernel_fits import fit_by_kernels
from benchmarks.peer_models import Ratings
from recsys_spark.config import TrainConfig
from recsys_spark.config.features import FactorMapConfig
from recsys_spark.features import ItemFeatures
from recsys_spark.kernels.blended_neighbours import blended_rows, neighbours_by_blend
from recsys_spark.kernels.feature_encoding import beside_each_other, indicated, mean_and_deviation, standardised
from recsys_spark.kernels.neighbours import neighbours_by_vectors
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.kernels.ranking_metrics import expected_of_random_lists, ndcg_at_n, recall_at_n
from recsys_spark.kernels.similarity import similarity_vectors
from recsys_spark.kernels.top_n import top_n
from recsys_spark.progress import Progress
from recsys_spark.rating_blocks import USERS
from recsys_spark.recommend import content_vectors
from recsys_spark.storage import LocalStorage
from recsys_spark.train import Continuation, Factorization, fit_model

N_BLOCKS = 2
FEW_RATINGS = 10
LIST_LENGTH = 10
NEIGHBOURS = 20
LIKED = 4.0
SEED = 0
BLENDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
FACTORS = {"rank": 40, "iterations": 10, "reg_param": 5.0, "reg_exponent": 0.2, "bias_reg_param": 2.0}
SETTINGS = {
    "feature regression": {"model": "feature_regression", "reg_param": 8.0, "reg_exponent": 0.0, "bias_reg_param": 3.0},
    "factorization": FACTORS,
    "factorization with side information": FACTORS | {"side_information": {"reg_param": 10.0}},
}
LISTS = {
    "loss": "ials", "positive_threshold": LIKED, "unobserved_weight": 0.1, "rank": 32, "iterations": 10,
    "reg_param": 0.01, "reg_exponent": 1.0,
}  # fmt: skip
MAP = FactorMapConfig(reg_param=10.0, min_ratings=5)
# The demo's, with fewer iterations.
BOOKS = {
    "rank": 32, "iterations": 6, "unobserved_weight": 0.05, "reg_param": 0.01, "bias_reg_param": 0.01,
    "reg_exponent": 1.0,
}  # fmt: skip
BOOKS_OF_AN_AUTHOR = 3


def film_features(folder: Path) -> ItemFeatures:
    """Return genres and standardised years of the films."""
    with (folder / "u.item").open(encoding="iso-8859-1") as file:
        films = [line.rstrip("\n").split("|") for line in file]
    years = np.array([float(film[2][-4:]) if film[2] else np.nan for film in films])
    flags = np.array([film[5:] for film in films], np.int64)
    names = [line.split("|")[0] for line in (folder / "u.genre").read_text().splitlines() if line]
    rows, genres = np.nonzero(flags)
    parts = [
        (0, 1.0, standardised(years, *mean_and_deviation(years))),
        (1, 1.0, indicated(np.bincount(rows, minlength=len(films)), genres)),
    ]
    encoded = beside_each_other(parts, len(films))
    return ItemFeatures(encoded, np.ones(len(films), np.bool_), ["year", *names], len(films))


def book_features(folder: Path) -> ItemFeatures:
    """Return the authors of the demo's books, as its configuration encodes them."""
    with gzip.open(folder / "books.csv.gz", "rt", encoding="utf-8") as file:
        by = [sorted(set(row["authors"].split(", "))) for row in csv.DictReader(file)]
    names, codes = np.unique([name for names in by for name in names], return_inverse=True)
    has_column = np.bincount(codes) >= BOOKS_OF_AN_AUTHOR
    columns = np.where(has_column, np.cumsum(has_column) - 1, -1)
    entries = indicated(np.array([len(names) for names in by]), columns[codes])
    encoded = beside_each_other([(0, 1.0, entries)], len(by))
    return ItemFeatures(encoded, np.ones(len(by), np.bool_), names[has_column].tolist(), len(by))


def fit(
    spark: SparkSession, ratings: Ratings, setting: dict[str, Any], features: ItemFeatures, folder: str
) -> Factorization:
    """Fit a model on Spark; its vectors come to the driver."""
    config = TrainConfig.model_validate({"tolerance": 0.0, "n_blocks": N_BLOCKS} | setting)
    model = fit_model(
        spark, frame_of(spark, ratings), config, n_users=ratings.n_users, n_items=ratings.n_items, progress=Progress(),
        continuation=Continuation(storage=LocalStorage(), folder=folder), features=features,
    )  # fmt: skip
    if USERS not in model.frames:
        return model
    index, vectors = model.trained_vectors(USERS)
    users = np.zeros((ratings.n_users, vectors.shape[1]), np.float32)
    users[index] = vectors
    return Factorization(
        users, model.item_vectors, model.user_degrees, model.item_degrees, model.mean_rating, True, model.global_mean
    )


def frame_of(spark: SparkSession, ratings: Ratings) -> DataFrame:
    """Return ratings as indexed ratings in Spark."""
    table = pa.table({"user_index": ratings.users, "item_index": ratings.items, "rating": ratings.values})
    return spark.createDataFrame(table).repartition(N_BLOCKS)


def rating_errors(spark: SparkSession, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return RMSE per official fold and model, on all test ratings and on those of films with few training ratings."""
    features = film_features(folder)
    found: dict[str, dict[str, list[float]]] = {}
    for training, test in movielens_folds(folder):
        is_rare = np.bincount(training.items, minlength=training.n_items)[test.items] < FEW_RATINGS
        for name, predicted in predictions(spark, training, test, features).items():
            errors = (np.clip(predicted, 1.0, 5.0) - test.values) ** 2
            of_model = found.setdefault(name, {"all": [], "few": []})
            of_model["all"].append(float(np.sqrt(errors.mean())))
            of_model["few"].append(float(np.sqrt(errors[is_rare].mean())))
    return found


def predictions(
    spark: SparkSession, training: Ratings, test: Ratings, features: ItemFeatures
) -> dict[str, npt.NDArray[np.float64]]:
    """Return predicted ratings by model."""
    predicted = {
        "film's mean": means(training.items, training, training.n_items)[test.items],
        "user's mean": means(training.users, training, training.n_users)[test.users],
    }
    for name, setting in SETTINGS.items():
        with tempfile.TemporaryDirectory() as place:
            model = fit(spark, training, setting, features, place)
        items = model.item_vectors
        if "side_information" in setting:
            items = with_content(model, features)
        predicted[name] = pair_scores(model.user_vectors[test.users], items[test.items], model.global_mean, True)
    return predicted


def with_content(model: Factorization, features: ItemFeatures) -> npt.NDArray[np.float32]:
    """Return item vectors, those without ratings from features, as lists with new items have them."""
    index, new = (np.flatnonzero(chosen).astype(np.int32) for chosen in (model.item_degrees, model.item_degrees == 0))
    items = model.item_vectors.copy()
    items[new] = content_vectors(features, new, index, items[index], model.item_degrees[index], MAP)
    return items


def means(rows: npt.NDArray[np.int32], ratings: Ratings, n_rows: int) -> npt.NDArray[np.float64]:
    """Return the mean rating of each row of a side; that of all where it has none."""
    counts, sums = np.bincount(rows, minlength=n_rows), np.bincount(rows, ratings.values, n_rows)
    return np.where(counts > 0, sums / np.maximum(counts, 1), ratings.values.mean())


def new_item_lists(spark: SparkSession, folder: Path) -> dict[str, tuple[float, float]]:
    """Return recall and NDCG of lists of films whose ratings were all held out: a fifth of the films at a time."""
    features, ratings = film_features(folder), movielens(folder)
    parts = np.random.default_rng(SEED).permutation(ratings.n_items) % 5
    found: dict[str, list[tuple[float, float]]] = {}
    for part in range(5):
        is_new = parts == part
        training, held_out = ratings.where(~is_new[ratings.items]), ratings.where(is_new[ratings.items])
        for name, lists_and_more in lists_of_new(spark, training, held_out, np.flatnonzero(is_new), features).items():
            found.setdefault(name, []).append(lists_and_more)
    return {
        name: (float(np.mean([r for r, _ in pairs])), float(np.mean([n for _, n in pairs])))
        for name, pairs in found.items()
    }


def lists_of_new(
    spark: SparkSession, training: Ratings, held_out: Ratings, new: npt.NDArray[np.int64], features: ItemFeatures
) -> dict[str, tuple[float, float]]:
    """Return recall and NDCG of the new films' lists by kind."""
    with tempfile.TemporaryDirectory() as place:
        model = fit(spark, training, LISTS, features, place)
    index = np.flatnonzero(model.item_degrees).astype(np.int32)
    vectors = content_vectors(
        features, new.astype(np.int32), index, model.item_vectors[index], model.item_degrees[index], MAP
    )
    liked = held_out.where(held_out.values >= LIKED)
    column = np.full(held_out.n_items, -1)
    column[new] = np.arange(len(new))
    users = np.unique(liked.users)
    order = np.argsort(liked.users, kind="stable")
    indptr = np.searchsorted(liked.users[order], np.append(users, held_out.n_users))
    relevant = column[liked.items[order]].astype(np.int64)
    popular = np.bincount(column[held_out.items], minlength=len(new)).astype(np.float32)[:, None]
    nothing = {"excluded_indptr": np.zeros(len(users) + 1, np.int64), "excluded_columns": np.zeros(0, np.int32)}
    found = {}
    for name, rows, columns in (
        ("features", model.user_vectors[users], vectors),
        ("popularity in hindsight", np.ones((len(users), 1), np.float32), popular),
    ):
        lists, _ = top_n(rows, columns, biases=False, global_mean=0.0, n=LIST_LENGTH, **nothing)
        found[name] = tuple(float(np.mean(metric(lists, indptr, relevant))) for metric in (recall_at_n, ndcg_at_n))
    ndcg, recall, _ = expected_of_random_lists(np.diff(indptr), len(new), LIST_LENGTH)
    return found | {"random": (recall, ndcg)}


def blend_hits(
    parts: Iterable[tuple[Ratings, Ratings]], features: ItemFeatures, fit_to: Callable[[Ratings], Factorization]
) -> dict[float, tuple[float, float]]:
    """Return how often a liked test item is among the neighbours of a liked training item of the same user, by blend.

    Of all such items, and of those with few training ratings (NaN of none); mean of the parts, each a pair of training
    and test ratings.
    """
    everything = np.arange(features.n_items, dtype=np.int32)
    found: dict[float, list[tuple[float, float]]] = {weight: [] for weight in BLENDS}
    for training, test in parts:
        model = fit_to(training)
        factors = model.item_vectors[:, : model.rank]
        collaborative = similarity_vectors(factors, model.item_degrees, 10.0)
        seeds, targets = liked_pairs(training, test)
        is_rare = model.item_degrees[targets] < FEW_RATINGS
        for weight in BLENDS:
            if weight == 0:
                near = neighbours_by_vectors(collaborative, everything, collaborative, NEIGHBOURS).candidates
            else:
                rows = blended_rows(collaborative, features.rows, features.width, weight)
                near = np.concatenate(
                    [part.candidates for _, _, part in neighbours_by_blend(rows, everything, rows, NEIGHBOURS)]
                )
            is_hit = (near[seeds] == targets[:, None]).any(axis=1)
            of_rare = float(is_hit[is_rare].mean()) if is_rare.any() else float("nan")
            found[weight].append((float(is_hit.mean()), of_rare))
    return {
        weight: (float(np.mean([a for a, _ in hits])), float(np.mean([b for _, b in hits])))
        for weight, hits in found.items()
    }


def film_hits(spark: SparkSession, folder: Path) -> dict[float, tuple[float, float]]:
    """Return `blend_hits` of films by genre and year, on the official folds."""
    features = film_features(folder)

    def fit_to(training: Ratings) -> Factorization:
        with tempfile.TemporaryDirectory() as place:
            return fit(spark, training, LISTS, features, place)

    return blend_hits(movielens_folds(folder), features, fit_to)


def book_hits(folder: Path) -> dict[float, tuple[float, float]]:
    """Return `blend_hits` of the demo's books by author, fitted by the kernels alone."""
    config = TrainConfig.model_validate(BOOKS)
    return blend_hits([books(folder, SEED)], book_features(folder), lambda training: fit_by_kernels(training, config))


def liked_pairs(training: Ratings, test: Ratings) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return a liked training film, drawn at random, for every liked test film of the same user."""
    rng = np.random.default_rng(SEED)
    liked, wanted = (part.where(part.values >= LIKED) for part in (training, test))
    order = np.argsort(liked.users, kind="stable")
    first = np.searchsorted(liked.users[order], np.arange(training.n_users + 1))
    counts = np.diff(first)
    wanted = wanted.where(counts[wanted.users] > 0)
    places = first[wanted.users] + rng.integers(0, counts[wanted.users])
    return liked.items[order][places], wanted.items
