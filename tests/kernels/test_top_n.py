from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import recsys_spark.kernels.top_n as top_n_module
from recsys_spark.errors import NumericalError, ShapeError
from recsys_spark.kernels import full_ranking as full_ranking_module
from recsys_spark.kernels.full_ranking import score_in_full
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.kernels.top_n import top_n


def by_brute_force(users, items, biases, mean, n, indptr, seen):
    """Score every pair, drop the seen, sort: the definition."""
    columns = np.full((len(users), n), -1, dtype=np.int32)
    scores = np.full((len(users), n), np.nan, dtype=np.float32)
    for user in range(len(users)):
        one = np.repeat(users[user : user + 1], len(items), axis=0)
        own = pair_scores(one, items, mean, biases).astype(np.float32)
        hidden = set(seen[indptr[user] : indptr[user + 1]].tolist())
        best = sorted((-score, column) for column, score in enumerate(own.tolist()) if column not in hidden)
        for place, (negative, column) in enumerate(best[:n]):
            columns[user, place], scores[user, place] = column, -negative
    return columns, scores


def random_seen(n_users, n_items, share, rng):
    """Seen columns in random order within a user, some of them twice."""
    lists = [rng.permutation(n_items)[: rng.binomial(n_items, share)] for _ in range(n_users)]
    lists = [np.concatenate([own, own[:2]]) for own in lists]
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in lists])]).astype(np.int64)
    return indptr, np.concatenate([*lists, []]).astype(np.int32)


def assert_equals_brute_force(users, items, biases, mean, n, indptr, seen):
    keywords = {"biases": biases, "global_mean": mean, "n": n}
    columns, scores = top_n(users, items, **keywords, excluded_indptr=indptr, excluded_columns=seen)
    expected_columns, expected_scores = by_brute_force(users, items, biases, mean, n, indptr, seen)
    assert columns.dtype == np.int32
    assert scores.dtype == np.float32
    assert_array_equal(columns, expected_columns)
    assert_array_equal(scores, expected_scores)
    return columns, scores


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_users=st.integers(0, 6),
    n_items=st.integers(1, 400),
    width=st.integers(1, 6),
    n=st.integers(1, 30),
    biases=st.booleans(),
    share=st.sampled_from([0.0, 0.1, 0.95, 1.0]),
    kind=st.sampled_from(["normal", "integer", "zero", "few", "near"]),
    tile_floats=st.sampled_from([1, 1 << 22]),
    block_columns=st.sampled_from([7, 64, 1 << 15]),
)
def test_equals_brute_force(seed, n_users, n_items, width, n, biases, share, kind, tile_floats, block_columns):
    rng = np.random.default_rng(seed)
    users, items = draw_vectors(kind, (n_users, width), rng), draw_vectors(kind, (n_items, width), rng)
    indptr, seen = random_seen(n_users, n_items, share, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_n_module, "_MAX_TILE_FLOATS", tile_floats)
        patch.setattr(top_n_module, "_MAX_BLOCK_COLUMNS", block_columns)
        assert_equals_brute_force(users, items, biases, 3.4, n, indptr, seen)


def draw_vectors(kind, shape, rng):
    """Vectors whose scores are all different, tie a lot, tie entirely, repeat, or differ by rounding only."""
    if kind == "zero":
        return np.zeros(shape, dtype=np.float32)
    if kind == "integer":
        return rng.integers(-1, 2, size=shape).astype(np.float32)
    if kind == "few":
        return rng.normal(size=(3, shape[1])).astype(np.float32)[rng.integers(0, 3, size=shape[0])]
    if kind == "near":
        return (1 + 1e-7 * rng.integers(0, 4, size=shape)).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32)


def test_near_ties_beyond_float32_are_told_apart():
    rng = np.random.default_rng(3)
    # Large cancelling terms: float32 sums differ by far more than the true scores do.
    base = rng.normal(scale=100.0, size=(1, 32))
    items = np.tile(np.concatenate([base, -base], axis=1), (3000, 1)).astype(np.float32)
    items[:, 0] += rng.normal(scale=1e-4, size=3000).astype(np.float32)
    users = (1 + 1e-6 * rng.normal(size=(5, 64))).astype(np.float32)
    nothing_seen = np.zeros(6, dtype=np.int64), np.zeros(0, dtype=np.int32)
    assert_equals_brute_force(users, items, False, 0.0, 10, *nothing_seen)


def test_result_does_not_depend_on_the_division_of_users():
    rng = np.random.default_rng(4)
    users, items = draw_vectors("normal", (300, 17), rng), draw_vectors("normal", (5000, 17), rng)
    indptr, seen = random_seen(300, 5000, 0.02, rng)
    keywords = {"biases": True, "global_mean": 3.4, "n": 10}
    whole = top_n(users, items, **keywords, excluded_indptr=indptr, excluded_columns=seen)
    for first, last in ((0, 1), (1, 8), (8, 300)):
        own = seen[indptr[first] : indptr[last]]
        part = top_n(
            users[first:last],
            items,
            **keywords,
            excluded_indptr=indptr[first : last + 1] - indptr[first],
            excluded_columns=own,
        )
        assert_array_equal(part[0], whole[0][first:last])
        assert_array_equal(part[1], whole[1][first:last])


def test_excluded_columns_never_appear_and_short_lists_are_padded():
    users = np.array([[1.0], [1.0]], dtype=np.float32)
    items = np.array([[1.0], [3.0], [2.0]], dtype=np.float32)
    columns, scores = top_n(
        users,
        items,
        biases=False,
        global_mean=0.5,
        n=4,
        excluded_indptr=np.array([0, 1, 4]),
        excluded_columns=np.array([1, 2, 0, 1], dtype=np.int32),
    )
    assert_array_equal(columns, [[2, 0, -1, -1], [-1, -1, -1, -1]])
    assert_array_equal(scores, np.array([[2.5, 1.5, np.nan, np.nan], [np.nan] * 4], dtype=np.float32))


def test_no_items_give_empty_lists():
    columns, scores = top_n(
        np.ones((2, 3), dtype=np.float32),
        np.ones((0, 3), dtype=np.float32),
        biases=True,
        global_mean=0.0,
        n=2,
        excluded_indptr=np.zeros(3, dtype=np.int64),
        excluded_columns=np.zeros(0, dtype=np.int32),
    )
    assert_array_equal(columns, -np.ones((2, 2)))
    assert np.isnan(scores).all()


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", ["normal", "integer", "near", "apart"])
def test_full_scores_round_as_pair_scores_do(kind, biases, monkeypatch):
    rng = np.random.default_rng(8)
    users, items = (draw_vectors("normal" if kind == "apart" else kind, (n, 33), rng) for n in (20, 500))
    if kind == "apart":
        # Nothing in common: no product is told from zero but by adding it up.
        users[:, :20], items[:, 20:32] = 0, 0
        monkeypatch.setattr(full_ranking_module, "_MAX_FLOATS", 1000)
    pairs = np.repeat(np.arange(20), 500), np.tile(np.arange(500), 20)
    expected = pair_scores(users[pairs[0]], items[pairs[1]], 3.4, biases).astype(np.float32)
    assert_array_equal(score_in_full(users, items, 3.4, biases), expected.reshape(20, 500))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 0}, "n must be >= 1, got 0"),
        ({"item_vectors": np.ones((4, 2), dtype=np.float32)}, r"\(2, 3\) and \(4, 2\)"),
        ({"excluded_indptr": np.zeros(2, dtype=np.int64)}, "excluded_indptr must have 3 entries"),
        ({"excluded_indptr": np.array([0, 1, 1]), "excluded_columns": np.array([4], dtype=np.int32)}, r"got 4 to 4"),
    ],
)
def test_wrong_arguments_are_rejected(changed, message):
    arguments = {
        "user_vectors": np.ones((2, 3), dtype=np.float32),
        "item_vectors": np.ones((4, 3), dtype=np.float32),
        "biases": False,
        "global_mean": 0.0,
        "n": 2,
        "excluded_indptr": np.zeros(3, dtype=np.int64),
        "excluded_columns": np.zeros(0, dtype=np.int32),
    }
    with pytest.raises(ShapeError, match=message):
        top_n(**{**arguments, **changed})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 3e19])
def test_vectors_without_finite_scores_are_rejected(wrong):
    with pytest.raises(NumericalError, match="finite"):
        top_n(
            np.full((1, 2), wrong, dtype=np.float32),
            np.full((3, 2), wrong, dtype=np.float32),
            biases=False,
            global_mean=0.0,
            n=2,
            excluded_indptr=np.zeros(2, dtype=np.int64),
            excluded_columns=np.zeros(0, dtype=np.int32),
        )
