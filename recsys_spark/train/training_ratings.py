"""The ratings of a run, as a fit should see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import DataFrame

from recsys_spark.tables import INDEXED_RATINGS

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.runs.run_directory import StageContext


def training_ratings(context: StageContext) -> DataFrame:
    """Return ``indexed_ratings``, with weights only where the log has any."""
    ratings = context.read(INDEXED_RATINGS)
    return ratings if context.config.input.columns.weight is not None else ratings.drop("weight")
