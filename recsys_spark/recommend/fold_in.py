"""Vectors for users whose ratings training has not seen, from the item factors as they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.factor_tables import collect_rows, factor_batch
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.fold_in import fold_in
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import (
    ITEMS,
    USERS,
    assemble_blocks,
    block_to_arrow,
    blocks_from_arrow,
    choose_n_blocks,
    rating_blocks,
)
from recsys_spark.recommend.new_ratings import listed_users, new_indexed_ratings, with_new_ratings
from recsys_spark.session import default_parallelism
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.tables import FOLDED_FACTORS, ITEM_FACTORS, NEW_RATINGS, USER_FACTORS, USER_INDEX
from recsys_spark.train import (
    constant_of_rows,
    further_observations,
    latest_time,
    prepare_fixed,
    row_problem,
    training_ratings,
)

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.run_directory import StageContext

log = logging.getLogger(__name__)

FOLD_IN = "fold_in"
_SCHEMA = "user_index int, factors array<float>, bias float, n_ratings int"


@dataclass(frozen=True, slots=True)
class FoldInInput:
    """What every task is given: the trained items as the fixed side, and what is minimised."""

    fixed: FixedSide
    problem: RowProblem
    biases: bool


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
    with shared(context.spark, _input(context)) as given:
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


def fold_in_users(observations: DataFrame, given: SharedValue[FoldInInput], n_blocks: int) -> DataFrame:
    """Solve a vector for every user of some observations.

    Parameters
    ----------
    observations : DataFrame
        As ``further_observations`` returns them; each pair once.
    given : SharedValue of FoldInInput
    n_blocks : int

    Returns
    -------
    DataFrame
        ``user_index, factors, bias, n_ratings``, the same bit for bit for every number of blocks. One shuffle, see
        `rating_blocks`; nothing reaches the driver.
    """
    blocks = rating_blocks(observations, (USERS,), n_blocks, pass_blocks)
    return blocks.mapInArrow(partial(fold_in_blocks, given=given), _SCHEMA)


def pass_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: pieces of blocks -> the blocks."""
    for side, number, block in assemble_blocks(batches):
        yield block_to_arrow(side, number, block)


def fold_in_blocks(batches: Iterator[pa.RecordBatch], given: SharedValue[FoldInInput]) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of users -> their vectors."""
    for _, block in blocks_from_arrow(batches):
        vectors = fold_in(block, given.value.fixed, given.value.problem).vectors
        yield factor_batch(USERS, block.row_index, vectors, block.degrees, biases=given.value.biases)


def _input(context: StageContext) -> FoldInInput:
    config, model = context.config.train, context.record("train")
    index, found = collect_rows(context.read(ITEM_FACTORS), ITEMS, biases=model["biases"])
    n_items = context.record("index")["n_items"]
    vectors, is_trained = np.zeros((n_items, found.shape[1]), np.float32), np.zeros(n_items, np.bool_)
    vectors[index], is_trained[index] = found, True
    problem = row_problem(config)
    constant = constant_of_rows(config, model["global_mean"])
    return FoldInInput(prepare_fixed(vectors, is_trained, constant, problem), problem, model["biases"])


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
