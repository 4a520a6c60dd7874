"""``indexed_ratings`` -> ``user_factors`` and ``item_factors``, by row solves on Spark; or to neighbourhoods."""

from recsys_spark.train.alternating import Continuation, fit_factors
from recsys_spark.train.fit import fit_model
from recsys_spark.train.model import Factorization
from recsys_spark.train.neighbourhoods import evidence_rows, read_neighbourhoods
from recsys_spark.train.training_plan import TrainingPlan, describe_methods
from recsys_spark.train.training_ratings import training_ratings

__all__ = [
    "Continuation",
    "Factorization",
    "TrainingPlan",
    "describe_methods",
    "evidence_rows",
    "fit_factors",
    "fit_model",
    "read_neighbourhoods",
    "training_ratings",
]
