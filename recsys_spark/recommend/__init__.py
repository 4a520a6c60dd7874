"""Factors and histories -> the best items of every user."""

from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.eligibility import seen_ratings
from recsys_spark.recommend.lists import best_lists, spread_users, users_with_history, write_lists
from recsys_spark.recommend.new_items import content_vectors, factor_map_config
from recsys_spark.recommend.new_ratings import listed_users, rated_pairs
from recsys_spark.recommend.similar import SIMILAR_TABLES, rows_with_neighbours, similar_config
from recsys_spark.recommend.variety import (
    damped_vectors,
    item_categories,
    popularity_damping,
    read_categories,
    with_variety,
)

__all__ = [
    "SIMILAR_TABLES",
    "Candidates",
    "best_lists",
    "content_vectors",
    "damped_vectors",
    "factor_map_config",
    "item_categories",
    "listed_users",
    "popularity_damping",
    "rated_pairs",
    "read_categories",
    "rows_with_neighbours",
    "seen_ratings",
    "similar_config",
    "spread_users",
    "users_with_history",
    "with_variety",
    "write_lists",
]
