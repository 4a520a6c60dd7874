"""The most similar rows of every row of a side: by their factors, with features, or by the ratings in common."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ConfigError
from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import Float32Array, Int32Array, Int64Array
from recsys_spark.kernels.blended_neighbours import BlendedRows, neighbours_by_blend
from recsys_spark.kernels.csr_block import CsrBlock, entries_of_rows
from recsys_spark.kernels.neighbours import (
    Comparable,
    Measure,
    Neighbours,
    neighbours_by_common,
    neighbours_by_vectors,
)
from recsys_spark.kernels.similarity import USES_RATINGS, RowSizes, similarity_vectors
from recsys_spark.rating_blocks import Side, placements
from recsys_spark.session import default_parallelism, session_limits
from recsys_spark.shared_value import SharedValue, shared

_TASKS_PER_CORE = 2
# Entries of the results that a task holds at once: some 100 MB with their ids.
_ENTRIES_AT_ONCE = 1 << 20
# In a worker, with as much again for what is made of it.
_BYTES_PER_RATING = 60
_RATINGS_PER_PART = 64_000_000
# More copies of all ratings than this are no shuffle that a disk has room for.
_MOST_COPIES = 64


@dataclass(frozen=True, slots=True)
class NeighbourCandidates:
    """The rows that may be neighbours, in the order that breaks ties.

    Attributes
    ----------
    labels : Arrow array of n_candidates ids
        Ascending: of equally similar ones the lower label comes first.
    comparable : Comparable
        Their numbers, and the sizes of all rows.
    vectors : float32 array of shape (n_candidates, rank) or None
        From `similarity_vectors`, where rows are compared by their factors.
    """

    labels: pa.Array
    comparable: Comparable
    vectors: Float32Array | None = None

    @classmethod
    def from_rows(
        cls, labels: pa.Array, index: Int32Array, sizes: RowSizes, vectors: Float32Array | None = None
    ) -> NeighbourCandidates:
        """Order rows by label and number them.

        Parameters
        ----------
        labels : Arrow array
            Of the rows that may be neighbours: distinct, any order; strings are ordered by their UTF-8 bytes.
        index : int32 array
            Index of each.
        sizes : RowSizes
            Of all rows, by index.
        vectors : float32 array of shape (len(labels), rank), optional
        """
        order = pc.sort_indices(labels).to_numpy()
        index_of_candidate = index[order].astype(np.int64)
        candidate_of_index = np.full(len(sizes.n_ratings), -1, np.int32)
        candidate_of_index[index_of_candidate] = np.arange(len(order), dtype=np.int32)
        comparable = Comparable(candidate_of_index, index_of_candidate, sizes)
        return cls(labels.take(pa.array(order)), comparable, None if vectors is None else vectors[order])


def neighbours_schema(candidates: NeighbourCandidates) -> str:
    """Return the schema of what the functions below write: index of a row, and its neighbours."""
    kind = "string" if pa.types.is_string(candidates.labels.type) else "int"
    return f"row int, neighbours array<struct<id:{kind},similarity:float,position:int,n_common:long>>"


def write_neighbours_by_factors(
    rows: DataFrame, side: Side, candidates: NeighbourCandidates, *, shrink: float, n: int, path: str
) -> None:
    """Find each row's most similar candidates by their factors, and write them as Parquet.

    Parameters
    ----------
    rows : DataFrame
        Index, ``factors`` and ``n_ratings`` of the rows that get neighbours.
    side : Side
        Theirs.
    candidates : NeighbourCandidates
        With vectors; goes to every task.
    shrink : float
        See `similarity_vectors`.
    n : int
    path : str
        Where `neighbours_schema` goes.

    Notes
    -----
    One shuffle of the rows, over all cores; nothing reaches the driver. Time as of as many lists from as many items.
    """
    tasks = _TASKS_PER_CORE * default_parallelism(rows.sparkSession)
    spread = rows.select(F.col(side.rows).alias("row"), "factors", "n_ratings").repartition(tasks, "row")
    with shared(rows.sparkSession, candidates) as everywhere:
        worker = partial(find_by_factors, candidates=everywhere, shrink=shrink, n=n)
        spread.mapInArrow(worker, neighbours_schema(candidates)).write.mode("error").parquet(path)


def write_neighbours_by_blend(
    rows: DataFrame, side: Side, candidates: NeighbourCandidates, blended: BlendedRows, *, n: int, path: str
) -> None:
    """Find each row's most similar candidates by vectors and sparse rows together, and write them as Parquet.

    Parameters
    ----------
    rows : DataFrame
        Index of the rows that get neighbours.
    side : Side
        Theirs.
    candidates : NeighbourCandidates
        Without vectors.
    blended : BlendedRows
        Rows and candidates by index; goes to every task.
    n : int
    path : str
        Where `neighbours_schema` goes.

    Notes
    -----
    One shuffle of the indexes, over all cores; nothing reaches the driver. Time is that of as many lists by vectors,
    and in proportion to the pairs that have a sparse column in common.
    """
    tasks = _TASKS_PER_CORE * default_parallelism(rows.sparkSession)
    spread = rows.select(F.col(side.rows).alias("row")).repartition(tasks, "row")
    with shared(rows.sparkSession, (candidates, blended)) as everywhere:
        worker = partial(find_by_blend, given=everywhere, n=n)
        spread.mapInArrow(worker, neighbours_schema(candidates)).write.mode("error").parquet(path)


def find_by_blend(
    batches: Iterator[pa.RecordBatch], given: SharedValue[tuple[NeighbourCandidates, BlendedRows]], n: int
) -> Iterator[pa.RecordBatch]:
    """Worker: indexes of rows -> their neighbours."""
    candidates, blended = given.value
    others = blended.take(candidates.comparable.index_of_candidate)
    rows_at_once = max(1, _ENTRIES_AT_ONCE // n)
    for whole in batches:
        for first in range(0, whole.num_rows, rows_at_once):
            index = whole["row"].to_numpy()[first : first + rows_at_once]
            own = candidates.comparable.candidate_of_index[index]
            for start, end, found in neighbours_by_blend(blended.take(index), own, others, n):
                yield _neighbour_batch(index[start:end], found, candidates.labels)


def find_by_factors(
    batches: Iterator[pa.RecordBatch], candidates: SharedValue[NeighbourCandidates], shrink: float, n: int
) -> Iterator[pa.RecordBatch]:
    """Worker: rows with factors -> their neighbours."""
    rows_at_once = max(1, _ENTRIES_AT_ONCE // n)
    for whole in batches:
        for first in range(0, whole.num_rows, rows_at_once):
            batch = whole.slice(first, rows_at_once)
            with_vectors = candidates.value
            assert with_vectors.vectors is not None
            factors = vectors_from_columns(batch["factors"], batch["row"], biases=False)
            vectors = similarity_vectors(factors, batch["n_ratings"].to_numpy(), shrink)
            index = batch["row"].to_numpy()
            own = with_vectors.comparable.candidate_of_index[index]
            found = neighbours_by_vectors(vectors, own, with_vectors.vectors, n)
            yield _neighbour_batch(index, found, with_vectors.labels)


def write_neighbours_by_common(
    ratings: DataFrame, side: Side, candidates: NeighbourCandidates, measure: Measure, *, n: int, path: str
) -> None:
    """Find each row's most similar candidates by the ratings they have in common, and write them as Parquet.

    Parameters
    ----------
    ratings : DataFrame
        ``user_index, item_index`` and, for a measure that looks at ratings, ``rating``; each pair once.
    side : Side
        Of the rows that are compared; the other side's rows are the holders of their ratings.
    candidates : NeighbourCandidates
        Goes to every task.
    measure : Measure
    n : int
    path : str
        Where `neighbours_schema` goes; rows without ratings are left out.

    Notes
    -----
    Exact: this is a sparse matrix times itself, with a part of its rows in each task, which is sent the ratings of
    all who hold any of them. Shuffles: the ratings by holder, and every holder's ratings to at most as many parts
    as there are ratings of that holder. A part has at most 64 million ratings, or what a worker's memory limit has
    room for; to stay below that, there are more parts, and more copies of the ratings. Time is in proportion to
    the sum of squares of the holders' numbers of ratings, over all cores. The driver is told how many
    holders have how many ratings.

    Raises
    ------
    ConfigError
        If parts that fit would take more than 64 copies of all ratings.
    """
    limits = session_limits(ratings.sparkSession)
    per_part = min(_RATINGS_PER_PART, (limits.worker_bytes or math.inf) // _BYTES_PER_RATING)
    n_parts = choose_n_parts(_degrees_of_holders(ratings, side), limits.cores, per_part)
    with_ratings = measure.name in USES_RATINGS
    with shared(ratings.sparkSession, candidates) as everywhere:
        worker = partial(find_by_common, candidates=everywhere, measure=measure, n=n, n_parts=n_parts)
        held = _holders_by_part(ratings, side, n_parts, with_ratings=with_ratings)
        held.mapInArrow(worker, neighbours_schema(candidates)).write.mode("error").parquet(path)


def _degrees_of_holders(ratings: DataFrame, side: Side) -> dict[int, int]:
    counts = ratings.groupBy(side.columns).agg(F.count("*").alias("degree")).groupBy("degree").count().collect()
    return {row["degree"]: row["count"] for row in counts}


def choose_n_parts(holders_by_degree: dict[int, int], cores: int, ratings_per_part: float = _RATINGS_PER_PART) -> int:
    """Return into how many parts to cut the rows: enough that what a part is sent fits into a worker.

    Parameters
    ----------
    holders_by_degree : dict
        Number of ratings to number of holders.
    cores : int
    ratings_per_part : float
        What fits.

    Raises
    ------
    ConfigError
        If no number of parts fits without too many copies of the ratings.
    """
    degrees = np.array(list(holders_by_degree), np.float64)
    holders = np.array(list(holders_by_degree.values()), np.float64)
    n_parts = _TASKS_PER_CORE * cores
    # A holder's ratings go to every part that has a row of them.
    while (sent := float((np.minimum(degrees, n_parts) * degrees * holders).sum())) / n_parts > ratings_per_part:
        n_ratings = float((degrees * holders).sum())
        if sent > _MOST_COPIES * n_ratings:
            raise ConfigError(
                "there are too many ratings to compare rows by what they have in common",
                got=f"{n_ratings:,.0f} ratings: {n_parts:,} parts of {sent / n_parts:,.0f} ratings each",
                allowed=f"{ratings_per_part:,.0f} ratings in a part, and {_MOST_COPIES} copies of all ratings",
                remedy="compare by factors, or raise spark.executor.pyspark.memory where it limits the parts",
            )
        n_parts *= 2
    return n_parts


def _holders_by_part(ratings: DataFrame, side: Side, n_parts: int, *, with_ratings: bool) -> DataFrame:
    entry = F.struct(F.col(side.rows).alias("row"), *([F.col("rating")] if with_ratings else []))
    by_holder = ratings.groupBy(F.col(side.columns).alias("holder")).agg(
        F.sort_array(F.collect_list(entry)).alias("held")
    )
    parts = F.array_distinct(F.transform("held.row", lambda row: F.pmod(row, F.lit(n_parts))))
    places = F.array(*[F.lit(place) for place in placements(ratings.sparkSession, n_parts)])
    values = [F.col("held.rating").alias("values")] if with_ratings else []
    return (
        by_holder.select(F.explode(parts).alias("part"), "holder", F.col("held.row").alias("rows"), *values)
        .withColumn("placement", F.element_at(places, F.col("part") + 1))
        .repartition(n_parts, "placement")
        .drop("placement")
    )


def find_by_common(
    batches: Iterator[pa.RecordBatch],
    candidates: SharedValue[NeighbourCandidates],
    measure: Measure,
    n: int,
    n_parts: int,
) -> Iterator[pa.RecordBatch]:
    """Worker: all ratings of those who hold any rating of a part's rows -> the neighbours of these rows."""
    held = [batch for batch in batches if batch.num_rows]
    if held:
        table = pa.Table.from_batches(held)
        part, block = table["part"][0].as_py(), _block_of_holders(table)
        compared = candidates.value
        for rows, found in neighbours_by_common(block, compared.comparable, measure, n, part=part, n_parts=n_parts):
            yield _neighbour_batch(rows, found, compared.labels)


def _block_of_holders(table: pa.Table) -> CsrBlock:
    """Return the ratings by holder, in the order of the holders; each holder's come in the order of the rows."""
    holders = table["holder"].to_numpy()
    lengths = pc.list_value_length(table["rows"]).to_numpy().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    order = np.argsort(holders)
    places = entries_of_rows(starts[order], lengths[order])
    indptr: Int64Array = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
    rows = pc.list_flatten(table["rows"]).to_numpy()[places]
    if "values" in table.column_names:
        values = pc.list_flatten(table["values"]).to_numpy()[places]
    else:
        values = np.broadcast_to(np.float32(1.0), len(rows))
    return CsrBlock(holders[order], indptr, rows, values)


def _neighbour_batch(rows: Int32Array, found: Neighbours, labels: pa.Array) -> pa.RecordBatch:
    """Turn (m, n) arrays, padded with -1, into one list of structs per row."""
    filled = found.candidates >= 0
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
    positions = np.broadcast_to(np.arange(1, filled.shape[1] + 1, dtype=np.int32), filled.shape)[filled]
    n_common = pa.nulls(len(positions), pa.int64()) if found.n_common is None else pa.array(found.n_common[filled])
    entries = pa.StructArray.from_arrays(
        [
            labels.take(pa.array(found.candidates[filled])),
            pa.array(found.similarities[filled]),
            pa.array(positions),
            n_common,
        ],
        names=["id", "similarity", "position", "n_common"],
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(rows), pa.ListArray.from_arrays(pa.array(offsets), entries)], names=["row", "neighbours"]
    )
