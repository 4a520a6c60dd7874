"""The alternating loop: users against fixed items, items against fixed users, until the objective rests."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import ConfigError
from recsys_spark.rating_blocks import ITEMS, USERS, choose_n_blocks
from recsys_spark.rating_split import split_ratings
from recsys_spark.session import session_limits
from recsys_spark.train.checkpoints import (
    Checkpoints,
    Fingerprints,
    fingerprint_of_config,
    fingerprint_of_observations,
    fingerprint_of_vectors,
)
from recsys_spark.train.half_iteration import peak_memory
from recsys_spark.train.loop_state import LoopState, Vectors, first_vectors
from recsys_spark.train.model import Factorization
from recsys_spark.train.observations import Observations, observations
from recsys_spark.train.side_blocks import SideBlocks
from recsys_spark.train.training_plan import (
    TrainingPlan,
    measured_footprint,
    plan_training,
    refuse_what_cannot_fit,
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
    """

    checkpoints: Checkpoints | None = None
    code: str = ""
    must_resume: bool = False
    known: Vectors | None = None


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
        If the training would not fit into memory, or if there has to be a checkpoint to go on from, and there is
        none that fits.

    Notes
    -----
    Two shuffles in all, one per side's blocks. Per half-iteration, the fixed side is broadcast and the solved
    side comes to the driver: (n_users + n_items) * width * 4 bytes each way per iteration.
    """
    given = observations(ratings, config)
    training, held_back = given.frame, None
    if config.validation_share > 0:
        training, held_back = split_ratings(given.frame, config.validation_share, _VALIDATION_SEED)
    limits = session_limits(spark)
    width = config.rank + config.uses_biases
    n_blocks = config.n_blocks or choose_n_blocks(limits.cores, given.n, max(n_users, n_items), width)
    started = time.monotonic()
    sides: list[SideBlocks] = []
    try:
        for side, n_rows in ((USERS, n_users), (ITEMS, n_items)):
            sides.append(SideBlocks(training, side, n_rows, n_blocks))
        users, items = sides
        blocking_seconds = time.monotonic() - started
        progress.say(f"{title}: {given.n:,} ratings in 2 x {n_blocks} blocks after {blocking_seconds:.1f} s")
        weighted = "weight" in training.columns
        plan = plan_training(config, users.degrees, items.degrees, n_blocks, limits, weighted=weighted)
        for line in plan.lines():
            progress.say(f"{title}: {line}")
        refuse_what_cannot_fit(plan)
        first = first_vectors(config, users, items, continuation.known)
        state = LoopState(config, users, items, given.constant, first)
        constant = given.constant if config.loss == "logistic" else 0.0
        validation = None if held_back is None else Validation(held_back, config, constant)
        iterate = _Iterations(config, state, validation, continuation, training, progress, title)
        with progress.steps(title, 2 * config.iterations) as steps:
            iterate.run(users, items, steps)
        return _model(state, validation, given, users, items, config, blocking_seconds, plan)
    finally:
        for blocks in sides:
            blocks.release()


class _Iterations:
    """Whole iterations: from a checkpoint if there is one, until the objective or the validation loss rests."""

    def __init__(
        self,
        config: TrainConfig,
        state: LoopState,
        validation: Validation | None,
        continuation: Continuation,
        training: DataFrame,
        progress: Progress,
        title: str,
    ) -> None:
        self._config, self._state, self._validation = config, state, validation
        self._checkpoints = continuation.checkpoints
        self._must_resume = continuation.must_resume
        self._progress, self._title = progress, title
        if self._checkpoints is not None:
            self._fingerprints = Fingerprints(
                fingerprint_of_observations(training),
                fingerprint_of_config(config),
                continuation.code,
                fingerprint_of_vectors(state.vectors),
            )

    def run(self, users: SideBlocks, items: SideBlocks, steps: Steps) -> None:
        """Iterate to the end."""
        is_over = self._resume(steps)
        while not is_over and self._state.iteration < self._config.iterations:
            iteration = self._state.iteration + 1
            for rows, fixed in ((users, items), (items, users)):
                step = self._state.solve(iteration, rows, fixed)
                steps.done(f"{step.side}, objective {step.objective:,.6g}", side=step.side, objective=step.objective)
            is_over = self._validate() | self._state.has_converged()
            if self._checkpoints is not None and not is_over:
                best = self._validation.best if self._validation else None
                self._checkpoints.save_if_due(self._state, self._fingerprints, best)

    def _validate(self) -> bool:
        if self._validation is None:
            return False
        loss = self._validation.loss(self._state.vectors)
        self._state.note_validation(loss)
        return self._validation.note(self._state.vectors, loss)

    def _resume(self, steps: Steps) -> bool:
        """Go on from the newest checkpoint that fits; return whether training was over there already."""
        place = self._checkpoints.latest() if self._checkpoints else None
        differing = self._checkpoints.differing(place, self._fingerprints) if self._checkpoints and place else []
        if self._checkpoints is None or place is None or differing:
            if place or self._must_resume:
                self._refuse(place, differing)
            return False
        best = self._checkpoints.restore(place, self._state)
        if self._validation is not None:
            for step in self._state.history:
                if step.validation is not None:
                    self._validation.note(self._state.vectors if best is None else best, step.validation)
        steps.skip(2 * self._state.iteration)
        self._progress.say(f"{self._title}: goes on after iteration {self._state.iteration}, from {place}")
        return False

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
    state: LoopState,
    validation: Validation | None,
    given: Observations,
    users: SideBlocks,
    items: SideBlocks,
    config: TrainConfig,
    blocking_seconds: float,
    plan: TrainingPlan,
) -> Factorization:
    vectors = state.vectors if validation is None or validation.best is None else validation.best
    return Factorization(
        vectors.users,
        vectors.items,
        users.degrees,
        items.degrees,
        given.mean_rating,
        config.uses_biases,
        given.constant,
        config.loss,
        state.history,
        blocking_seconds,
        plan,
        measured_footprint(state.sizes, peak_memory(), blocking_seconds, state.iteration_seconds),
    )
