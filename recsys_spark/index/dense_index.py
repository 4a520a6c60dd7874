"""Distinct ids numbered 0, 1, 2, ... in their order, by many tasks at once."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError
from recsys_spark.storage import Storage
from recsys_spark.tables import Table

_LARGEST_INDEX = 2**31 - 1
# monotonically_increasing_id is the partition's number times 2^33 plus the row's place in the partition.
_PLACE_BITS = 33


def write_dense_index(ids: DataFrame, table: Table, path: str, work: str, storage: Storage, *, start: int = 0) -> int:
    """Give distinct ids numbers from ``start`` in ascending order (UTF-8 bytes) and write the index table.

    The ids are sorted over all tasks by range, written with their place in their partition, and read back;
    the partitions' sizes, added up, turn places into indexes. No task sees all ids, nor does the driver: it
    receives one number per partition. The index depends on the ids alone, not on the partitions.

    Parameters
    ----------
    ids : DataFrame
        One string column, the table's id column; repeats allowed.
    table : Table
        ``user_index`` or ``item_index``: id column, then index column.
    path, work : str
        Where the table goes, and a path for the intermediate one, which is removed.
    storage : Storage
    start : int, default 0
        First number to give.

    Returns
    -------
    int
        How many ids were numbered.

    Raises
    ------
    ContractError
        If the indexes would not fit into int32.

    Notes
    -----
    Two shuffles of the distinct ids (distinct, range sort).
    """
    id_name, index_name = table.schema.names
    spark = ids.sparkSession
    sorted_ids = ids.distinct().repartitionByRange(id_name).sortWithinPartitions(id_name)
    placed = F.monotonically_increasing_id()
    storage.remove(work)
    sorted_ids.select(
        id_name,
        F.shiftright(placed, _PLACE_BITS).cast("int").alias("part"),
        placed.bitwiseAND(F.lit((1 << _PLACE_BITS) - 1)).alias("place"),
    ).write.mode("error").parquet(work)

    places = spark.read.parquet(work)
    sizes = {row["part"]: row["count"] for row in places.groupBy("part").count().collect()}
    total = sum(sizes.values())
    if start + total - 1 > _LARGEST_INDEX:
        raise ContractError(
            f"too many distinct {id_name} values for a 32-bit index",
            got=f"{start + total:,}",
            allowed=f"{_LARGEST_INDEX:,}",
        )
    offsets, offset = [], start
    for part in sorted(sizes):
        offsets.append((part, offset))
        offset += sizes[part]
    offset_rows = spark.createDataFrame(offsets or [(0, start)], "part int, offset long")
    numbered = places.join(F.broadcast(offset_rows), "part").select(
        id_name, (F.col("offset") + F.col("place")).cast("int").alias(index_name)
    )
    table.write(numbered, path)
    storage.remove(work)
    return int(total)
