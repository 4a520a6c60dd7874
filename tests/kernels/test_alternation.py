"""Alternating between both sides with every solver: all reach the same objective, for every loss."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.initialization import initial_factors
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests.kernels.problems import LOSSES
from tests.kernels.test_solve_rows_losses import side_for
from tests.reference_joint import JointReference

N_USERS, N_ITEMS, RANK, ITERATIONS = 30, 20, 4, 40
STEPS = {"cg_steps": 5, "gradient_steps": 100, "newton_steps": 2}


def observations(loss):
    """Every user and every item has ratings, one user a single one."""
    rng = np.random.default_rng(1)
    pairs = {(user, user % N_ITEMS) for user in range(N_USERS)}
    pairs |= {(int(u), int(i)) for u, i in rng.integers([1, 0], [N_USERS, N_ITEMS], (200, 2))}
    users, items = np.array(sorted(pairs)).T
    values = rng.integers(1, 11, len(users)) / 2
    return users, items, (values > 2.5 if loss.name == "logistic" else values).astype(np.float32)


def alternate(loss, regularization, solver):
    """Return the objective of the reference where the solver leads, after checking that it never rose."""
    users, items, values = observations(loss)
    blocks = build_csr_block(users, items, values), build_csr_block(items, users, values)
    problem = RowProblem(regularization, loss, solver, **STEPS)
    width = RANK + regularization.biases
    vectors = [np.zeros((n, width), np.float32) for n in (N_USERS, N_ITEMS)]
    vectors[1][:, :RANK] = initial_factors(0, 1, np.arange(N_ITEMS), RANK)
    reference = JointReference(
        list(zip(users, items, values.astype(float), strict=True)), None, 0.0, regularization, loss
    )
    reached = []
    for _ in range(ITERATIONS):
        for side in (0, 1):
            fixed = side_for(loss, vectors[1 - side], 0.0, regularization)
            vectors[side] = solve_rows(blocks[side], fixed, problem, vectors[side]).vectors
        reached.append(reference.objective(*(side.astype(float) for side in vectors)))
    assert (np.diff(reached) <= 1e-6 * np.abs(reached[0])).all()
    return reached[-1]


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_all_solvers_reach_the_same_objective(name, biases):
    regularization = Regularization(0.3, 0.1, 0.5, biases)
    solvers = ("cholesky", "dual", "cg", "subspace", "gradient", "auto")
    reached = {solver: alternate(LOSSES[name], regularization, solver) for solver in solvers}
    assert max(reached.values()) <= min(reached.values()) * 1.001, reached
