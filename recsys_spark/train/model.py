"""What training gives: both sides' vectors, and what every half-iteration reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from recsys_spark.kernels.arrays import Float32Array, Int32Array
from recsys_spark.train.training_plan import Footprint, TrainingPlan


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
        The factors, and with biases one more column, the bias. Rows without ratings are zero.
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
    plan: TrainingPlan | None = None
    footprint: Footprint | None = None

    @property
    def rank(self) -> int:
        """Number of factors."""
        return int(self.item_vectors.shape[1]) - self.biases
