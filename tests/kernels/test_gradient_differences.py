"""The gradient that the ``gradient`` solver follows, against central differences of the objective it reports."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import recsys_spark.kernels.solve_rows as solve_rows_module
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests.kernels.problems import LOSSES
from tests.kernels.test_solve_rows_losses import make_problem, references, side_for

WIDTH = 5


class Probe:
    """Stands in for the solver: keeps the half gradient that it is given, and answers with any vectors asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.half_gradients: list[np.ndarray] = []
        self.answer = np.zeros(0)
        monkeypatch.setattr(solve_rows_module, "solve_gradient", self)
        # Every answer is taken, even one that is worse than the start.
        monkeypatch.setattr(solve_rows_module, "better_of", lambda before, after: after)

    def __call__(self, half_gradient, steepest, ridge, start, steps):
        self.half_gradients.append(half_gradient(self.answer))
        return self.answer


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_reported_objective(monkeypatch, name, biases, weighted, rotated):
    loss = LOSSES[name]
    # Rows of one padded length are solved together, so that one answer holds for all of them.
    block, vectors, regularization = make_problem(loss, biases=biases, weighted=weighted, degrees=[7, 7, 8])
    fixed = side_for(loss, vectors, 0.25, regularization, rotated=rotated)
    problem = RowProblem(regularization, loss, "gradient")
    probe = Probe(monkeypatch)
    rng = np.random.default_rng(0)
    # Multiples of 1/1024: exact in single precision, in which solutions are kept, with any step added.
    points = np.round(rng.normal(size=(block.n_rows, WIDTH)) * 512) / 1024

    def reported(answer):
        probe.answer = answer
        return solve_rows(block, fixed, problem, points.astype(np.float32)).objective

    reported(points)
    half_gradient = probe.half_gradients[-1]
    # Differences of a quadratic are exact for any step: a long one leaves least to the rounding of scores.
    step = 1.0 if loss.is_quadratic else 1.0 / 32
    units = step * np.eye(WIDTH)
    central = np.stack([reported(points + e) - reported(points - e) for e in units], axis=1) / (2 * step)
    assert_allclose(2 * half_gradient, central, rtol=2e-3, atol=2e-3)

    if loss.all_pairs_weight and rotated:
        return
    # And against the objective of the reference, written down a second time, all in float64.
    for position, row in enumerate(references(block, vectors, 0.25, regularization, loss)):
        gradient = row.gradient(points[position], 1e-4)
        assert_allclose(2 * half_gradient[position], gradient, rtol=1e-4, atol=1e-4)
