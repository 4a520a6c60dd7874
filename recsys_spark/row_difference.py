"""Which rows of two frames differ."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

_COUNT = "_times_more"


def differing_rows(before: DataFrame, after: DataFrame) -> DataFrame:
    """Return the rows that one of two frames has and the other has not, or has less often.

    Parameters
    ----------
    before, after : DataFrame
        Of the same columns; nulls are equal to nulls.

    Returns
    -------
    DataFrame
        Their columns; a row of each kind that differs. Exact: rows are compared, not hashes. One shuffle of both.
    """
    counted = before.withColumn(_COUNT, F.lit(-1)).unionByName(after.withColumn(_COUNT, F.lit(1)))
    return counted.groupBy(*before.columns).agg(F.sum(_COUNT).alias(_COUNT)).where(F.col(_COUNT) != 0).drop(_COUNT)
