"""The mean rating and sums by group, the same to the last bit however the ratings are spread over tasks."""

from __future__ import annotations

import math

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

# Of a sum of multiples, as a long integer.
_BITS = 62


def exact_mean(ratings: DataFrame) -> tuple[float, int]:
    """Return the mean and count of a column of ratings.

    A sum of floating-point numbers depends on the order of the additions, and so on the partitions. Here
    every rating is first rounded to a multiple of a tiny part of the largest one, 2^-38 of it for 16 million
    ratings, and the multiples are added as long integers, which is exact in any order.

    Parameters
    ----------
    ratings : DataFrame
        With a column ``rating``, finite.

    Returns
    -------
    mean : float
    n_ratings : int

    Notes
    -----
    Two passes; the driver receives one row of each.
    """
    first = ratings.agg(F.max(F.abs("rating").cast("double")).alias("largest"), F.count("*").alias("n")).collect()[0]
    n_ratings = int(first["n"])
    if n_ratings == 0 or first["largest"] == 0:
        return 0.0, n_ratings
    scale = _scale(first["largest"], n_ratings)
    total = ratings.agg(_sum_of_multiples(F.col("rating").cast("double"), scale).alias("total")).collect()[0]["total"]
    return int(total) / n_ratings / scale, n_ratings


def exact_sums(frame: DataFrame, values: dict[str, Column], by: str) -> DataFrame:
    """Add up numbers by group, rounded as those of `exact_mean` are.

    Parameters
    ----------
    frame : DataFrame
    values : dict of str to Column
        What is added up, as doubles that are finite, by the name of its sum.
    by : str
        Column of the groups.

    Returns
    -------
    DataFrame
        ``by``, the sums as doubles, and ``n``, rows of the group. Two passes, and one shuffle of partial sums.
    """
    largest = [F.max(F.abs(value)).alias(name) for name, value in values.items()]
    first = frame.agg(F.count("*").alias("n"), *largest).collect()[0]
    scales = {name: _scale(first[name] or 0.0, int(first["n"])) for name in values}
    sums = [
        (_sum_of_multiples(value, scales[name]) / F.lit(scales[name])).alias(name) for name, value in values.items()
    ]
    return frame.groupBy(by).agg(*sums, F.count("*").alias("n"))


def _scale(largest: float, n: int) -> float:
    """Return by what numbers are multiplied before they are rounded to whole ones, of which n fit into a long."""
    return 2.0 ** (_BITS - n.bit_length() - math.frexp(largest)[1])


def _sum_of_multiples(value: Column, scale: float) -> Column:
    return F.sum(F.rint(value * F.lit(scale)).cast("long"))
