"""Items that must not be listed, brought to their users: split in NumPy, shuffled as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys_spark.kernels.csr_block import split_by_block
from recsys_spark.kernels.row_pairs import RowPairs
from recsys_spark.rating_blocks import OBSERVATIONS_PER_SPLIT, placements

_PIECE = ("hidden_users", "hidden_items")
_PIECE_SCHEMA = "placement int, hidden_users binary, hidden_items binary"


def beside_users(users: DataFrame, hidden: DataFrame, n_tasks: int) -> DataFrame:
    """Put users and what is hidden from them into the same partitions.

    Parameters
    ----------
    users : DataFrame
        With ``user_index``, one row per user.
    hidden : DataFrame
        ``user_index, item_index``; pairs may repeat.
    n_tasks : int

    Returns
    -------
    DataFrame
        In ``n_tasks`` partitions, for `with_hidden_items`: first rows with pieces of the pairs alone, then the users.

    Notes
    -----
    One shuffle: of the users, and of the pairs as byte strings, 8 bytes each, in as many records as there are pairs of
    partitions. Pairs go from the JVM to Python once; a task holds all of its users'.
    """
    places = placements(users.sparkSession, n_tasks)
    split = partial(split_pairs, placements=places)
    pieces = hidden.select("user_index", "item_index").mapInArrow(split, _PIECE_SCHEMA)
    place_of_user = F.element_at(F.array(*map(F.lit, places)), F.pmod("user_index", F.lit(n_tasks)) + 1)
    together = users.withColumn("placement", place_of_user).unionByName(pieces, allowMissingColumns=True)
    return together.repartition(n_tasks, "placement").drop("placement").sortWithinPartitions(F.isnull("hidden_users"))


def split_pairs(batches: Iterator[pa.RecordBatch], placements: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
    """Worker: (user, item) -> one piece of bytes per partition, for every few million pairs."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(part.num_rows for part in held) >= OBSERVATIONS_PER_SPLIT:
            yield _pieces(held, placements)
            held = []
    if held:
        yield _pieces(held, placements)


def _pieces(held: list[pa.RecordBatch], placements: tuple[int, ...]) -> pa.RecordBatch:
    users, items = (column.to_numpy() for column in pa.Table.from_batches(held).itercolumns())
    order, bounds = split_by_block(users, len(placements))
    filled = [part for part in range(len(placements)) if bounds[part] < bounds[part + 1]]
    taken = [array.astype(np.int32, copy=False)[order] for array in (users, items)]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([placements[part] for part in filled], pa.int32()),
            *(pa.array([array[bounds[p] : bounds[p + 1]].data for p in filled], pa.binary()) for array in taken),
        ],
        names=["placement", *_PIECE],
    )


def with_hidden_items(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Worker: a partition of `beside_users` -> its users, each with ``hidden``, the list of items."""
    nothing = np.zeros(0, np.int32)
    pieces = [(nothing, nothing)]
    pairs: RowPairs | None = None
    for batch in batches:
        is_piece = pc.is_valid(batch["hidden_users"])
        found = batch.select(_PIECE).filter(is_piece)
        for piece in zip(*found.itercolumns(), strict=True):
            users_of_piece, items_of_piece = (np.frombuffer(value.as_buffer(), np.int32) for value in piece)
            pieces.append((users_of_piece, items_of_piece))
        users = batch.drop_columns(list(_PIECE)).filter(pc.invert(is_piece))
        if users.num_rows == 0:
            continue
        if pairs is None:
            pairs = RowPairs.gather(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))
        indptr, items = pairs.of_rows(users["user_index"].to_numpy())
        yield users.append_column(
            "hidden", pa.ListArray.from_arrays(pa.array(indptr.astype(np.int32)), pa.array(items))
        )
