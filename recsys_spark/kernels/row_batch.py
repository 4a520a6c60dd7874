"""Gathering the observations of a few rows into stacks of equal, padded length."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Int64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Stacked observations of some rows; padding is zero in both arrays.

    Attributes
    ----------
    design : float32 array of shape (n_rows, length, width), C-contiguous
        Z: the design vectors of each row's observations.
    targets : float32 array of shape (n_rows, length), C-contiguous
        t: rating minus global mean minus fixed bias.
    """

    design: Float32Array
    targets: Float32Array

    def residuals(self, vectors: Float32Array) -> Float32Array:
        """Compute t - Z v for row vectors of shape (n_rows, width): shape (n_rows, length)."""
        predictions = np.matmul(self.design, vectors[:, :, None])[:, :, 0]
        return np.asarray(self.targets - predictions)


class BatchGatherer:
    """Gathers batches of one block, reusing one buffer for the design vectors.

    A batch stays valid until the next call: its design is a view of the buffer.
    """

    def __init__(self, block: CsrBlock, fixed: FixedSide) -> None:
        """Keep references to the block and the fixed side; the buffer grows on demand."""
        self._block = block
        self._fixed = fixed
        self._starts = block.indptr[:-1]
        self._degrees = block.degrees
        self._buffer = np.empty(0, dtype=np.float32)

    def gather(self, rows: Int64Array, length: int, first: int = 0) -> RowBatch:
        """Stack the entries ``first`` to ``first + length`` of each row in ``rows``.

        O(len(rows) length width); rows that end earlier are padded with zeros.
        """
        steps = np.arange(first, first + length)
        positions = self._starts[rows][:, None] + steps
        is_padding = steps >= self._degrees[rows][:, None]
        columns = self._block.column_index.take(positions, mode="clip").astype(np.intp)
        columns[is_padding] = self._fixed.n_fixed
        targets = self._block.values.take(positions, mode="clip")
        targets[is_padding] = 0.0
        targets -= self._fixed.offsets.take(columns, mode="clip")
        return RowBatch(design=self._gather_design(columns), targets=targets)

    def _gather_design(self, columns: Int64Array) -> Float32Array:
        shape = (*columns.shape, self._fixed.width)
        size = columns.size * self._fixed.width
        if len(self._buffer) < size:
            self._buffer = np.empty(size, dtype=np.float32)
        design = self._buffer[:size].reshape(shape)
        # mode="clip" lets NumPy write straight into `out`; the default buffers the whole result.
        np.take(self._fixed.design, columns, axis=0, out=design, mode="clip")
        return design
