"""Settings to be tried: which, in what order, and which of them go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from recsys_spark.config import TrainConfig
from recsys_spark.config.tune import TuneConfig
from recsys_spark.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting: its number, what of it is tried, and the whole of it."""

    number: int
    tried: dict[str, Any]
    config: TrainConfig


def make_trials(train: TrainConfig, tune: TuneConfig) -> tuple[list[Trial], list[dict[str, Any]]]:
    """Return the settings to be tried, and the combinations that are no valid settings.

    Parameters
    ----------
    train : TrainConfig
        What stays where nothing else is tried. Early stopping, warm starts and checkpoints have no part in a search.
    tune : TuneConfig

    Returns
    -------
    trials : list of Trial
        Of ``random`` and ``halving`` a sample without repetition, by the seed.
    refused : list of dict

    Raises
    ------
    ConfigError
        If there is nothing to try.
    """
    grid = tune.space.grid()
    if len(grid) < 2:
        raise ConfigError(
            "there is nothing to choose from",
            where="tune.space",
            got=f"{len(grid)} combination",
            remedy="name values to try, such as tune: {space: {rank: [16, 32], reg_param: [0.003, 0.01, 0.03]}}",
        )
    fixed = {"validation_share": 0.0, "warm_start": False, "checkpoint_interval": None, "exchange": "replicate"}
    trials, refused = [], []
    for number in _order(len(grid), tune):
        try:
            config = TrainConfig.model_validate({**train.model_dump(), **fixed, **grid[number]})
        except pydantic.ValidationError:
            refused.append(grid[number])
            continue
        trials.append(Trial(number, grid[number], config))
    if tune.method != "grid":
        trials = trials[: tune.trials]
    if not trials:
        raise ConfigError(
            "no combination is a valid setting",
            where="tune.space",
            got=str(refused[0]),
            remedy="see the settings of train",
        )
    return sorted(trials, key=lambda trial: trial.number), refused


def rungs(tune: TuneConfig, iterations: int, n_trials: int) -> list[tuple[int, int]]:
    """Return (iterations, trials that are measured then) of every rung, in order.

    The first rung measures all after ``first_iterations``; each further one has the best of the one before, and as many
    times more iterations as there are fewer trials, until ``iterations``. Without halving there is one rung.

    References
    ----------
    Jamieson, Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization. AISTATS.
    """
    if tune.method != "halving" or n_trials == 1:
        return [(iterations, n_trials)]
    found, reached, left = [], min(tune.first_iterations, iterations), n_trials
    while True:
        if left == 1:
            reached = iterations
        found.append((reached, left))
        if reached == iterations:
            return found
        left = max(1, round(left * tune.keep_share))
        reached = min(iterations, max(reached + 1, round(reached / tune.keep_share)))


def best_first(scores: Mapping[int, float], metric: str) -> list[int]:
    """Return the numbers of trials, the best first, ties by number; what is not finite comes last."""
    sign = 1.0 if metric == "rmse" else -1.0
    worst = float("inf")
    return sorted(scores, key=lambda number: (sign * scores[number] if np.isfinite(scores[number]) else worst, number))


def search_fingerprint(*parts: Any) -> str:
    """Return a hash of all that decides the scores of a search."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _order(n: int, tune: TuneConfig) -> list[int]:
    if tune.method == "grid":
        return list(range(n))
    return [int(number) for number in np.random.default_rng(tune.seed).permutation(n)]
