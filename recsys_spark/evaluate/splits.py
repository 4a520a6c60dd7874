"""Which ratings train a model that is to be measured, and which it is measured on: one table, one part per rating."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import time as time_of_day

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.config.evaluate import EvaluateConfig
from recsys_spark.rating_split import is_held_out, share_of

TRAINING, FOLD_IN, HELD_OUT = "training", "fold_in", "held_out"
# Of a held-out user's ratings, other pairs are folded in than a random split with the same seed would choose.
_FOLD_IN_SEED = 1


@dataclass(frozen=True, slots=True)
class Split:
    """Ratings with their part, and the time from which on they are held out where that decides.

    Attributes
    ----------
    frame : DataFrame
        The ratings, and ``part``: ``training``, ``fold_in`` or ``held_out``.
    from_time : datetime or None
    """

    frame: DataFrame
    from_time: datetime | None = None


def split_by(ratings: DataFrame, config: EvaluateConfig) -> Split:
    """Give every rating its part; the same whatever the order and the partitions of the ratings.

    Parameters
    ----------
    ratings : DataFrame
        ``indexed_ratings``: each pair of user and item once.
    config : EvaluateConfig
        ``split`` says how:

        * ``random``: a rating is held out by a hash of user and item.
        * ``last_k``: the last k of every user who has more than k; ratings of the same time by a hash. Ratings
          without a time count as the earliest.
        * ``time``: what was rated from a day on, see `first_held_out_day`; ratings without a time train.
        * ``users``: strong generalisation. Users are held out by a hash, with all their ratings, most of which
          (``fold_in_share``) are what their vector is solved from.
        * ``items``: items are held out by a hash, with all their ratings.

    Returns
    -------
    Split

    Notes
    -----
    ``last_k`` shuffles the ratings by user; the others shuffle nothing. ``time`` without a day brings one count
    per day to the driver.
    """
    if config.split == "random":
        return Split(ratings.withColumn("part", _held_out_where(is_held_out(config.holdout_share, config.seed))))
    if config.split == "last_k":
        return Split(_last_of_users(ratings, config))
    if config.split == "time":
        start = _first_moment(ratings, config)
        later = F.lit(False) if start is None else F.coalesce(F.col("timestamp") >= F.lit(start), F.lit(False))
        return Split(ratings.withColumn("part", _held_out_where(later)), start)
    if config.split == "items":
        return Split(
            ratings.withColumn("part", _held_out_where(share_of("item_index", config.holdout_share, config.seed)))
        )
    of_held_out = F.when(is_held_out(config.fold_in_share, config.seed + _FOLD_IN_SEED), FOLD_IN).otherwise(HELD_OUT)
    is_user = share_of("user_index", config.holdout_share, config.seed)
    return Split(ratings.withColumn("part", F.when(is_user, of_held_out).otherwise(TRAINING)))


def first_held_out_day(ratings: DataFrame, share: float) -> datetime | None:
    """Find the day from which on the share of the ratings is nearest to the one wished for.

    Parameters
    ----------
    ratings : DataFrame
        With ``timestamp``; ratings without one do not count.
    share : float

    Returns
    -------
    datetime or None
        Midnight (UTC), later than the first day; of two days as near, the later. None where all ratings are of one day.

    Notes
    -----
    One aggregation; the driver receives one count per day.
    """
    day = F.floor(F.unix_micros("timestamp") / F.lit(86_400_000_000)).cast("long")
    counts = dict(
        (row["day"], row["n"])
        for row in ratings.where("timestamp is not null")
        .groupBy(day.alias("day"))
        .agg(F.count("*").alias("n"))
        .collect()
    )
    days, total = sorted(counts), sum(counts.values())
    best, later = None, 0
    distance = float("inf")
    for number in reversed(days[1:]):
        later += counts[number]
        if abs(later / total - share) < distance:
            best, distance = number, abs(later / total - share)
    return None if best is None else datetime.fromtimestamp(best * 86_400, UTC)


def _first_moment(ratings: DataFrame, config: EvaluateConfig) -> datetime | None:
    if config.from_day is not None:
        return datetime.combine(config.from_day, time_of_day(), UTC)
    return first_held_out_day(ratings, config.holdout_share)


def _last_of_users(ratings: DataFrame, config: EvaluateConfig) -> DataFrame:
    of_user = Window.partitionBy("user_index")
    ties = F.xxhash64("user_index", "item_index", F.lit(config.seed))
    latest_first = of_user.orderBy(F.col("timestamp").desc_nulls_last(), ties, "item_index")
    numbered = ratings.withColumns(
        {"_position": F.row_number().over(latest_first), "_count": F.count("*").over(of_user)}
    )
    is_last = (F.col("_position") <= config.last_k) & (F.col("_count") > config.last_k)
    return numbered.withColumn("part", _held_out_where(is_last)).drop("_position", "_count")


def _held_out_where(condition: Column) -> Column:
    return F.when(condition, HELD_OUT).otherwise(TRAINING)
