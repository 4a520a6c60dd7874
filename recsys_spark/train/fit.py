"""One entrance to all models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import ConfigError
from recsys_spark.train.alternating import Continuation, fit_factors
from recsys_spark.train.model import Factorization
from recsys_spark.train.neighbourhoods import fit_neighbourhoods

if TYPE_CHECKING:
    # Workers import this module through its package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.progress import Progress


def fit_model(
    spark: SparkSession,
    ratings: DataFrame,
    config: TrainConfig,
    *,
    n_users: int,
    n_items: int,
    progress: Progress,
    title: str = "train",
    continuation: Continuation,
) -> Factorization:
    """Fit what ``config.model`` names: see `fit_factors` and `fit_neighbourhoods`, also for what they raise.

    Raises
    ------
    ConfigError
        If neighbourhoods have no place to be written to.
    """
    sizes = {"n_users": n_users, "n_items": n_items}
    if config.model == "factors":
        return fit_factors(spark, ratings, config, progress=progress, title=title, continuation=continuation, **sizes)
    if continuation.storage is None:
        raise ConfigError(
            f"model: {config.model} needs a place for its neighbourhoods", remedy="give storage and folder"
        )
    return fit_neighbourhoods(
        spark,
        ratings,
        config,
        progress=progress,
        title=title,
        storage=continuation.storage,
        folder=continuation.folder,
        **sizes,
    )
