"""Regression on known features against scikit-learn's Ridge and LogisticRegression."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from recsys_spark.errors import ShapeError
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.feature_regression import no_population, population_model, user_problem
from recsys_spark.kernels.fixed_side import make_fixed_side
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows

N_USERS, N_ITEMS, WIDTH = 25, 60, 7
SQUARED, LOGISTIC = Loss("squared"), Loss("logistic")


def problem(loss=SQUARED, solver="auto", **changes):
    regularization = Regularization(2.0, 0.5, 0.5, biases=True)
    return replace(RowProblem(regularization, loss, solver, newton_steps=2), **changes)


def features(rng):
    """Numbers, and zeros and ones."""
    values = rng.normal(size=(N_ITEMS, WIDTH))
    values[:, 3:] = rng.random((N_ITEMS, WIDTH - 3)) < 0.3
    return values.astype(np.float32)


def ratings(rng, loss):
    """Users of 2 to 49 ratings: (users, items, values, weights)."""
    degrees = np.arange(2, 2 + 2 * N_USERS, 2)[:N_USERS].clip(max=N_ITEMS - 1)
    items = np.concatenate([rng.choice(N_ITEMS - 1, degree, replace=False) for degree in degrees])
    users = np.repeat(np.arange(N_USERS), degrees)
    values = rng.integers(0, 2, len(users)) if loss == LOGISTIC else rng.normal(scale=1.5, size=len(users))
    return users, items, values.astype(np.float32), rng.uniform(0.5, 2.0, len(users)).astype(np.float32)


def sums(items, values, weights):
    counts = np.bincount(items, weights, N_ITEMS)
    return counts, np.bincount(items, weights * values.astype(np.float64), N_ITEMS) / np.maximum(counts, 1e-9)


def with_bias_column(x, reg_param, bias_reg_param):
    """A last column whose penalty is that of the bias, where all columns have the same."""
    return np.concatenate([x, np.full((len(x), 1), np.sqrt(reg_param / bias_reg_param))], axis=1)


# Whatever users are solved by, and however far: the population has one solution.
@pytest.mark.parametrize(
    "steps", [{}, {"solver": "cg", "cg_steps": 1}, {"solver": "gradient", "gradient_steps": 1}], ids=str
)
@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_the_population_is_the_ridge_of_all_ratings(steps, constant):
    rng = np.random.default_rng(1)
    x, (_, items, values, weights) = features(rng), ratings(rng, SQUARED)
    found = population_model(x, *sums(items, values, weights), constant, problem(**steps), 3.0)
    design = with_bias_column(x[items], 1.0, 1.0)
    model = Ridge(alpha=3.0, fit_intercept=False, tol=1e-12)
    expected = model.fit(design, values - constant, sample_weight=weights).coef_
    np.testing.assert_allclose([*found.weights, found.bias], expected, atol=1e-5)
    assert found.penalty == pytest.approx(3.0 * (expected**2).sum(), rel=1e-5)


def test_the_population_is_the_logistic_regression_of_all_labels():
    rng = np.random.default_rng(2)
    x, (_, items, labels, weights) = features(rng), ratings(rng, LOGISTIC)
    found = population_model(x, *sums(items, labels, weights), 0.0, problem(LOGISTIC), 3.0)
    model = LogisticRegression(C=1 / 3.0, fit_intercept=False, tol=1e-12, max_iter=10_000)
    expected = model.fit(with_bias_column(x[items], 1.0, 1.0), labels, sample_weight=weights).coef_[0]
    np.testing.assert_allclose([*found.weights, found.bias], expected, atol=1e-5)


def test_the_logistic_population_goes_on_from_the_constant():
    rng = np.random.default_rng(2)
    x, (_, items, labels, weights) = features(rng), ratings(rng, LOGISTIC)
    found = population_model(x, *sums(items, labels, weights), 0.7, problem(LOGISTIC), 3.0)
    own = np.array([*found.weights, found.bias])
    design = with_bias_column(x[items], 1.0, 1.0).astype(np.float64)
    probabilities = 1 / (1 + np.exp(-(0.7 + design @ own)))
    # scikit-learn has no part of the score that is given: the slopes of the cost are nothing where it is least.
    np.testing.assert_allclose(design.T @ (weights * (probabilities - labels)) + 3.0 * own, 0, atol=1e-4)


@pytest.mark.parametrize("solver", ["auto", "dual", "cholesky", "cg"])
def test_every_user_is_the_ridge_of_what_the_population_leaves(solver):
    rng = np.random.default_rng(3)
    x, (users, items, values, weights) = features(rng), ratings(rng, SQUARED)
    given = problem(solver=solver)
    population = population_model(x, *sums(items, values, weights), 0.0, given, 10.0)
    vectors = population.item_vectors(x)
    assert vectors[:, :-1].tolist() == x.tolist()
    block = build_csr_block(users, items, values, weights)
    found = solve_rows(block, make_fixed_side(vectors, 0.0, biases=True), user_problem(given, 3)).vectors
    for user, vector in zip(block.row_index, found, strict=True):
        mine = users == user
        scale = mine.sum() ** 0.5
        left = values[mine] - (x[items[mine]] @ population.weights + population.bias)
        design = with_bias_column(x[items[mine]], 2.0, 0.5)
        model = Ridge(alpha=2.0 * scale, fit_intercept=False, solver="cholesky")
        expected = model.fit(design, left, sample_weight=weights[mine]).coef_
        np.testing.assert_allclose(vector, [*expected[:-1], expected[-1] * 2.0], atol=1e-5)


def test_every_user_is_the_logistic_regression_of_the_labels():
    rng = np.random.default_rng(4)
    x, (users, items, labels, weights) = features(rng), ratings(rng, LOGISTIC)
    given = problem(LOGISTIC)
    vectors = no_population(WIDTH).item_vectors(x)
    block = build_csr_block(users, items, labels, weights)
    found = solve_rows(block, make_fixed_side(vectors, 0.0, biases=True), user_problem(given, 3)).vectors
    n_compared = 0
    for user, vector in zip(block.row_index, found, strict=True):
        mine = users == user
        if len(set(labels[mine])) == 2:
            model = LogisticRegression(C=1 / (2.0 * mine.sum() ** 0.5), fit_intercept=False, tol=1e-12, max_iter=10_000)
            design = with_bias_column(x[items[mine]], 2.0, 0.5)
            expected = model.fit(design, labels[mine], sample_weight=weights[mine]).coef_[0]
            np.testing.assert_allclose(vector, [*expected[:-1], expected[-1] * 2.0], atol=1e-5)
            n_compared += 1
    assert n_compared > N_USERS / 2


@pytest.mark.parametrize("loss", [SQUARED, LOGISTIC])
def test_gradient_descent_ends_where_the_closed_form_is(loss):
    rng = np.random.default_rng(5)
    x, (users, items, values, weights) = features(rng), ratings(rng, loss)
    given = problem(loss, "gradient", gradient_steps=40)
    population = population_model(x, *sums(items, values, weights), 0.0, given, 10.0)
    fixed = make_fixed_side(population.item_vectors(x), 0.0, biases=True)
    block = build_csr_block(users, items, values, weights)
    stepped = user_problem(given, 25)
    assert (stepped.solver, stepped.gradient_steps) == ("gradient", 1000)
    exactly = solve_rows(block, fixed, user_problem(replace(given, solver="auto"), 1))
    found = solve_rows(block, fixed, stepped)
    np.testing.assert_allclose(found.vectors, exactly.vectors, atol=1e-4)
    np.testing.assert_allclose(found.objective, exactly.objective, rtol=1e-5)
    nothing = solve_rows(block, fixed, replace(stepped, gradient_steps=1))
    assert (exactly.objective < nothing.objective).all(), "one step is not enough"


def test_who_has_two_ratings_stays_near_the_population():
    rng = np.random.default_rng(6)
    x = features(rng)
    population = population_model(x, np.full(N_ITEMS, 50.0), x[:, 0].astype(np.float64), 0.0, problem(), 1.0)
    fixed = make_fixed_side(population.item_vectors(x), 0.0, biases=True)
    block = build_csr_block(np.zeros(2, int), np.array([0, 1]), np.float32([0.5, -0.5]))
    own = solve_rows(block, fixed, user_problem(problem(), 1)).vectors[0]
    assert population.weights[0] == pytest.approx(1.0, abs=0.05)
    assert np.linalg.norm(own[:-1]) < 0.5 * np.linalg.norm(population.weights)


def test_counts_and_means_of_all_items_are_needed():
    with pytest.raises(ShapeError, match=r"60 items need as many counts and means, got \(3,\)"):
        population_model(features(np.random.default_rng(0)), np.ones(3), np.ones(N_ITEMS), 0.0, problem(), 1.0)
