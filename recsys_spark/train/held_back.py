"""Observations that were kept back from training, to see how well it predicts them."""

from __future__ import annotations

from functools import cached_property

import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.kernels.arrays import BoolArray, Float32Array, Int32Array, IntArray
from recsys_spark.rating_split import are_held_out

VALIDATION_SEED = 20_081


class HeldBack:
    """Pairs of user and item with their values.

    Parameters
    ----------
    frame : DataFrame
        ``user_index, item_index, rating``: observations as the loss takes them.
    constant : float
        Part of every score that the observations still hold.
    """

    def __init__(self, frame: DataFrame, constant: float) -> None:
        self.frame = frame.select("user_index", "item_index", "rating")
        self.constant = constant

    @property
    def is_collected(self) -> bool:
        """Whether `arrays` needs no job any more."""
        return "arrays" in vars(self)

    @cached_property
    def arrays(self) -> tuple[Int32Array, Int32Array, Float32Array]:
        """Users, items and values on the driver, collected once."""
        pairs: pa.Table = self.frame.toArrow()
        users, items, values = (column.to_numpy() for column in pairs.itercolumns())
        return users, items, values


def were_held_back(user_index: int, item_index: IntArray, validation_share: float) -> BoolArray:
    """Return which of one user's ratings a training has kept back to judge itself by: bool array of shape (n,)."""
    return are_held_out(user_index, item_index, validation_share, VALIDATION_SEED)
