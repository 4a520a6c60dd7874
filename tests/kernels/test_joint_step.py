"""Simultaneous gradient steps, against dense float64 ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.fixed_side import all_pairs, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import side_gramian
from recsys_spark.kernels.joint_step import (
    LENGTHS,
    accelerate,
    all_pairs_along,
    change_of_side,
    losses_along,
    penalty_along,
)
from recsys_spark.kernels.objective import Regularization, row_penalties
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests.kernels.problems import LOSSES, random_vectors, rows_of
from tests.reference_joint import JointReference

N_USERS, N_ITEMS, WIDTH, CONSTANT = 9, 7, 4, 0.2


class Model:
    """A small problem as blocks, and as the reference sees it."""

    def __init__(self, name, *, biases=True, weighted=True):
        rng = np.random.default_rng(5)
        loss = LOSSES[name]
        pairs = sorted(
            {(u, u % N_ITEMS) for u in range(N_USERS)}
            | {(int(u), int(i)) for u, i in rng.integers(0, [N_USERS, N_ITEMS], (40, 2))}
        )
        users, items = np.array(pairs).T
        values = (rng.integers(1, 11, len(pairs)) / 2).astype(np.float32)
        if name == "logistic":
            values = (values > 2.5).astype(np.float32)
        weights = rng.uniform(0.2, 2.0, len(pairs)).astype(np.float32) if weighted else None
        self.regularization = Regularization(0.4, 0.15, 0.7, biases)
        self.problem = RowProblem(self.regularization, loss, "gradient", gradient_steps=1)
        # Where all pairs have a weight there is no constant: it would have to be taken off them as well.
        self.constant = 0.0 if loss.all_pairs_weight else CONSTANT
        parts = () if weights is None else (weights,)
        self.blocks = (build_csr_block(users, items, values, *parts), build_csr_block(items, users, values, *parts))
        triples = list(zip(users, items, values.astype(float), strict=True))
        self.reference = JointReference(triples, weights, self.constant, self.regularization, loss)
        self.start = [random_vectors(n, WIDTH, rng) for n in (N_USERS, N_ITEMS)]

    def fixed(self, vectors):
        return make_fixed_side(vectors, self.constant, self.regularization.biases)

    def solve(self, side, vectors, problem):
        """Solve one side against the other, in the model's own basis."""
        fixed, loss = self.fixed(vectors[1 - side]), self.problem.loss
        if loss.all_pairs_weight:
            part = all_pairs(
                side_gramian(with_offsets(fixed)),
                fixed.n_fixed,
                loss.all_pairs_weight,
                self.regularization,
                counts_unobserved=loss.counts_unobserved,
                rotated=False,
            )
            fixed = in_basis(fixed, part)
        return solve_rows(self.blocks[side], fixed, problem, vectors[side])

    def along(self, vectors, changes):
        """The objective at every length, from the users' rows."""
        fixed, loss = self.fixed(vectors[1]), self.problem.loss
        change = change_of_side(fixed, self.fixed(vectors[1] + changes[1]))
        total = losses_along(self.blocks[0], fixed, change, loss, vectors[0], changes[0]).sum(axis=0)
        lengths = np.array(LENGTHS)
        for side in (0, 1):
            degrees = self.blocks[side].degrees
            unobserved = loss.all_pairs_weight * len(vectors[1 - side]) if loss.counts_unobserved else 0.0
            penalties = row_penalties(degrees, WIDTH, self.regularization, unobserved)
            constant, slope, bend = penalty_along(vectors[side], changes[side], penalties).sum(axis=0)
            total += constant + slope * lengths + bend * lengths**2
        if loss.all_pairs_weight:
            ones = np.ones((N_USERS, 1), np.float32)
            rows = np.concatenate([vectors[0], ones], axis=1), np.concatenate([changes[0], 0 * ones], axis=1)
            total += loss.all_pairs_weight * all_pairs_along(*rows, with_offsets(fixed), with_offsets(change))
        return total

    def step(self, vectors):
        """One simultaneous step; what it reaches, and the objective there."""
        changes = [self.solve(side, vectors, self.problem).vectors - vectors[side] for side in (0, 1)]
        objectives = self.along(vectors, changes)
        best = int(np.argmin(objectives))
        length = np.float32(LENGTHS[best])
        return tuple(v + length * c for v, c in zip(vectors, changes, strict=True)), objectives[best]

    def steps(self, n_steps):
        """Accelerated steps from the start: where they lead, the objective after each, and how many were not kept."""
        taken = []

        def step(sides):
            taken.append(self.step(sides))
            return *taken[-1], len(taken) - 1

        best = accelerate(tuple(self.start), n_steps, step)
        kept = [k for k, (_, objective) in enumerate(taken) if objective <= min(each for _, each in taken[: k + 1])]
        assert best == kept[-1], "the last of those that led to the lowest objective"
        last = [max(k for k in kept if k <= number) for number in range(n_steps)]
        return taken[kept[-1]][0], [taken[k][1] for k in last], n_steps - len(kept)


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_objective_along_a_step_is_that_of_the_reference(name, biases):
    model = Model(name, biases=biases)
    rng = np.random.default_rng(1)
    changes = [0.05 * random_vectors(len(v), WIDTH, rng) for v in model.start]
    expected = [
        model.reference.objective(*(v.astype(float) + t * c for v, c in zip(model.start, changes, strict=True)))
        for t in LENGTHS
    ]
    assert_allclose(model.along(model.start, changes), expected, rtol=2e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_steps_are_those_of_dense_simultaneous_descent(name, biases, weighted):
    model = Model(name, biases=biases, weighted=weighted)
    found, objectives, _ = model.steps(4)
    users, items, expected = model.reference.descend(*(v.astype(float) for v in model.start), LENGTHS, 4)
    assert_allclose(objectives, expected, rtol=1e-4)
    assert_allclose(found[0], users, rtol=2e-3, atol=2e-3)
    assert_allclose(found[1], items, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_enough_steps_reach_the_objective_of_alternating_solutions_without_ever_rising(name):
    model = Model(name)
    vectors, exact = model.start, replace(model.problem, solver="cholesky", newton_steps=10)
    for _ in range(80):
        for side in (0, 1):
            solution = model.solve(side, vectors, exact)
            vectors = [solution.vectors if place == side else v for place, v in enumerate(vectors)]
    goal = model.reference.objective(*(v.astype(float) for v in vectors))
    stepped, objectives, n_lost = model.steps(500)
    assert n_lost > 0, "momentum was lost and found again"
    assert (np.diff(objectives) <= 1e-6 * np.abs(objectives[0])).all()
    assert objectives[-1] <= goal * 1.001
    assert model.reference.objective(*(v.astype(float) for v in stepped)) == pytest.approx(objectives[-1], rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_momentum_saves_steps(name):
    """To within 1% of the least objective; most where steps are short beside the way, as with the implicit loss."""
    model = Model(name)
    plain, without = model.start, []
    for _ in range(150):
        plain, objective = model.step(plain)
        without.append(objective)
    _, accelerated, _ = model.steps(150)
    goal = 1.01 * min(without[-1], accelerated[-1])
    needed, needed_without = (int(np.argmax(np.array(found) <= goal)) for found in (accelerated, without))
    assert 0 < needed <= needed_without
    if name == "implicit":
        assert needed < 0.5 * needed_without


def test_a_joint_step_that_is_too_long_for_both_is_not_taken():
    """Both rows of a single rating move to where it would be met, and together go far past it."""
    model = Model("squared", biases=False, weighted=False)
    vectors = [np.full((N_USERS, WIDTH), 0.05, np.float32), np.full((N_ITEMS, WIDTH), 0.05, np.float32)]
    changes = [200 * (model.solve(side, vectors, model.problem).vectors - vectors[side]) for side in (0, 1)]
    objectives = model.along(vectors, changes)
    assert objectives[LENGTHS.index(1.0)] > objectives[0]
    assert objectives.min() < objectives[0]


def test_a_row_does_not_depend_on_its_block():
    model = Model("logistic")
    fixed = model.fixed(model.start[1])
    change = change_of_side(fixed, model.fixed(1.1 * model.start[1]))
    block, rows, own = model.blocks[0], model.start[0], 0.1 * model.start[0][::-1]
    whole = losses_along(block, fixed, change, model.problem.loss, rows, own)
    for first, last in ((0, 2), (2, N_USERS)):
        part = rows_of(block, first, last)
        part = replace(part, weights=block.weights[block.indptr[first] : block.indptr[last]].copy())
        found = losses_along(part, fixed, change, model.problem.loss, rows[first:last], own[first:last])
        assert_array_equal(found, whole[first:last])
