"""What is popular, overall and in segments of users: for users of whom nothing else is known."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from recsys_spark.storage.table_files import read_ids
from recsys_spark.tables import ITEM_INDEX, POPULARITY, USER_SEGMENTS

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.runs.run_directory import StageContext

log = logging.getLogger(__name__)

SEGMENT_POPULAR = "segment_popular"
_SECONDS_PER_DAY = 86_400.0
# Decayed ratings are added as multiples of this: whole numbers, whose sum does not depend on the order.
_UNITS = 1 << 30


@dataclass(frozen=True, slots=True)
class SegmentPopularity:
    """The popularity of items in each segment; segments are numbered in the order of their names.

    Attributes
    ----------
    indptr : int64 array of shape (n_segments + 1,)
        Segment s has rated the items ``columns[indptr[s]:indptr[s + 1]]``.
    columns : int32 array of shape (nnz,)
    values : float64 array of shape (nnz,)
        Their popularity.
    """

    indptr: Int64Array
    columns: Int32Array
    values: Float64Array

    def scores(self, segment: int, overall: Float32Array) -> tuple[Float32Array, BoolArray]:
        """Score all items for a segment.

        The score is the segment's popularity plus the item's share of the overall one. The share, below 1, orders what
        the segment has not rated, and decides among what it has rated equally often.

        Parameters
        ----------
        segment : int
        overall : float32 array of shape (n_items,)

        Returns
        -------
        scores : float32 array of shape (n_items,)
        is_own : bool array of shape (n_items,)
            Whether the segment has rated the item.
        """
        wide = overall.astype(np.float64)
        total = wide.sum()
        scores = wide / total if total > 0 else wide
        own = slice(self.indptr[segment], self.indptr[segment + 1])
        scores[self.columns[own]] += self.values[own]
        is_own = np.zeros(len(scores), np.bool_)
        is_own[self.columns[own]] = True
        return scores.astype(np.float32), is_own


def write_user_segments(context: StageContext) -> None:
    """Write ``user_segments`` from the configured table: one row per user, of several the first in order.

    One shuffle, by user; users with several segments are counted and told, and so are blank segments.
    """
    file = context.config.recommend.segments
    assert file is not None
    columns = {"user": file.user, "segment": file.segment}
    listed = read_ids(context.spark, file, "recommend.segments", columns, may_be_blank=("segment",))
    has_segment = F.coalesce(F.trim("segment") != "", F.lit(False))
    named, n_blank = listed.where(has_segment), listed.where(~has_segment).count()
    if n_blank:
        log.warning(
            f"recommend.segments has {n_blank:,} rows without a segment: their users get what is popular overall",
            extra={"fields": {"rows": n_blank}},
        )
    by_user = named.groupBy(F.col("user").alias("user_id")).agg(
        F.min("segment").alias("segment"), (F.min("segment") != F.max("segment")).alias("is_torn")
    )
    context.write(USER_SEGMENTS, by_user)
    n_torn = by_user.where("is_torn").count()
    if n_torn:
        log.warning(
            f"recommend.segments names {n_torn:,} users in several segments; the first in order of name counts",
            extra={"fields": {"users": n_torn}},
        )


def popularity(ratings: DataFrame, half_life_days: float | None, by: tuple[str, ...]) -> DataFrame:
    """Add up ratings, older ones counting less.

    Parameters
    ----------
    ratings : DataFrame
        With ``timestamp`` and the columns of ``by``; a rating without a time counts as the latest does.
    half_life_days : float or None
        A rating counts half of one that is so many days younger; the latest of ``ratings`` counts 1.
    by : tuple of str
        What ratings are added up by.

    Returns
    -------
    DataFrame
        The columns of ``by``, ``popularity double`` and ``n_ratings long``. One shuffle of partial sums; with a
        half-life one more pass.
    """
    weight = F.lit(1.0)
    if half_life_days is not None:
        latest = ratings.agg(F.max("timestamp")).collect()[0][0]
        days = (F.lit(latest).cast("double") - F.col("timestamp").cast("double")) / _SECONDS_PER_DAY
        weight = F.pow(F.lit(0.5), F.coalesce(days, F.lit(0.0)) / F.lit(half_life_days))
    units = F.sum(F.rint(weight * F.lit(_UNITS)).cast("long"))
    return ratings.groupBy(*by).agg((units / F.lit(_UNITS)).alias("popularity"), F.count("*").alias("n_ratings"))


def write_popularity(context: StageContext, ratings: DataFrame, users: DataFrame) -> None:
    """Write ``popularity``: of every item overall, and in every segment that has enough ratings.

    Parameters
    ----------
    context : StageContext
    ratings : DataFrame
        ``user_index, item_index, timestamp``: what counts, each pair once.
    users : DataFrame
        ``user_id, user_index``.

    Notes
    -----
    One shuffle of partial sums, two with segments, and joins of the ratings with the users' segments and of the sums
    with the items.
    """
    config = context.config.recommend
    half_life = config.popularity.half_life_days
    items = context.read(ITEM_INDEX)
    sums = popularity(ratings, half_life, ("item_index",)).withColumn("segment", F.lit(None).cast("string"))
    if config.segments is not None:
        segments = context.read(USER_SEGMENTS).join(users, "user_id").select("user_index", "segment")
        # The latest rating of all sets the clock for every segment alike.
        in_segments = ratings.join(segments, "user_index", "left")
        by_segment = popularity(in_segments, half_life, ("segment", "item_index")).where("segment is not null")
        sizes = by_segment.groupBy("segment").agg(F.sum("n_ratings").alias("n"))
        enough = sizes.where(F.col("n") >= config.popularity.min_segment_ratings).select("segment")
        sums = sums.unionByName(by_segment.join(enough, "segment", "left_semi"))
    context.write(POPULARITY, sums.join(items, "item_index"))


def collect_popularity(
    context: StageContext, labels: pa.Array
) -> tuple[Float32Array, SegmentPopularity | None, list[str]]:
    """Collect the popularity of some items.

    Parameters
    ----------
    context : StageContext
    labels : Arrow array of n_items ids

    Returns
    -------
    overall : float32 array of shape (n_items,)
        Zero where nobody has rated the item.
    segments : SegmentPopularity or None
        None where there are no segments.
    names : list of str
        Of the segments that have a popularity of their own, in order.

    Notes
    -----
    The driver receives one row per item, and one per segment and item that it has rated.
    """
    table = context.read(POPULARITY).toArrow()
    column = pc.index_in(table["item_id"], labels)
    table = table.append_column("column", column).filter(pc.is_valid(column))
    everywhere = table.filter(pc.is_null(table["segment"]))
    overall = np.zeros(len(labels), np.float32)
    overall[everywhere["column"].to_numpy()] = everywhere["popularity"].to_numpy()
    if context.config.recommend.segments is None:
        return overall, None, []
    return overall, *segment_popularity(table.filter(pc.is_valid(table["segment"])))


def segment_popularity(table: pa.Table) -> tuple[SegmentPopularity, list[str]]:
    """Arrange rows of ``segment, column, popularity``; return the segments' names too, in order."""
    table = table.sort_by([("segment", "ascending"), ("column", "ascending")])
    names = sorted(table["segment"].unique().to_pylist(), key=str.encode)
    number = pc.index_in(table["segment"], pa.array(names, pa.string())).to_numpy()
    indptr = np.searchsorted(number, np.arange(len(names) + 1)).astype(np.int64)
    values = table["popularity"].to_numpy().astype(np.float64)
    return SegmentPopularity(indptr, table["column"].to_numpy().astype(np.int32), values), names


def with_segments(users: DataFrame, context: StageContext, names: list[str]) -> DataFrame:
    """Add ``segment int``, the number of each user's segment; null where it has no popularity of its own. Two joins."""
    if context.config.recommend.segments is None:
        return users
    numbers = context.spark.createDataFrame(list(enumerate(names)), "segment int, name string")
    named = context.read(USER_SEGMENTS).withColumnRenamed("segment", "name").join(F.broadcast(numbers), "name")
    return users.join(named.select("user_id", "segment"), "user_id", "left")
