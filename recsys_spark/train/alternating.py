"""The alternating loop: users against fixed items, items against fixed users, until the objective rests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import ConfigError
from recsys_spark.features import ItemFeatures
from recsys_spark.job_labels import labelled_jobs
from recsys_spark.rating_blocks import choose_n_blocks
from recsys_spark.rating_split import split_ratings
from recsys_spark.session import session_limits
from recsys_spark.storage import Storage
from recsys_spark.train.checkpoints import (
    Checkpoints,
    Fingerprints,
    fingerprint_of_config,
    fingerprint_of_observations,
    fingerprint_of_start,
)
from recsys_spark.train.exchange import Exchange, Kept, Known
from recsys_spark.train.exchange_choice import choose_exchange, plan_exchanges
from recsys_spark.train.held_back import VALIDATION_SEED, HeldBack
from recsys_spark.train.loop_state import LoopState
from recsys_spark.train.model import Factorization, HalfIteration, Vectors
from recsys_spark.train.observations import Observations, constant_of_rows, observations
from recsys_spark.train.peak_memory import peak_memory
from recsys_spark.train.replicate import ReplicateExchange
from recsys_spark.train.route import RouteExchange
from recsys_spark.train.side_blocks import SideBlocks, block_ratings
from recsys_spark.train.told_route import ToldRouteExchange
from recsys_spark.train.training_plan import TrainingPlan, measured_footprint
from recsys_spark.train.validation import Validation

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.progress import Progress, Steps


@dataclass(frozen=True, slots=True)
class Continuation:
    """How training begins and what it leaves behind on the way.

    Attributes
    ----------
    checkpoints : Checkpoints or None
        Where to write them, and where to look for one to go on from.
    code : str
        Fingerprint of the code, for those checkpoints.
    must_resume : bool
        Whether it is an error if there is none to go on from.
    known : Known or None
        A model to start from.
    storage, folder : Storage and str, or None
        Where the ``route`` exchange keeps vectors; they stay there for `Factorization.frames`.
    """

    checkpoints: Checkpoints | None = None
    code: str = ""
    must_resume: bool = False
    known: Known | None = None
    storage: Storage | None = None
    folder: str = ""


def fit_factors(
    spark: SparkSession,
    ratings: DataFrame,
    config: TrainConfig,
    *,
    n_users: int,
    n_items: int,
    progress: Progress,
    title: str = "train",
    continuation: Continuation = Continuation(),
    features: ItemFeatures | None = None,
) -> Factorization:
    """Fit biases and factors: minimise loss + regularisation, one side after the other.

    With scores ``s_ui = mu + b_u + c_i + w_u . x_i``, the objective is::

        sum_observed loss(r_ui, s_ui) + a0 sum_all (s_ui - mu)^2 + sum_u Lambda_u |v_u|^2 + sum_i Lambda_i |v_i|^2

    where Lambda = reg_param * degree^reg_exponent (``bias_reg_param`` for the biases); for the losses and the weight
    a0 of all pairs see ``kernels.losses``. With ``side_information``, items are not drawn towards zero but to
    what their features say of them, see ``kernels.side_information``.

    Parameters
    ----------
    spark : SparkSession
    ratings : DataFrame
        ``user_index int, item_index int, rating float``, optionally ``weight`` and ``timestamp``; each pair
        once, at least one.
    config : TrainConfig
    n_users, n_items : int
        Sizes of the indexes.
    progress : Progress
        Told of every half-iteration.
    title : str
        Names this fit in the progress.
    continuation : Continuation
        Checkpoints, and a model to start from; by default neither.
    features : ItemFeatures, optional
        For ``side_information``, which needs them.

    Returns
    -------
    Factorization
        Equal bit for bit for every number of blocks and partitions, and for every crash on the way. With a
        ``validation_share``, the model of the iteration that was best on the ratings kept back.

    Raises
    ------
    NumericalError
        If there is nothing to train on, a row or the objective is not finite, or the objective rises.
    ContractError
        If the logistic loss is given no labels.
    ConfigError
        If the training cannot fit into memory, if there has to be a checkpoint to go on from and none fits, or if side
        information is asked for without features.

    Notes
    -----
    One shuffle in all, of both sides' blocks. Per half-iteration of the ``replicate`` exchange, the fixed side
    is shared with all tasks and the solved side comes to the driver: (n_users + n_items) * width * 4 bytes each way per
    iteration. For ``route`` see ``RouteExchange``.
    """
    given = observations(ratings, config)
    training, held_back = given.frame, None
    if config.validation_share > 0:
        training, held_back = split_ratings(given.frame, config.validation_share, VALIDATION_SEED)
    limits = session_limits(spark)
    width = config.rank + config.uses_biases
    n_blocks = config.n_blocks or choose_n_blocks(limits.cores, given.n, max(n_users, n_items), width)
    started = time.monotonic()
    told = _told(config, features)
    with labelled_jobs(spark, f"{title}: blocks of ratings"):
        users, items = sides = block_ratings(training, n_users, n_items, n_blocks, splits_hot=told is None)
    exchange: Exchange | None = None
    try:
        blocking_seconds = time.monotonic() - started
        progress.say(f"{title}: {given.n:,} ratings in 2 x {n_blocks} blocks after {blocking_seconds:.1f} s")
        weighted = "weight" in training.columns
        plans = plan_exchanges(config, users.degrees, items.degrees, n_blocks, limits, weighted=weighted)
        plan, reason = choose_exchange(config, plans, has_storage=continuation.storage is not None)
        for line in plan.lines(reason):
            progress.say(f"{title}: {line}")
        constant = constant_of_rows(config, given.constant)
        exchange = _make_exchange(spark, config, constant, plan, continuation, told)
        validation = None if held_back is None else Validation(HeldBack(held_back, constant), config)
        iterate = _Iterations(spark, config, exchange, validation, _with_features(continuation, told), progress, title)
        with progress.steps(title, iterate.parts * config.iterations) as steps:
            iterate.run(users, items, training, steps)
        model = _model(iterate, given, sides, config, blocking_seconds)
        seconds = iterate.state.iteration_seconds
        n_jobs = 2 if config.updates == "alternating" else 3 * config.gradient_steps
        actual = measured_footprint(exchange.sizes, peak_memory(), blocking_seconds, seconds, n_jobs=n_jobs)
        return replace(model, plan=plan, footprint=actual)
    finally:
        _release([held for held in (exchange, *sides) if held is not None])


def _release(held: Sequence[Exchange | SideBlocks]) -> None:
    """Release each, even where another cannot be, and without hiding what went wrong before (an ExitStack would)."""
    if held:
        try:
            held[0].release()
        finally:
            _release(held[1:])


def _told(config: TrainConfig, features: ItemFeatures | None) -> ItemFeatures | None:
    """Return the items' features where training looks at them."""
    if config.side_information is None:
        return None
    if features is None:
        raise ConfigError("side information needs features", where="train.side_information")
    return features


def _with_features(continuation: Continuation, features: ItemFeatures | None) -> Continuation:
    """Return a continuation whose checkpoints do not fit other features."""
    if features is None:
        return continuation
    rows = features.of_rated()
    content = hashlib.sha256(f"{features.width}".encode())
    for array in (rows.indptr, rows.columns, rows.values):
        content.update(array.tobytes())
    return replace(continuation, code=f"{continuation.code} {content.hexdigest()[:16]}")


def _make_exchange(
    spark: SparkSession,
    config: TrainConfig,
    constant: float,
    plan: TrainingPlan,
    continuation: Continuation,
    features: ItemFeatures | None,
) -> Exchange:
    """Return the exchange of a plan, without vectors yet."""
    if plan.exchange == "replicate":
        return ReplicateExchange(spark, config, constant, features)
    assert continuation.storage is not None
    place = (plan.n_blocks, continuation.storage, continuation.folder)
    if features is not None:
        return ToldRouteExchange(spark, config, constant, *place, features)
    return RouteExchange(spark, config, constant, *place)


class _Iterations:
    """Whole iterations: from a checkpoint if there is one, until the objective or the validation loss rests."""

    def __init__(
        self,
        spark: SparkSession,
        config: TrainConfig,
        exchange: Exchange,
        validation: Validation | None,
        continuation: Continuation,
        progress: Progress,
        title: str,
    ) -> None:
        self._config, self._exchange, self._validation = config, exchange, validation
        self._continuation, self._checkpoints = continuation, continuation.checkpoints
        self._spark, self._progress, self._title = spark, progress, title
        self.state = LoopState(config, exchange)

    @property
    def best(self) -> Kept:
        """The vectors of the best iteration so far: the last one, if nothing was kept back to judge by."""
        best = None if self._validation is None else self._validation.best
        return self._exchange.vectors if best is None else best

    def run(self, users: SideBlocks, items: SideBlocks, training: DataFrame, steps: Steps) -> None:
        """Begin, or go on, and iterate to the end."""
        fingerprints = self._fingerprints(training) if self._checkpoints is not None else None
        if fingerprints is None or not self._resume(fingerprints, users, items, steps):
            self.state.penalties = self._exchange.begin(users, items, self._continuation.known)
        self._let_go()
        is_over = False
        while not is_over and self.state.iteration < self._config.iterations:
            iteration = self.state.iteration + 1
            for step in self._solve(iteration, users, items):
                steps.done(f"{step.side}, objective {step.objective:,.6g}", side=step.side, objective=step.objective)
            is_over = self._validate() | self.state.has_converged()
            if self._checkpoints is not None and fingerprints is not None and not is_over:
                with self._labelled(f"checkpoint after iteration {self.state.iteration}"):
                    self._checkpoints.save_if_due(self.state, fingerprints, self.best)
            self._let_go()

    def _fingerprints(self, training: DataFrame) -> Fingerprints:
        return Fingerprints(
            fingerprint_of_observations(training),
            fingerprint_of_config(self._config),
            self._continuation.code,
            fingerprint_of_start(self._continuation.known),
        )

    def _let_go(self) -> None:
        checkpoints = self._checkpoints
        self._exchange.keep_only([self.best], checkpoints.folders if checkpoints is not None else list)

    @property
    def parts(self) -> int:
        """Solutions of an iteration: one of each side, or one of both at once."""
        return 1 if self._config.updates == "simultaneous" else 2

    def _solve(self, iteration: int, users: SideBlocks, items: SideBlocks) -> Iterator[HalfIteration]:
        if self._config.updates == "simultaneous":
            with self._labelled(f"iteration {iteration}, both sides"):
                step = self.state.step_both(iteration, users, items)
            yield step
            return
        for rows, fixed in ((users, items), (items, users)):
            with self._labelled(f"iteration {iteration}, {rows.side.name}"):
                step = self.state.solve(iteration, rows, fixed)
            yield step

    def _labelled(self, what: str) -> AbstractContextManager[None]:
        return labelled_jobs(self._spark, f"{self._title}: {what}")

    def _validate(self) -> bool:
        if self._validation is None:
            return False
        with self._labelled(f"validation after iteration {self.state.iteration}"):
            loss = self._validation.loss(self._exchange)
        self.state.note_validation(loss)
        return self._validation.note(self._exchange.vectors, loss)

    def _resume(self, fingerprints: Fingerprints, users: SideBlocks, items: SideBlocks, steps: Steps) -> bool:
        """Go on from the newest checkpoint that fits; return whether there was one."""
        assert self._checkpoints is not None
        place = self._checkpoints.latest()
        differing = self._checkpoints.differing(place, fingerprints) if place else []
        if place is None or differing:
            if place or self._continuation.must_resume:
                self._refuse(place, differing)
            return False
        best = self._checkpoints.restore(place, self.state, users, items)
        if self._validation is not None:
            for step in self.state.history:
                if step.validation is not None:
                    self._validation.note(self._exchange.vectors if best is None else best, step.validation)
        steps.skip(self.parts * self.state.iteration)
        self._progress.say(f"{self._title}: goes on after iteration {self.state.iteration}, from {place}")
        return True

    def _refuse(self, place: str | None, differing: list[str]) -> None:
        """Say why there is no going on; raise where that is an error."""
        what = f"the checkpoint cannot be used: other {', '.join(differing)}" if place else "there is no checkpoint"
        if self._continuation.must_resume:
            raise ConfigError(
                what,
                where=place or "",
                remedy="run again without --resume to train from the beginning",
            )
        self._progress.say(f"{self._title}: begins anew: {what} ({place})")


def _model(
    iterate: _Iterations,
    given: Observations,
    sides: tuple[SideBlocks, SideBlocks],
    config: TrainConfig,
    blocking_seconds: float,
) -> Factorization:
    trained = iterate.state.exchange.trained(iterate.best)
    nothing = np.zeros((0, config.rank + config.uses_biases), np.float32)
    vectors = trained if isinstance(trained, Vectors) else Vectors(nothing, nothing)
    users, items = sides
    return Factorization(
        vectors.users,
        vectors.items,
        users.degrees,
        items.degrees,
        given.mean_rating,
        config.uses_biases,
        given.constant,
        config.loss,
        iterate.state.history,
        blocking_seconds,
        frames={} if isinstance(trained, Vectors) else trained,
    )
