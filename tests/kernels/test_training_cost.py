"""The forecast of a half-iteration, against the arrays that one really makes."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from recsys_spark.kernels import hot_rows
from recsys_spark.kernels.csr_block import CsrBlock, build_csr_block
from recsys_spark.kernels.degree_ladder import padded_lengths
from recsys_spark.kernels.fixed_side import all_pairs, in_basis, make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import side_gramian
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.method_choice import Method, choose_methods, row_nanoseconds
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from recsys_spark.kernels.training_cost import SideCost, side_cost

WIDTH, N_FIXED = 33, 700
REGULARIZATION = Regularization(1.0, 1.0, 0.5, True)
PROBLEM = RowProblem(REGULARIZATION)
DEGREES = np.array([0, 3, 600, 40, 0, 1, 25, 7, 300, 12, 0], np.int32)


def blocks(n_blocks: int, weighted: bool) -> list[CsrBlock]:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(len(DEGREES)), DEGREES)
    columns = np.concatenate([rng.choice(N_FIXED, degree, replace=False) for degree in DEGREES])
    values = rng.normal(size=len(rows))
    chosen = [rows % n_blocks == number for number in range(n_blocks)]
    return [build_csr_block(rows[c], columns[c], values[c], *([values[c]] if weighted else [])) for c in chosen]


def cost(problem: RowProblem = PROBLEM, n_blocks: int = 3, cores: int = 2, **arguments: bool) -> SideCost:
    flags = {"has_start": True, "weighted": False, **arguments}
    return side_cost(DEGREES, N_FIXED, WIDTH, problem, n_blocks=n_blocks, cores=cores, **flags)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_blocks", [1, 3, 11, 20])
def test_bytes_of_the_largest_block_are_exact(n_blocks: int, weighted: bool) -> None:
    made = blocks(n_blocks, weighted)
    expected = cost(n_blocks=n_blocks, weighted=weighted)
    assert expected.largest_block_bytes == max(block.nbytes for block in made)
    assert expected.largest_vectors_bytes == max(block.n_rows for block in made) * WIDTH * 4


def test_counts_and_returned_bytes_are_those_of_solved_blocks() -> None:
    expected = cost()
    fixed = make_fixed_side(np.ones((N_FIXED, WIDTH), np.float32), 0.0, True)
    solved = [solve_rows(block, fixed, PROBLEM) for block in blocks(3, False)]
    returned = sum(s.vectors.nbytes + b.row_index.nbytes for s, b in zip(solved, blocks(3, False), strict=True))
    assert expected.returned_bytes == returned
    assert (expected.n_rows, expected.n_trained, expected.n_ratings) == (11, 8, int(DEGREES.sum()))


@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.parametrize("name", ["squared", "ials", "nonnegative"])
def test_broadcast_is_the_arrays_and_a_small_envelope(name: str, has_start: bool) -> None:
    loss = Loss("squared") if name == "squared" else Loss("ials", unobserved_weight=0.1)
    problem = RowProblem(REGULARIZATION, loss, nonnegative=name == "nonnegative")
    vectors = np.random.default_rng(0).normal(size=(N_FIXED, WIDTH)).astype(np.float32)
    fixed = make_fixed_side(vectors, 0.0, True)
    if loss.all_pairs_weight:
        part = all_pairs(
            side_gramian(with_offsets(fixed)),
            N_FIXED,
            loss.all_pairs_weight,
            REGULARIZATION,
            counts_unobserved=True,
            rotated=not problem.nonnegative,
        )
        fixed = in_basis(fixed, part)
    start = np.zeros((len(DEGREES), WIDTH), np.float32) if has_start else None
    sent = len(pickle.dumps((fixed, start, problem), pickle.HIGHEST_PROTOCOL))
    assert 0 < sent - cost(problem, has_start=has_start).broadcast_bytes < 2_000


@pytest.mark.parametrize("solver", ["auto", "cholesky", "dual", "cg", "subspace", "gradient"])
def test_rows_are_counted_by_the_method_that_solves_them(solver: str) -> None:
    problem = RowProblem(REGULARIZATION, solver=solver)
    lengths = padded_lengths(DEGREES[DEGREES > 0])
    methods = choose_methods(lengths, WIDTH, solver, has_start=True, cg_steps=3, is_positive=True)
    counted = Counter(Method(method).name.lower() for method in methods)
    assert cost(problem).rows_by_method == counted
    assert cost(RowProblem(REGULARIZATION, nonnegative=True)).rows_by_method == {"nonnegative": 8}


def test_time_is_that_of_all_rows_and_at_least_of_the_slowest_block() -> None:
    problem = RowProblem(REGULARIZATION, solver="cholesky")
    lengths = padded_lengths(DEGREES[DEGREES > 0])
    each = row_nanoseconds(lengths, np.full(8, Method.DIRECT), WIDTH, cg_steps=3, gradient_steps=5) / 1e9
    one_core = cost(problem, cores=1)
    assert one_core.core_seconds == pytest.approx(each.sum())
    assert one_core.seconds == pytest.approx(each.sum())
    many = cost(problem, n_blocks=11, cores=11)
    assert many.seconds == pytest.approx(each.max()), "the longest row is alone in its block"
    newton = RowProblem(REGULARIZATION, Loss("logistic"), solver="cholesky", newton_steps=4)
    assert cost(newton).core_seconds == pytest.approx(4 * each.sum())


def test_hot_rows_are_shared_out_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = RowProblem(REGULARIZATION, solver="cholesky")
    whole = cost(problem, n_blocks=11, cores=11)
    assert (whole.n_split, whole.split_bytes, whole.sums_bytes) == (0, 0, 0)
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", 100)
    monkeypatch.setattr(hot_rows, "OBSERVATIONS_PER_PIECE", 10)
    split = cost(problem, n_blocks=11, cores=11)
    assert split.n_split == 2
    each = row_nanoseconds(padded_lengths(DEGREES), np.full(11, Method.DIRECT), WIDTH, cg_steps=3, gradient_steps=5)
    longest_left = each[DEGREES == 40][0] / 1e9
    shared_out = 2.2 * each[DEGREES > 100].sum() / 1e9 / 11
    assert split.seconds == pytest.approx(longest_left + shared_out)
    assert split.seconds < 0.6 * whole.seconds
    assert split.largest_block_bytes == whole.largest_block_bytes, "their ratings stay in the blocks"
    # 60 and 30 pieces, of 10 ratings: at most 9 of them in a block.
    assert split.split_bytes == 9 * (4 + 8 + 80) + 8
    assert split.sums_bytes == 2 * 8 * (WIDTH * (WIDTH + 1) // 2 + WIDTH + 1)
    assert split.returned_bytes == whole.returned_bytes + 11 * split.sums_bytes


def test_every_method_has_a_price() -> None:
    lengths = np.full(len(Method), 64)
    prices = row_nanoseconds(lengths, np.array(list(Method)), 129, cg_steps=3, gradient_steps=5)
    assert (prices > 1000).all()


def test_a_side_without_ratings_costs_nothing() -> None:
    nothing = side_cost(np.zeros(4, np.int32), 5, WIDTH, PROBLEM, n_blocks=7, cores=2, has_start=False, weighted=False)
    assert (nothing.n_trained, nothing.core_seconds, nothing.returned_bytes) == (0, 0.0, 0)
    assert nothing.rows_by_method == {}
