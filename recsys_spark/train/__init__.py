"""``indexed_ratings`` -> ``user_factors`` and ``item_factors``, by alternating row solves on Spark."""

from recsys_spark.train.alternating import Factorization, fit_factors
from recsys_spark.train.global_mean import exact_mean

__all__ = ["Factorization", "exact_mean", "fit_factors"]
