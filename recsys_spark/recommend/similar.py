"""The tables of neighbours: ``similar_items`` and ``similar_users``, by the same code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.byte_sizes import human_size
from recsys_spark.errors import ConfigError
from recsys_spark.factor_tables import collect_rows, vectors_from_columns
from recsys_spark.features import listed_items, n_listed_items, read_item_features, require_room_for_dense
from recsys_spark.kernels.arrays import Int32Array, Int64Array
from recsys_spark.kernels.blended_neighbours import blended_rows, frequent_columns
from recsys_spark.kernels.neighbours import Measure
from recsys_spark.kernels.similarity import RowSizes, similarity_vectors
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.row_neighbours import (
    NeighbourCandidates,
    write_neighbours_by_blend,
    write_neighbours_by_common,
    write_neighbours_by_factors,
)
from recsys_spark.session import session_limits
from recsys_spark.storage import join
from recsys_spark.tables import (
    INDEXED_RATINGS,
    ITEM_ELIGIBILITY,
    ITEM_FACTORS,
    ITEM_FEATURES,
    ITEM_INDEX,
    SIMILAR_ITEMS,
    SIMILAR_USERS,
    USER_FACTORS,
    USER_INDEX,
    Table,
)

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.config.neighbours import SimilarConfig
    from recsys_spark.runs.run_directory import StageContext

SIMILAR_TABLES = (SIMILAR_ITEMS, SIMILAR_USERS)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What belongs to one side's table of neighbours."""

    side: Side
    table: Table
    index: Table
    factors: Table

    @property
    def id_name(self) -> str:
        """The column with the caller's ids."""
        return self.table.key[0]


_KINDS = (
    _Kind(ITEMS, SIMILAR_ITEMS, ITEM_INDEX, ITEM_FACTORS),
    _Kind(USERS, SIMILAR_USERS, USER_INDEX, USER_FACTORS),
)


def similar_config(context: StageContext, table: Table) -> SimilarConfig | None:
    """Return the section that asks for a table of neighbours, or None where it is not asked for."""
    config: SimilarConfig | None = getattr(context.config, table.name)
    return config


def write_similar(context: StageContext, started: datetime) -> dict[str, Any]:
    """Write the neighbours of every row of the sides for which they are configured.

    Items that no filter removes may be neighbours, and all users; every row of the index gets a list, and by content
    every item that has features. Candidates' ids pass through the driver, by factors or features with all vectors.
    For shuffles see ``row_neighbours``.

    Returns
    -------
    dict
        By table: rows, candidates, short lists, and how rows were compared.

    Raises
    ------
    ConfigError
        If the candidates' vectors are more than may pass through the driver.
    """
    counts: dict[str, Any] = {}
    for kind in _KINDS:
        config = similar_config(context, kind.table)
        if config is not None:
            counts[kind.table.name] = _write(context, kind, config, started)
    return counts


def _write(context: StageContext, kind: _Kind, config: SimilarConfig, started: datetime) -> dict[str, Any]:
    work = join(context.run.path, f"_{kind.table.name}")
    context.storage.remove(work)
    n_candidates = _writer(config)(context, kind, config, work)
    origin = {
        "generated_at": F.lit(started),
        "run_id": F.lit(context.run.run_id),
        "model": F.lit(_label(context, config)),
    }
    found = context.spark.read.parquet(work).withColumnRenamed("row", kind.side.rows)
    lists = rows_with_neighbours(context, kind.table).join(found, kind.side.rows, "left")
    named = F.coalesce("neighbours", F.array()).cast(kind.table.schema["neighbours"].dataType)
    size = F.size(named)
    reason = F.when(
        size < config.n,
        F.concat(F.lit("only "), size, F.lit(f" of {config.n}: no other {kind.side.name} are similar")),
    )
    lists = lists.select(kind.id_name, named.alias("neighbours"), reason.alias("short_reason")).withColumns(origin)
    context.write(kind.table, lists.repartitionByRange(kind.id_name).sortWithinPartitions(kind.id_name))
    context.storage.remove(work)
    return _count(context, kind, n_candidates)


def _writer(config: SimilarConfig) -> Callable[[StageContext, _Kind, SimilarConfig, str], int]:
    """Return what finds the neighbours, and returns the number of candidates."""
    if config.weight_of_content > 0:
        return _by_content if config.method == "content" else _blended
    return _by_factors if config.method == "factors" else _by_common


def _label(context: StageContext, config: SimilarConfig) -> str:
    """Say how rows were compared."""
    if config.method == "content":
        return "content"
    name = f"factors of {context.record('train')['label']}" if config.method == "factors" else config.method
    content = f", content at {config.content_weight:g}" if config.content_weight > 0 else ""
    return f"{name}, shrink {config.shrink:g}{content}"


def rows_with_neighbours(context: StageContext, table: Table) -> DataFrame:
    """Return id and index of the rows that a table of neighbours has: by content, those that nobody has rated too."""
    config = similar_config(context, table)
    (kind,) = (kind for kind in _KINDS if kind.table == table)
    by_content = config is not None and config.weight_of_content > 0
    return listed_items(context) if by_content else context.read(kind.index)


def _count(context: StageContext, kind: _Kind, n_candidates: int) -> dict[str, Any]:
    rows, n_short, n_entries = (
        context.read(kind.table)
        .agg(F.count("*"), F.count("short_reason"), F.coalesce(F.sum(F.size("neighbours")), F.lit(0)))
        .collect()[0]
    )
    context.progress.say(
        f"recommend: neighbours of {rows:,} {kind.side.name} from {n_candidates:,}, {n_short:,} lists short",
        table=kind.table.name,
        n_rows=rows,
        n_short_lists=n_short,
    )
    return {"n_rows": rows, "n_candidates": n_candidates, "n_entries": n_entries, "n_short_lists": n_short}


def _eligible(context: StageContext, kind: _Kind, rows: DataFrame) -> DataFrame:
    """Return the rows that may be recommended as neighbours."""
    if kind.side == USERS:
        return rows
    return rows.join(context.read(ITEM_ELIGIBILITY).where("removed_by is null"), kind.id_name, "left_semi")


def _by_factors(context: StageContext, kind: _Kind, config: SimilarConfig, path: str) -> int:
    rows = context.read(kind.factors)
    candidates = _eligible(context, kind, rows.where(F.col("n_ratings") >= config.min_ratings))
    _refuse_too_many(context, kind, candidates.count())
    table = candidates.select(kind.id_name, kind.side.rows, "factors", "n_ratings").toArrow().combine_chunks()
    labels, factors = (_column(table, name) for name in (kind.id_name, "factors"))
    n_ratings = _column(table, "n_ratings").to_numpy()
    vectors = similarity_vectors(vectors_from_columns(factors, n_ratings, biases=False), n_ratings, config.shrink)
    # What is not compared by its ratings needs no sizes.
    n_rows = context.record("index")[f"n_{kind.side.name}"]
    sizes = RowSizes(np.zeros(n_rows, np.int64), np.zeros(n_rows))
    found = NeighbourCandidates.from_rows(labels, _column(table, kind.side.rows).to_numpy(), sizes, vectors)
    write_neighbours_by_factors(rows, kind.side, found, shrink=config.shrink, n=config.n, path=path)
    return len(labels)


def _by_content(context: StageContext, kind: _Kind, config: SimilarConfig, path: str) -> int:
    """Compare items by their features alone: a sparse product, as of ratings in common."""
    n_ratings = _n_ratings(context, kind)
    entries = F.explode(F.arrays_zip("columns", "values")).alias("entry")
    held = context.read(ITEM_FEATURES).select(kind.side.rows, entries)
    values = held.select(
        kind.side.rows, F.col("entry.columns").alias(kind.side.columns), F.col("entry.values").alias("rating")
    )
    # Within a row, and so in one order.
    squares = F.aggregate("values", F.lit(0.0), lambda total, value: total + F.pow(value.cast("double"), 2))
    sizes = context.read(ITEM_FEATURES).select(kind.side.rows, F.size("values").alias("n"), squares.alias("squares"))
    table = sizes.toArrow()
    counts, lengths = np.zeros(len(n_ratings), np.int64), np.zeros(len(n_ratings))
    counts[table[kind.side.rows].to_numpy()] = table["n"].to_numpy()
    lengths[table[kind.side.rows].to_numpy()] = np.sqrt(table["squares"].to_numpy())
    labels, index = _content_candidates(context, kind, config, n_ratings)
    candidates = NeighbourCandidates.from_rows(labels, index, RowSizes(counts, lengths))
    measure = Measure("rating_cosine", 0.0, 0)
    write_neighbours_by_common(values, kind.side, candidates, measure, n=config.n, path=path)
    return len(labels)


def _blended(context: StageContext, kind: _Kind, config: SimilarConfig, path: str) -> int:
    """Compare items by their factors and by their features; those without ratings by their features alone."""
    features = read_item_features(context, stays_sparse=True)
    assert features is not None
    n_ratings = _n_ratings(context, kind)
    require_room_for_dense(context, len(n_ratings), int(frequent_columns(features.rows, features.width).sum()))
    trained = context.read(kind.factors).select(kind.side.rows, "factors", "bias")
    _refuse_too_many(context, kind, trained.count())
    collaborative = np.zeros((len(n_ratings), context.record("train")["rank"]), np.float32)
    index, factors = collect_rows(trained, kind.side, biases=False)
    collaborative[index] = similarity_vectors(factors, n_ratings[index], config.shrink)
    blended = blended_rows(collaborative, features.rows, features.width, config.content_weight)
    labels, places = _content_candidates(context, kind, config, n_ratings)
    sizes = RowSizes(n_ratings, np.zeros(len(n_ratings)))
    candidates = NeighbourCandidates.from_rows(labels, places, sizes)
    rows = rows_with_neighbours(context, kind.table)
    write_neighbours_by_blend(rows, kind.side, candidates, blended, n=config.n, path=path)
    return len(labels)


def _n_ratings(context: StageContext, kind: _Kind) -> Int64Array:
    """Return the ratings behind each item's vector, by index: int64 (n_items + n_new,)."""
    table = context.read(kind.factors).select(kind.side.rows, "n_ratings").toArrow()
    counts = np.zeros(n_listed_items(context), np.int64)
    counts[table[kind.side.rows].to_numpy()] = table["n_ratings"].to_numpy()
    return counts


def _content_candidates(
    context: StageContext, kind: _Kind, config: SimilarConfig, n_ratings: Int64Array
) -> tuple[pa.Array, Int32Array]:
    """Return labels and indexes of the items that may be neighbours by their features."""
    table = _eligible(context, kind, rows_with_neighbours(context, kind.table)).toArrow().combine_chunks()
    index = _column(table, kind.side.rows).to_numpy()
    # Items that nobody has rated cannot have too few ratings: that nothing is known of them is why they are here.
    may_be = (n_ratings[index] >= config.min_ratings) | (n_ratings[index] == 0)
    return _column(table, kind.id_name).filter(pa.array(may_be)), index[may_be]


def _by_common(context: StageContext, kind: _Kind, config: SimilarConfig, path: str) -> int:
    ratings = context.read(INDEXED_RATINGS)
    if config.relevant_rating is not None:
        ratings = ratings.where(F.col("rating") >= config.relevant_rating)
    degrees = ratings.groupBy(kind.side.rows).agg(F.count("*").alias("n_ratings"))
    known = degrees.toArrow()
    n_rows = context.record("index")[f"n_{kind.side.name}"]
    n_ratings = np.zeros(n_rows, np.int64)
    n_ratings[known[kind.side.rows].to_numpy()] = known["n_ratings"].to_numpy()
    table = _eligible(context, kind, context.read(kind.index)).toArrow().combine_chunks()
    index = _column(table, kind.side.rows).to_numpy()
    is_candidate = n_ratings[index] >= config.min_ratings
    labels = _column(table, kind.id_name).filter(pa.array(is_candidate))
    candidates = NeighbourCandidates.from_rows(labels, index[is_candidate], RowSizes(n_ratings, np.zeros(n_rows)))
    n_columns = ratings.select(F.count_distinct(kind.side.columns)).collect()[0][0]
    measure = Measure(config.method, config.shrink, n_columns)
    write_neighbours_by_common(ratings, kind.side, candidates, measure, n=config.n, path=path)
    return len(labels)


def _refuse_too_many(context: StageContext, kind: _Kind, n_candidates: int) -> None:
    """Refuse candidates whose vectors are more than one job may return, before they are collected."""
    rank = context.record("train")["rank"]
    needed, allowed = n_candidates * rank * 4, session_limits(context.spark).result_bytes
    if allowed is not None and needed > allowed:
        raise ConfigError(
            f"the vectors of the {kind.side.name} that may be neighbours are more than one job may return",
            where=kind.table.name,
            got=f"{n_candidates:,} vectors of {rank} factors, {human_size(needed)}",
            allowed=human_size(allowed),
            remedy=f"raise {kind.table.name}.min_ratings or spark.driver.maxResultSize, or use method: cosine",
        )


def _column(table: pa.Table, name: str) -> pa.Array:
    # The table of an empty frame has no chunk.
    column = table[name]
    return pa.concat_arrays(column.chunks or [pa.array([], column.type)])
