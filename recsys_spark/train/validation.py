"""Early stopping: the loss on ratings that were kept back, after every iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.errors import ConfigError
from recsys_spark.kernels.losses import Loss, observed_loss
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.train.model import Vectors

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig

_MOST_PAIRS = 5_000_000


class Validation:
    """Ratings kept back, and the best model on them so far.

    Parameters
    ----------
    held_back : DataFrame
        ``user_index, item_index, rating``: observations as the loss takes them. They come to the driver.
    config : TrainConfig
    constant : float
        Part of every score that the observations still hold.

    Raises
    ------
    ConfigError
        If there are none, or more than the driver should hold.
    """

    def __init__(self, held_back: DataFrame, config: TrainConfig, constant: float) -> None:
        n_pairs = held_back.count()
        if not 0 < n_pairs <= _MOST_PAIRS:
            raise ConfigError(
                "the ratings kept back for early stopping do not fit their purpose",
                where="train.validation_share",
                got=f"{config.validation_share:g}, which keeps back {n_pairs:,} ratings",
                allowed=f"1 to {_MOST_PAIRS:,} ratings",
                remedy="change the share",
            )
        pairs: pa.Table = held_back.select("user_index", "item_index", "rating").toArrow()
        self._users, self._items, self._values = (column.to_numpy() for column in pairs.itercolumns())
        self._config, self._constant = config, constant
        self.best: Vectors | None = None
        self._best_loss = np.inf
        self._since_best = 0

    def loss(self, vectors: Vectors) -> float:
        """Return the mean loss of the pairs kept back: squared error, or twice the binary cross-entropy."""
        scores = pair_scores(
            vectors.users[self._users], vectors.items[self._items], self._constant, self._config.uses_biases
        )
        terms = observed_loss(Loss(self._config.loss), self._values, None, scores.astype(np.float32))
        # Summed in order of value: the rows come from the tasks in any order.
        return float(np.sort(terms).sum() / len(terms))

    def note(self, vectors: Vectors, loss: float) -> bool:
        """Remember the vectors if they are the best so far; return whether it is time to stop."""
        if loss < self._best_loss:
            self.best, self._best_loss, self._since_best = vectors, loss, 0
        else:
            self._since_best += 1
        return self._since_best >= self._config.patience
