"""Early stopping: the loss on ratings that were kept back, after every iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recsys_spark.errors import ConfigError
from recsys_spark.kernels.losses import Loss, observed_loss
from recsys_spark.train.exchange import Exchange, Kept
from recsys_spark.train.held_back import HeldBack

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config import TrainConfig

_MOST_PAIRS = 5_000_000


class Validation:
    """Ratings kept back, and the best model on them so far.

    Parameters
    ----------
    held_back : HeldBack
    config : TrainConfig

    Raises
    ------
    ConfigError
        If there are none, or more than the driver should hold the scores of.
    """

    def __init__(self, held_back: HeldBack, config: TrainConfig) -> None:
        n_pairs = held_back.frame.count()
        if not 0 < n_pairs <= _MOST_PAIRS:
            raise ConfigError(
                "the ratings kept back for early stopping do not fit their purpose",
                where="train.validation_share",
                got=f"{config.validation_share:g}, which keeps back {n_pairs:,} ratings",
                allowed=f"1 to {_MOST_PAIRS:,} ratings",
                remedy="change the share",
            )
        self._held_back, self._config = held_back, config
        self.best: Kept | None = None
        self._best_loss = np.inf
        self._since_best = 0

    def loss(self, exchange: Exchange) -> float:
        """Return the mean loss of the pairs kept back: squared error, or twice the binary cross-entropy."""
        values, scores = exchange.pair_scores(self._held_back)
        terms = observed_loss(Loss(self._config.loss), values, None, scores.astype(np.float32))
        # Summed in order of value: the rows come from the tasks in any order.
        return float(np.sort(terms).sum() / len(terms))

    def note(self, vectors: Kept, loss: float) -> bool:
        """Remember the vectors if they are the best so far; return whether it is time to stop."""
        if loss < self._best_loss:
            self.best, self._best_loss, self._since_best = vectors, loss, 0
        else:
            self._since_best += 1
        return self._since_best >= self._config.patience
