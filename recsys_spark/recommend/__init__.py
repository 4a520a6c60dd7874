"""Factors and histories -> the best items of every user."""

from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.eligibility import seen_ratings
from recsys_spark.recommend.lists import users_with_history, write_lists
from recsys_spark.recommend.similar import SIMILAR_TABLES, similar_config

__all__ = ["SIMILAR_TABLES", "Candidates", "seen_ratings", "similar_config", "users_with_history", "write_lists"]
