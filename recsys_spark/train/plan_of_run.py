"""The plan of a run's training, before it: the degrees are counted, nothing is trained or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError
from recsys_spark.kernels.arrays import Int32Array
from recsys_spark.rating_blocks import ITEMS, USERS, Side, choose_n_blocks
from recsys_spark.session import session_limits
from recsys_spark.train.exchange_choice import ExchangePlans, plan_exchanges
from recsys_spark.train.observations import fitted_ratings
from recsys_spark.train.training_ratings import training_ratings

if TYPE_CHECKING:
    from recsys_spark.runs.run_directory import StageContext


def plan_run(context: StageContext) -> ExchangePlans:
    """Predict what training a run will take, from its ``indexed_ratings``.

    Parameters
    ----------
    context : StageContext
        Of a run whose index stage is done.

    Returns
    -------
    ExchangePlans
        With all ratings: those that ``train.validation_share`` would keep back are counted as well.

    Raises
    ------
    ConfigError
        If the model is none of factors.

    Notes
    -----
    Two aggregations by an integer; the driver receives 8 bytes per user and item.
    """
    config, sizes = context.config.train, context.record("index")
    if config.model != "factors":
        raise ConfigError(
            "only the training of factors has a plan", where="train.model", got=config.model, allowed="factors"
        )
    n_users, n_items = sizes["n_users"], sizes["n_items"]
    ratings = fitted_ratings(training_ratings(context), config)
    users, items = _degrees(ratings, USERS, n_users), _degrees(ratings, ITEMS, n_items)
    limits = session_limits(context.spark)
    n_ratings, width = int(users.sum(dtype=np.int64)), config.rank + config.uses_biases
    n_blocks = config.n_blocks or choose_n_blocks(limits.cores, n_ratings, max(n_users, n_items), width)
    weighted = "weight" in ratings.columns or config.half_life_days is not None
    return plan_exchanges(config, users, items, n_blocks, limits, weighted=weighted)


def _degrees(ratings: DataFrame, side: Side, n_rows: int) -> Int32Array:
    counted = ratings.groupBy(side.rows).agg(F.count("*").cast("int").alias("degree")).toArrow()
    degrees = np.zeros(n_rows, np.int32)
    degrees[counted[side.rows].to_numpy()] = counted["degree"].to_numpy()
    return degrees
