"""Before lists are made: who came after training, what vector they get, and what is popular for those without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyspark.sql import DataFrame

from recsys_spark.index import write_dense_index
from recsys_spark.ingest import ingest_new_ratings
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.fold_in import may_fold_in, write_folded_factors
from recsys_spark.recommend.new_ratings import listed_users, new_indexed_ratings, with_new_ratings
from recsys_spark.recommend.popularity import collect_popularity, write_popularity, write_user_segments
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import join
from recsys_spark.tables import (
    INDEXED_RATINGS,
    NEW_RATINGS,
    NEW_USERS,
    USER_FACTORS,
    USER_INDEX,
    USER_SEGMENTS,
)
from recsys_spark.train import positives


def write_newcomers(context: StageContext) -> dict[str, Any]:
    """Read new ratings and segments, number the users that the index lacks, and fold users in.

    Returns
    -------
    dict
        ``new_users``, ``new_ratings`` (as the ingest stage tells of its log) and what `write_folded_factors` counts;
        empty where nothing of this is configured.

    Raises
    ------
    ConfigError, ContractError
        If a file is not there, or cannot be understood.
    """
    config = context.config.recommend
    found: dict[str, Any] = {}
    if config.new_ratings is not None:
        found["new_ratings"] = ingest_new_ratings(context)
    if config.segments is not None:
        write_user_segments(context)
    if config.new_ratings is not None or config.segments is not None:
        found["new_users"] = _write_new_users(context)
    return found | (write_folded_factors(context) if may_fold_in(context) else {})


def with_popularity(context: StageContext, candidates: Candidates) -> tuple[Candidates, list[str]]:
    """Give candidates their popularity, where some users have no vector; return the names of the segments too.

    Notes
    -----
    Two counts of Parquet files; for the rest see `write_popularity` and `collect_popularity`.
    """
    config = context.config
    has_newcomers = config.recommend.new_ratings is not None or config.recommend.segments is not None
    if not has_newcomers and context.read(USER_FACTORS).count() == context.read(USER_INDEX).count():
        return candidates, []
    write_popularity(context, _ratings_that_count(context), listed_users(context))
    overall, segments, names = collect_popularity(context, candidates.labels)
    return replace(candidates, popularity=overall, segments=segments), names


def _write_new_users(context: StageContext) -> int:
    """Write ``new_users``: those that only new ratings or segments name, numbered on from the index."""
    config, known = context.config.recommend, context.read(USER_INDEX)
    tables = [(NEW_RATINGS, config.new_ratings), (USER_SEGMENTS, config.segments)]
    named = [context.read(table).select("user_id") for table, source in tables if source is not None]
    ids = named[0] if len(named) == 1 else named[0].union(named[1])
    n_new = write_dense_index(
        ids.join(known, "user_id", "left_anti"),
        NEW_USERS,
        context.run.table_path(NEW_USERS),
        join(context.run.path, f"_{NEW_USERS.name}"),
        context.storage,
        start=context.record("index")["n_users"],
    )
    context.progress.say(f"recommend: {n_new:,} users are not in the log", new_users=n_new)
    return n_new


def _ratings_that_count(context: StageContext) -> DataFrame:
    """Return ``user_index, item_index, timestamp`` of what makes items popular: ratings, or positives among them."""
    config = context.config
    new = new_indexed_ratings(context)
    ratings = with_new_ratings(context.read(INDEXED_RATINGS), new, config.ingest.duplicates)
    return positives(ratings, config.train).select("user_index", "item_index", "timestamp")
