"""One entrance to all models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame, SparkSession

from recsys_spark.errors import ConfigError
from recsys_spark.features import ItemFeatures, require_room_for_regression
from recsys_spark.kernels.method_choice import DUAL_MAX_LENGTH
from recsys_spark.train.alternating import Continuation, fit_factors
from recsys_spark.train.feature_regression import fit_feature_regression
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
    features: ItemFeatures | None = None,
) -> Factorization:
    """Fit what ``config.model`` names.

    See `fit_factors`, `fit_neighbourhoods` and `fit_feature_regression`, also for what they raise.

    Raises
    ------
    ConfigError
        If a model has no place to be written to, or a regression no features, or more of them than the driver has room
        for.
    """
    # Of few items, the population's model is solved in its dual: a system of items, not of columns.
    if features is not None and (config.side_information is not None or n_items > DUAL_MAX_LENGTH):
        require_room_for_regression(spark, features.width)
    sizes = {"n_users": n_users, "n_items": n_items}
    if config.model == "factors":
        return fit_factors(
            spark,
            ratings,
            config,
            progress=progress,
            title=title,
            continuation=continuation,
            features=features,
            **sizes,
        )
    storage, folder = continuation.storage, continuation.folder
    if storage is None:
        raise ConfigError(f"model: {config.model} needs a place for its tables", remedy="give storage and folder")
    if config.is_neighbourhood:
        return fit_neighbourhoods(
            spark, ratings, config, progress=progress, title=title, storage=storage, folder=folder, **sizes
        )
    if features is None:
        raise ConfigError("model: feature_regression needs features", remedy="configure item_features")
    return fit_feature_regression(
        spark, ratings, config, features, progress=progress, title=title, storage=storage, folder=folder, **sizes
    )
