"""Gathering the observations of a few rows into stacks of equal, padded length."""

from dataclasses import dataclass

import numpy as np

from recsys_spark.kernels.arrays import Float32Array, Float64Array, FloatArray, Int64Array
from recsys_spark.kernels.csr_block import CsrBlock
from recsys_spark.kernels.fixed_side import FixedSide
from recsys_spark.kernels.losses import SQUARED, Loss, logistic_terms, observed_loss, quadratic_terms


@dataclass(frozen=True, slots=True)
class WeightedRows:
    """The quadratic of each row: v' Z'diag(w)Z v - 2 v' Z'h, and a constant that no solver needs.

    Attributes
    ----------
    design : float32 array of shape (n_rows, length, width), C-contiguous
        Z: the design vectors of each row's observations; zero where padded.
    linear : float32 array of shape (n_rows, length), C-contiguous
        h; zero where padded.
    curvature : float32 array of shape (n_rows, length) or None
        w; None: all ones.
    """

    design: Float32Array
    linear: Float32Array
    curvature: Float32Array | None = None

    def weighted(self, predictions: Float32Array) -> Float32Array:
        """Multiply predictions of shape (n_rows, length) by w."""
        return predictions if self.curvature is None else self.curvature * predictions

    def residuals(self, predictions: Float32Array) -> Float32Array:
        """Compute h - w Z v from predictions Z v of shape (n_rows, length)."""
        return np.asarray(self.linear - self.weighted(predictions))


def predict(design: Float32Array, vectors: Float32Array) -> Float32Array:
    """Compute Z v for each row: shapes (n_rows, length, width), (n_rows, width) -> (n_rows, length)."""
    return np.asarray(np.matmul(design, vectors[:, :, None])[:, :, 0])


def predict_in_double(design: Float32Array, vectors: Float32Array) -> Float64Array:
    """Compute what `predict` does, in double precision."""
    return np.asarray(np.matmul(design.astype(np.float64), vectors.astype(np.float64)[:, :, None])[:, :, 0])


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Stacked observations of some rows; padding is zero in every array.

    Attributes
    ----------
    design : float32 array of shape (n_rows, length, width), C-contiguous
    values, offsets : float32 arrays of shape (n_rows, length)
        Ratings, and the scores before the row being solved adds anything.
    weights : float32 array of shape (n_rows, length) or None
        None: all ones.
    loss : Loss
    """

    design: Float32Array
    values: Float32Array
    offsets: Float32Array
    weights: Float32Array | None
    loss: Loss

    def scores(self, vectors: Float32Array) -> Float32Array:
        """Score each observation with row vectors of shape (n_rows, width): shape (n_rows, length)."""
        return self.offsets + predict(self.design, vectors)

    def observed_loss(self, predictions: FloatArray) -> Float64Array:
        """Sum what each row's observations add to the objective, given Z v: float64 array of shape (n_rows,)."""
        scores = self.offsets + predictions
        return np.asarray(observed_loss(self.loss, self.values, self.weights, scores).sum(axis=1))

    def loss_at(self, vectors: Float32Array) -> Float64Array:
        """Sum what each row's observations add to the objective at row vectors: float64 array of shape (n_rows,).

        A Newton step is judged by it: in single precision the last ones, which still move the vector in its fifth
        digit, could not be told from rounding.
        """
        return self.observed_loss((predict if self.loss.is_quadratic else predict_in_double)(self.design, vectors))

    def quadratic(self) -> WeightedRows:
        """Return the rows' quadratics, of a quadratic loss."""
        curvature, linear = quadratic_terms(self.loss, self.values, self.weights)
        shift = self.offsets if curvature is None else curvature * self.offsets
        return WeightedRows(self.design, linear - shift, curvature)

    @property
    def needs_point(self) -> bool:
        """Whether the quadratic depends on where a row is."""
        return not self.loss.is_quadratic

    def quadratic_around(self, predictions: Float32Array | None) -> WeightedRows:
        """Return the rows' quadratics: of the loss itself, or its second-order model around Z v."""
        if not self.needs_point:
            return self.quadratic()
        assert predictions is not None
        curvature, slope = logistic_terms(self.values, self.weights, self.offsets + predictions)
        return WeightedRows(self.design, curvature * predictions + slope, curvature)

    def slope(self, vectors: Float32Array) -> Float64Array:
        """Return minus half the gradient of each row's observed loss: shape (n_rows, width)."""
        if self.loss.is_quadratic:
            residuals = self.quadratic().residuals(predict(self.design, vectors))
        else:
            _, residuals = logistic_terms(self.values, self.weights, self.scores(vectors))
        products = np.matmul(self.design.transpose(0, 2, 1), residuals[:, :, None])[:, :, 0]
        return np.asarray(products, dtype=np.float64)

    def steepest(self) -> Float64Array:
        """Bound the curvature of half of each row's observed loss anywhere: sum_j w_j |z_j|**2."""
        squares = np.matmul(self.design[:, :, None, :], self.design[:, :, :, None])[:, :, 0, 0].astype(np.float64)
        if not self.loss.is_quadratic:
            # p (1 - p) is at most 1/4.
            squares *= 0.25
            curvature = self.weights
        else:
            curvature, _ = quadratic_terms(self.loss, self.values, self.weights)
        return np.asarray((squares if curvature is None else squares * curvature).sum(axis=1))


class BatchGatherer:
    """Gathers batches of one block, reusing one buffer for the design vectors.

    A batch stays valid until the next call: its design is a view of the buffer.
    """

    def __init__(self, block: CsrBlock, fixed: FixedSide, loss: Loss = SQUARED) -> None:
        """Keep references to the block and the fixed side; the buffer grows on demand."""
        self._block = block
        self._fixed = fixed
        self._loss = loss
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
        values = self._block.values.take(positions, mode="clip")
        values[is_padding] = 0.0
        if self._block.weights is not None:
            weights: Float32Array | None = self._block.weights.take(positions, mode="clip") * ~is_padding
        else:
            # The logistic loss of a padded zero is not zero: only its weight can make it so.
            weights = None if self._loss.is_quadratic else (~is_padding).astype(np.float32)
        return RowBatch(
            design=self._gather_design(columns),
            values=values,
            offsets=self._fixed.offsets.take(columns, mode="clip"),
            weights=weights,
            loss=self._loss,
        )

    def _gather_design(self, columns: Int64Array) -> Float32Array:
        shape = (*columns.shape, self._fixed.width)
        size = columns.size * self._fixed.width
        if len(self._buffer) < size:
            self._buffer = np.empty(size, dtype=np.float32)
        design = self._buffer[:size].reshape(shape)
        # mode="clip" lets NumPy write straight into `out`; the default buffers the whole result.
        np.take(self._fixed.design, columns, axis=0, out=design, mode="clip")
        return design
