"""Scores of pairs by joining both sides' vectors to them: for models whose vectors are in tables, not on the driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, StructField, StructType

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.rating_blocks import ITEMS, USERS, Side

_VECTOR_COLUMNS = ("user_factors", "user_bias", "item_factors", "item_bias", "is_known")


def with_scores(
    pairs: DataFrame,
    rows: Mapping[Side, DataFrame],
    name: str,
    *,
    rank: int,
    biases: bool,
    constant: float,
    unknown: float | None = None,
) -> DataFrame:
    """Add a column of scores, ``constant + row bias + column bias + row factors . column factors``.

    Parameters
    ----------
    pairs : DataFrame
        With ``user_index, item_index``.
    rows : mapping of Side to DataFrame
        (index, factors, bias) of both sides; a row that is not there counts as a zero vector.
    name : str
        Of the new column, of type double.
    rank : int
    biases : bool
    constant : float
    unknown : float, optional
        The score of pairs whose user or item has no vector.

    Returns
    -------
    DataFrame
        A pair's score is the same bit for bit wherever it is computed.

    Notes
    -----
    Two joins, each with a shuffle of the pairs where the vectors are too many to be broadcast. Nothing reaches the
    driver.
    """
    joined = pairs
    for side, prefix in ((USERS, "user"), (ITEMS, "item")):
        vectors = rows[side].select(
            side.rows, F.col("factors").alias(f"{prefix}_factors"), F.col("bias").alias(f"{prefix}_bias")
        )
        joined = joined.join(vectors, side.rows, "left")
    is_known = F.col("user_factors").isNotNull() & F.col("item_factors").isNotNull()
    vector_columns = [_or_zero(prefix, rank) for prefix in ("user", "item")]
    joined = joined.select(*pairs.columns, *vector_columns[0], *vector_columns[1], is_known.alias("is_known"))
    score = partial(add_scores, score_name=name, biases=biases, constant=constant, unknown=unknown)
    schema = StructType([*pairs.schema.fields, StructField(name, DoubleType())])
    return joined.mapInArrow(score, schema)


def _or_zero(prefix: str, rank: int) -> tuple[Column, Column]:
    zero = F.lit(0.0).cast("float")
    factors, bias = f"{prefix}_factors", f"{prefix}_bias"
    return (
        F.coalesce(factors, F.array_repeat(zero, rank)).alias(factors),
        F.coalesce(bias, zero).alias(bias),
    )


def add_scores(
    batches: Iterator[pa.RecordBatch], score_name: str, biases: bool, constant: float, unknown: float | None
) -> Iterator[pa.RecordBatch]:
    """Worker: pairs with both vectors -> pairs with their scores."""
    for batch in batches:
        users, items = (
            vectors_from_columns(batch[f"{prefix}_factors"], batch[f"{prefix}_bias"], biases=biases)
            for prefix in ("user", "item")
        )
        scores = pair_scores(users, items, constant, biases)
        if unknown is not None:
            scores = np.where(pc.fill_null(batch["is_known"], False).to_numpy(zero_copy_only=False), scores, unknown)
        kept = [name for name in batch.schema.names if name not in _VECTOR_COLUMNS]
        yield pa.RecordBatch.from_arrays([*(batch[name] for name in kept), pa.array(scores)], names=[*kept, score_name])
