"""A few users and items to look at: the same in every run over the same data."""

from __future__ import annotations

from pyspark.sql import functions as F

from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import ITEM_FACTORS, USER_FACTORS

# Long enough a history to judge the list by, short enough to read.
_READABLE_HISTORY = (8, 40)


def sample_users(context: StageContext, n: int) -> list[str]:
    """Return ids of users with a readable history, as far as there are any."""
    users = context.read(USER_FACTORS).select("user_id", "n_ratings")
    preferred = F.col("n_ratings").between(*_READABLE_HISTORY)
    return [row["user_id"] for row in users.orderBy(~preferred, F.xxhash64("user_id")).limit(n).collect()]


def sample_items(context: StageContext, n: int) -> list[str]:
    """Return ids of the items with the most ratings."""
    items = context.read(ITEM_FACTORS).select("item_id", "n_ratings")
    # Many have as many ratings as the first; ids would then take old or short names alone.
    return [row["item_id"] for row in items.orderBy(F.desc("n_ratings"), F.xxhash64("item_id")).limit(n).collect()]
