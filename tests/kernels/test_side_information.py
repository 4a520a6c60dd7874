"""Rows that are drawn towards what their features say, against the objective itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels import side_information
from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.fixed_side import all_pairs, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import column_exponents, side_gramian
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization, row_penalties
from recsys_spark.kernels.side_information import SideInformation
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from recsys_spark.train import prepare_fixed
from tests.kernels.problems import block_of_degrees, random_vectors, sparse

REGULARIZATION = Regularization(0.7, 0.3, 0.5, biases=True)
WIDTH, N_FIXED, N_FEATURES = 4, 30, 3


def problem_of(loss: Loss, solver: str) -> RowProblem:
    return RowProblem(REGULARIZATION, loss, solver, cg_steps=WIDTH + 2, gradient_steps=600, newton_steps=25)


@pytest.mark.parametrize("solver", ["auto", "cholesky", "dual", "cg", "subspace", "gradient"])
@pytest.mark.parametrize("loss", [Loss("squared"), Loss("squared", unobserved_weight=0.1), Loss("logistic")])
def test_rows_are_least_where_the_objective_is(loss: Loss, solver: str) -> None:
    rng = np.random.default_rng(1)
    block = block_of_degrees([1, 4, 25], N_FIXED, rng)
    if loss.name == "logistic":
        block = replace(block, values=(block.values > 2.5).astype(np.float32))
    vectors = random_vectors(N_FIXED, WIDTH, rng)
    fixed = make_fixed_side(vectors, 0.2, biases=True)
    plain = fixed
    if loss.all_pairs_weight:
        gramian = side_gramian(with_offsets(fixed))
        part = all_pairs(gramian, N_FIXED, loss.all_pairs_weight, REGULARIZATION, counts_unobserved=True)
        fixed = in_basis(fixed, part)
    expected, start = (random_vectors(3, WIDTH, rng) for _ in range(2))
    found = solve_rows(block, fixed, problem_of(loss, solver), start, expected=expected)

    penalties = row_penalties(block.degrees, WIDTH, REGULARIZATION, loss.all_pairs_weight * N_FIXED)

    def objective(row: int, vector: np.ndarray) -> float:
        entries = slice(block.indptr[row], block.indptr[row + 1])
        columns, values = block.column_index[entries], block.values[entries].astype(float)
        scores = plain.offsets[:-1].astype(float) + plain.design[:-1].astype(float) @ vector
        if loss.name == "squared":
            total = ((values - scores[columns]) ** 2).sum() + loss.all_pairs_weight * (scores**2).sum()
        else:
            total = 2 * (np.logaddexp(0, scores[columns]) - values * scores[columns]).sum()
        return total + (penalties[row] * (vector - expected[row]) ** 2).sum()

    for row in range(3):
        here = found.vectors[row].astype(float)
        assert found.objective[row] == pytest.approx(objective(row, here), rel=1e-5)
        step = 1e-4 * np.eye(WIDTH)
        slopes = [(objective(row, here + e) - objective(row, here - e)) / 2e-4 for e in step]
        np.testing.assert_allclose(slopes, 0, atol=5e-3)
    apart = solve_rows(block, fixed, problem_of(loss, solver), start)
    assert np.abs(apart.vectors - found.vectors).max() > 0.01


def test_who_has_one_rating_is_near_what_is_expected() -> None:
    rng = np.random.default_rng(2)
    block, fixed = block_of_degrees([1], 9, rng), make_fixed_side(random_vectors(9, WIDTH, rng), 3.0, biases=True)
    expected = random_vectors(1, WIDTH, rng)
    strong = replace(problem_of(Loss("squared"), "auto"), regularization=Regularization(1e5, 1e5, 0.5, biases=True))
    np.testing.assert_allclose(solve_rows(block, fixed, strong, expected=expected).vectors, expected, atol=1e-3)


def test_the_map_is_scikit_learns_weighted_ridge_and_its_penalty_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_information, "_DENSE_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(side_information, "_FLOATS_AT_ONCE", 50)
    rng = np.random.default_rng(3)
    n = 20
    features, vectors = rng.normal(size=(n, N_FEATURES)).astype(np.float32), random_vectors(n, WIDTH, rng)
    degrees = rng.integers(0, 9, n).astype(np.int32)
    degrees[4], vectors[degrees == 0] = 0, 5.0
    side = SideInformation(sparse(features), N_FEATURES, degrees, REGULARIZATION, 2.0, 1.5)
    scale = np.where(degrees > 0, (degrees + 2.0) ** 0.5, 0.0)
    design = np.hstack([features, np.ones((n, 1))])
    oracle = Ridge(alpha=1.5, fit_intercept=False).fit(design, vectors, sample_weight=scale)
    np.testing.assert_allclose(side.expected(vectors), oracle.predict(design), atol=1e-5)
    reg_params = np.array([0.7, 0.7, 0.7, 0.3])

    def penalty(matrix: np.ndarray) -> float:
        apart = (scale[:, None] * reg_params * (vectors - design @ matrix) ** 2).sum()
        return apart + 1.5 * (reg_params * matrix**2).sum()

    least = side.penalty(vectors)
    assert least == pytest.approx(penalty(oracle.coef_.T), rel=1e-6)
    assert least < penalty(oracle.coef_.T + 0.01)
    assert least < penalty(np.zeros_like(oracle.coef_.T)), "features tell something"


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), at_once=st.sampled_from([1, 30, 1 << 20]), n_parts=st.integers(1, 5))
def test_what_is_said_and_its_sums_are_the_same_however_rows_are_spread(seed: int, at_once: int, n_parts: int) -> None:
    rng = np.random.default_rng(seed)
    n, n_features = int(rng.integers(1, 30)), int(rng.integers(0, 6))
    features = (rng.normal(size=(n, n_features)) * (rng.random((n, n_features)) < 0.5)).astype(np.float32)
    degrees, vectors = rng.integers(0, 4, n).astype(np.int32), random_vectors(n, WIDTH, rng) * np.float32(1e3)
    side = SideInformation(sparse(features), n_features, degrees, REGULARIZATION, 0.5, 1.5)
    exponents = column_exponents(vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_information, "_FLOATS_AT_ONCE", at_once)
        whole = side.rows.moment(vectors, exponents)
        matrix = side.matrix(whole, exponents)
    # What it is: in double precision, from dense rows. A number is cut 20 bits below its column's largest.
    design = np.hstack([features, np.ones((n, 1))]) * np.where(degrees > 0, (degrees + 0.5) ** 0.5, 0)[:, None]
    largest = np.abs(design).max(axis=0)[:, None] * np.abs(vectors).max(axis=0)
    found = whole.value(side.rows.exponents, exponents)
    np.testing.assert_array_less(np.abs(found - design.T @ vectors.astype(float)), largest * n * 2.0**-18 + 1e-300)
    parts = np.array_split(rng.permutation(n), n_parts)
    moments = [side.rows.take(part).moment(vectors[part], exponents) for part in parts]
    total = sum(moments[1:], start=moments[0])
    np.testing.assert_array_equal(total.value(side.rows.exponents, exponents), found)
    said, penalties = side.rows.said(matrix), side.rows.penalty(vectors, matrix, REGULARIZATION)
    for part in parts:
        own = side.rows.take(part)
        np.testing.assert_array_equal(own.said(matrix), said[part])
        np.testing.assert_array_equal(own.penalty(vectors[part], matrix, REGULARIZATION), penalties[part])


def test_vectors_that_are_not_finite_are_named() -> None:
    side = SideInformation(sparse(np.eye(2)), 2, np.ones(2, np.int32), REGULARIZATION, 0.0, 1.0)
    with pytest.raises(NumericalError, match="must be finite to be regressed"):
        side.expected(np.full((2, WIDTH), np.inf, np.float32))


class Reference:
    """The objective of rated pairs, both sides' vectors and the map, in double precision and without the kernels."""

    def __init__(
        self, triples: tuple[np.ndarray, ...], features: np.ndarray, loss: Loss, regularization: Regularization
    ) -> None:
        self.users, self.items, self.values = triples
        self.features = np.hstack([features, np.ones((len(features), 1))]).astype(np.float64)
        self.loss, self.regularization = loss, regularization

    def scales(self, own: np.ndarray, other: np.ndarray, n_rows: int) -> np.ndarray:
        """Return what each row's penalty is multiplied by; 0 of rows without ratings."""
        degrees = np.bincount(own, minlength=n_rows)
        unobserved = self.loss.all_pairs_weight * len(np.unique(other))
        return np.where(degrees > 0, (degrees + unobserved) ** self.regularization.reg_exponent, 0.0)

    def best_map(self, vectors: np.ndarray, map_penalty: float) -> np.ndarray:
        """Return the map that numpy's least squares finds: weighted rows, and the ridge as further rows."""
        weights = np.sqrt(self.scales(self.items, self.users, len(vectors)))[:, None]
        n_features = self.features.shape[1]
        design = np.vstack([weights * self.features, np.sqrt(map_penalty) * np.eye(n_features)])
        targets = np.vstack([weights * vectors.astype(np.float64), np.zeros((n_features, vectors.shape[1]))])
        return np.linalg.lstsq(design, targets, rcond=None)[0]

    def of_items(self, vectors: np.ndarray, map_penalty: float) -> float:
        """Return what the items' vectors add, with the map that fits them best."""
        matrix, reg_params = self.best_map(vectors, map_penalty), self.reg_params(vectors)
        scales = self.scales(self.items, self.users, len(vectors))[:, None]
        apart = (scales * reg_params * (vectors.astype(np.float64) - self.features @ matrix) ** 2).sum()
        return float(apart + map_penalty * (reg_params * matrix**2).sum())

    def objective(self, of_users: np.ndarray, of_items: np.ndarray, map_penalty: float) -> float:
        u, v = of_users.astype(np.float64), of_items.astype(np.float64)
        scores = u[:, :-1] @ v[:, :-1].T + u[:, -1:] + v[:, -1]
        rated = scores[self.users, self.items]
        if self.loss.name == "logistic":
            total = 2 * (np.logaddexp(0, rated) - self.values * rated).sum()
        else:
            pairs = scores[np.ix_(np.unique(self.users), np.unique(self.items))]
            total = ((self.values - rated) ** 2).sum() + self.loss.all_pairs_weight * (pairs**2).sum()
        scales = self.scales(self.users, self.items, len(u))[:, None]
        return float(total + (scales * self.reg_params(u) * u**2).sum() + self.of_items(of_items, map_penalty))

    def reg_params(self, vectors: np.ndarray) -> np.ndarray:
        given = self.regularization
        return np.array([given.reg_param] * (vectors.shape[1] - 1) + [given.bias_reg_param])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from([Loss("squared"), Loss("squared", unobserved_weight=0.1), Loss("logistic")]),
    solver=st.sampled_from(["auto", "cg", "gradient"]),
    reg_exponent=st.sampled_from([0.0, 0.5, 1.0]),
    map_penalty=st.sampled_from([0.05, 1.0, 20.0]),
)
def test_the_objective_never_rises_and_the_map_is_numpys_least_squares(
    seed: int, loss: Loss, solver: str, reg_exponent: float, map_penalty: float
) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items, width = (int(n) for n in rng.integers(2, [12, 14, 5]))
    users, items = np.nonzero(rng.random((n_users, n_items)) < rng.choice([0.2, 0.6]))
    if not len(users):
        return
    values = (rng.integers(0, 2, len(users)) if loss.name == "logistic" else rng.normal(size=len(users))).astype(
        np.float32
    )
    features = rng.normal(size=(n_items, int(rng.integers(1, 5)))).astype(np.float32)
    features[rng.random(n_items) < 0.2] = 0
    regularization = Regularization(0.3, 0.1, reg_exponent, biases=True)
    problem = RowProblem(regularization, loss, solver, cg_steps=2, gradient_steps=3, newton_steps=1)
    reference = Reference((users, items, values), features, loss, regularization)
    rows = {"users": users, "items": items}
    vectors = {name: np.zeros((n, width), np.float32) for name, n in (("users", n_users), ("items", n_items))}
    for name, own in rows.items():
        vectors[name][np.unique(own)] = random_vectors(len(np.unique(own)), width, rng)
    degrees = np.bincount(items, minlength=n_items).astype(np.int32)
    unobserved = loss.all_pairs_weight * len(np.unique(users))
    side = SideInformation(sparse(features), features.shape[1], degrees, regularization, unobserved, map_penalty)

    def check_map() -> None:
        said = reference.features @ reference.best_map(vectors["items"], map_penalty)
        np.testing.assert_allclose(side.expected(vectors["items"]), said, rtol=1e-4, atol=1e-5)
        assert side.penalty(vectors["items"]) == pytest.approx(
            reference.of_items(vectors["items"], map_penalty), rel=1e-6, abs=1e-9
        )

    check_map()
    before = reference.objective(vectors["users"], vectors["items"], map_penalty)
    for name, other in [("users", "items"), ("items", "users")] * 3:
        is_trained = np.bincount(rows[other], minlength=len(vectors[other])) > 0
        fixed = prepare_fixed(vectors[other], is_trained, 0.0, problem)
        block = build_csr_block(rows[name], rows[other], values)
        expected = side.expected(vectors["items"])[block.row_index] if name == "items" else None
        start = vectors[name][block.row_index]
        vectors[name][block.row_index] = solve_rows(block, fixed, problem, start, expected=expected).vectors
        check_map()
        after = reference.objective(vectors["users"], vectors["items"], map_penalty)
        assert after <= before + 1e-5 * abs(before), (name, before, after)
        before = after


def test_shapes_have_to_fit() -> None:
    with pytest.raises(ShapeError, match="3 rows need as many features"):
        SideInformation(sparse(np.zeros((2, 1))), 1, np.ones(3, np.int32), REGULARIZATION, 0.0, 1.0)
    rng = np.random.default_rng(0)
    block, fixed = block_of_degrees([1], 9, rng), make_fixed_side(random_vectors(9, WIDTH, rng), 3.0, biases=True)
    with pytest.raises(ShapeError, match=r"expected must have shape \(1, 4\), got \(2, 4\)"):
        solve_rows(block, fixed, problem_of(Loss("squared"), "auto"), expected=np.zeros((2, WIDTH), np.float32))
