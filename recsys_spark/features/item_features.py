"""Encoded features of the items: a worker that encodes cells, and the rows by index for those who need them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from recsys_spark.byte_sizes import human_size
from recsys_spark.errors import ConfigError
from recsys_spark.features.cells import cell_name
from recsys_spark.features.encoder import Encoder, FeatureEncoding
from recsys_spark.kernels.arrays import BoolArray, Float32Array
from recsys_spark.kernels.feature_encoding import (
    Entries,
    beside_each_other,
    dense_rows,
    indicated,
    standardised,
    tf_idf,
)
from recsys_spark.kernels.neighbour_average import SparseRows, sparse_rows
from recsys_spark.session import session_limits
from recsys_spark.shared_value import SharedValue
from recsys_spark.storage import Storage, join, read_json
from recsys_spark.tables import ITEM_FEATURES, ITEM_INDEX, NEW_ITEMS

if TYPE_CHECKING:
    # Workers import this package, and have neither pydantic nor rich.
    from recsys_spark.config import TrainConfig
    from recsys_spark.runs.run_directory import Run, StageContext

_SCHEMA = "item_id string, item_index int, columns array<int>, values array<float>"
_ITEMS_AT_ONCE = 1 << 14
# Beside the rows themselves: what a task makes of them.
_LARGEST_SHARE_OF_A_WORKER = 0.5
_LARGEST_SHARE_OF_THE_DRIVER = 0.5
# The normal equations, what they are added up from, and their inverse or its factor.
_SQUARES_HELD = 3


@dataclass(frozen=True, slots=True)
class ItemFeatures:
    """The encoded features of all items, by index: those of the index, then the new ones.

    Attributes
    ----------
    rows : SparseRows
        A row per item, of ``width`` columns; empty where nothing is known of the item.
    is_known : bool array of shape (n_items + n_new,)
        Whether the feature table has the item, with a value in any column.
    column_names : list of str
    n_items : int
        Size of the item index: new items are numbered from here.
    """

    rows: SparseRows
    is_known: BoolArray
    column_names: list[str]
    n_items: int

    def __repr__(self) -> str:
        """Return the sizes."""
        n_new = len(self.is_known) - self.n_items
        return f"ItemFeatures: {self.n_items:,} items, {n_new:,} new ones, {self.width:,} columns"

    @property
    def width(self) -> int:
        """Columns of a row."""
        return len(self.column_names)

    def of_rated(self) -> SparseRows:
        """Return the rows of the index's items."""
        return self.rows.take(np.arange(self.n_items))

    def dense(self) -> Float32Array:
        """Return the rows as a float32 array of shape (n_items + n_new, width)."""
        return dense_rows(self.rows, self.width)


def encoder_path(run: Run) -> str:
    """Return where a run's encoder lies."""
    return join(run.path, "item_features_encoder.json")


def read_encoder(run: Run, storage: Storage) -> Encoder:
    """Read a run's encoder."""
    path = encoder_path(run)
    return Encoder.from_content(read_json(storage, path), path)


def listed_items(context: StageContext) -> DataFrame:
    """Return ``item_id, item_index`` of the rated items and of the new ones, which only the feature table names."""
    known = context.read(ITEM_INDEX)
    return known if context.config.item_features is None else known.unionByName(context.read(NEW_ITEMS))


def n_listed_items(context: StageContext) -> int:
    """Return how many items `listed_items` has: their indexes lie below."""
    n_new = 0 if context.config.item_features is None else context.record("features")["n_new_items"]
    return int(context.record("index")["n_items"]) + int(n_new)


def read_item_features(context: StageContext, *, stays_sparse: bool = False) -> ItemFeatures | None:
    """Collect the encoded features on the driver; None where none are configured.

    Parameters
    ----------
    context : StageContext
    stays_sparse : bool, default False
        Whether the caller leaves the rows sparse, so that there need be no room for dense ones.

    Raises
    ------
    ConfigError
        If the rows, made dense, are more than a job may return, or half of what a worker may hold.

    Notes
    -----
    8 bytes per entry reach the driver.
    """
    if context.config.item_features is None:
        return None
    encoder, n_rows = read_encoder(context.run, context.storage), n_listed_items(context)
    if not stays_sparse:
        require_room_for_dense(context, n_rows, encoder.width)
    table = context.read(ITEM_FEATURES).select("item_index", "columns", "values").toArrow()
    index = table["item_index"].to_numpy()
    lengths = pc.list_value_length(table["columns"]).to_numpy()
    columns, values = (pc.list_flatten(table[name]).to_numpy() for name in ("columns", "values"))
    is_known = np.zeros(n_rows, np.bool_)
    is_known[index] = True
    rows = sparse_rows(np.repeat(index, lengths), columns, values, n_rows)
    return ItemFeatures(rows, is_known, encoder.column_names, context.record("index")["n_items"])


def training_features(context: StageContext, config: TrainConfig) -> ItemFeatures | None:
    """Collect the features where a training looks at them; a regression makes them dense, side information does not."""
    if not config.uses_features:
        return None
    return read_item_features(context, stays_sparse=config.model != "feature_regression")


def require_room_for_dense(context: StageContext, n_rows: int, width: int) -> None:
    """Refuse dense features of all items that are more than a job may return, or half of what a worker may hold."""
    limits = session_limits(context.spark)
    allowed = [limits.result_bytes, int((limits.worker_bytes or 0) * _LARGEST_SHARE_OF_A_WORKER) or None]
    least = min((limit for limit in allowed if limit is not None), default=None)
    needed = n_rows * width * 4
    if least is not None and needed > least:
        raise ConfigError(
            "the encoded features of all items are more than a task may be sent",
            where="item_features.features",
            got=f"{n_rows:,} items, {width:,} columns: {human_size(needed)}",
            allowed=human_size(least),
            remedy="raise min_items, lower max_values or n_hashes, or raise spark.driver.maxResultSize and "
            "spark.executor.pyspark.memory",
        )


def require_room_for_regression(spark: SparkSession, width: int) -> None:
    """Refuse so many columns that a regression on all of them, solved on the driver, would take half of its memory."""
    machine = session_limits(spark).machine_bytes
    needed = _SQUARES_HELD * 8 * (width + 1) ** 2
    if machine is not None and needed > _LARGEST_SHARE_OF_THE_DRIVER * machine:
        raise ConfigError(
            "the encoded features have too many columns for a regression on all of them",
            where="item_features.features",
            got=f"{width:,} columns: {human_size(needed)}",
            allowed=human_size(int(_LARGEST_SHARE_OF_THE_DRIVER * machine)),
            remedy="raise min_items, lower max_values or n_hashes, or use a driver with more memory",
        )


def encode_cells(cells: DataFrame, encoder: SharedValue[Encoder]) -> DataFrame:
    """Return the encoded rows of typed cells with an ``item_index``, as the table ``item_features``; no shuffle.

    Items without any value that is encoded are left out.
    """
    return cells.mapInArrow(partial(encode_items, encoder=encoder), _SCHEMA)


def encode_items(batches: Iterator[pa.RecordBatch], encoder: SharedValue[Encoder]) -> Iterator[pa.RecordBatch]:
    """Worker: typed cells of items -> their encoded rows, as lists of columns and values.

    An item without any value that is encoded has no row: of all such, the models would know the same.
    """
    for whole in batches:
        for first in range(0, whole.num_rows, _ITEMS_AT_ONCE):
            batch = whole.slice(first, _ITEMS_AT_ONCE)
            parts = [_entries(batch[cell_name(k)], feature) for k, feature in enumerate(encoder.value.features)]
            weighed = [
                (feature.first, feature.settings["weight"], part)
                for feature, part in zip(encoder.value.features, parts, strict=True)
            ]
            rows = beside_each_other(weighed, batch.num_rows)
            is_known = np.zeros(batch.num_rows, np.bool_)
            for part in parts:
                is_known[part.rows] = True
            # Rows of which nothing is known are empty: what is left out between two others has no entries.
            offsets = pa.array(np.append(rows.indptr[:-1][is_known], rows.indptr[-1]).astype(np.int32))
            known = batch.filter(pa.array(is_known))
            yield pa.RecordBatch.from_arrays(
                [
                    known["item_id"],
                    known["item_index"],
                    pa.ListArray.from_arrays(offsets, pa.array(rows.columns)),
                    pa.ListArray.from_arrays(offsets, pa.array(rows.values)),
                ],
                names=["item_id", "item_index", "columns", "values"],
            )


def _entries(cells: pa.Array, feature: FeatureEncoding) -> Entries:
    if feature.kind == "numeric":
        numbers = pc.fill_null(cells, np.nan).to_numpy(zero_copy_only=False)
        return standardised(numbers, feature.statistics.mean, feature.statistics.deviation)
    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    values = cells.flatten()
    if feature.kind == "text":
        return tf_idf(lengths, values.to_numpy(zero_copy_only=False), feature.idf)
    codes = pc.fill_null(pc.index_in(values, pa.array(feature.values, pa.string())), -1)
    return indicated(lengths, codes.to_numpy(zero_copy_only=False))
