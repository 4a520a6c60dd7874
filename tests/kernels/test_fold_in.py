"""A row's fold-in is its next half-iteration, for every loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.fold_in import fold_in
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from recsys_spark.train.half_iteration import prepare_fixed
from tests.kernels.problems import LOSSES, random_vectors, rows_of

N_USERS, N_ITEMS, RANK = 25, 18, 4


def observations(loss, seed=0):
    """Users and items of all degrees; user 0 has one rating, the last item has none."""
    rng = np.random.default_rng(seed)
    pairs = sorted({(0, 0)} | {(int(u), int(i)) for u, i in rng.integers([1, 0], [N_USERS, N_ITEMS - 1], (160, 2))})
    users, items = np.array(pairs).T
    values = rng.integers(1, 6, len(users)).astype(np.float32)
    return users, items, (values > 3).astype(np.float32) if loss.name == "logistic" else values - np.float32(3)


def train(loss, problem, constant, iterations=4):
    """Alternate, as training does; return the users' block, the items as they are at the end, and both sides."""
    users, items, values = observations(loss)
    blocks = build_csr_block(users, items, values), build_csr_block(items, users, values)
    width = RANK + problem.regularization.biases
    sides = [np.zeros((N_USERS, width), np.float32), np.zeros((N_ITEMS, width), np.float32)]
    sides[1][blocks[1].row_index, :RANK] = random_vectors(blocks[1].n_rows, RANK, np.random.default_rng(1))
    if problem.nonnegative:
        sides[1] = np.abs(sides[1])
    for _ in range(iterations):
        for solved, fixed in ((0, 1), (1, 0)):
            rows = blocks[solved].row_index
            side = fixed_side(sides[fixed], blocks[fixed], problem, constant)
            sides[solved][rows] = solve_rows(blocks[solved], side, problem, sides[solved][rows]).vectors
    return blocks[0], fixed_side(sides[1], blocks[1], problem, constant), sides[0]


def fixed_side(vectors, block, problem, constant):
    is_trained = np.isin(np.arange(len(vectors)), block.row_index)
    return prepare_fixed(vectors, is_trained, constant, problem)


@pytest.mark.parametrize("solver", ["cholesky", "dual"])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_a_fold_in_is_the_next_half_iteration(name, biases, solver):
    problem = RowProblem(Regularization(0.3, 0.2, 0.5, biases), LOSSES[name], solver, newton_steps=25)
    constant = 0.4 if name == "logistic" else 0.0
    block, items, users = train(LOSSES[name], problem, constant)
    following = solve_rows(block, items, problem, users[block.row_index])
    folded = fold_in(block, items, problem)
    if LOSSES[name].is_quadratic:
        assert_array_equal(folded.vectors, following.vectors)
    else:
        # Newton's steps end where single precision no longer sees the objective fall.
        assert_allclose(folded.vectors, following.vectors, atol=2e-4)
    # Training had not settled: what is equal is not what was there before.
    assert np.abs(folded.vectors - users[block.row_index]).max() > 2e-3
    for position in range(0, block.n_rows, 5):
        alone = fold_in(rows_of(block, position, position + 1), items, problem)
        assert_array_equal(alone.vectors[0], folded.vectors[position])


@pytest.mark.parametrize("solver", ["cg", "gradient"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_fold_in_is_where_solvers_of_few_steps_arrive(name, solver):
    many = {"cg_steps": 40, "gradient_steps": 1000, "newton_steps": 10}
    problem = RowProblem(Regularization(0.3, 0.2, 0.5, True), LOSSES[name], solver, **many)
    block, items, users = train(LOSSES[name], replace(problem, solver="cholesky"), 0.0)
    arrived = solve_rows(block, items, problem, users[block.row_index])
    few = replace(problem, cg_steps=1, gradient_steps=1, newton_steps=1)
    assert_allclose(fold_in(block, items, few).vectors, arrived.vectors, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_a_fold_in_keeps_factors_nonnegative(name):
    problem = RowProblem(Regularization(0.3, 0.2, 0.5, True), LOSSES[name], nonnegative=True, newton_steps=25)
    block, items, users = train(LOSSES[name], problem, 0.0)
    following = solve_rows(block, items, problem, users[block.row_index])
    folded = fold_in(block, items, problem)
    assert (folded.vectors[:, :RANK] >= 0).all()
    assert (folded.vectors[:, :RANK] == 0).any()
    assert_allclose(folded.vectors, following.vectors, rtol=1e-3, atol=2e-5)
