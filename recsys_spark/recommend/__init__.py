"""Factors and histories -> the best items of every user."""

from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.eligibility import seen_ratings
from recsys_spark.recommend.lists import users_with_history, write_lists

__all__ = ["Candidates", "seen_ratings", "users_with_history", "write_lists"]
