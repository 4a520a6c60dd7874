"""Ratings of a split that tell training what it is to be judged by."""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.config.evaluate import EvaluateConfig
from recsys_spark.errors import ContractError
from recsys_spark.evaluate.splits import FOLD_IN, HELD_OUT, TRAINING


def find_leaks(split: DataFrame, config: EvaluateConfig, from_time: datetime | None = None) -> dict[str, int]:
    """Count what a split must not have.

    Parameters
    ----------
    split : DataFrame
        ``user_index, item_index, timestamp, part``, as written.
    config : EvaluateConfig
        Says what kind of split it is.
    from_time : datetime or None
        Of a split by time: its first moment.

    Returns
    -------
    dict
        By what is wrong; all counts are 0 in a good split.

    Notes
    -----
    One shuffle by pair, and one by user or item where the kind of split has rules for these. Counts reach the driver.
    """
    pairs = split.groupBy("user_index", "item_index").agg(F.count("*").alias("n"))
    found = _counts(pairs, {"ratings that are in the table twice": F.col("n") > 1})
    is_known = F.coalesce(F.col("part").isin(TRAINING, FOLD_IN, HELD_OUT), F.lit(False))
    of_rows = {"ratings without a part": ~is_known}
    if config.split == "last_k":
        found |= _leaks_of_last(split, config.last_k)
    elif config.split == "time":
        is_late = F.coalesce(F.col("timestamp") >= F.lit(from_time), F.lit(False))
        of_rows["training ratings from after the split"] = _in_part(TRAINING) & is_late
        of_rows["held-out ratings from before the split"] = _in_part(HELD_OUT) & ~is_late
    elif config.split in ("users", "items"):
        trains = F.max(_in_part(TRAINING)).alias("trains")
        is_out = F.max(~_in_part(TRAINING)).alias("is_out")
        parts = split.groupBy("user_index" if config.split == "users" else "item_index").agg(trains, is_out)
        name = f"held-out {config.split} with training ratings"
        found |= _counts(parts, {name: F.col("trains") & F.col("is_out")})
    return found | _counts(split, of_rows)


def require_no_leaks(leaks: dict[str, int], where: str) -> None:
    """Refuse to measure on a split that leaks.

    Raises
    ------
    ContractError
        It says what was found.
    """
    broken = {name: count for name, count in leaks.items() if count}
    if broken:
        raise ContractError(
            "the held-out ratings are not held out: nothing measured on them would be true",
            where=where,
            got="; ".join(f"{count:,} {name}" for name, count in broken.items()),
            allowed="none of these",
            remedy="this is a defect or a damaged file, not a setting: keep the run directory and report it",
        )


def _leaks_of_last(split: DataFrame, k: int) -> dict[str, int]:
    by_user = split.groupBy("user_index").agg(
        F.max(F.when(_in_part(TRAINING), F.col("timestamp"))).alias("last_trained"),
        F.min(F.when(_in_part(HELD_OUT), F.col("timestamp"))).alias("first_held_out"),
        F.count_if(_in_part(HELD_OUT)).alias("n_held_out"),
        F.count_if(_in_part(TRAINING)).alias("n_training"),
    )
    has_held_out = F.col("n_held_out") > 0
    return _counts(
        by_user,
        {
            "users who trained on what came after a held-out rating": F.col("last_trained") > F.col("first_held_out"),
            f"users with other than {k} ratings held out, or all of theirs": has_held_out
            & ((F.col("n_held_out") != k) | (F.col("n_training") == 0)),
        },
    )


def _in_part(name: str) -> Column:
    return F.coalesce(F.col("part") == name, F.lit(False))


def _counts(frame: DataFrame, conditions: dict[str, Column]) -> dict[str, int]:
    row = frame.agg(*[F.count_if(condition).alias(name) for name, condition in conditions.items()]).collect()[0]
    return {name: int(row[name]) for name in conditions}
