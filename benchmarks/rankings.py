"""Lists of several models beside each other: each tuned over as many settings, on validation data alone."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import SparkSession

from benchmarks.datasets import hold_out_two, movielens, play_counts
from benchmarks.peer_models import Factors, Ratings, implicit_factors, mllib_estimator, mllib_factors
from benchmarks.quality_fits import N_BLOCKS, fit_all, fit_alone, frame_of, is_installed, liked, rows_of
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.bootstrap import interval, replicated_sums
from recsys_spark.kernels.full_ranking import best_of_rows
from recsys_spark.kernels.ranking_metrics import measures_of_lists

SEED = 0
REPLICATES = 500
LENGTH = 10
LIKED = 4.0
# What the others are compared with, in every section: as many settings as each of them.
OURS = "ours, squared with unobserved_weight"
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Grids:
    """Where the settings of a data set lie: weights and penalties of each kind of loss; all combinations, six of each.

    ``thresholds`` are those from which on a rating is taken for a liking; None: all are.
    """

    squared: tuple[tuple[float, ...], tuple[float, ...]]
    ials: tuple[tuple[float, ...], tuple[float, ...]]
    implicit: tuple[tuple[float, ...], tuple[float, ...]]
    mllib: tuple[tuple[float, ...], tuple[float, ...]]
    thresholds: tuple[float | None, ...] = (None,)

    @property
    def are_ratings(self) -> bool:
        """Whether values are ratings."""
        return len(self.thresholds) > 1


RATINGS = Grids(
    squared=((0.3, 0.5), (0.01, 0.02, 0.03)),
    ials=((0.3, 0.6, 1.0), (0.01,)),
    implicit=((1.0,), (10.0, 20.0, 30.0)),
    mllib=((1.0,), (0.1, 0.3, 0.5)),
    thresholds=(None, LIKED),
)
PLAYS = Grids(
    squared=((0.1, 0.2), (0.002, 0.005, 0.01)),
    ials=((0.1, 0.2, 0.3), (0.002, 0.005)),
    implicit=((1.0, 1.5), (10.0, 20.0, 30.0)),
    mllib=((1.0, 1.5), (0.03, 0.1, 0.3)),
)
SALES = Grids(
    squared=((0.2, 0.5, 1.0), (0.005, 0.01)),
    ials=((0.1, 0.3, 1.0), (0.002, 0.005)),
    implicit=((0.3, 1.0), (5.0, 10.0, 30.0)),
    mllib=((0.3, 1.0), (0.03, 0.1, 0.3)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A data set, split: ``relevant`` says which held-out ratings count as hits."""

    name: str
    training: Ratings
    validation: Ratings
    test: Ratings
    relevant: float
    grids: Grids


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model: its settings, and how scores of all pairs come from each of some settings, fitted to ratings."""

    name: str
    settings: Sequence[Any]
    scores: Callable[[Sequence[Any], Ratings], Iterator[Scores]]


def movielens_case(folder: Path) -> Case:
    """Hold out a random 20% of MovieLens 100K for the test, and 10% for validation; ratings of 4 and 5 are hits."""
    return Case("MovieLens 100K", *in_three_parts(movielens(folder)), relevant=LIKED, grids=RATINGS)


def in_three_parts(ratings: Ratings) -> tuple[Ratings, Ratings, Ratings]:
    """Return ratings for training, a random 10% for validation, and a random 20% for the test."""
    place = np.random.default_rng(SEED).random(len(ratings.users))
    return ratings.where(place >= 0.3), ratings.where((place >= 0.2) & (place < 0.3)), ratings.where(place < 0.2)


def lastfm_case(folder: Path) -> Case:
    """Hold out one artist of every user of HetRec Last.fm for the test, and 15% of the others for validation."""
    training, also, test = hold_out_two(play_counts(folder), SEED)
    others = joined(training, also)
    judges = np.random.default_rng(SEED).random(len(others.users)) < 0.15
    return Case("HetRec Last.fm", others.where(~judges), others.where(judges), test, relevant=-np.inf, grids=PLAYS)


def lastfm_fifth_case(folder: Path) -> Case:
    """Hold out a random 20% of HetRec Last.fm for the test, and 10% for validation: some ten artists of a user."""
    ratings = play_counts(folder)
    return Case("HetRec Last.fm, a fifth held out", *in_three_parts(ratings), relevant=-np.inf, grids=PLAYS)


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
    return Case("Online Retail, by time", *parts, relevant=-np.inf, grids=SALES)


def candidates(spark: SparkSession | None, grids: Grids, *, by_kernels: bool) -> list[Candidate]:
    """Return what is compared, six settings each.

    Where values are ratings, half of the settings of every model that takes what it is given for a liking get ratings
    of 4 and 5 alone. Without Spark, MLlib's models are left out, and ours are fitted by their kernels alone.
    """

    def ours(settings: Sequence[TrainConfig], ratings: Ratings) -> Iterator[Scores]:
        if spark is None or by_kernels:
            for setting in settings:
                yield products(fit_alone(ratings, setting), setting.uses_biases)
            return
        for model in fit_all(spark, ratings, settings):
            yield products(Factors(model.user_vectors, model.item_vectors), model.biases)

    def mllib(settings: Sequence[TrainConfig], ratings: Ratings) -> Iterator[Scores]:
        assert spark is not None
        for setting in settings:
            model = mllib_estimator(setting, N_BLOCKS).fit(frame_of(spark, liked(ratings, setting.positive_threshold)))
            yield products(mllib_factors(model, ratings.n_users, ratings.n_items), biases=False)

    by_degree: dict[str, Sequence[Any]] = {"reg_exponent": (1.0,), "positive_threshold": grids.thresholds}
    plain: dict[str, Sequence[Any]] = {**by_degree, "reg_exponent": (0.0,)}
    weights, penalties = grids.implicit
    implicit = settings("implicit", **plain, alpha=weights, reg_param=penalties)
    squared_weights, squared_penalties = grids.squared
    ials_weights, ials_penalties = grids.ials
    found = [
        Candidate(
            OURS,
            settings(
                "squared",
                reg_exponent=(1.0,),
                unobserved_weight=squared_weights,
                reg_param=squared_penalties,
                bias_reg_param=(0.1,),
            ),
            ours,
        ),
        Candidate(
            "ours, ials",
            settings("ials", **by_degree, unobserved_weight=ials_weights, reg_param=ials_penalties),
            ours,
        ),
        Candidate("ours, implicit", implicit, ours),
    ]
    if spark is not None:
        weights, penalties = grids.mllib
        preferences = settings("implicit", **by_degree, alpha=weights, reg_param=penalties)
        found.append(Candidate("MLlib ALS, implicitPrefs", preferences, mllib))
    if spark is not None and grids.are_ratings:
        explicit = settings("squared", reg_exponent=(1.0,), rank=(16, 32), reg_param=(0.03, 0.1, 0.3), biases=(False,))
        found.append(Candidate("MLlib ALS, ratings", explicit, mllib))
    if is_installed("implicit"):
        found.append(Candidate("implicit's ALS", implicit, implicit_scores))
        kinds = ("BM25Recommender",) if grids.are_ratings else ("TFIDFRecommender", "BM25Recommender")
        knn = list(itertools.product(kinds, (20, 100, 500), grids.thresholds))
        found.append(Candidate("item_knn (implicit's)", knn, neighbour_scores))
    return [*found, Candidate("popularity", [None], popularity_scores)]


def settings(loss: str, **values: Sequence[Any]) -> list[TrainConfig]:
    """Return all combinations of the values, at rank 32 unless they name another."""
    common = {"loss": loss, "rank": 32, "iterations": 10, "tolerance": 0.0, "n_blocks": N_BLOCKS}
    grid = itertools.product(*values.values())
    return [TrainConfig.model_validate(common | dict(zip(values, chosen, strict=True))) for chosen in grid]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model with its chosen setting reaches: on validation, and per user of the test part."""

    name: str
    setting: Any
    validation: float
    measures: dict[str, npt.NDArray[np.float64]]

    @property
    def ndcg(self) -> npt.NDArray[np.float64]:
        """NDCG of every user with something to find."""
        return self.measures[f"ndcg@{LENGTH}"]

    def row(self, ours: Measured | None) -> list[Any]:
        """Return a row of the table; ``ours`` is what the model is compared with, user by user."""
        low, high = interval_of_mean(self.ndcg)
        means = [float(self.measures[f"{name}@{LENGTH}"].mean()) for name in ("ndcg", "recall", "map")]
        told = [self.name, say(self.setting), means[0], f"{low:.4f} to {high:.4f}", *means[1:]]
        if ours is None or ours.name == self.name:
            return [*told, ""]
        ahead = ours.ndcg - self.ndcg
        low, high = interval_of_mean(ahead)
        return [*told, f"{ahead.mean():+.4f} ({low:+.4f} to {high:+.4f})"]


def measure(
    spark: SparkSession | None,
    case: Case,
    *,
    by_kernels: bool = False,
    models: Sequence[str] = (),
) -> tuple[list[list[Any]], dict[str, Any]]:
    """Choose each model's setting on the validation part, fit it to both parts, and measure it on the test part.

    Returns
    -------
    rows : list
        Model, chosen setting, NDCG and its 95% interval, recall, MAP, and how far ours is ahead by NDCG, with its
        interval over the same users: of `OURS`.
    result : dict
        The same by model, with numbers as text.
    """
    both = joined(case.training, case.validation)
    found = []
    for candidate in candidates(spark, case.grids, by_kernels=by_kernels):
        if models and not candidate.name.startswith(tuple(models)):
            continue
        started = time.monotonic()
        setting, validation = best_setting(case, candidate)
        (scores,) = candidate.scores([setting], both)
        measures = list_measures(scores, both, case.test, case.relevant)
        found.append(Measured(candidate.name, setting, validation, measures))
        # A run that is cut off has told what it has.
        print(f"{case.name}, {found[-1].row(None)}, {time.monotonic() - started:.0f} s in all", flush=True)
    ours = next((one for one in found if one.name == OURS), None)
    rows = [one.row(ours) for one in found]
    return rows, {row[0]: [f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row[1:]] for row in rows}


def best_setting(case: Case, candidate: Candidate) -> tuple[Any, float]:
    """Return the setting whose lists are best on the validation part, and their NDCG."""
    tried = []
    all_scores = candidate.scores(candidate.settings, case.training)
    for setting, scores in zip(candidate.settings, all_scores, strict=True):
        measures = list_measures(scores, case.training, case.validation, case.relevant)
        tried.append((float(measures[f"ndcg@{LENGTH}"].mean()), setting))
        print(f"{case.name}, {candidate.name}, {say(setting)}: validation NDCG {tried[-1][0]:.4f}", flush=True)
    validation, setting = max(tried, key=lambda entry: entry[0])
    return setting, validation


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


def implicit_scores(settings: Sequence[TrainConfig], ratings: Ratings) -> Iterator[Scores]:
    """Fit the implicit library's ALS."""
    for setting in settings:
        factors = implicit_factors(liked(ratings, setting.positive_threshold), setting, n_threads=2)
        yield products(factors, biases=False)


def neighbour_scores(settings: Sequence[tuple[str, int, float | None]], ratings: Ratings) -> Iterator[Scores]:
    """Fit some of the implicit library's item-item models."""
    import implicit.nearest_neighbours as models
    from scipy.sparse import csr_matrix

    shape = (ratings.n_users, ratings.n_items)
    for kind, k, threshold in settings:
        known = liked(ratings, threshold)
        matrix = csr_matrix((known.values.astype(np.float64), (known.users, known.items)), shape=shape)
        model = getattr(models, kind)(K=k, num_threads=2)
        model.fit(matrix, show_progress=False)
        yield np.asarray((matrix @ model.similarity).todense(), np.float32)


def popularity_scores(settings: Sequence[None], ratings: Ratings) -> Iterator[Scores]:
    """Score each item by its number of ratings."""
    counts = np.bincount(ratings.items, minlength=ratings.n_items).astype(np.float32)
    for _ in settings:
        yield np.broadcast_to(counts, (ratings.n_users, ratings.n_items))


def joined(one: Ratings, other: Ratings) -> Ratings:
    """Return the ratings of both."""
    arrays = [np.concatenate([getattr(part, name) for part in (one, other)]) for name in ("users", "items", "values")]
    return Ratings(*arrays, one.n_users, one.n_items)


def say(setting: Any) -> str:
    """Return what differs between settings."""
    if setting is None:
        return ""
    if isinstance(setting, tuple):
        kind, k, threshold = setting
        told = f"{kind.removesuffix('Recommender')}, k {k}"
    else:
        threshold = setting.positive_threshold
        weight = f"alpha {setting.alpha:g}" if setting.loss == "implicit" else f"rank {setting.rank}"
        weight = f"unobserved {setting.unobserved_weight:g}" if setting.unobserved_weight else weight
        told = f"{weight}, reg_param {setting.reg_param:g}"
    return told if threshold is None else f"{told}, from {threshold:g} up"
