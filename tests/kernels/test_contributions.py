"""Contributions add up to the score, and are what an observation's value adds to the solution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.contributions import contributions
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.fold_in import fold_in
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.train.half_iteration import prepare_fixed
from tests.kernels.problems import LOSSES, random_vectors, rows_of
from tests.reference_rows import RowReference

N_FIXED, TARGETS = 30, np.array([0, 7, 29])


def row_of(loss, n, rng, weighted=False):
    values = rng.integers(1, 6, n).astype(np.float32)
    values = (values > 3).astype(np.float32) if loss.name == "logistic" else values - np.float32(3)
    weights = rng.uniform(0.2, 2.0, n).astype(np.float32) if weighted else None
    return build_csr_block(np.full(n, 4), rng.choice(N_FIXED, n, replace=False), values, weights)


def explained(loss, seed, *, biases=True, weighted=False, nonnegative=False, constant=0.0, n=9, width=5):
    rng = np.random.default_rng(seed)
    problem = RowProblem(Regularization(0.4, 0.2, 0.5, biases), loss, nonnegative=nonnegative)
    vectors = random_vectors(N_FIXED, width, rng)
    row = row_of(loss, n, rng, weighted)
    everything = np.ones(N_FIXED, np.bool_)
    vector = fold_in(row, prepare_fixed(vectors, everything, constant, problem), problem).vectors[0]
    side = prepare_fixed(vectors, everything, constant, problem, rotated=False)
    return row, vectors, side, problem, vector, contributions(row, side, problem, vector, TARGETS)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(list(LOSSES)),
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 25),
    biases=st.booleans(),
    weighted=st.booleans(),
    nonnegative=st.booleans(),
)
def test_contributions_add_up_to_the_score_of_a_settled_row(name, seed, n, biases, weighted, nonnegative):
    constant = 0.3 if name == "logistic" else 0.0
    row, vectors, side, problem, vector, parts = explained(
        LOSSES[name], seed, biases=biases, weighted=weighted, nonnegative=nonnegative, constant=constant, n=n
    )
    assert parts.observed.shape == (3, n)
    reference = RowReference(
        row.column_index, row.values, row.weights, vectors, constant, problem.regularization, problem.loss
    )
    scores = [reference.score(vector.astype(float), j) for j in TARGETS]
    added = side.offsets[TARGETS] + parts.observed.sum(axis=1) + parts.unobserved
    assert_allclose(added, scores, atol=2e-4)
    assert_allclose(added + parts.unsettled, scores, atol=1e-6)


@pytest.mark.parametrize("name", ["squared", "unobserved"])
def test_a_contribution_is_what_the_rating_adds_beyond_the_item_itself(name):
    """Linear in the ratings: without what a rating says beyond the item's own bias, the score loses just that."""
    row, vectors, side, problem, vector, parts = explained(LOSSES[name], 3, weighted=True)
    for place in range(row.nnz):
        values = row.values.copy()
        values[place] = side.offsets[row.column_index[place]]
        reference = RowReference(
            row.column_index, values, row.weights, vectors, 0.0, problem.regularization, problem.loss
        )
        without = reference.minimum()
        for target, found in zip(TARGETS, parts.observed[:, place], strict=True):
            lost = reference.score(vector.astype(float), target) - reference.score(without, target)
            assert found == pytest.approx(lost, abs=2e-4)


def test_what_training_left_over_is_told():
    row, _, side, problem, vector, parts = explained(LOSSES["squared"], 5)
    moved = vector + np.float32(0.1)
    same = contributions(row, side, problem, moved, TARGETS)
    assert_allclose(same.observed, parts.observed)
    assert_allclose(same.unsettled, side.design[TARGETS].astype(float) @ np.full(5, 0.1), atol=1e-5)


def test_a_row_without_observations_has_no_contributions():
    row, _, side, problem, _, _ = explained(LOSSES["ials"], 1)
    parts = contributions(rows_of(row, 0, 0), side, problem, np.zeros(5, np.float32), TARGETS)
    assert parts.observed.shape == (3, 0)
    assert_allclose(parts.unsettled, -parts.unobserved)


def test_what_cannot_be_explained_is_refused():
    row, vectors, side, problem, vector, _ = explained(LOSSES["ials"], 2)
    rotated = prepare_fixed(vectors, np.ones(N_FIXED, np.bool_), 0.0, problem)
    with pytest.raises(ShapeError, match="model's own basis"):
        contributions(row, rotated, problem, vector, TARGETS)
    with pytest.raises(ShapeError, match="one row of width 5"):
        contributions(row, side, problem, vector[:3], TARGETS)
    two = replace(row, row_index=np.int32([1, 2]), indptr=np.int64([0, 4, 9]))
    with pytest.raises(ShapeError, match="one row of width 5 is explained at a time, got 2"):
        contributions(two, side, problem, vector, TARGETS)
