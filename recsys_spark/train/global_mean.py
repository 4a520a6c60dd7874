"""The mean rating, the same to the last bit however the ratings are spread over tasks."""

from __future__ import annotations

import math

from pyspark.sql import DataFrame
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
    scale = 2.0 ** (_BITS - n_ratings.bit_length() - math.frexp(first["largest"])[1])
    multiples = F.rint(F.col("rating").cast("double") * F.lit(scale)).cast("long")
    total = ratings.agg(F.sum(multiples).alias("total")).collect()[0]["total"]
    return int(total) / n_ratings / scale, n_ratings
