"""``indexed_ratings`` -> ``user_factors`` and ``item_factors``, by row solves on Spark; or to neighbourhoods."""

from recsys_spark.train.alternating import Continuation, fit_factors
from recsys_spark.train.fit import fit_model
from recsys_spark.train.fold_in import FoldInInput, fold_in_input, fold_in_users, stored_fold_in_input
from recsys_spark.train.half_iteration import prepare_fixed, row_problem
from recsys_spark.train.held_back import were_held_back
from recsys_spark.train.model import Factorization
from recsys_spark.train.neighbourhoods import evidence_rows, read_neighbourhoods
from recsys_spark.train.observations import constant_of_rows, further_observations, latest_time, positives
from recsys_spark.train.observed_row import observed_row
from recsys_spark.train.scored_pairs import with_scores
from recsys_spark.train.several import SeveralFits, observation_key
from recsys_spark.train.training_plan import TrainingPlan, describe_methods
from recsys_spark.train.training_ratings import training_ratings

__all__ = [
    "Continuation",
    "Factorization",
    "FoldInInput",
    "SeveralFits",
    "TrainingPlan",
    "constant_of_rows",
    "describe_methods",
    "evidence_rows",
    "fit_factors",
    "fit_model",
    "fold_in_input",
    "fold_in_users",
    "further_observations",
    "latest_time",
    "observation_key",
    "observed_row",
    "positives",
    "prepare_fixed",
    "read_neighbourhoods",
    "row_problem",
    "stored_fold_in_input",
    "training_ratings",
    "were_held_back",
    "with_scores",
]
