from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from recsys_spark.kernels.dual import solve_dual
from recsys_spark.kernels.normal_equations import (
    NormalEquations,
    form_normal_equations,
    solve_normal_equations,
)
from recsys_spark.kernels.objective import Ridge
from recsys_spark.kernels.row_batch import WeightedRows


def random_rows(length, width, rng, weighted=False):
    design = rng.normal(size=(6, length, width)).astype(np.float32)
    curvature = rng.uniform(0.1, 3.0, size=(6, length)).astype(np.float32) if weighted else None
    return WeightedRows(design, rng.normal(size=(6, length)).astype(np.float32), curvature)


# Short rows are multiplied in two halves, long ones go to SYRK.
@pytest.mark.parametrize("length", [8, 40, 400])
@pytest.mark.parametrize("width", [1, 2, 5, 64, 65])
@pytest.mark.parametrize("weighted", [False, True])
def test_formed_equations_are_plain_products(length, width, weighted):
    batch = random_rows(length, width, np.random.default_rng(width), weighted)
    equations = form_normal_equations(batch)
    for row in range(6):
        design, target = batch.design[row].astype(float), batch.linear[row].astype(float)
        weights = batch.curvature[row].astype(float) if weighted else np.ones(length)
        assert_allclose(equations.gramian[row], design.T @ (weights[:, None] * design), atol=3e-6 * length)
        assert_allclose(equations.moment[row], design.T @ target, atol=1e-6 * length)


def test_equations_of_the_halves_add_up_to_the_whole():
    batch = random_rows(64, 9, np.random.default_rng(1))
    whole = form_normal_equations(batch)
    halves = [
        form_normal_equations(WeightedRows(batch.design[:, part].copy(), batch.linear[:, part].copy()))
        for part in (slice(0, 32), slice(32, 64))
    ]
    halves[0].add(halves[1])
    assert_allclose(halves[0].gramian, whole.gramian, atol=1e-4)
    assert_allclose(halves[0].moment, whole.moment, atol=1e-4)


def test_a_singular_system_is_nan_and_does_not_spoil_the_others():
    gramian = np.stack([np.eye(3), np.zeros((3, 3)), 2 * np.eye(3)])
    solved = solve_normal_equations(NormalEquations(gramian, np.ones((3, 3))), Ridge(np.zeros((3, 3))))
    assert_allclose(solved, [[1.0] * 3, [np.nan] * 3, [0.5] * 3])


@pytest.mark.parametrize("length", [8, 24, 80])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pulled", [False, True])
def test_dual_and_normal_equations_have_the_same_solution(length, weighted, pulled):
    rng = np.random.default_rng(length)
    batch = random_rows(length, 33, rng, weighted)
    ridge = Ridge(rng.uniform(0.5, 3.0, size=(6, 33)), rng.normal(size=33) if pulled else None)
    primal = solve_normal_equations(form_normal_equations(batch), ridge)
    assert_allclose(solve_dual(batch, ridge), primal, atol=2e-5)


def test_dual_keeps_its_digits_where_a_row_has_more_observations_than_entries():
    """Z P Z' is singular there, and large beside the identity: in single precision, the solution would be noise."""
    rng = np.random.default_rng(5)
    batch = random_rows(80, 33, rng)
    ridge = Ridge(np.full((6, 33), 1e-6))
    design = batch.design.astype(np.float64)
    system = design.transpose(0, 2, 1) @ design + 1e-6 * np.eye(33)
    right_side = design.transpose(0, 2, 1) @ batch.linear.astype(np.float64)[:, :, None]
    assert_allclose(solve_dual(batch, ridge), np.linalg.solve(system, right_side)[:, :, 0], rtol=1e-6, atol=1e-7)
