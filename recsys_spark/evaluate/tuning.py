"""The search for better settings: on training ratings alone, blocked once, many settings in one pass, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.config.evaluate import EvaluateConfig
from recsys_spark.errors import ConfigError
from recsys_spark.evaluate.shares import number_of_shares
from recsys_spark.evaluate.splits import HELD_OUT, TRAINING, split_by
from recsys_spark.evaluate.trial_scores import TrialInput, rows_to_score, score_trials
from recsys_spark.evaluate.trials import Trial, best_first, make_trials, rungs, search_fingerprint
from recsys_spark.rating_blocks import choose_n_blocks
from recsys_spark.runs.run_directory import StageContext, code_fingerprint
from recsys_spark.session import session_limits
from recsys_spark.storage import join, read_json
from recsys_spark.train import Factorization, SeveralFits, observation_key, training_ratings

# What decides a score: a change elsewhere need not cost the trials done so far.
_CODE = ("kernels", "train", "evaluate", "rating_blocks.py", "rating_split.py")
# Ratings that judge settings are others than a random split with the same seed would hold out.
_SEED_STEP = 1_000_003


@dataclass(slots=True)
class Search:
    """What a search has found.

    Attributes
    ----------
    metric : str
    rungs : list of dict
        ``iterations``, and ``scores`` by trial.
    trials : list of Trial
    refused : list of dict
        Combinations that are no valid settings.
    best : Trial
    score : float
    seconds : float
        Of this process; trials done earlier cost nothing.
    n_reused : int
        Scores that an earlier process had found.
    """

    metric: str
    trials: list[Trial]
    refused: list[dict[str, Any]]
    best: Trial
    score: float = float("nan")
    rungs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    n_reused: int = 0

    def __repr__(self) -> str:
        """Return how many settings, and which was the best."""
        best = ", ".join(f"{name}={value}" for name, value in self.best.tried.items())
        return f"Search: {len(self.trials)} settings by {self.metric}, best {self.score:.5f} with {best}"


def search(context: StageContext) -> Search:
    """Look for the best settings of ``train``.

    The ratings that ``evaluate`` holds out have no part in it: of the others, ``tune.holdout_share`` judge the
    settings, split as ``evaluate`` splits where that is by time or by users' last ratings, else at random.

    Parameters
    ----------
    context : StageContext
        Of a run whose index stage is done.

    Returns
    -------
    Search
        The same for every number of partitions and after every interruption.

    Raises
    ------
    ConfigError
        If there is nothing to try, or what is measured does not fit the loss.

    Notes
    -----
    The ratings are blocked once for all settings that share their observations. One job per half-iteration for up to
    ``tune.at_once`` settings, and one to score them. With ``halving``, settings that go on keep their vectors on the
    driver. Scores are written down as they are found, in the run's ``tuning`` folder.
    """
    tune, started = context.config.tune, time.monotonic()
    trials, refused = make_trials(context.config.train, tune)
    _check_metric(trials, tune.metric)
    found = Search(tune.metric, trials, refused, trials[0])
    with judged_ratings(context) as judged:
        fits = _Fits(context, judged)
        try:
            left = trials
            for iterations, n_trials in rungs(tune, context.config.train.iterations, len(trials)):
                fits.keep(left := left[:n_trials])
                scores = _rung(fits, left, iterations, found)
                found.rungs.append({"iterations": iterations, "scores": scores})
                by_number = {trial.number: trial for trial in left}
                left = [by_number[number] for number in best_first(scores, tune.metric)]
        finally:
            fits.release()
    # Trials that were left behind were measured after fewer iterations, and are not compared.
    found.best, found.score = left[0], found.rungs[-1]["scores"][left[0].number]
    found.seconds = time.monotonic() - started
    return found


@dataclass(frozen=True, slots=True)
class JudgedRatings:
    """Ratings that settings are fitted to, and rows that they are scored on."""

    training: DataFrame
    rows: DataFrame
    n_shares: int


class _Fits:
    """The fits of a search: one blocking for each kind of observations."""

    def __init__(self, context: StageContext, judged: JudgedRatings) -> None:
        self.context, self.judged = context, judged
        self._by_key: dict[tuple[Any, ...], SeveralFits] = {}

    def keep(self, trials: list[Trial]) -> None:
        """Let go of the vectors of all trials but some."""
        kept = {trial.number for trial in trials}
        for fits in self._by_key.values():
            for number in fits.numbers:
                if number not in kept:
                    fits.drop(number)

    def models(self, trials: list[Trial], iterations: int) -> dict[int, Factorization]:
        """Fit trials of one kind of observations, from where they are, together."""
        key = observation_key(trials[0].config)
        if key not in self._by_key:
            self._by_key[key] = self._blocked(trials[0])
        fits = self._by_key[key]
        for trial in trials:
            fits.begin(trial.number, trial.config)
        fits.advance([trial.number for trial in trials], iterations)
        found = {trial.number: fits.model(trial.number) for trial in trials}
        if self.context.config.tune.method != "halving":
            self.keep([])
        return found

    def release(self) -> None:
        """Drop all blocks."""
        for fits in self._by_key.values():
            fits.release()

    def _blocked(self, trial: Trial) -> SeveralFits:
        spark, sizes = self.context.spark, self.context.record("index")
        n_blocks = trial.config.n_blocks or choose_n_blocks(session_limits(spark).cores, sizes["n_ratings"])
        return SeveralFits(
            spark,
            self.judged.training,
            trial.config,
            n_users=sizes["n_users"],
            n_items=sizes["n_items"],
            n_blocks=n_blocks,
        )


def _check_metric(trials: list[Trial], metric: str) -> None:
    for trial in trials:
        if trial.config.model != "factors":
            raise ConfigError("tune is for train.model: factors", got=trial.config.model)
        if metric == "rmse" and (trial.config.loss != "squared" or trial.config.unobserved_weight > 0):
            raise ConfigError(
                "scores of these settings are no ratings",
                where="tune.metric",
                got=f"rmse, with loss: {trial.config.loss}, unobserved_weight: {trial.config.unobserved_weight:g}",
                remedy="tune by ndcg, or without unobserved_weight",
            )


@contextmanager
def judged_ratings(context: StageContext) -> Iterator[JudgedRatings]:
    """Give the ratings of a search; they are held in memory meanwhile."""
    config, tune = context.config.evaluate, context.config.tune
    ratings = training_ratings(context)
    if config.holdout_share > 0:
        ratings = _part(ratings, config, TRAINING)
    split = split_by(ratings, _inner_split(config, tune.holdout_share)).frame.persist()
    training, held_out = (split.where(F.col("part") == name).drop("part") for name in (TRAINING, HELD_OUT))
    try:
        n_held_out = held_out.count()
        if n_held_out == 0:
            raise ConfigError(
                "no rating is left to judge settings by", where="tune.holdout_share", got=f"{tune.holdout_share:g}"
            )
        n_shares = number_of_shares(n_held_out)
        rows = rows_to_score(training, held_out, tune.metric, context.config.relevant_rating, n_shares).persist()
        try:
            yield JudgedRatings(training, rows, n_shares)
        finally:
            rows.unpersist()
    finally:
        split.unpersist()


def _part(ratings: DataFrame, config: EvaluateConfig, name: str) -> DataFrame:
    return split_by(ratings, config).frame.where(F.col("part") == name).drop("part")


def _inner_split(config: EvaluateConfig, share: float) -> EvaluateConfig:
    kind = config.split if config.split in ("last_k", "time") else "random"
    update = {"split": kind, "holdout_share": share, "from_day": None, "seed": (config.seed + _SEED_STEP) % 2**31}
    return config.model_copy(update=update)


def _rung(fits: _Fits, trials: list[Trial], iterations: int, found: Search) -> dict[int, float]:
    """Return the scores of trials after so many iterations; those known from earlier are not fitted again."""
    storage, scores = fits.context.storage, {}
    for trial in trials:
        path = _score_path(fits.context, trial, iterations)
        if storage.exists(path):
            scores[trial.number] = float(read_json(storage, path)["score"])
            found.n_reused += 1
    missing = [trial for trial in trials if trial.number not in scores]
    by_key: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in missing:
        by_key.setdefault(observation_key(trial.config), []).append(trial)
    at_once = fits.context.config.tune.at_once
    for group in by_key.values():
        for first in range(0, len(group), at_once):
            scores |= _fit_and_score(fits, group[first : first + at_once], iterations)
    return scores


def _fit_and_score(fits: _Fits, trials: list[Trial], iterations: int) -> dict[int, float]:
    context, config = fits.context, fits.context.config
    models = fits.models(trials, iterations)
    limits = None if config.ingest.duplicates == "sum" else config.ingest.rating_range
    given = TrialInput(models, config.tune.metric, config.evaluate.n, limits, fits.judged.n_shares)
    scores = score_trials(fits.judged.rows, given)
    for trial in trials:
        score = scores[trial.number]
        written = {"trial": trial.number, "tried": trial.tried, "iterations": iterations, "score": score}
        context.storage.write_text(_score_path(context, trial, iterations), json.dumps(written, indent=1))
        context.progress.say(
            f"tune: {config.tune.metric} {score:.5f} after {iterations} iterations of {trial.tried}", **written
        )
    return scores


def _score_path(context: StageContext, trial: Trial, iterations: int) -> str:
    tune = context.config.tune.model_dump(mode="json", include={"metric", "holdout_share"})
    decides = search_fingerprint(
        tune,
        trial.config.model_dump(mode="json", exclude={"iterations"}),
        context.config.evaluate.model_dump(mode="json"),
        context.config.ingest.rating_range,
        context.config.relevant_rating,
        code_fingerprint(_CODE),
    )
    return join(context.run.path, "tuning", f"{decides}-{iterations}.json")
