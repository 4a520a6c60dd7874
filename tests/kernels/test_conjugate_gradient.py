from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.kernels.conjugate_gradient import (
    solve_conjugate_gradient,
    solve_conjugate_gradient_formed,
)
from recsys_spark.kernels.normal_equations import form_normal_equations, solve_normal_equations
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows, predict

WIDTH = 7


def problem(weighted=False, pulled=False):
    rng = np.random.default_rng(6)
    design = rng.normal(size=(5, 40, WIDTH)).astype(np.float32)
    curvature = rng.uniform(0.2, 2.0, size=(5, 40)).astype(np.float32) if weighted else None
    batch = WeightedRows(design, rng.normal(size=(5, 40)).astype(np.float32), curvature)
    ridge = Ridge(rng.uniform(0.5, 2.0, size=(5, WIDTH)), rng.normal(size=WIDTH) if pulled else None)
    return batch, ridge, rng.normal(size=(5, WIDTH)).astype(np.float32)


def both_ways(steps, **kind):
    batch, ridge, start = problem(**kind)
    free = solve_conjugate_gradient(batch, ridge, start, predict(batch.design, start), steps)
    formed = solve_conjugate_gradient_formed(form_normal_equations(batch), ridge, start, steps)
    return free, formed


KINDS = [{}, {"weighted": True}, {"pulled": True}, {"weighted": True, "pulled": True}]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, WIDTH])
@pytest.mark.parametrize("kind", KINDS)
def test_matrix_free_and_formed_steps_are_the_same_steps(steps, kind):
    free, formed = both_ways(steps, **kind)
    assert_allclose(free, formed, atol=3e-5)


@pytest.mark.parametrize("steps", [WIDTH, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_steps_as_the_width_are_exact_and_more_do_no_harm(steps, kind):
    batch, ridge, _ = problem(**kind)
    exact = solve_normal_equations(form_normal_equations(batch), ridge)
    for solved in both_ways(steps, **kind):
        assert_allclose(solved, exact, atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_minimise_over_the_preconditioned_krylov_space(kind):
    batch, ridge, start = problem(**kind)
    for row in range(5):
        design, linear = batch.design[row].astype(float), batch.linear[row].astype(float)
        weights = np.ones(40) if batch.curvature is None else batch.curvature[row].astype(float)
        matrix = design.T @ (weights[:, None] * design) + np.diag(ridge.diagonal[row])
        scale = np.ones(WIDTH) if ridge.pull is None else 1 / ridge.diagonal[row]
        gradient = design.T @ linear - matrix @ start[row] + (0 if ridge.pull is None else ridge.pull)
        first = scale * gradient
        second = scale * (matrix @ first)
        basis = np.stack([first, second, scale * (matrix @ second)], axis=1)
        steps = np.linalg.solve(basis.T @ matrix @ basis, basis.T @ gradient)
        assert_allclose(both_ways(3, **kind)[0][row], start[row] + basis @ steps, atol=1e-4)
