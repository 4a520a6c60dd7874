"""Vectors for users whose ratings training has not seen, from the item factors as they are."""

from __future__ import annotations

import logging
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.rating_blocks import choose_n_blocks
from recsys_spark.recommend.new_ratings import listed_users, new_indexed_ratings, with_new_ratings
from recsys_spark.session import default_parallelism
from recsys_spark.shared_value import shared
from recsys_spark.tables import FOLDED_FACTORS, ITEM_FACTORS, NEW_RATINGS, USER_FACTORS, USER_INDEX
from recsys_spark.train import (
    fold_in_users,
    further_observations,
    latest_time,
    stored_fold_in_input,
    training_ratings,
)

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.runs.run_directory import StageContext

log = logging.getLogger(__name__)

FOLD_IN = "fold_in"


def may_fold_in(context: StageContext) -> bool:
    """Return whether some users can have ratings that training has not seen: new ones, or all theirs kept back."""
    if context.config.recommend.new_ratings is not None:
        return True
    if context.config.train.validation_share == 0:
        return False
    return context.read(USER_FACTORS).count() < context.read(USER_INDEX).count()


def write_folded_factors(context: StageContext) -> dict[str, int]:
    """Solve a vector for every user with new ratings, or with ratings and no vector, and write ``folded_factors``.

    A user is solved from all their ratings, old and new, as the next half-iteration of the training would. Ratings of
    items without factors are counted, told and left out; users with no others get no vector.

    Returns
    -------
    dict
        ``n_folded`` users, ``unknown_items`` of the new ratings and ``ratings_of_unknown_items``.

    Notes
    -----
    One shuffle of those users' ratings, as blocks of bytes, and joins of the ratings by user. The item factors come to
    the driver and go to every task.
    """
    unknown = _count_unknown_items(context)
    ratings = _ratings_to_fold(context)
    config, sizes, model = context.config.train, context.record("index"), context.record("train")
    latest = None
    if config.half_life_days is not None:
        # The latest of all new ratings: those of items that the model does not know tell what day it is, too.
        new = [context.read(NEW_RATINGS)] if context.config.recommend.new_ratings is not None else []
        times = [latest_time(part) for part in (training_ratings(context), *new)]
        latest = max((time for time in times if time is not None), default=None)
    found = further_observations(ratings, config, model["global_mean"], latest)
    n_blocks = choose_n_blocks(default_parallelism(context.spark), sizes["n_ratings"])
    with shared(context.spark, stored_fold_in_input(context, model)) as given:
        rows = fold_in_users(found, given, n_blocks)
        context.write(FOLDED_FACTORS, rows.join(listed_users(context), "user_index"))
    n_folded = context.read(FOLDED_FACTORS).count()
    context.progress.say(f"recommend: {n_folded:,} users were folded in", n_folded=n_folded)
    return {"n_folded": n_folded, **unknown}


def vectors_of_users(context: StageContext) -> DataFrame:
    """Return ``user_index, factors, bias, source`` of all users with a vector: folded in where they have new ratings.

    A user whose new ratings leave nothing to solve a vector from has none, as after the next training.
    """
    trained = context.read(USER_FACTORS).select("user_index", "factors", "bias")
    if not may_fold_in(context):
        return trained
    folded = context.read(FOLDED_FACTORS).select("user_index", "factors", "bias", F.lit(FOLD_IN).alias("source"))
    new = _new_ratings_of_trained_items(context)
    if new is not None:
        trained = trained.join(new.select("user_index").distinct(), "user_index", "left_anti")
    return folded.unionByName(trained, allowMissingColumns=True)


def _ratings_to_fold(context: StageContext) -> DataFrame:
    """Return all ratings, of trained items, of the users that are folded in; as ``indexed_ratings``."""
    new = _new_ratings_of_trained_items(context)
    users = [] if new is None else [new.select("user_index")]
    if context.config.train.validation_share > 0:
        users.append(context.read(USER_INDEX).join(context.read(USER_FACTORS), "user_index", "left_anti"))
    chosen = reduce(DataFrame.union, [part.select("user_index") for part in users]).distinct()
    old = training_ratings(context).join(chosen, "user_index", "left_semi")
    old = old.join(context.read(ITEM_FACTORS), "item_index", "left_semi")
    return with_new_ratings(old, new, context.config.ingest.duplicates)


def _new_ratings_of_trained_items(context: StageContext) -> DataFrame | None:
    new = new_indexed_ratings(context)
    return None if new is None else new.join(context.read(ITEM_FACTORS), "item_index", "left_semi")


def _count_unknown_items(context: StageContext) -> dict[str, int]:
    """Count new ratings of items that have no factors, and say so."""
    if context.config.recommend.new_ratings is None:
        return {}
    unknown = context.read(NEW_RATINGS).join(context.read(ITEM_FACTORS), "item_id", "left_anti")
    counts = [F.count("*").alias("n"), F.count_distinct("item_id").alias("n_items"), F.min("item_id").alias("first")]
    row = unknown.agg(*counts).collect()[0]
    if row["n"]:
        log.warning(
            f"recommend.new_ratings has {row['n']:,} ratings of {row['n_items']:,} items that the model does not know, "
            f"such as {row['first']!r}: they take no part until the next training",
            extra={"fields": {"ratings": row["n"], "items": row["n_items"]}},
        )
    return {"ratings_of_unknown_items": int(row["n"]), "unknown_items": int(row["n_items"])}
