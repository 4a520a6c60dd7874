"""Factors of other libraries as arrays, and our objective of any factors without biases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame

from recsys_spark.config import TrainConfig
from recsys_spark.kernels.losses import Loss, observed_loss
from recsys_spark.kernels.objective import Regularization, penalty, row_penalties
from recsys_spark.kernels.pair_scores import pair_scores

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Factors:
    """Factors of both sides, float32 arrays of shape (n, rank); rows without ratings are zero."""

    users: Float32Array
    items: Float32Array


@dataclass(frozen=True, slots=True)
class Ratings:
    """Distinct (user, item) pairs with their values, and the sizes of the two indexes."""

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    values: Float32Array
    n_users: int
    n_items: int

    def where(self, chosen: npt.NDArray[np.bool_]) -> Ratings:
        """Return some of the ratings."""
        return Ratings(self.users[chosen], self.items[chosen], self.values[chosen], self.n_users, self.n_items)


def objective(factors: Factors, ratings: Ratings, config: TrainConfig) -> float:
    """Evaluate what ``fit_factors`` minimises, at anyone's factors.

    Parameters
    ----------
    factors : Factors
    ratings : Ratings
        What they were trained on.
    config : TrainConfig
        Without biases. Its loss, alpha, unobserved_weight, reg_param and reg_exponent are used.

    Returns
    -------
    float
        Observed losses, term of all pairs and penalties, in double precision.
    """
    loss = Loss(config.loss, config.alpha, config.unobserved_weight)
    regularization = Regularization(config.reg_param, config.bias_reg_param, config.reg_exponent, biases=False)
    observed = 0.0
    for first in range(0, len(ratings.users), 1_000_000):
        part = slice(first, first + 1_000_000)
        users, items = factors.users[ratings.users[part]], factors.items[ratings.items[part]]
        scores = pair_scores(users, items, 0.0, biases=False).astype(np.float32)
        observed += math.fsum(observed_loss(loss, ratings.values[part], None, scores))
    degrees = [
        np.bincount(ratings.users, minlength=ratings.n_users),
        np.bincount(ratings.items, minlength=ratings.n_items),
    ]
    vectors = [
        np.where(degree[:, None] > 0, side, np.float32(0))
        for side, degree in zip((factors.users, factors.items), degrees, strict=True)
    ]
    gramians = [side.astype(np.float64).T @ side.astype(np.float64) for side in vectors]
    penalties = 0.0
    for side, (degree, other) in enumerate(((degrees[0], degrees[1]), (degrees[1], degrees[0]))):
        unobserved = loss.all_pairs_weight * float((other > 0).sum()) if loss.counts_unobserved else 0.0
        scales = row_penalties(degree, vectors[side].shape[1], regularization, unobserved)
        penalties += math.fsum(penalty(vectors[side], scales))
    return observed + loss.all_pairs_weight * float((gramians[0] * gramians[1]).sum()) + penalties


def mllib_estimator(config: TrainConfig, n_blocks: int) -> ALS:
    """Return MLlib's ALS with the same objective as a configuration.

    Its penalty is always ``regParam`` times the degree, so that the configuration needs ``reg_exponent`` 1; it
    has no biases, and its implicit loss is ours.
    """
    if config.reg_exponent != 1 or config.uses_biases or config.loss not in ("squared", "implicit"):
        raise ValueError("MLlib has no biases, reg_exponent 1, and the losses squared and implicit alone")
    return ALS(
        rank=config.rank,
        maxIter=config.iterations,
        regParam=config.reg_param,
        implicitPrefs=config.loss == "implicit",
        alpha=config.alpha,
        numUserBlocks=n_blocks,
        numItemBlocks=n_blocks,
        userCol="user_index",
        itemCol="item_index",
        ratingCol="rating",
        coldStartStrategy="drop",
        seed=1,
    )


def mllib_factors(model: ALSModel, n_users: int, n_items: int) -> Factors:
    """Return the factors of an MLlib model as arrays."""
    return Factors(_collect(model.userFactors, n_users, model.rank), _collect(model.itemFactors, n_items, model.rank))


def _collect(frame: DataFrame, n: int, rank: int) -> Float32Array:
    table = frame.toArrow()
    vectors = np.zeros((n, rank), np.float32)
    flat = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    vectors[table["id"].to_numpy()] = flat.reshape(-1, rank)
    return vectors


def implicit_factors(ratings: Ratings, config: TrainConfig, n_threads: int) -> Factors:
    """Fit the ``implicit`` library with the same objective as a configuration."""
    model = implicit_estimator(config, n_threads)
    model.fit(implicit_matrix(ratings, config), show_progress=False)
    return Factors(np.asarray(model.user_factors), np.asarray(model.item_factors))


def implicit_estimator(config: TrainConfig, n_threads: int) -> Any:
    """Return the ``implicit`` library's ALS; it takes three conjugate gradient steps per row.

    Its penalty is the same for every row, so that the configuration needs ``reg_exponent`` 0.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    if config.reg_exponent != 0 or config.loss != "implicit":
        raise ValueError("the implicit library has reg_exponent 0 and the loss implicit alone")
    return AlternatingLeastSquares(
        factors=config.rank,
        regularization=config.reg_param,
        alpha=1.0,
        use_cg=True,
        iterations=config.iterations,
        num_threads=n_threads,
        random_state=1,
    )


def implicit_matrix(ratings: Ratings, config: TrainConfig) -> Any:
    """Return the matrix that the ``implicit`` library is fitted to.

    An entry is the whole confidence of an observed pair, where ours is what a rating adds to 1.
    """
    from scipy.sparse import csr_matrix

    confidence = (1.0 + config.alpha * ratings.values).astype(np.float32)
    return csr_matrix((confidence, (ratings.users, ratings.items)), shape=(ratings.n_users, ratings.n_items))
