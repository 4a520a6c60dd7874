from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import recsys_spark.kernels.solve_rows as solve_rows_module
from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block
from recsys_spark.kernels.degree_ladder import LADDER
from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests import reference_als
from tests.kernels.problems import (
    SOLVERS,
    block_of_degrees,
    explicit_problems,
    random_vectors,
    rows_of,
    triples,
)

EXACT = Regularization(0.1, 0.05, 1.0, True)


def reg_tuple(regularization):
    return (
        regularization.reg_param,
        regularization.bias_reg_param,
        regularization.reg_exponent,
        regularization.biases,
    )


def solve_all(block, vectors, mean, regularization, solver, start=None, cg_steps=60):
    fixed = make_fixed_side(vectors, mean, regularization.biases)
    return solve_rows(block, fixed, RowProblem(regularization, solver=solver, cg_steps=cg_steps), start)


def reference_rows(block, vectors, mean, regularization):
    """(design, target, penalty diagonal) of every row, in float64."""
    for position in range(block.n_rows):
        own = slice(block.indptr[position], block.indptr[position + 1])
        wide = vectors.astype(np.float64)
        design, target = reference_als.design_and_target(
            block.column_index[own], block.values[own], wide, mean, regularization.biases
        )
        yield (
            design,
            target,
            reference_als.penalty_of_row(len(target), wide.shape[1], *reg_tuple(regularization)),
        )


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=60, deadline=None)
@given(problem=explicit_problems())
def test_equals_the_dense_reference(solver, problem):
    block, vectors, mean, regularization = problem
    solved = solve_all(*problem, solver).vectors
    expected = reference_als.solve_side(
        triples(block), block.n_rows, vectors.astype(np.float64), mean, reg_tuple(regularization)
    )
    assert solved.dtype == np.float32
    assert_allclose(solved, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("width", [33, 65])
def test_equals_the_reference_at_real_widths(solver, width):
    rng = np.random.default_rng(width)
    degrees = [1, 2, 7, 8, 9, 33, 64, 65, 66, 130, 400, 1500]
    block = block_of_degrees(degrees, 1600, rng)
    vectors = random_vectors(1600, width, rng)
    solved = solve_all(block, vectors, 3.4, EXACT, solver, cg_steps=300).vectors
    expected = reference_als.solve_side(triples(block), len(degrees), vectors.astype(np.float64), 3.4, reg_tuple(EXACT))
    assert_allclose(solved, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=30, deadline=None)
@given(problem=explicit_problems(), seed=st.integers(0, 1000))
def test_solved_rows_are_stationary_minima(solver, problem, seed):
    solution = solve_all(*problem, solver)
    rng = np.random.default_rng(seed)
    for vector, (design, target, diagonal) in zip(
        solution.vectors.astype(np.float64), reference_rows(*problem), strict=True
    ):
        gradient = reference_als.row_gradient(vector, design, target, diagonal)
        scale = np.abs(design).T @ np.abs(target) + 1e-3
        assert np.abs(gradient / scale).max() < 1e-4
        least = sum(reference_als.row_objective(vector, design, target, diagonal))
        for radius in (0.01, 0.1):
            step = rng.normal(size=vector.shape)
            step *= radius / np.linalg.norm(step)
            for moved in (vector + step, vector - step):
                assert sum(reference_als.row_objective(moved, design, target, diagonal)) > least


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=30, deadline=None)
@given(problem=explicit_problems(), cg_steps=st.integers(1, 4))
def test_objective_is_that_of_the_returned_vectors(solver, problem, cg_steps):
    solution = solve_all(*problem, solver, cg_steps=cg_steps)
    rows = reference_rows(*problem)
    for position, (design, target, diagonal) in enumerate(rows):
        vector = solution.vectors[position].astype(np.float64)
        error, penalty = reference_als.row_objective(vector, design, target, diagonal)
        # A residual is the difference of float32 numbers of the ratings' size.
        rounding = 2e-6 * np.sqrt(len(target))
        assert_allclose(np.sqrt(solution.observed[position]), np.sqrt(error), rtol=1e-5, atol=rounding)
        assert_allclose(solution.penalty[position], penalty, rtol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=60, deadline=None)
@given(problem=explicit_problems(), cuts=st.lists(st.integers(0, 12), max_size=4), with_start=st.booleans())
def test_any_split_of_a_block_gives_equal_bits(solver, problem, cuts, with_start):
    block, vectors, _, _ = problem
    start = random_vectors(block.n_rows, vectors.shape[1], np.random.default_rng(1)) if with_start else None
    assert_splits_agree(problem, solver, start, cuts)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("width", [1, 2, 33, 64, 65])
@pytest.mark.parametrize("batch_floats", [1, 1 << 14, 1 << 18])
def test_blocks_and_batch_sizes_give_equal_bits_at_real_widths(solver, width, batch_floats, monkeypatch):
    rng = np.random.default_rng(7)
    degrees = [*rng.integers(1, 80, size=45).tolist(), 100, 300, 310, 17_000]
    block = block_of_degrees(degrees, 20_000, rng)
    vectors = random_vectors(20_000, width, rng)
    problem = (block, vectors, 3.4, Regularization(0.1, 0.05, 1.0, width != 64))
    start = random_vectors(block.n_rows, width, rng)
    whole = solve_all(*problem, solver, start, cg_steps=3)
    monkeypatch.setattr(solve_rows_module, "MAX_BATCH_FLOATS", batch_floats)
    again = solve_all(*problem, solver, start, cg_steps=3)
    assert_array_equal(again.vectors, whole.vectors)
    assert_array_equal(again.observed, whole.observed)
    assert_splits_agree(problem, solver, start, [1, 7, 20, 48])


def assert_splits_agree(problem, solver, start, cuts):
    block = problem[0]
    whole = solve_all(*problem, solver, start, cg_steps=3)
    one_by_one = range(block.n_rows + 1)
    some = sorted({0, block.n_rows, *(min(cut, block.n_rows) for cut in cuts)})
    for bounds in (one_by_one, some):
        for first, last in pairwise(bounds):
            part_start = None if start is None else start[first:last]
            part = solve_all(rows_of(block, first, last), *problem[1:], solver, part_start, cg_steps=3)
            assert_array_equal(part.vectors, whole.vectors[first:last])
            assert_array_equal(part.observed, whole.observed[first:last])
            assert_array_equal(part.penalty, whole.penalty[first:last])


@settings(max_examples=60, deadline=None)
@given(problem=explicit_problems(), steps=st.integers(1, 5), scale=st.sampled_from([0.0, 0.1, 1.0, 30.0]))
def test_cg_never_raises_a_row_objective(problem, steps, scale):
    block, vectors, _, _ = problem
    rng = np.random.default_rng(3)
    start = (scale * rng.normal(size=(block.n_rows, vectors.shape[1]))).astype(np.float32)
    solution = solve_all(*problem, "cg", start, cg_steps=steps)
    again = solve_all(*problem, "cg", solution.vectors, cg_steps=steps)
    for position, (design, target, diagonal) in enumerate(reference_rows(*problem)):
        before = reference_als.row_objective(start[position].astype(np.float64), design, target, diagonal)
        after = solution.observed[position] + solution.penalty[position]
        assert after <= sum(before) * (1 + 1e-5)
        assert again.observed[position] + again.penalty[position] <= after


def test_cg_converges_to_the_exact_solution_as_steps_grow():
    rng = np.random.default_rng(11)
    block = block_of_degrees([20, 90, 200, 20_000], 24_000, rng)
    vectors = random_vectors(24_000, 17, rng)
    start = random_vectors(4, 17, rng)
    exact = solve_all(block, vectors, 3.4, EXACT, "cholesky").vectors
    errors = [
        np.abs(solve_all(block, vectors, 3.4, EXACT, "cg", start, cg_steps=steps).vectors - exact).max()
        for steps in (1, 4, 8, 40)
    ]
    assert errors[0] > 3 * errors[1]
    assert errors[1] > 3 * errors[2]
    assert errors[-1] < 1e-5


def test_cg_started_at_the_solution_stays_there():
    rng = np.random.default_rng(12)
    block = block_of_degrees([3, 50, 700], 800, rng)
    vectors = random_vectors(800, 9, rng)
    exact = solve_all(block, vectors, 3.4, EXACT, "cholesky").vectors
    again = solve_all(block, vectors, 3.4, EXACT, "cg", exact, cg_steps=50)
    assert_allclose(again.vectors, exact, atol=2e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("degree", [LADDER[-1], LADDER[-1] + 1, 2 * LADDER[-1] + 77])
def test_rows_around_and_beyond_the_ladders_top(solver, degree):
    rng = np.random.default_rng(degree)
    block = block_of_degrees([3, degree], degree + 10, rng)
    vectors = random_vectors(degree + 10, 9, rng)
    solution = solve_all(block, vectors, 3.4, EXACT, solver)
    expected = reference_als.solve_side(triples(block), 2, vectors.astype(np.float64), 3.4, reg_tuple(EXACT))
    assert_allclose(solution.vectors, expected, rtol=1e-4, atol=1e-5)
    (design, target, diagonal) = list(reference_rows(block, vectors, 3.4, EXACT))[1]
    error, _ = reference_als.row_objective(solution.vectors[1].astype(np.float64), design, target, diagonal)
    assert_allclose(solution.observed[1], error, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_bias_only_model_shrinks_the_mean_residual(solver):
    item_biases = np.array([[0.5], [-0.25]], dtype=np.float32)
    block = CsrBlock(
        np.array([4], dtype=np.int32),
        np.array([0, 2]),
        np.array([0, 1], dtype=np.int32),
        np.array([4.0, 5.0], dtype=np.float32),
    )
    solution = solve_all(block, item_biases, 3.0, Regularization(9.0, 0.5, 1.0, True), solver)
    # Residuals 4 - 3 - 0.5 and 5 - 3 + 0.25; penalty 0.5 * 2 observations.
    assert_allclose(solution.vectors, [[(0.5 + 2.25) / (2 + 1.0)]], rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_alternating_iterations_follow_the_reference(solver):
    rng = np.random.default_rng(21)
    degrees = rng.integers(1, 12, size=15)
    by_user = block_of_degrees(degrees, 13, rng, first_row=0, row_step=1)
    observations = triples(by_user)
    by_item = transpose(by_user)
    users, items = random_vectors(15, 5, rng), random_vectors(13, 5, rng)
    users[:, -1] = items[:, -1] = 0
    expected = reference_als.alternate(observations, users.astype(float), items.astype(float), 3.4, reg_tuple(EXACT), 4)
    previous = np.inf
    for _ in range(4):
        users = solve_all(by_user, items, 3.4, EXACT, solver, users).vectors
        half = solve_all(by_item, users, 3.4, EXACT, solver, items[by_item.row_index])
        items[by_item.row_index] = half.vectors
        user_penalty = sum(
            reference_als.penalty_of_row(d, 5, *reg_tuple(EXACT)) @ v.astype(float) ** 2
            for d, v in zip(degrees, users, strict=True)
        )
        objective = half.observed.sum() + half.penalty.sum() + user_penalty
        assert objective < previous
        previous = objective
    assert_allclose(users, expected[0], rtol=1e-3, atol=1e-3)
    assert_allclose(previous, expected[2][-1], rtol=1e-4)


def transpose(block):
    rows = np.repeat(block.row_index, block.degrees)
    return build_csr_block(block.column_index, rows, block.values)


@pytest.mark.parametrize("solver", SOLVERS)
def test_empty_block_and_empty_rows(solver):
    vectors = random_vectors(6, 3, np.random.default_rng(0))
    nothing = block_of_degrees([], 6, np.random.default_rng(0))
    assert solve_all(nothing, vectors, 3.4, EXACT, solver).vectors.shape == (0, 3)
    some = block_of_degrees([0, 4, 0], 6, np.random.default_rng(0))
    solution = solve_all(some, vectors, 3.4, EXACT, solver, start=np.ones((3, 3), dtype=np.float32))
    assert_array_equal(solution.vectors[[0, 2]], 0)
    assert_array_equal(solution.observed[[0, 2]], 0)
    assert np.abs(solution.vectors[1]).min() > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_inputs_are_not_changed(solver):
    rng = np.random.default_rng(5)
    block = block_of_degrees([2, 9, 30], 40, rng)
    vectors, start = random_vectors(40, 6, rng), random_vectors(3, 6, rng)
    fixed = make_fixed_side(vectors, 3.4, True)
    arrays = (block.indptr, block.column_index, block.values, fixed.design, fixed.offsets, vectors, start)
    copies = [array.copy() for array in arrays]
    solve_rows(block, fixed, RowProblem(EXACT, solver=solver), start)
    for array, copy in zip(arrays, copies, strict=True):
        assert_array_equal(array, copy)


def test_column_outside_the_fixed_side_is_rejected():
    block = block_of_degrees([3, 6], 6, np.random.default_rng(0))
    fixed = make_fixed_side(random_vectors(5, 3, np.random.default_rng(0)), 3.4, True)
    with pytest.raises(ShapeError, match=r"\[0, 5\).*got 0 to 5"):
        solve_rows(block, fixed, RowProblem(EXACT))


@pytest.mark.parametrize("solver", SOLVERS)
def test_non_finite_row_is_named(solver):
    block = block_of_degrees([3, 4, 5], 6, np.random.default_rng(0))
    block.values[4] = np.nan
    with pytest.raises(NumericalError, match=r"row 8 \(4 observations\)"):
        solve_all(block, random_vectors(6, 3, np.random.default_rng(0)), 3.4, EXACT, solver)


def test_singular_row_is_named_and_the_others_are_solved():
    block = block_of_degrees([6, 1, 6], 6, np.random.default_rng(0))
    free = Regularization(0.0, 0.0, 1.0, False)
    with pytest.raises(NumericalError, match=r"1 rows.*row 8 \(1 observations\)"):
        solve_all(block, np.eye(6, 3, dtype=np.float32) + 1, 0.0, free, "cholesky")


def test_dual_without_penalty_falls_back_to_the_normal_equations():
    block = block_of_degrees([6, 8], 9, np.random.default_rng(0))
    vectors = random_vectors(9, 3, np.random.default_rng(0))
    free = Regularization(0.1, 0.0, 1.0, True)
    dual = solve_all(block, vectors, 3.4, free, "dual")
    assert_array_equal(dual.vectors, solve_all(block, vectors, 3.4, free, "cholesky").vectors)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"solver": "magic"}, "solver must be"),
        ({"solver": "cg", "cg_steps": 0}, "cg_steps must be >= 1, got 0"),
        ({"gradient_steps": -1}, "gradient_steps must be >= 1, got -1"),
        ({"loss": Loss("ials", unobserved_weight=0.1)}, "the ials loss and the fixed side disagree"),
    ],
)
def test_wrong_arguments_are_rejected(keywords, message):
    block = block_of_degrees([3, 4], 6, np.random.default_rng(0))
    fixed = make_fixed_side(random_vectors(6, 3, np.random.default_rng(0)), 3.4, True)
    with pytest.raises(ShapeError, match=message):
        solve_rows(block, fixed, RowProblem(EXACT, **keywords))


def test_start_of_another_shape_is_rejected():
    block = block_of_degrees([3, 4], 6, np.random.default_rng(0))
    fixed = make_fixed_side(random_vectors(6, 3, np.random.default_rng(0)), 3.4, True)
    with pytest.raises(ShapeError, match=r"shape \(2, 3\), got \(2, 4\)"):
        solve_rows(block, fixed, RowProblem(EXACT), np.zeros((2, 4), dtype=np.float32))
