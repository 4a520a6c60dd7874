"""Side information where vectors are routed: what the features say of them, without bringing them together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys_spark.kernels.arrays import Float32Array, Float64Array, Int32Array
from recsys_spark.kernels.gramian import ExactSum, column_exponents
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.side_information import FeatureRows, SideInformation
from recsys_spark.shared_value import SharedValue, shared
from recsys_spark.train.vector_blocks import int32s_of, matrix_of


@dataclass(frozen=True, slots=True)
class Told:
    """Side information as a task is given it: the rows of a side with their features, and the map to vectors.

    Attributes
    ----------
    rows : FeatureRows
        Of the whole side: a few numbers per row.
    matrix : float64 array of shape (n_columns, width)
    """

    rows: FeatureRows
    matrix: Float64Array

    def expected(self, index: Int32Array) -> Float32Array:
        """Return what some rows are drawn towards: float32 (len(index), width)."""
        return self.rows.take(index).said(self.matrix).astype(np.float32)


class RoutedFeatures:
    """A side's features, and the map that fits its present vectors best.

    Parameters
    ----------
    side : SideInformation
    width : int
        Of the vectors.
    regularization : Regularization

    Notes
    -----
    Vectors come as blocks, ``row_index`` and ``vectors`` as bytes. A new map takes two jobs without a shuffle, its
    penalty another one. Of each task, a sum of the map's size reaches the driver, twice as long as the map itself.
    """

    def __init__(self, side: SideInformation, width: int, regularization: Regularization) -> None:
        self._side, self._width, self._regularization = side, width, regularization
        # By the folder of the vectors that it fits.
        self._map: tuple[str, Float64Array] | None = None

    def told(self, blocks: DataFrame, folder: str) -> Told:
        """Return what the features say, by the map that fits the vectors of a folder."""
        if self._map is None or self._map[0] != folder:
            self._map = folder, self._fitted(blocks)
        return Told(self._side.rows, self._map[1])

    def penalty(self, blocks: DataFrame, folder: str) -> float:
        """Return what the vectors of a folder add to the objective."""
        told = self.told(blocks, folder)
        with shared(blocks.sparkSession, told) as everywhere:
            add_up = partial(block_penalties, told=everywhere, regularization=self._regularization)
            found = blocks.select("row_index", "vectors").mapInArrow(add_up, "penalty double").toArrow()
        return math.fsum(found["penalty"].to_pylist()) + self._side.penalty_of_matrix(told.matrix)

    def _fitted(self, blocks: DataFrame) -> Float64Array:
        find = partial(block_exponents, width=self._width)
        found = blocks.select("vectors").mapInArrow(find, "exponents binary").toArrow()["exponents"]
        highest = np.maximum.reduce([int32s_of(exponents) for exponents in found])
        total = ExactSum.nothing(len(self._side.rows.exponents), self._width)
        with shared(blocks.sparkSession, self._side.rows) as everywhere:
            add_up = partial(block_moments, rows=everywhere, exponents=highest)
            parts = blocks.select("row_index", "vectors").mapInArrow(add_up, "high binary, low binary").toArrow()
        shape = total.low.shape
        for limbs in zip(parts["high"], parts["low"], strict=True):
            total = total + ExactSum(*(np.frombuffer(limb.as_buffer(), np.int64).reshape(shape) for limb in limbs))
        return self._side.matrix(total, highest)


def block_exponents(batches: Iterator[pa.RecordBatch], width: int) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> the least powers of two above all their columns."""
    found = [column_exponents(matrix_of(values, width)) for batch in batches for values in batch["vectors"]]
    if found:
        yield pa.RecordBatch.from_pydict({"exponents": pa.array([np.maximum.reduce(found).tobytes()], pa.binary())})


def block_moments(
    batches: Iterator[pa.RecordBatch], rows: SharedValue[FeatureRows], exponents: Int32Array
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> one exact sum over them and their features."""
    total = ExactSum.nothing(len(rows.value.exponents), len(exponents))
    for index, values in _blocks(batches):
        total = total + rows.value.take(index).moment(matrix_of(values, len(exponents)), exponents)
    limbs = {"high": total.high, "low": total.low}
    yield pa.RecordBatch.from_pydict({name: pa.array([limb.tobytes()], pa.binary()) for name, limb in limbs.items()})


def block_penalties(
    batches: Iterator[pa.RecordBatch], told: SharedValue[Told], regularization: Regularization
) -> Iterator[pa.RecordBatch]:
    """Worker: blocks of vectors -> what each adds to the objective."""
    rows, matrix = told.value.rows, told.value.matrix
    for index, values in _blocks(batches):
        added = rows.take(index).penalty(matrix_of(values, matrix.shape[1]), matrix, regularization)
        yield pa.RecordBatch.from_pydict({"penalty": pa.array([math.fsum(added)], pa.float64())})


def _blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[Int32Array, pa.Scalar]]:
    for batch in batches:
        for index, values in zip(batch["row_index"], batch["vectors"], strict=True):
            yield int32s_of(index), values
