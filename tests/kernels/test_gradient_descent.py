"""The length of gradient steps and their acceleration; where they lead is in ``test_solve_rows_losses``."""

from __future__ import annotations

import numpy as np
import pytest

import recsys_spark.kernels.solve_rows as solve_rows_module
from recsys_spark.kernels.gradient_descent import solve_gradient
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests.kernels.problems import LOSSES
from tests.kernels.test_solve_rows_losses import make_problem, references, side_for

WIDTH = 5


def steepest_curvature(row, vector):
    """The largest eigenvalue of half the Hessian of the reference's objective."""
    step = 1e-3
    unit = step * np.eye(WIDTH)
    hessian = np.stack([row.gradient(vector + e) - row.gradient(vector - e) for e in unit]) / (2 * step)
    return np.linalg.eigvalsh(hessian + hessian.T)[-1] / 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_no_longer_than_the_curvature_allows_anywhere(monkeypatch, name, biases, weighted):
    loss = LOSSES[name]
    block, vectors, regularization = make_problem(loss, biases=biases, weighted=weighted, degrees=[7, 7, 8])
    fixed = side_for(loss, vectors, 0.25, regularization, rotated=False)
    lengths = []

    def one_step(half_gradient, steepest, ridge, start, steps):
        moved = solve_gradient(half_gradient, steepest, ridge, start, steps)
        gradient = half_gradient(start.astype(np.float64))
        lengths.append(np.linalg.norm(moved - start, axis=1) / np.linalg.norm(gradient, axis=1))
        return moved

    monkeypatch.setattr(solve_rows_module, "solve_gradient", one_step)
    rng = np.random.default_rng(0)
    rows = list(references(block, vectors, 0.25, regularization, loss))
    for scale in (0.0, 1.0):
        start = (scale * rng.normal(size=(block.n_rows, WIDTH))).astype(np.float32)
        solution = solve_rows(block, fixed, RowProblem(regularization, loss, "gradient", gradient_steps=1), start)
        for place, row in enumerate(rows):
            before, after = start[place].astype(np.float64), solution.vectors[place].astype(np.float64)
            for point in (before, (before + after) / 2, after, np.zeros(WIDTH)):
                assert lengths[-1][place] * steepest_curvature(row, point) <= 1 + 1e-4
            # What a step of that length is sure to gain.
            gain = lengths[-1][place] * float((row.gradient(before) ** 2).sum()) / 4
            assert row.objective(after) <= row.objective(before) - gain * (1 - 1e-3) + 1e-5


def test_momentum_comes_further_where_the_problem_is_ill_conditioned():
    curvatures = np.geomspace(1e-3, 1.0, 12)
    ridge = Ridge(np.full((1, 12), 1e-4))

    def half_gradient(vectors):
        return curvatures * (vectors - 1.0) + ridge.half_gradient(vectors)

    def left_after(steps):
        moved = solve_gradient(half_gradient, np.ones(1), ridge, np.zeros((1, 12), np.float32), steps)
        return float(np.abs(half_gradient(moved)).max())

    plain = np.zeros((1, 12))
    for _ in range(100):
        plain = plain - half_gradient(plain) / (1.0 + 1e-4)
    assert left_after(100) < 0.1 * np.abs(half_gradient(plain)).max()
    assert left_after(400) < 0.01 * left_after(100), "it goes on, for momentum that points uphill is dropped"
