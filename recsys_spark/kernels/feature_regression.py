"""Regression on known features: a model of the whole population, and each user's deviations from it.

User u scores item i ``mu + b_u + w_u . x_i``, with the item's known features x_i. In ``w_u = w + v_u`` and
``b_u = b + d_u``, the population's w and b minimise

    sum over all ratings of loss(r_ui, mu + b + w . x_i) + population_reg_param (|w|**2 + b**2)

and then v_u and d_u, for every user alone,

    sum over the user's ratings of loss(r_ui, mu + b + w . x_i + d_u + v_u . x_i) + reg_u |v_u|**2 + bias_reg_u d_u**2

so that who has few ratings stays near the population. Both are problems that `solve_rows` solves: features are the
fixed side's factors, and what the population thinks of an item is the item's bias.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.arrays import Float32Array, Float64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.fold_in import exact
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows


@dataclass(frozen=True, slots=True)
class PopulationModel:
    """What all users have in common.

    Attributes
    ----------
    weights : float64 array of shape (width,)
    bias : float
        Beside the constant of the model.
    penalty : float
        Its regularisation.
    """

    weights: Float64Array
    bias: float
    penalty: float

    def item_vectors(self, features: Float32Array) -> Float32Array:
        """Return items' features beside what the population thinks of them: (n, width) -> (n, width + 1)."""
        opinion = (features * self.weights).sum(axis=1) + self.bias
        return np.concatenate([features, opinion[:, None].astype(np.float32)], axis=1)


def no_population(width: int) -> PopulationModel:
    """Return the model that thinks the same of every item."""
    return PopulationModel(np.zeros(width), 0.0, 0.0)


def population_model(
    features: Float32Array,
    counts: Float64Array,
    means: Float64Array,
    constant: float,
    problem: RowProblem,
    reg_param: float,
) -> PopulationModel:
    """Fit one model to the ratings of all users.

    It depends on no more of them than each item's number and mean: for the squared loss, what ratings of an item
    vary around their mean is the same for every model; the logistic one is linear in the labels.

    Parameters
    ----------
    features : float32 array of shape (n_items, width)
    counts : float64 array of shape (n_items,)
        Ratings of each item, at their weights.
    means : float64 array of shape (n_items,)
        Weighted mean of each item's ratings or labels; any number where it has none.
    constant : float
        Part of every score that the ratings still hold.
    problem : RowProblem
        The loss; solved exactly, whatever its solver.
    reg_param : float > 0

    Raises
    ------
    ShapeError
        If the arrays do not fit together.
    NumericalError
        If the solution is not finite.

    Notes
    -----
    O(n_items width**2 + width**3), for the logistic loss per Newton step.
    """
    n_items = len(features)
    if counts.shape != (n_items,) or means.shape != (n_items,):
        raise ShapeError(f"{n_items} items need as many counts and means, got {counts.shape} and {means.shape}")
    rated = np.flatnonzero(counts)
    row = CsrBlock(
        np.zeros(1, np.int32),
        np.array([0, len(rated)]),
        rated.astype(np.int32),
        means[rated].astype(np.float32),
        counts[rated].astype(np.float32),
    )
    without_opinion = np.concatenate([features, np.zeros((n_items, 1), np.float32)], axis=1)
    fixed = make_fixed_side(without_opinion, constant, biases=True)
    plain = replace(exact(problem), regularization=Regularization(reg_param, reg_param, 0.0, biases=True))
    found = solve_rows(row, fixed, plain)
    vector = found.vectors[0].astype(np.float64)
    return PopulationModel(vector[:-1], float(vector[-1]), float(found.penalty[0]))


def user_problem(problem: RowProblem, iterations: int) -> RowProblem:
    """Return how users are solved, once and for all: exactly, or by all the gradient steps of a training."""
    if problem.solver == "gradient":
        return replace(problem, gradient_steps=problem.gradient_steps * iterations)
    return exact(problem)
