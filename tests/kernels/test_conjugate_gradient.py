from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.kernels.conjugate_gradient import (
    solve_conjugate_gradient,
    solve_conjugate_gradient_formed,
)
from recsys_spark.kernels.normal_equations import form_normal_equations, solve_normal_equations
from recsys_spark.kernels.row_batch import RowBatch

WIDTH = 7


def problem():
    rng = np.random.default_rng(6)
    design = rng.normal(size=(5, 40, WIDTH)).astype(np.float32)
    batch = RowBatch(design, rng.normal(size=(5, 40)).astype(np.float32))
    return batch, rng.uniform(0.5, 2.0, size=(5, WIDTH)), rng.normal(size=(5, WIDTH)).astype(np.float32)


def both_ways(steps):
    batch, penalties, start = problem()
    free = solve_conjugate_gradient(batch, penalties, start, batch.residuals(start), steps)
    formed = solve_conjugate_gradient_formed(form_normal_equations(batch), penalties, start, steps)
    return free, formed


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, WIDTH])
def test_matrix_free_and_formed_steps_are_the_same_steps(steps):
    free, formed = both_ways(steps)
    assert_allclose(free, formed, atol=1e-5)


@pytest.mark.parametrize("steps", [WIDTH, 500])
def test_as_many_steps_as_the_width_are_exact_and_more_do_no_harm(steps):
    batch, penalties, _ = problem()
    exact = solve_normal_equations(form_normal_equations(batch), penalties)
    for solved in both_ways(steps):
        assert_allclose(solved, exact, atol=1e-5)


def test_steps_minimise_over_the_krylov_space():
    batch, penalties, start = problem()
    for row in range(5):
        design, target = batch.design[row].astype(float), batch.targets[row].astype(float)
        matrix = design.T @ design + np.diag(penalties[row])
        gradient = design.T @ target - matrix @ start[row]
        basis = np.stack([gradient, matrix @ gradient, matrix @ matrix @ gradient], axis=1)
        weights = np.linalg.solve(basis.T @ matrix @ basis, basis.T @ gradient)
        expected = start[row] + basis @ weights
        assert_allclose(both_ways(3)[0][row], expected, atol=1e-4)
