"""Lists from play counts beside other libraries, over several random hold-outs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import SparkSession

from benchmarks.datasets import hold_out_two, play_counts
from benchmarks.peer_models import Factors, Ratings, implicit_factors, mllib_estimator, mllib_factors
from benchmarks.quality_fits import N_BLOCKS, fit_all, frame_of, is_installed, rows_of
from benchmarks.rankings import interval_of_mean
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.ranking_metrics import ndcg_at_n, recall_at_n
from recsys_spark.kernels.top_n import top_n

LENGTH = 20
METRICS = {"recall": recall_at_n, "ndcg": ndcg_at_n}
# The rows that are compared with each peer: the same loss and the same penalty, over the same grid.
COUNTERPARTS = {
    "implicit's ALS": "ours, implicit, plain penalty",
    "MLlib ALS implicitPrefs": "ours, implicit, penalty by degree",
}

FitAll = Callable[[Ratings, Sequence[TrainConfig]], Iterator[Factors]]


@dataclass(slots=True)
class ListModel:
    """A model, its settings to choose from, and what its lists have reached.

    Attributes
    ----------
    settings : list of TrainConfig
    fit_all : callable
    chosen : list of str
        The setting that each hold-out has chosen.
    measures : dict of str to list of array
        By metric: for each hold-out, that of every user's list.
    """

    settings: list[TrainConfig]
    fit_all: FitAll
    chosen: list[str] = field(default_factory=list)
    measures: dict[str, list[npt.NDArray[np.float64]]] = field(default_factory=lambda: {name: [] for name in METRICS})

    def of_users(self, metric: str) -> npt.NDArray[np.float64]:
        """Return each user's mean over the hold-outs."""
        return np.asarray(np.mean(self.measures[metric], axis=0))


def measure(spark: SparkSession, folder: Path, n_hold_outs: int) -> dict[str, ListModel]:
    """Compare models: of two items of every user, one chooses the setting and the other one is reported."""
    ratings = play_counts(folder)
    models = list_models(spark)
    for seed in range(n_hold_outs):
        training, validation, test = hold_out_two(ratings, seed)
        for name, model in models.items():
            started = time.monotonic()
            tried = []
            fitted = model.fit_all(training, model.settings)
            for setting, factors in zip(model.settings, fitted, strict=True):
                ndcg = measures_of_users(factors, training, [], validation)["ndcg"].mean()
                tried.append((float(ndcg), describe(setting), factors))
            _, chosen, factors = max(tried, key=lambda entry: entry[0])
            model.chosen.append(chosen)
            found = measures_of_users(factors, training, [validation], test)
            for metric, values in found.items():
                model.measures[metric].append(values)
            told = ", ".join(f"{metric} {values.mean():.4f}" for metric, values in found.items())
            print(
                f"hold-out {seed}, {name}: {chosen}, {told}; {time.monotonic() - started:.0f} s "
                f"(validation: {', '.join(f'{what} {value:.4f}' for value, what, _ in tried)})",
                flush=True,
            )
    return models


def list_models(spark: SparkSession) -> dict[str, ListModel]:
    """Return what is compared, four settings each.

    MLlib multiplies its penalty by the degree and the implicit library does not, so that each has its own scale
    of penalties, and our implicit loss is fitted with both.
    """

    def ours(ratings: Ratings, settings: Sequence[TrainConfig]) -> Iterator[Factors]:
        for model in fit_all(spark, ratings, settings):
            yield Factors(model.user_vectors, model.item_vectors)

    def mllib(ratings: Ratings, settings: Sequence[TrainConfig]) -> Iterator[Factors]:
        frame = frame_of(spark, ratings).persist()
        for setting in settings:
            yield mllib_factors(mllib_estimator(setting, N_BLOCKS).fit(frame), ratings.n_users, ratings.n_items)
        frame.unpersist()

    def implicit(ratings: Ratings, settings: Sequence[TrainConfig]) -> Iterator[Factors]:
        for setting in settings:
            yield implicit_factors(ratings, setting, n_threads=2)

    def popular(ratings: Ratings, settings: Sequence[TrainConfig]) -> Iterator[Factors]:
        counts = np.bincount(ratings.items, minlength=ratings.n_items).astype(np.float32)
        for _ in settings:
            yield Factors(np.ones((ratings.n_users, 1), np.float32), counts[:, None])

    plain = grid(0.0, (10.0, 30.0), alpha=(1.0, 3.0))
    by_degree = grid(1.0, (0.1, 0.5), alpha=(1.0, 3.0))
    models = {
        "ours, implicit, plain penalty": ListModel(plain, ours),
        "ours, implicit, penalty by degree": ListModel(by_degree, ours),
        "ours, ials": ListModel(grid(1.0, (0.001, 0.003), unobserved_weight=(0.05, 0.2)), ours),
        "MLlib ALS implicitPrefs": ListModel(by_degree, mllib),
        "most listened": ListModel(plain[:1], popular),
    }
    if is_installed("implicit"):
        models["implicit's ALS"] = ListModel(plain, implicit)
    return models


def grid(reg_exponent: float, reg_params: Sequence[float], **parameters: Sequence[float]) -> list[TrainConfig]:
    """Return all combinations of penalties and of one more parameter."""
    ((name, values),) = parameters.items()
    common = {"rank": 32, "iterations": 10, "tolerance": 0.0, "n_blocks": N_BLOCKS, "reg_exponent": reg_exponent}
    loss = "implicit" if name == "alpha" else "ials"
    return [
        TrainConfig.model_validate(common | {"loss": loss, "reg_param": reg_param, name: value})
        for reg_param in reg_params
        for value in values
    ]


def measures_of_users(
    factors: Factors, training: Ratings, also_seen: list[Ratings], held_out: Ratings
) -> dict[str, npt.NDArray[np.float64]]:
    """Return each metric of every user who has something to find: lists of unseen items."""
    seen = [training, *also_seen]
    seen_indptr, seen_columns = rows_of(
        np.concatenate([part.users for part in seen]), np.concatenate([part.items for part in seen]), training.n_users
    )
    columns, _ = top_n(
        factors.users,
        factors.items,
        biases=False,
        global_mean=0.0,
        n=LENGTH,
        excluded_indptr=seen_indptr,
        excluded_columns=seen_columns,
    )
    relevant = rows_of(held_out.users, held_out.items, held_out.n_users)
    users = np.unique(held_out.users)
    return {name: np.asarray(metric(columns, *relevant))[users] for name, metric in METRICS.items()}


def table_rows(models: dict[str, ListModel]) -> list[list[Any]]:
    """Return a row per model: means over users and hold-outs, and how far ours at the same settings is ahead."""
    rows: list[list[Any]] = []
    for name, model in models.items():
        means = [float(model.of_users(metric).mean()) for metric in METRICS]
        ahead = [
            _ahead(models[COUNTERPARTS[name]], model, metric) if name in COUNTERPARTS else "" for metric in METRICS
        ]
        chosen = "; ".join(f"{what} ({model.chosen.count(what)})" for what in dict.fromkeys(model.chosen))
        rows.append([name, chosen, *means, *ahead])
    return rows


def _ahead(ours: ListModel, peer: ListModel, metric: str) -> str:
    difference = ours.of_users(metric) - peer.of_users(metric)
    low, high = interval_of_mean(difference)
    return f"{difference.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def describe(setting: TrainConfig) -> str:
    """Return what differs between the settings of a grid."""
    weight = f"alpha {setting.alpha:g}" if setting.loss == "implicit" else f"unobserved {setting.unobserved_weight:g}"
    return f"{weight}, reg_param {setting.reg_param:g}"
