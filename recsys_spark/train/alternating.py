"""The alternating loop: users against fixed items, items against fixed users, until the objective rests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import ConfigError
from recsys_spark.rating_blocks import ITEMS, USERS, Side, choose_n_blocks
from recsys_spark.rating_split import split_ratings
from recsys_spark.session import session_limits
from recsys_spark.storage import Storage
from recsys_spark.train.checkpoints import (
    Checkpoints,
    Fingerprints,
    fingerprint_of_config,
    fingerprint_of_observations,
    fingerprint_of_vectors,
)
from recsys_spark.train.half_iteration import peak_memory, row_problem
from recsys_spark.train.loop_state import LoopState, first_vectors, penalty_of
from recsys_spark.train.model import Factorization, HalfIteration, Vectors
from recsys_spark.train.observations import Observations, observations
from recsys_spark.train.replicate import ReplicateExchange
from recsys_spark.train.route import RouteExchange
from recsys_spark.train.route_blocks import RouteSettings
from recsys_spark.train.side_blocks import SideBlocks, block_ratings
from recsys_spark.train.training_plan import (
    measured_footprint,
    plan_training,
    why_route,
)
from recsys_spark.train.validation import Validation

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.progress import Progress, Steps

_VALIDATION_SEED = 20_081


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
    known : Vectors or None
        A model to start from: zero where a row is not in it.
    storage, folder : Storage and str, or None
        Where the ``route`` exchange keeps vectors; they stay there for `Factorization.frames`.
    collect : bool
        Whether vectors that were routed come to the driver in the end.
    """

    checkpoints: Checkpoints | None = None
    code: str = ""
    must_resume: bool = False
    known: Vectors | None = None
    storage: Storage | None = None
    folder: str = ""
    collect: bool = True


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
) -> Factorization:
    """Minimise loss + regularisation, with scores s_ui = mu + b_u + c_i + w_u . x_i.

    objective = sum_observed loss(r_ui, s_ui) + a0 sum_all (s_ui - mu)^2 + sum_u Lambda_u |v_u|^2 + sum_i Lambda_i
    |v_i|^2, Lambda = reg_param * degree^reg_exponent (``bias_reg_param`` for the biases); for the losses and the
    weight a0 of all pairs see ``kernels.losses``.

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
        If the training cannot fit into memory, or if there has to be a checkpoint to go on from and none fits.

    Notes
    -----
    One shuffle in all, of both sides' blocks. Per half-iteration of the ``replicate`` exchange, the fixed side
    is broadcast and the solved side comes to the driver: (n_users + n_items) * width * 4 bytes each way per
    iteration. For ``route`` see ``RouteExchange``.
    """
    given = observations(ratings, config)
    training, held_back = given.frame, None
    if config.validation_share > 0:
        training, held_back = split_ratings(given.frame, config.validation_share, _VALIDATION_SEED)
    limits = session_limits(spark)
    width = config.rank + config.uses_biases
    n_blocks = config.n_blocks or choose_n_blocks(limits.cores, given.n, max(n_users, n_items), width)
    started = time.monotonic()
    users, items = block_ratings(training, n_users, n_items, n_blocks)
    try:
        blocking_seconds = time.monotonic() - started
        progress.say(f"{title}: {given.n:,} ratings in 2 x {n_blocks} blocks after {blocking_seconds:.1f} s")
        weighted = "weight" in training.columns
        plan = plan_training(config, users.degrees, items.degrees, n_blocks, limits, weighted=weighted)
        reason = why_route(config, plan, has_storage=continuation.storage is not None)
        for line in [f"route exchange: {reason}"] if reason else plan.lines():
            progress.say(f"{title}: {line}")
        exchange, penalties = (
            _begin_routed(spark, config, given.constant, users, items, n_blocks, continuation)
            if reason
            else _begin_replicated(config, given.constant, users, items, continuation)
        )
        state = LoopState(config, exchange, penalties)
        iterate = _Iterations(config, state, _validation(held_back, config, given.constant), progress, title)
        if isinstance(exchange, ReplicateExchange) and continuation.checkpoints is not None:
            iterate.keep_checkpoints(continuation, exchange, training)
        with progress.steps(title, iterate.parts * config.iterations) as steps:
            iterate.run(users, items, steps)
        model = _model(exchange, iterate, given, users, items, config, blocking_seconds)
        if isinstance(exchange, RouteExchange):
            return _with_routed(model, exchange, collect=continuation.collect)
        n_jobs = 2 if config.updates == "alternating" else 3 * config.gradient_steps
        actual = measured_footprint(
            exchange.sizes, peak_memory(), blocking_seconds, state.iteration_seconds, n_jobs=n_jobs
        )
        return replace(model, plan=plan, footprint=actual)
    finally:
        for blocks in (users, items):
            blocks.release()


def _begin_replicated(
    config: TrainConfig, constant: float, users: SideBlocks, items: SideBlocks, continuation: Continuation
) -> tuple[ReplicateExchange, dict[Side, float]]:
    """Return the exchange with its first vectors in place, and the penalties of both sides."""
    problem = row_problem(config)
    first = first_vectors(config, users, items, continuation.known)
    penalties = {
        USERS: penalty_of(first.users, users, items, problem),
        ITEMS: penalty_of(first.items, items, users, problem),
    }
    return ReplicateExchange(problem, _constant_of_rows(config, constant), first), penalties


def _begin_routed(
    spark: SparkSession,
    config: TrainConfig,
    constant: float,
    users: SideBlocks,
    items: SideBlocks,
    n_blocks: int,
    continuation: Continuation,
) -> tuple[RouteExchange, dict[Side, float]]:
    """Return the exchange with its first vectors in place, and the penalties of both sides."""
    if continuation.storage is None:
        raise ConfigError("exchange: route needs a place for its vectors", remedy="set train.exchange: replicate")
    settings = RouteSettings(row_problem(config), _constant_of_rows(config, constant))
    exchange = RouteExchange(spark, continuation.storage, continuation.folder, settings, n_blocks)
    return exchange, {USERS: 0.0, ITEMS: exchange.begin(items, users, config.seed, config.rank)}


def _constant_of_rows(config: TrainConfig, constant: float) -> float:
    """Return what observations still hold of the constant: centred ratings have had it taken off already."""
    return constant if config.loss == "logistic" else 0.0


def _validation(held_back: DataFrame | None, config: TrainConfig, constant: float) -> Validation | None:
    if held_back is None:
        return None
    return Validation(held_back, config, _constant_of_rows(config, constant))


class _Iterations:
    """Whole iterations: from a checkpoint if there is one, until the objective or the validation loss rests."""

    def __init__(
        self,
        config: TrainConfig,
        state: LoopState,
        validation: Validation | None,
        progress: Progress,
        title: str,
    ) -> None:
        self._config, self.state, self.validation = config, state, validation
        self._progress, self._title = progress, title
        self._checkpoints: Checkpoints | None = None

    def keep_checkpoints(self, continuation: Continuation, exchange: ReplicateExchange, training: DataFrame) -> None:
        """Write checkpoints on the way, and begin with the newest one if it fits."""
        self._checkpoints = continuation.checkpoints
        self._must_resume = continuation.must_resume
        self._exchange = exchange
        self._fingerprints = Fingerprints(
            fingerprint_of_observations(training),
            fingerprint_of_config(self._config),
            continuation.code,
            fingerprint_of_vectors(exchange.vectors),
        )

    def run(self, users: SideBlocks, items: SideBlocks, steps: Steps) -> None:
        """Iterate to the end."""
        if self._checkpoints is not None:
            self._resume(self._checkpoints, steps)
        is_over = False
        while not is_over and self.state.iteration < self._config.iterations:
            iteration = self.state.iteration + 1
            for step in self._solve(iteration, users, items):
                steps.done(f"{step.side}, objective {step.objective:,.6g}", side=step.side, objective=step.objective)
            is_over = self._validate() | self.state.has_converged()
            if self._checkpoints is not None and not is_over:
                best = self.validation.best if self.validation else None
                self._checkpoints.save_if_due(self.state, self._exchange.vectors, self._fingerprints, best)

    @property
    def parts(self) -> int:
        """Solutions of an iteration: one of each side, or one of both at once."""
        return 1 if self._config.updates == "simultaneous" else 2

    def _solve(self, iteration: int, users: SideBlocks, items: SideBlocks) -> Iterator[HalfIteration]:
        if self._config.updates == "simultaneous":
            yield self.state.step_both(iteration, users, items)
            return
        for rows, fixed in ((users, items), (items, users)):
            yield self.state.solve(iteration, rows, fixed)

    def _validate(self) -> bool:
        if self.validation is None:
            return False
        assert isinstance(self.state.exchange, ReplicateExchange)
        vectors = self.state.exchange.vectors
        loss = self.validation.loss(vectors)
        self.state.note_validation(loss)
        return self.validation.note(vectors, loss)

    def _resume(self, checkpoints: Checkpoints, steps: Steps) -> None:
        """Go on from the newest checkpoint that fits."""
        place = checkpoints.latest()
        differing = checkpoints.differing(place, self._fingerprints) if place else []
        if place is None or differing:
            if place or self._must_resume:
                self._refuse(place, differing)
            return
        best = checkpoints.restore(place, self.state, self._exchange)
        if self.validation is not None:
            for step in self.state.history:
                if step.validation is not None:
                    self.validation.note(self._exchange.vectors if best is None else best, step.validation)
        steps.skip(self.parts * self.state.iteration)
        self._progress.say(f"{self._title}: goes on after iteration {self.state.iteration}, from {place}")

    def _refuse(self, place: str | None, differing: list[str]) -> None:
        """Say why there is no going on; raise where that is an error."""
        what = f"the checkpoint cannot be used: other {', '.join(differing)}" if place else "there is no checkpoint"
        if self._must_resume:
            raise ConfigError(
                what,
                where=place or "",
                remedy="run again without --resume to train from the beginning",
            )
        self._progress.say(f"{self._title}: begins anew: {what} ({place})")


def _model(
    exchange: ReplicateExchange | RouteExchange,
    iterate: _Iterations,
    given: Observations,
    users: SideBlocks,
    items: SideBlocks,
    config: TrainConfig,
    blocking_seconds: float,
) -> Factorization:
    nothing = np.zeros((0, config.rank + config.uses_biases), np.float32)
    vectors = exchange.vectors if isinstance(exchange, ReplicateExchange) else Vectors(nothing, nothing)
    if iterate.validation is not None and iterate.validation.best is not None:
        vectors = iterate.validation.best
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
    )


def _with_routed(model: Factorization, exchange: RouteExchange, *, collect: bool) -> Factorization:
    """Return the model with its routed vectors as frames, and collected if asked."""
    model = replace(model, frames={side: exchange.rows(side, biases=model.biases) for side in (USERS, ITEMS)})
    if not collect:
        return model
    width = model.user_vectors.shape[1]
    return replace(
        model,
        user_vectors=exchange.vectors(USERS, len(model.user_degrees), width),
        item_vectors=exchange.vectors(ITEMS, len(model.item_degrees), width),
    )
