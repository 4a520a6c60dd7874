"""A dataset of the caller's -> what training takes: checked, each pair once, in terms of dense indexes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.ml.ids import NumberedIds, column_of, id_key
from recsys_spark.ml.params import ALSParams
from recsys_spark.rating_blocks import ITEMS, USERS

log = logging.getLogger(__name__)

# Ids of a side that every task is sent whole; more are joined by a shuffle.
_MOST_BROADCAST = 1_000_000


@dataclass(frozen=True, slots=True)
class IndexedRatings:
    """What a fit is given.

    Attributes
    ----------
    frame : DataFrame
        ``user_index, item_index, rating`` and, where explicit ratings are repeated, ``weight``; cached.
    users, items : NumberedIds
        Of all rows, also of those that training leaves out.
    """

    frame: DataFrame
    users: NumberedIds
    items: NumberedIds


@contextmanager
def indexed_ratings(dataset: DataFrame, params: ALSParams) -> Iterator[IndexedRatings]:
    """Check a dataset and number its ids; what is cached for it goes when the ``with`` block ends.

    Explicit ratings of one pair become their mean, with their number as its weight; implicit ones their sum, and
    implicit ratings of 0 are no observations.

    Raises
    ------
    ConfigError
        If a column is not there or has a type of no use, or there is no such storage level.
    ContractError
        If there are no ratings, or some that cannot be trained on.

    Notes
    -----
    One pass over the dataset, and one shuffle of its ratings, by pair; one of the ids of each side, and a join with
    them, which is a shuffle of the ratings only for more than a million ids. The ratings are cached twice, at
    ``intermediateStorageLevel``. The distinct ids come to the driver.
    """
    level = _storage_level(params.getOrDefault(params.intermediateStorageLevel))
    faults = _faults(dataset, params)
    merged = _merged(dataset, params, faults).persist(level)
    indexed: DataFrame | None = None
    try:
        repeated = _check(merged, list(faults), is_implicit=params.getImplicitPrefs())
        users = NumberedIds.collect(merged.select("user"), USERS)
        items = NumberedIds.collect(merged.select("item"), ITEMS)
        observed = _observed(merged, is_implicit=params.getImplicitPrefs(), repeated=repeated)
        indexed = _with_indexes(observed, users, items).persist(level)
        yield IndexedRatings(indexed, users, items)
    finally:
        for cached in (indexed, merged):
            if cached is not None:
                cached.unpersist()


def _storage_level(name: str) -> StorageLevel:
    names = [each for each in vars(StorageLevel) if each.isupper() and each != "NONE"]
    # PySpark keeps everything serialised, and has no names of their own for that.
    level = name.upper().replace("_SER", "")
    if level not in names:
        raise ConfigError(
            "there is no such storage level", where="intermediateStorageLevel", got=name, allowed=", ".join(names)
        )
    found: StorageLevel = getattr(StorageLevel, level)
    return found


def _rating(dataset: DataFrame, params: ALSParams) -> Column:
    name = params.getRatingCol()
    if name == "":
        return F.lit(1.0).cast("float")
    column, kind = column_of(dataset, name, "ratingCol")
    if not isinstance(kind, NumericType):
        raise ConfigError(
            "ratings have to be numbers",
            where=f"ratingCol: {name}",
            got=kind.simpleString(),
            allowed="a numeric type",
            remedy=f"cast the column, for instance F.col({name!r}).cast('float')",
        )
    return column.cast("float")


def _faults(dataset: DataFrame, params: ALSParams) -> dict[str, Column]:
    """Return what rows may have against being trained on, each as a condition; the first that holds is told."""
    faults = {}
    for name, param in ((params.getUserCol(), "userCol"), (params.getItemCol(), "itemCol")):
        column, _ = column_of(dataset, name, param)
        faults[f"{param} {name} is null"] = column.isNull()
        faults[f"{param} {name} is no whole number"] = id_key(dataset, name, param).isNull()
    rating = _rating(dataset, params)
    name = params.getRatingCol()
    faults[f"ratingCol {name} is null"] = rating.isNull()
    faults[f"ratingCol {name} is not finite"] = F.isnan(rating) | (F.abs(rating) == F.lit(float("inf")))
    return faults


def _merged(dataset: DataFrame, params: ALSParams, faults: dict[str, Column]) -> DataFrame:
    """Return one row per pair and fault: ``user, item, fault`` (0: none), ``total`` of the ratings, and ``n``."""
    fault = F.lit(0)
    for number, condition in reversed(list(enumerate(faults.values(), 1))):
        fault = F.when(condition, F.lit(number)).otherwise(fault)
    rows = dataset.select(
        id_key(dataset, params.getUserCol(), "userCol").alias("user"),
        id_key(dataset, params.getItemCol(), "itemCol").alias("item"),
        _rating(dataset, params).cast("double").alias("rating"),
        fault.alias("fault"),
    )
    # In double precision, sums of a few single ones are exact in any order, unless they differ by a factor of 2^27.
    return rows.groupBy("user", "item", "fault").agg(F.sum("rating").alias("total"), F.count("*").alias("n"))


def _check(merged: DataFrame, names: list[str], *, is_implicit: bool) -> bool:
    """Refuse ratings that cannot be trained on; tell of pairs that come more than once, and return if there are any."""
    found = merged.groupBy("fault").agg(F.sum("n").alias("n"), F.count("*").alias("n_pairs")).orderBy("fault").collect()
    if not found:
        raise ContractError("there are no ratings to fit", remedy="look at the filters that made the dataset")
    faults = [f"{row['n']:,} rows where {names[row['fault'] - 1]}" for row in found if row["fault"]]
    if faults:
        raise ContractError(
            "the dataset has rows that cannot be trained on",
            where="ALS.fit",
            got=", ".join(faults),
            allowed="ids that are whole numbers or strings, and finite ratings",
            remedy="leave these rows out, for instance with dataset.na.drop(), or mend them",
        )
    n_rows, n_pairs = found[0]["n"], found[0]["n_pairs"]
    if n_rows > n_pairs:
        taken = "their sum" if is_implicit else "their mean, with as much weight"
        log.warning("%s ratings are of %s pairs of user and item: each pair gets %s", n_rows, n_pairs, taken)
    return bool(n_rows > n_pairs)


def _observed(merged: DataFrame, *, is_implicit: bool, repeated: bool) -> DataFrame:
    if is_implicit:
        return merged.select("user", "item", F.col("total").cast("float").alias("rating")).where("rating != 0")
    weight = [F.col("n").cast("float").alias("weight")] if repeated else []
    return merged.select("user", "item", (F.col("total") / F.col("n")).cast("float").alias("rating"), *weight)


def _with_indexes(observed: DataFrame, users: NumberedIds, items: NumberedIds) -> DataFrame:
    for key, numbered in (("user", users), ("item", items)):
        index = observed.sparkSession.createDataFrame(numbered.index(key))
        observed = observed.join(F.broadcast(index) if len(numbered) <= _MOST_BROADCAST else index, key)
    return observed.drop("user", "item")
