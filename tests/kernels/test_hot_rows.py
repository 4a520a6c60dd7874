"""Hot rows: whoever adds up whichever pieces, the solution is the same, and it is the minimum of the reference."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from recsys_spark.errors import NumericalError
from recsys_spark.kernels.csr_block import build_csr_block, split_by_block
from recsys_spark.kernels.degree_ladder import LADDER
from recsys_spark.kernels.fixed_side import make_fixed_side, with_offsets
from recsys_spark.kernels.gramian import column_exponents
from recsys_spark.kernels.hot_rows import find_hot_rows
from recsys_spark.kernels.hot_solutions import halvings, longest_safe, solve_hot_rows
from recsys_spark.kernels.hot_sums import Bounds, add_up_pieces, evaluate_pieces, hot_task
from recsys_spark.kernels.solve_rows import RowProblem, solve_rows
from tests.kernels.problems import LOSSES, block_of_degrees, random_vectors
from tests.kernels.test_solve_rows_losses import WAYS, make_problem, references, side_for

DEGREES, N_FIXED, CONSTANT = [3, 24, 7, 33, 28], 40, 0.25
HOT_PLACES = [1, 3, 4]


def setting(name, *, biases=True, weighted=False, rotated=True, **steps):
    """Pieces of the three long rows of a block, and what it takes to solve them."""
    loss = LOSSES[name]
    block, vectors, regularization = make_problem(
        loss, biases=biases, weighted=weighted, degrees=DEGREES, n_fixed=N_FIXED
    )
    problem = RowProblem(regularization, loss, **steps)
    fixed = side_for(loss, vectors, CONSTANT, regularization, rotated=rotated)
    degrees = np.zeros(block.row_index.max() + 1, np.int32)
    degrees[block.row_index] = block.degrees
    hot = find_hot_rows(degrees, floor=20, observations_per_piece=8)
    weight = 1.0 if block.weights is None else float(block.weights.max())
    exponents = column_exponents(with_offsets(make_fixed_side(vectors, CONSTANT, biases)))
    bounds = Bounds(float(np.abs(block.values).max()), weight, exponents)
    start = random_vectors(len(hot.rows), vectors.shape[1], np.random.default_rng(0))
    task = hot_task(hot, bounds, problem, fixed.all_pairs, start)
    return block, vectors, fixed, problem, task, bounds, start


def cut_hot_rows(block, hot):
    """The pieces of a block's hot rows."""
    rows = np.repeat(block.row_index, block.degrees)
    is_hot = np.isin(rows, hot.rows)
    place = np.searchsorted(hot.rows, rows[is_hot])
    columns = block.column_index[is_hot]
    numbers = hot.first_pieces[place] + columns % np.diff(hot.first_pieces)[place]
    weights = [] if block.weights is None else [block.weights[is_hot]]
    return build_csr_block(numbers, columns, block.values[is_hot], *weights)


def solve_in_one_place(pieces, fixed, problem, task):
    """What several tasks and the driver do together."""
    total = add_up_pieces(pieces, fixed, problem.loss, task)
    solved = solve_hot_rows(total, task, problem, fixed.all_pairs)
    if problem.loss.is_quadratic:
        return solved
    tried = halvings(solved, task)
    return longest_safe(evaluate_pieces(pieces, fixed, problem.loss, tried), tried, problem)


def rows_of_pieces(pieces, chosen):
    """Some of the pieces, as a block of their own."""
    rows = np.repeat(pieces.row_index, pieces.degrees)
    taken = np.isin(rows, pieces.row_index[chosen])
    weights = [] if pieces.weights is None else [pieces.weights[taken]]
    return build_csr_block(rows[taken], pieces.column_index[taken], pieces.values[taken], *weights)


@lru_cache
def minima(name, biases, weighted):
    """The reference's minima of the hot rows: it takes its time."""
    block, vectors, _, problem, *_ = setting(name, biases=biases, weighted=weighted)
    rows = list(references(block, vectors, CONSTANT, problem.regularization, problem.loss))
    return [rows[position].minimum() for position in HOT_PLACES]


def test_hot_rows_are_those_with_a_large_part_of_all_observations():
    degrees = np.full(300, 100)
    degrees[[7, 200]] = [1_000, 5_000]
    assert find_hot_rows(degrees, floor=100).rows.tolist() == [7, 200]
    assert find_hot_rows(degrees, floor=1_000).rows.tolist() == [200]
    assert find_hot_rows(np.repeat(degrees, 10), floor=100).rows.tolist() == list(range(2000, 2010))
    hot = find_hot_rows(degrees, floor=100, observations_per_piece=300)
    assert hot.first_pieces.tolist() == [0, 4, 21]
    assert not len(find_hot_rows(degrees).rows), "all of them are too short to be worth it"
    assert not len(find_hot_rows(np.zeros(0, np.int32)).rows)


def test_pieces_hold_every_observation_of_the_hot_rows_once():
    block, _, _, _, task, *_ = setting("squared", weighted=True)
    hot = task.hot
    assert hot.rows.tolist() == block.row_index[HOT_PLACES].tolist()
    pieces = cut_hot_rows(block, hot)
    place = np.searchsorted(hot.first_pieces, pieces.row_index, side="right") - 1
    found = {
        (int(hot.rows[p]), int(column)): (value, weight)
        for p, column, value, weight in zip(
            np.repeat(place, pieces.degrees), pieces.column_index, pieces.values, pieces.weights, strict=True
        )
    }
    rows = np.repeat(block.row_index, block.degrees)
    expected = {
        (int(row), int(column)): (value, weight)
        for row, column, value, weight in zip(rows, block.column_index, block.values, block.weights, strict=True)
        if row in hot.rows
    }
    assert found == expected
    assert pieces.nnz == len(expected)
    assert pieces.degrees.max() <= 16


@pytest.mark.parametrize("way", [*WAYS, "nonnegative"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_hot_rows_are_the_minima_of_the_reference(name, biases, weighted, way):
    steps = {"nonnegative": True} if way == "nonnegative" else WAYS[way]
    block, vectors, fixed, problem, task, bounds, start = setting(
        name, biases=biases, weighted=weighted, rotated=way != "nonnegative", newton_steps=12, **steps
    )
    pieces = cut_hot_rows(block, task.hot)
    for _ in range(1 if problem.loss.is_quadratic else 12):
        task = hot_task(task.hot, bounds, problem, fixed.all_pairs, start)
        found = solve_in_one_place(pieces, fixed, problem, task)
        start = found.vectors
    if way == "nonnegative":
        whole = solve_rows(block, fixed, problem, np.zeros((block.n_rows, start.shape[1]), np.float32))
        assert_allclose(found.vectors, whole.vectors[HOT_PLACES], rtol=1e-3, atol=1e-3)
        return
    rows = list(references(block, vectors, CONSTANT, problem.regularization, problem.loss))
    for place, position in enumerate(HOT_PLACES):
        vector = found.vectors[place].astype(np.float64)
        assert_allclose(vector, minima(name, biases, weighted)[place], rtol=1e-4, atol=2e-4)
        assert_allclose(found.observed[place], rows[position].observed(vector), rtol=1e-5, atol=1e-5)
        assert_allclose(found.unobserved[place], rows[position].unobserved(vector), rtol=1e-5, atol=1e-6)
        assert_allclose(found.penalty[place], rows[position].penalty(vector), rtol=1e-5, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from([*LOSSES]), n_parts=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_any_division_of_the_pieces_gives_equal_bits(name, n_parts, seed):
    block, _, fixed, problem, task, *_ = setting(name, weighted=True, solver="cg", cg_steps=3)
    pieces = cut_hot_rows(block, task.hot)
    expected = solve_in_one_place(pieces, fixed, problem, task)
    part_of = np.random.default_rng(seed).integers(0, n_parts, pieces.n_rows)
    parts = [rows_of_pieces(pieces, part_of == part) for part in range(n_parts)]
    total = sum(add_up_pieces(part, fixed, problem.loss, task) for part in parts[::-1])
    solved = solve_hot_rows(total, task, problem, fixed.all_pairs)
    if not problem.loss.is_quadratic:
        tried = halvings(solved, task)
        solved = longest_safe(sum(evaluate_pieces(p, fixed, problem.loss, tried) for p in parts), tried, problem)
    for field in ("vectors", "observed", "unobserved", "penalty"):
        assert_array_equal(getattr(solved, field), getattr(expected, field))


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_left_of_a_block_are_its_other_rows(weighted):
    block, _, fixed, problem, task, *_ = setting("squared", weighted=weighted)
    cold = task.hot.without(block)
    assert cold.row_index.tolist() == block.row_index[[0, 2]].tolist()
    whole, rest = (solve_rows(part, fixed, problem) for part in (block, cold))
    assert_array_equal(rest.vectors, whole.vectors[[0, 2]])
    assert_array_equal(rest.observed, whole.observed[[0, 2]])
    assert task.hot.without(cold) is cold


@pytest.mark.parametrize("solver", ["cholesky", "cg", "subspace", "gradient"])
@pytest.mark.parametrize("name", LOSSES)
def test_few_steps_never_raise_the_objective(name, solver):
    steps = {"cg_steps": 1, "gradient_steps": 1}
    block, vectors, fixed, problem, task, bounds, start = setting(name, solver=solver, **steps)
    # Where probabilities are nearly 0 and 1 a whole Newton step goes far too far.
    start = start * np.float32(6.0)
    rows = list(references(block, vectors, CONSTANT, problem.regularization, problem.loss))
    objectives = [[rows[place].objective(start[k]) for k, place in enumerate(HOT_PLACES)]]
    pieces = cut_hot_rows(block, task.hot)
    for _ in range(4):
        task = hot_task(task.hot, bounds, problem, fixed.all_pairs, start)
        found = solve_in_one_place(pieces, fixed, problem, task)
        start = found.vectors
        objectives.append(found.objective)
    falls = np.diff(np.array(objectives), axis=0)
    assert (falls <= 1e-6 * np.array(objectives)[:-1]).all()
    assert (falls[0] < 0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_one_gradient_step_is_that_of_any_other_row(name, weighted):
    block, _, fixed, problem, task, *_ = setting(name, weighted=weighted, solver="gradient", gradient_steps=1)
    start = random_vectors(block.n_rows, task.start.shape[1], np.random.default_rng(0))
    whole = solve_rows(block, fixed, problem, start)
    task = hot_task(task.hot, task.bounds, problem, fixed.all_pairs, start[HOT_PLACES])
    found = solve_in_one_place(cut_hot_rows(block, task.hot), fixed, problem, task)
    assert_allclose(found.vectors, whole.vectors[HOT_PLACES], rtol=1e-4, atol=1e-5)
    assert_allclose(found.objective, whole.objective[HOT_PLACES], rtol=1e-5)


def test_rows_that_have_arrived_stay_rather_than_rise_by_a_rounding():
    block, _, fixed, problem, task, bounds, start = setting("squared", solver="cg", cg_steps=2)
    pieces = cut_hot_rows(block, task.hot)
    objectives = []
    for _ in range(60):
        task = hot_task(task.hot, bounds, problem, None, start)
        found = solve_in_one_place(pieces, fixed, problem, task)
        start = found.vectors
        objectives.append(found.objective)
    assert (np.diff(np.array(objectives), axis=0) <= 0).all()


def test_pieces_beyond_the_ladder_are_summed_in_slices():
    rng = np.random.default_rng(0)
    block = block_of_degrees([40_000], 44_000, rng)
    vectors = 0.3 * random_vectors(44_000, 4, rng)
    problem = RowProblem(make_problem(LOSSES["squared"])[2])
    fixed = make_fixed_side(vectors, 0.0, True)
    hot = find_hot_rows(np.bincount(np.repeat(block.row_index, block.degrees)), 10, observations_per_piece=20_000)
    bounds = Bounds(5.0, 1.0, column_exponents(with_offsets(fixed)))
    start = np.zeros((1, 4), np.float32)
    task = hot_task(hot, bounds, problem, None, start)
    pieces = cut_hot_rows(block, hot)
    assert pieces.degrees.min() > LADDER[-1]
    found = solve_in_one_place(pieces, fixed, problem, task)
    expected = solve_rows(block, fixed, problem)
    assert_allclose(found.vectors, expected.vectors, rtol=1e-5, atol=1e-6)
    assert_allclose(found.objective, expected.objective, rtol=1e-6)


def test_sums_use_the_whole_range_without_leaving_it():
    """Columns of very different sizes, all at their bounds: nothing overflows, and small entries keep their digits."""
    n = 2_000
    vectors = np.stack([np.full(n, 3.999e8), np.full(n, -1e-8), np.full(n, 1.5)], axis=1).astype(np.float32)
    fixed = make_fixed_side(vectors, -30.0, False)
    block = build_csr_block(np.zeros(n, int), np.arange(n), np.full(n, 7.99, np.float32), np.full(n, 3.9, np.float32))
    problem = RowProblem(make_problem(LOSSES["squared"], biases=False)[2])
    hot = find_hot_rows(np.array([n]), 10)
    bounds = Bounds(7.99, 3.9, column_exponents(with_offsets(fixed)))
    task = hot_task(hot, bounds, problem, None, np.zeros((1, 3), np.float32))
    total = add_up_pieces(cut_hot_rows(block, hot), fixed, problem.loss, task)
    wide, weight = vectors.astype(np.float64), float(np.float32(3.9))
    gramian = weight * wide.T @ wide
    sums = np.ldexp(total[0].astype(np.float64), task.units)
    assert_allclose(sums[:6], gramian[np.triu_indices(3)], rtol=1e-12)
    assert_allclose(sums[6:9], weight * wide.T @ np.full(n, np.float32(7.99) + 30.0), rtol=1e-6)
    assert np.abs(total).max() > 2**57, "the range is used"


def test_a_sum_that_is_not_finite_names_the_row():
    block, _, fixed, problem, task, *_ = setting("squared")
    values = block.values.copy()
    values[block.indptr[3]] = np.inf
    with pytest.raises(NumericalError, match=f"first of them row {block.row_index[3]};"):
        add_up_pieces(cut_hot_rows(replace(block, values=values), task.hot), fixed, problem.loss, task)


def test_pieces_are_shared_out_evenly():
    rng = np.random.default_rng(3)
    degrees = np.concatenate([[40_000, 9_000], np.full(100, 20)])
    hot = find_hot_rows(degrees, floor=5_000)
    block = block_of_degrees(degrees[:2], 60_000, rng, first_row=0, row_step=1)
    pieces = cut_hot_rows(block, hot)
    for n_blocks in (2, 7, 16):
        _, bounds = split_by_block(np.repeat(pieces.row_index, pieces.degrees), n_blocks)
        observations = np.diff(bounds)
        assert observations.max() <= 2 * np.median(observations)
