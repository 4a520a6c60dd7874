"""Every loss, with every way to solve a row, against the dense reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.degree_ladder import LADDER
from recsys_spark.kernels.fixed_side import all_pairs, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import side_gramian
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests.kernels.problems import LOSSES, block_of_degrees, random_vectors, rows_of
from tests.reference_rows import RowReference

# Enough steps for each to arrive.
WAYS = {
    "cholesky": {"solver": "cholesky"},
    "dual": {"solver": "dual"},
    "cg": {"solver": "cg", "cg_steps": 60},
    "subspace": {"solver": "subspace"},
    "gradient": {"solver": "gradient", "gradient_steps": 4000},
    "auto": {"solver": "auto"},
}
DEGREES = [1, 3, 9, 21]


def side_for(loss, vectors, constant, regularization, *, rotated=True):
    fixed = make_fixed_side(vectors, constant, regularization.biases)
    if not loss.all_pairs_weight:
        return fixed
    part = all_pairs(
        side_gramian(with_offsets(fixed)),
        len(vectors),
        loss.all_pairs_weight,
        regularization,
        counts_unobserved=loss.counts_unobserved,
        rotated=rotated,
    )
    return in_basis(fixed, part)


def make_problem(loss, *, biases=True, weighted=False, width=5, degrees=DEGREES, n_fixed=30, seed=3):
    rng = np.random.default_rng(seed)
    block = block_of_degrees(degrees, n_fixed, rng)
    if loss.name == "logistic":
        block = replace(block, values=(block.values > 2.5).astype(np.float32))
    if weighted:
        block = replace(block, weights=rng.uniform(0.1, 2.0, size=block.nnz).astype(np.float32))
    vectors = random_vectors(n_fixed, width, rng)
    return block, vectors, Regularization(0.4, 0.15, 0.7, biases)


def references(block, vectors, constant, regularization, loss):
    for position in range(block.n_rows):
        own = slice(block.indptr[position], block.indptr[position + 1])
        weights = None if block.weights is None else block.weights[own]
        yield RowReference(block.column_index[own], block.values[own], weights, vectors, constant, regularization, loss)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_solved_rows_are_the_minima_of_the_reference(name, biases, weighted, way):
    loss, constant = LOSSES[name], 0.25
    block, vectors, regularization = make_problem(loss, biases=biases, weighted=weighted)
    problem = RowProblem(regularization, loss, newton_steps=12, **WAYS[way])
    start = random_vectors(block.n_rows, 5, np.random.default_rng(0))
    solution = solve_rows(block, side_for(loss, vectors, constant, regularization), problem, start)
    for position, row in enumerate(references(block, vectors, constant, regularization, loss)):
        expected, found = row.minimum(), solution.vectors[position].astype(np.float64)
        assert_allclose(found, expected, rtol=1e-4, atol=2e-4)
        assert_allclose(solution.observed[position], row.observed(found), rtol=1e-5, atol=1e-5)
        assert_allclose(solution.unobserved[position], row.unobserved(found), rtol=1e-5, atol=1e-6)
        assert_allclose(solution.penalty[position], row.penalty(found), rtol=1e-5, atol=1e-9)
        assert row.objective(found) <= row.objective(expected) * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("solver", ["cg", "subspace", "gradient"])
@pytest.mark.parametrize("name", LOSSES)
def test_few_steps_lower_the_objective_and_never_raise_it(name, solver):
    loss = LOSSES[name]
    block, vectors, regularization = make_problem(loss, width=70, degrees=[2, 40, 100, 150], n_fixed=200)
    fixed = side_for(loss, vectors, 0.0, regularization)
    problem = RowProblem(regularization, loss, solver, cg_steps=2, gradient_steps=2, newton_steps=1)
    vectors_now = random_vectors(block.n_rows, 70, np.random.default_rng(0))
    objectives, before = [], np.full(block.n_rows, np.inf)
    for _ in range(4):
        solution = solve_rows(block, fixed, problem, vectors_now)
        assert (solution.objective <= before * (1 + 1e-6)).all()
        before, vectors_now = solution.objective, solution.vectors
        objectives.append(before)
    exact = solve_rows(block, fixed, replace(problem, solver="cholesky", newton_steps=20), vectors_now)
    assert (exact.objective <= before * (1 + 1e-6)).all()
    left = [(now - exact.objective).sum() for now in objectives]
    assert left[-1] < (0.9 if solver == "gradient" else 0.3) * left[0]


@pytest.mark.parametrize("solver", ["cholesky", "dual", "cg", "gradient"])
def test_newton_steps_that_overshoot_are_halved(solver):
    loss = LOSSES["logistic"]
    block, vectors, _ = make_problem(loss, biases=False)
    regularization = Regularization(0.01, 0.01, 0.0, False)
    # Where probabilities are nearly 0 and 1 the curvature is nearly nothing, and a whole step goes far too far.
    start = 8 * random_vectors(block.n_rows, 5, np.random.default_rng(0))
    problem = RowProblem(regularization, loss, solver, newton_steps=1)
    fixed = side_for(loss, vectors, 0.0, regularization)
    solution = solve_rows(block, fixed, problem, start)
    for position, row in enumerate(references(block, vectors, 0.0, regularization, loss)):
        assert solution.objective[position] <= row.objective(start[position]) * (1 + 1e-6)
    settled = solve_rows(block, fixed, replace(problem, newton_steps=100, gradient_steps=20_000), start)
    expected = [row.minimum() for row in references(block, vectors, 0.0, regularization, loss)]
    if solver != "cg":
        assert_allclose(settled.vectors, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace", "gradient"])
@pytest.mark.parametrize("name", LOSSES)
def test_rows_beyond_the_ladder_are_solved_alike(name, solver):
    loss, degree = LOSSES[name], 2 * LADDER[-1] + 77
    block, vectors, regularization = make_problem(loss, weighted=True, width=6, degrees=[3, degree], n_fixed=degree + 5)
    vectors *= 0.2
    fixed = side_for(loss, vectors, 0.1, regularization)
    steps = {"cg_steps": 60, "gradient_steps": 600, "newton_steps": 15}
    solution = solve_rows(block, fixed, RowProblem(regularization, loss, solver, **steps))
    rows = list(references(block, vectors, 0.1, regularization, loss))
    found = solution.vectors[1].astype(np.float64)
    assert_allclose(solution.objective[1], rows[1].objective(found), rtol=1e-5)
    exact = solve_rows(block, fixed, RowProblem(regularization, loss, "cholesky", newton_steps=15)).vectors
    assert_allclose(found, exact[1], atol=2e-3)
    assert np.abs(rows[1].gradient(exact[1].astype(np.float64), 1e-3)).max() < 1e-3 * degree


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_nonnegative_rows_satisfy_the_conditions_of_a_constrained_minimum(name, biases):
    loss = LOSSES[name]
    block, vectors, regularization = make_problem(loss, biases=biases)
    problem = RowProblem(regularization, loss, nonnegative=True, newton_steps=15)
    fixed = side_for(loss, vectors, -0.1, regularization, rotated=False)
    solution = solve_rows(block, fixed, problem, random_vectors(block.n_rows, 5, np.random.default_rng(0)))
    n_factors = 5 - biases
    n_at_zero = 0
    for position, row in enumerate(references(block, vectors, -0.1, regularization, loss)):
        found = solution.vectors[position].astype(np.float64)
        gradient = row.gradient(found, 1e-4)
        is_free = (found > 0) | (np.arange(5) >= n_factors)
        assert (found[:n_factors] >= 0).all()
        assert_allclose(gradient[is_free], 0, atol=2e-3)
        assert (gradient[~is_free] > -2e-3).all()
        n_at_zero += int((~is_free).sum())
        assert_allclose(solution.objective[position], row.objective(found), rtol=1e-5)
    assert n_at_zero > 0, "the constraint has to matter for this test to say anything"


@pytest.mark.parametrize("way", [*WAYS, "nonnegative"])
@pytest.mark.parametrize("name", LOSSES)
def test_any_split_of_a_block_gives_equal_bits(name, way):
    loss = LOSSES[name]
    rng = np.random.default_rng(8)
    degrees = [*rng.integers(1, 60, size=30).tolist(), 300, 310, 17_000]
    block, vectors, regularization = make_problem(
        loss, weighted=name == "ials", width=34, degrees=degrees, n_fixed=20_000
    )
    vectors *= 0.2
    settings = {"nonnegative": True} if way == "nonnegative" else {**WAYS[way], "cg_steps": 3, "gradient_steps": 3}
    problem = RowProblem(regularization, loss, newton_steps=2, **settings)
    fixed = side_for(loss, vectors, 0.3, regularization, rotated=way != "nonnegative")
    start = random_vectors(block.n_rows, 34, rng)
    whole = solve_rows(block, fixed, problem, start)
    for first, last in [(0, 1), (1, 8), (8, 31), (31, 33)]:
        part_of = rows_of(block, first, last)
        if block.weights is not None:
            part_of = replace(part_of, weights=block.weights[block.indptr[first] : block.indptr[last]].copy())
        part = solve_rows(part_of, fixed, problem, start[first:last])
        for field in ("vectors", "observed", "unobserved", "penalty"):
            assert_array_equal(getattr(part, field), getattr(whole, field)[first:last])


def test_nonnegative_factors_need_their_own_basis():
    loss = LOSSES["ials"]
    block, vectors, regularization = make_problem(loss)
    with pytest.raises(ShapeError, match="rotated=False"):
        solve_rows(
            block, side_for(loss, vectors, 0.0, regularization), RowProblem(regularization, loss, nonnegative=True)
        )


def test_a_weight_of_unobserved_pairs_needs_penalties():
    with pytest.raises(ShapeError, match="reg_param and bias_reg_param > 0"):
        side_for(LOSSES["ials"], np.ones((3, 2), np.float32), 0.0, Regularization(0.1, 0.0, 1.0, True))


def test_untrained_rows_of_the_fixed_side_take_no_part():
    loss = LOSSES["ials"]
    _, vectors, _ = make_problem(loss, degrees=[3], n_fixed=10)
    is_trained = np.isin(np.arange(12), [10, 11], invert=True)
    fixed = make_fixed_side(np.concatenate([vectors, vectors[:2]]), 0.5, True, is_trained=is_trained)
    expected = with_offsets(make_fixed_side(vectors, 0.5, True))
    assert_allclose(side_gramian(with_offsets(fixed)), side_gramian(expected), rtol=1e-12)
