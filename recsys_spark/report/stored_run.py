"""A finished run as `why` needs it: its model, and what is known of one user; without Spark where it is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys_spark.config import PipelineConfig
from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array
from recsys_spark.report.user_page import title_of
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage, Storage, join, local_path, read_json
from recsys_spark.tables import CATALOGUE, CONTENT_FACTORS, ITEM_FACTORS, Table


@dataclass(frozen=True, slots=True)
class Items:
    """The items that have vectors, from training or from their features, ascending by label.

    Attributes
    ----------
    labels : Arrow array of n_items ids
    index : int32 array of shape (n_items,)
        Their item indexes.
    vectors : float32 array of shape (n_items, width)
    n_ratings : float32 array of shape (n_items,)
    """

    labels: pa.Array
    index: Int32Array
    vectors: Float32Array
    n_ratings: Float32Array

    def column(self, item_id: str) -> int | None:
        """Return the place of an item, or None where the model does not know it."""
        found: int = pc.index(self.labels, item_id).as_py()
        return found if found >= 0 else None

    def columns(self, item_ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the places of items, -1 where the model does not know one."""
        found = pc.fill_null(pc.index_in(pa.array(item_ids, pa.string()), self.labels), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def are_trained(self, item_ids: Sequence[str]) -> BoolArray:
        """Return which items have vectors from ratings: bool array of shape (len(item_ids),)."""
        columns = self.columns(item_ids)
        found = columns >= 0
        found[found] = self.n_ratings[columns[found]] > 0
        return found


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run's directory, with its own configuration."""

    run: Run
    storage: Storage
    spark: SparkSession | None
    config: PipelineConfig

    @classmethod
    def open(cls, run: Run, storage: Storage, spark: SparkSession | None) -> StoredRun:
        """Read the configuration that the run was started with."""
        stored = read_json(storage, join(run.path, "run.json"))["config"]
        reader = None if isinstance(storage, LocalStorage) else spark
        return cls(run, storage, reader, PipelineConfig.model_validate(stored))

    def has(self, table: Table) -> bool:
        """Return whether the run has written a table."""
        return self.storage.exists(self.run.table_path(table))

    def record(self, stage: str) -> dict[str, Any]:
        """Return what a stage has written down about itself."""
        record: dict[str, Any] = read_json(self.storage, self.run.stage_record(stage))
        return record

    def read(self, table: Table, columns: Sequence[str], column: str = "", values: Sequence[str] = ()) -> pa.Table:
        """Read columns of a table: the rows with some values of a column, or all rows where none is named."""
        path = self.run.table_path(table)
        if self.spark is not None:
            frame = table.read(self.spark, path).select(*columns)
            return (frame.where(F.col(column).isin(list(values))) if column else frame).toArrow()
        wanted = ds.field(column).isin(pa.array(list(values), pa.string())) if column else None
        return ds.dataset(local_path(path), format="parquet").to_table(columns=list(columns), filter=wanted)

    def rows(self, table: Table, columns: Sequence[str], column: str, values: Sequence[str]) -> list[dict[str, Any]]:
        """Read rows with some values of a column; none where the run has no such table."""
        return self.read(table, columns, column, values).to_pylist() if self.has(table) else []

    def items(self) -> Items:
        """Read the item factors, and those of new items where they are listed."""
        columns = ("item_id", "item_index", "factors", "bias", "n_ratings")
        tables = [table for table in (ITEM_FACTORS, CONTENT_FACTORS) if table == ITEM_FACTORS or self.has(table)]
        found = pa.concat_tables([self.read(table, columns) for table in tables]).sort_by("item_id")
        labels, factors, bias = (found[name].combine_chunks() for name in ("item_id", "factors", "bias"))
        index = found["item_index"].to_numpy()
        vectors = vectors_from_columns(factors, bias, biases=self.record("train")["biases"])
        return Items(labels, index, vectors, found["n_ratings"].to_numpy().astype(np.float32))

    def titles(self, item_ids: Sequence[str]) -> dict[str, str]:
        """Return titles with authors by item, for items that the catalogue has."""
        rows = self.rows(CATALOGUE, ("item_id", "title", "by"), "item_id", item_ids)
        return {row["item_id"]: title_of(row) for row in rows}

    def latest(self, tables: Sequence[Table]) -> datetime | None:
        """Return the latest event time of some tables of ratings."""
        times = [pc.max(self.read(table, ("timestamp",))["timestamp"]).as_py() for table in tables]
        return max((as_utc(time) for time in times if time is not None), default=None)


def as_utc(time: datetime) -> datetime:
    """Return a stored time with its zone: the tables hold UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
