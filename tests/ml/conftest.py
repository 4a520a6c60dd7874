"""One small model for all tests that only look at one."""

from __future__ import annotations

import pytest
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.ml import ALS, ALSModel
from tests.ml.small_ratings import SETTINGS, frame, triples


@pytest.fixture(scope="session")
def ratings(spark: SparkSession) -> DataFrame:
    return frame(spark, triples())


@pytest.fixture(scope="session")
def model(ratings: DataFrame) -> ALSModel:
    return ALS(**SETTINGS).fit(ratings)
