"""Factors and histories -> the best items of every user."""

from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.eligibility import seen_ratings
from recsys_spark.recommend.lists import users_with_history, write_lists
from recsys_spark.recommend.new_ratings import listed_users, rated_pairs

__all__ = ["Candidates", "listed_users", "rated_pairs", "seen_ratings", "users_with_history", "write_lists"]
