"""What training gives: both sides' vectors, and what every half-iteration reached."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.factor_tables import collect_rows, factor_rows
from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.kernels.neighbour_average import NeighbourAverages
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.train.scored_pairs import with_scores
from recsys_spark.train.training_plan import Footprint, TrainingPlan


@dataclass(frozen=True, slots=True)
class Vectors:
    """Both sides' vectors, float32 (n_users, width) and (n_items, width)."""

    users: Float32Array
    items: Float32Array

    def __repr__(self) -> str:
        """Return the shapes."""
        return f"Vectors: {self.users.shape} of users, {self.items.shape} of items"

    def of(self, side: Side) -> Float32Array:
        """Return one side's."""
        return self.users if side == USERS else self.items

    def with_side(self, side: Side, vectors: Float32Array) -> Vectors:
        """Return both sides, one of them new."""
        return replace(self, users=vectors) if side == USERS else replace(self, items=vectors)


@dataclass(frozen=True, slots=True)
class HalfIteration:
    """What one half-iteration reached: objective = observed + unobserved + penalty of both sides.

    ``validation`` is the mean loss on the ratings held out for early stopping, after the items.
    """

    iteration: int
    side: str
    objective: float
    observed: float
    unobserved: float
    penalty: float
    seconds: float
    validation: float | None = None


@dataclass(frozen=True, slots=True)
class Factorization:
    """A trained model.

    Attributes
    ----------
    user_vectors, item_vectors : float32 arrays of shape (n_users, width), (n_items, width)
        The factors, and with biases one more column, the bias. Rows without ratings are zero. Where vectors were
        routed, without rows: they are in ``frames``.
    user_degrees, item_degrees : int32 arrays
        Ratings each row was solved from.
    mean_rating : float
        Of the ratings it was trained on.
    biases : bool
    global_mean : float
        Part of every score, see ``Observations.constant``.
    loss : str
        What was minimised; scores of the logistic loss are log-odds.
    history : list of HalfIteration
    blocking_seconds : float
        Time until the ratings were blocked on both sides.
    frames : dict of Side to DataFrame
        Where vectors were routed: rows of (index, factors, bias, n_ratings), still on storage.
    plan : TrainingPlan or None
        What was predicted before the first iteration.
    footprint : Footprint or None
        What it took; None where a checkpoint left nothing to do.
    """

    user_vectors: Float32Array
    item_vectors: Float32Array
    user_degrees: Int32Array
    item_degrees: Int32Array
    mean_rating: float
    biases: bool
    global_mean: float
    loss: str = "squared"
    history: list[HalfIteration] = field(default_factory=list)
    blocking_seconds: float = 0.0
    frames: dict[Side, DataFrame] = field(default_factory=dict)
    plan: TrainingPlan | None = None
    footprint: Footprint | None = None

    def __repr__(self) -> str:
        """Return what was trained, and how far it got."""
        sizes = f"{len(self.user_degrees):,} users, {len(self.item_degrees):,} items, rank {self.rank}"
        biases = ", biases" if self.biases else ""
        last = (
            f", objective {self.history[-1].objective:.6g} after {len(self.history)} half-iterations"
            if self.history
            else ""
        )
        return f"{type(self).__name__}: {sizes}{biases}, loss {self.loss}{last}"

    def rows(self, spark: SparkSession, side: Side) -> DataFrame:
        """Return a side's vectors as rows of (index, factors, bias, n_ratings); rows without ratings are left out."""
        if side in self.frames:
            return self.frames[side]
        vectors, degrees = self._arrays(side)
        return factor_rows(spark, side, vectors, degrees, biases=self.biases)

    def rows_for_lists(self, spark: SparkSession) -> DataFrame:
        """Return the users' rows, as ``recommend.users_with_history`` takes them."""
        return self.rows(spark, USERS)

    def averages(self, column_of_index: Int32Array, n_columns: int) -> NeighbourAverages | None:
        """Return what tasks need to average over neighbours; None where scores are products alone."""
        return None

    def both_sides(self, spark: SparkSession) -> dict[Side, DataFrame]:
        """Return the rows of both sides, as another training may start from."""
        return {side: self.rows(spark, side) for side in (USERS, ITEMS)}

    def with_scores(self, pairs: DataFrame, name: str, *, unknown: float | None = None) -> DataFrame:
        """Add a column of this model's scores to pairs; see ``scored_pairs.with_scores`` for joins and parameters."""
        return with_scores(
            pairs,
            self.both_sides(pairs.sparkSession),
            name,
            rank=self.rank,
            biases=self.biases,
            constant=self.global_mean,
            unknown=unknown,
        )

    def trained_vectors(self, side: Side) -> tuple[Int32Array, Float32Array]:
        """Return indexes and vectors of a side's rows that have ratings, on the driver wherever they were."""
        if side in self.frames:
            return collect_rows(self.frames[side], side, biases=self.biases)
        vectors, degrees = self._arrays(side)
        index = np.flatnonzero(degrees).astype(np.int32)
        return index, vectors[index]

    def collected(self) -> Factorization:
        """Return the model with both sides' vectors on the driver, wherever they were."""
        found = {}
        for side, degrees in ((USERS, self.user_degrees), (ITEMS, self.item_degrees)):
            found[side] = np.zeros((len(degrees), self.item_vectors.shape[1]), np.float32)
            index, vectors = self.trained_vectors(side)
            found[side][index] = vectors
        return replace(self, user_vectors=found[USERS], item_vectors=found[ITEMS], frames={})

    def _arrays(self, side: Side) -> tuple[Float32Array, Int32Array]:
        return (self.user_vectors, self.user_degrees) if side == USERS else (self.item_vectors, self.item_degrees)

    @property
    def rank(self) -> int:
        """Number of factors."""
        return int(self.item_vectors.shape[1]) - self.biases
