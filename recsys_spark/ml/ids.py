"""The caller's ids: columns of whole numbers or text, and their places in a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegralType, NumericType, StringType

from recsys_spark.errors import ConfigError
from recsys_spark.rating_blocks import Side

_INT32 = np.iinfo(np.int32)


def column_of(dataset: DataFrame, name: str, param: str) -> tuple[Column, DataType]:
    """Return a column that a param names, and its type.

    Raises
    ------
    ConfigError
        If it is not there.
    """
    schema = dataset.schema
    if name not in schema.names:
        raise ConfigError(
            "the dataset has no such column",
            where=param,
            got=name,
            allowed=", ".join(schema.names),
            remedy=f"set {param} to the column that has it",
        )
    return F.col(f"`{name.replace('`', '``')}`"), schema[name].dataType


def id_key(dataset: DataFrame, name: str, param: str) -> Column:
    """Return a column of ids as long integers or strings; null where there is none, or one that is no whole number.

    Raises
    ------
    ConfigError
        If the column is not there, or has neither numbers nor strings.
    """
    column, kind = column_of(dataset, name, param)
    if isinstance(kind, StringType):
        return column
    if isinstance(kind, IntegralType):
        return column.cast("long")
    if isinstance(kind, NumericType):
        whole = column.try_cast("long")
        return F.when(whole == column, whole)
    raise ConfigError(
        "ids cannot have this type",
        where=f"{param}: {name}",
        got=kind.simpleString(),
        allowed="whole numbers of any numeric type, or strings",
        remedy=f"cast the column, for instance F.col({name!r}).cast('string')",
    )


def key_of_model(dataset: DataFrame, name: str, param: str, of_model: DataType) -> Column:
    """Return a column of ids that can be compared to those of a model; see `id_key`.

    Raises
    ------
    ConfigError
        As `id_key`; and if the model has strings and the dataset numbers, or the other way round.
    """
    key = id_key(dataset, name, param)
    kind = dataset.schema[name].dataType
    if isinstance(kind, StringType) != isinstance(of_model, StringType):
        raise ConfigError(
            "the ids are of another type than those the model was fitted to",
            where=f"{param}: {name}",
            got=kind.simpleString(),
            allowed=of_model.simpleString(),
            remedy="cast the column to the type of the training's",
        )
    return key


@dataclass(frozen=True, slots=True)
class NumberedIds:
    """The ids of one side on the driver; the number of an id is its place among them.

    Attributes
    ----------
    side : Side
    ids : Arrow array of n_rows int64 or strings
        Ascending, strings by their UTF-8 bytes; no id twice.
    """

    side: Side
    ids: pa.Array

    def __repr__(self) -> str:
        """Return how many ids of what type."""
        return f"NumberedIds: {len(self):,} {self.side.name}, {self.ids.type}"

    @classmethod
    def collect(cls, keys: DataFrame, side: Side) -> NumberedIds:
        """Collect the distinct ids of a frame of one column, and number them: one shuffle of the ids."""
        found = keys.distinct().toArrow().column(0)
        ids = pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], found.type)
        return cls(side, ids.take(pc.sort_indices(ids)))

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, key: str) -> pa.Table:
        """Return the table of ids, in a column ``key``, and their numbers."""
        return pa.table({key: self.ids, self.side.rows: pa.array(np.arange(len(self), dtype=np.int32))})

    def labels(self) -> pa.Array:
        """Return the ids as a model shows them: as MLlib does where it can, int32; else int64 or strings."""
        if not pa.types.is_int64(self.ids.type) or not len(self.ids):
            return self.ids
        lowest, highest = self.ids[0].as_py(), self.ids[-1].as_py()
        return self.ids.cast(pa.int32()) if lowest >= _INT32.min and highest <= _INT32.max else self.ids
