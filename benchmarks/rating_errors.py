"""RMSE and MAE of several models on the official folds of MovieLens 100K, each model's setting chosen by validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import SparkSession

from benchmarks.datasets import movielens_folds
from benchmarks.kernel_fits import fit_by_kernels
from benchmarks.peer_models import Ratings
from benchmarks.quality_fits import N_BLOCKS, fit, is_installed
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.train import Factorization

SEED = 0
VALIDATION_SHARE = 0.1
LIMITS = (1.0, 5.0)
Float64Array = npt.NDArray[np.float64]
Errors = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model: its settings, and what it predicts of pairs with one of them, fitted to ratings."""

    name: str
    settings: Sequence[dict[str, Any]]
    predict: Callable[[dict[str, Any], Ratings, Ratings], Float64Array]


def setting_of(tried: dict[str, Any]) -> TrainConfig:
    """Return our setting with what is tried."""
    common = {"rank": 40, "iterations": 10, "bias_reg_param": 2.0, "tolerance": 0.0, "n_blocks": N_BLOCKS}
    return TrainConfig.model_validate(common | tried)


def predictors(spark: SparkSession | None) -> list[Predictor]:
    """Return what is compared, eight settings each, but for SVD++, whose fits take long: its defaults.

    Without Spark, our model is fitted by its kernels alone.
    """

    def ours(tried: dict[str, Any], training: Ratings, asked: Ratings) -> Float64Array:
        setting = setting_of(tried)
        model = fit_by_kernels(training, setting) if spark is None else fit(spark, training, setting)
        return model_scores(model, asked)

    penalties = [(5.0, 0.2), (4.0, 0.2), (6.0, 0.2), (8.0, 0.2), (3.0, 0.3), (4.0, 0.3), (8.0, 0.1), (12.0, 0.1)]
    found = [Predictor("ours", [{"reg_param": reg, "reg_exponent": power} for reg, power in penalties], ours)]
    if is_installed("surprise"):
        defaults: dict[str, Any] = {"random_state": SEED}
        rates = ((20, 0.02), (20, 0.05), (20, 0.1), (40, 0.05), (40, 0.08), (40, 0.1), (80, 0.1), (80, 0.15))
        svd = [defaults | {"n_epochs": n, "reg_all": reg} for n, reg in rates]
        svdpp = [defaults | {"cache_ratings": True}]
        knn = [
            {"k": k, "sim_options": {"name": name, "user_based": by_user}, "verbose": False}
            for name in ("msd", "pearson_baseline")
            for by_user in (True, False)
            for k in (20, 40)
        ]
        found += [Predictor(f"Surprise {name}", tried, _surprise(name)) for name, tried in
                  (("SVD", svd), ("KNNBaseline", knn), ("SVDpp", svdpp))]  # fmt: skip
    return found


def measure(spark: SparkSession | None, folder: Path, models: Sequence[str] = ()) -> dict[str, list[Errors]]:
    """Return RMSE and MAE of each model by fold.

    A setting is chosen in every fold anew, on a random tenth of its training ratings, by RMSE; the model is then
    fitted to all of them. The test ratings decide nothing.
    """
    folds = movielens_folds(folder)
    found: dict[str, list[Errors]] = {}
    for predictor in predictors(spark):
        if models and not predictor.name.startswith(tuple(models)):
            continue
        for number, (training, test) in enumerate(folds, 1):
            started = time.monotonic()
            chosen = best_setting(predictor, training, number)
            errors = rmse_and_mae(predictor.predict(chosen, training, test), test.values)
            found.setdefault(predictor.name, []).append(errors)
            said = f"RMSE {errors[0]:.4f}, MAE {errors[1]:.4f} with {say(chosen)}"
            print(f"{predictor.name}, u{number}: {said}, {time.monotonic() - started:.0f} s", flush=True)
    return found


def say(setting: dict[str, Any]) -> str:
    """Return what is tried as text."""
    told = [
        f"{name} {value}" for name, value in setting.items() if name not in ("verbose", "random_state", "cache_ratings")
    ]
    return ", ".join(told) or "its defaults"


def best_setting(predictor: Predictor, training: Ratings, fold: int) -> dict[str, Any]:
    """Return the setting with the least RMSE on a tenth of the training ratings."""
    if len(predictor.settings) == 1:
        return dict(predictor.settings[0])
    judges = np.random.default_rng((SEED, fold)).random(len(training.users)) < VALIDATION_SHARE
    known, judged = training.where(~judges), training.where(judges)
    errors = [rmse_and_mae(predictor.predict(tried, known, judged), judged.values)[0] for tried in predictor.settings]
    return dict(predictor.settings[int(np.argmin(errors))])


def model_scores(model: Factorization, pairs: Ratings) -> Float64Array:
    """Score pairs; the vectors of unknown users and items are zero, which leaves the biases and the mean."""
    return pair_scores(
        model.user_vectors[pairs.users], model.item_vectors[pairs.items], model.global_mean, model.biases
    )


def rmse_and_mae(predicted: Float64Array, ratings: npt.NDArray[np.float32]) -> Errors:
    """Return the root of the mean squared error, and the mean absolute error, of predictions cut to the scale."""
    errors = np.clip(predicted, *LIMITS) - ratings
    return float(np.sqrt(np.mean(errors**2))), float(np.mean(np.abs(errors)))


def _surprise(name: str) -> Callable[[dict[str, Any], Ratings, Ratings], Float64Array]:
    def predict(tried: dict[str, Any], training: Ratings, asked: Ratings) -> Float64Array:
        import pandas as pd
        import surprise

        columns = {"user": training.users, "item": training.items, "rating": training.values}
        data = surprise.Dataset.load_from_df(pd.DataFrame(columns), surprise.Reader(rating_scale=LIMITS))
        model = getattr(surprise, name)(**tried).fit(data.build_full_trainset())
        pairs = zip(asked.users.tolist(), asked.items.tolist(), strict=True)
        return np.array([model.predict(user, item).est for user, item in pairs])

    return predict
