from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import recsys_spark.kernels.capped_top_n as capped_module
import recsys_spark.kernels.top_n as top_n_module
from recsys_spark.errors import ShapeError
from recsys_spark.kernels.capped_top_n import capped_top_n, capped_top_n_with_new, walk_down
from tests.kernels.test_top_n import by_brute_force, draw_vectors, random_seen


def walk_of_one(
    ranking: list[tuple[int, float]], categories: np.ndarray, limit: int, n: int
) -> list[tuple[int, float]]:
    """Walk down one user's whole ranking: the definition."""
    taken: list[tuple[int, float]] = []
    count: dict[int, int] = {}
    for column, score in ranking:
        category = int(categories[column])
        if category < 0 or count.get(category, 0) < limit:
            taken.append((column, score))
            count[category] = count.get(category, 0) + 1
        if len(taken) == n:
            break
    return taken


def draw_categories(kind: str, n_items: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers without order: all alike, many small ones, a few of very different size; some items have none."""
    n_categories = {"one": 1, "few": 4, "many": max(1, n_items // 2), "each": n_items}[kind]
    shares = 1.0 / np.arange(1, n_categories + 1) ** 2
    drawn = rng.choice(n_categories, n_items, p=shares / shares.sum())
    if kind == "each":
        drawn = rng.permutation(n_items)
    return np.where(rng.random(n_items) < rng.choice([0.0, 0.1, 1.0], p=[0.6, 0.3, 0.1]), -1, drawn).astype(np.int32)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_users=st.integers(0, 6),
    n_items=st.integers(1, 400),
    n=st.integers(1, 30),
    limit=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.1, 0.95, 1.0]),
    kind=st.sampled_from(["normal", "integer", "zero", "few", "near"]),
    grouping=st.sampled_from(["one", "few", "many", "each"]),
    spare=st.sampled_from([0, 3, 32]),
    few_categories=st.sampled_from([0, 128]),
    max_pairs=st.sampled_from([1, 100, 1 << 22]),
    block_columns=st.sampled_from([7, 1 << 15]),
)
def test_equals_a_walk_down_the_whole_ranking(
    seed, n_users, n_items, n, limit, share, kind, grouping, spare, few_categories, max_pairs, block_columns
):
    rng = np.random.default_rng(seed)
    users, items = draw_vectors(kind, (n_users, 4), rng), draw_vectors(kind, (n_items, 4), rng)
    indptr, seen = random_seen(n_users, n_items, share, rng)
    categories = draw_categories(grouping, n_items, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capped_module, "_PLACES_PER_ITEM", 1)
        patch.setattr(capped_module, "_SPARE_PLACES", spare)
        patch.setattr(capped_module, "_FEW_CATEGORIES", few_categories)
        patch.setattr(capped_module, "_MAX_PAIRS", max_pairs)
        patch.setattr(top_n_module, "_MAX_BLOCK_COLUMNS", block_columns)
        columns, scores = capped_top_n(
            users, items, biases=True, global_mean=3.4, n=n, categories=categories, max_per_category=limit,
            excluded_indptr=indptr, excluded_columns=seen,
        )  # fmt: skip
    ranking, ranking_scores = by_brute_force(users, items, True, 3.4, n_items, indptr, seen)
    expected_columns, expected_scores = np.full((n_users, n), -1, np.int32), np.full((n_users, n), np.nan, np.float32)
    for user in range(n_users):
        whole = [(c, s) for c, s in zip(ranking[user].tolist(), ranking_scores[user].tolist(), strict=True) if c >= 0]
        for place, (column, score) in enumerate(walk_of_one(whole, categories, limit, n)):
            expected_columns[user, place], expected_scores[user, place] = column, score
    assert columns.dtype == np.int32
    assert scores.dtype == np.float32
    assert_array_equal(columns, expected_columns)
    assert_array_equal(scores, expected_scores)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 80),
    n=st.integers(1, 20),
    limit=st.integers(1, 4),
    max_new=st.integers(1, 4),
    share_of_new=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    kind=st.sampled_from(["normal", "integer", "zero"]),
    grouping=st.sampled_from(["one", "few", "many"]),
    max_pairs=st.sampled_from([1, 100, 1 << 22]),
)
def test_new_items_are_few_whatever_their_category(
    seed, n_items, n, limit, max_new, share_of_new, kind, grouping, max_pairs
):
    n_users, rng = 5, np.random.default_rng(seed)
    users, items = draw_vectors(kind, (n_users, 4), rng), draw_vectors(kind, (n_items, 4), rng)
    indptr, seen = random_seen(n_users, n_items, 0.2, rng)
    categories = draw_categories(grouping, n_items, rng)
    is_new = rng.random(n_items) < share_of_new
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capped_module, "_MAX_PAIRS", max_pairs)
        columns, scores = capped_top_n_with_new(
            users, items, biases=True, global_mean=3.4, n=n, categories=categories, max_per_category=limit,
            is_new=is_new, max_new=max_new, excluded_indptr=indptr, excluded_columns=seen,
        )  # fmt: skip
    ranking, ranking_scores = by_brute_force(users, items, True, 3.4, n_items, indptr, seen)
    for user in range(n_users):
        taken: list[int] = []
        for column in ranking[user][ranking[user] >= 0].tolist():
            alike = sum(categories[other] == categories[column] for other in taken)
            has_room = categories[column] < 0 or alike < limit
            if has_room and not (is_new[column] and is_new[taken].sum() >= max_new):
                taken.append(column)
        taken = taken[:n]
        assert_array_equal(columns[user], taken + [-1] * (n - len(taken)))
        expected = dict(zip(ranking[user].tolist(), ranking_scores[user].tolist(), strict=True))
        assert_array_equal(scores[user, : len(taken)], np.float32([expected[column] for column in taken]))
        assert np.isnan(scores[user, len(taken) :]).all()


def test_rounds_are_as_few_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    # The worst there is: whole categories one below the other, each longer than a round.
    categories = np.repeat(np.arange(20), 60).astype(np.int32)
    items = np.linspace(2.0, 1.0, 1200, dtype=np.float32)[:, None]
    rounds = []

    def counted(users, *others, **keywords):
        rounds.append(len(users))
        return top_n_module.top_n(users, *others, **keywords)

    monkeypatch.setattr(capped_module, "top_n", counted)
    monkeypatch.setattr(capped_module, "_FEW_CATEGORIES", 0)
    columns, _ = capped_top_n(
        np.ones((3, 1), np.float32), items, biases=False, global_mean=0.0, n=9, categories=categories,
        max_per_category=2, excluded_indptr=np.zeros(4, np.int64), excluded_columns=np.zeros(0, np.int32),
    )  # fmt: skip
    assert_array_equal(columns, [[0, 1, 60, 61, 120, 121, 180, 181, 240]] * 3)
    assert rounds == [3] * (1 + (9 - 1) // 2)


def test_result_does_not_depend_on_the_division_of_users() -> None:
    rng = np.random.default_rng(4)
    users, items = draw_vectors("normal", (90, 9), rng), draw_vectors("normal", (2000, 9), rng)
    categories = rng.integers(-1, 5, 2000).astype(np.int32)
    nothing = np.zeros(0, np.int32)
    keywords = {"biases": True, "global_mean": 0.0, "n": 12, "categories": categories, "max_per_category": 2}
    whole = capped_top_n(users, items, **keywords, excluded_indptr=np.zeros(91, np.int64), excluded_columns=nothing)
    for first, last in ((0, 1), (1, 8), (8, 90)):
        indptr = np.zeros(last - first + 1, np.int64)
        part = capped_top_n(users[first:last], items, **keywords, excluded_indptr=indptr, excluded_columns=nothing)
        assert_array_equal(part[0], whole[0][first:last])
        assert_array_equal(part[1], whole[1][first:last])


def test_a_walk_passes_over_full_categories() -> None:
    categories = np.array([0, 1, 0, 0, -1, -1, 1], np.int32)
    is_taken, is_full = walk_down(np.array([[0, 2, 1, 3, 4, 5, -1], [6, -1, -1, -1, -1, -1, -1]]), categories, 2)
    assert_array_equal(is_taken, [[1, 1, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0]])
    assert_array_equal(is_full, [[1, 1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("categories", "limit", "message"),
    [(np.zeros(3, np.int32), 1, r"shape \(4,\)"), (np.zeros(4, np.int32), 0, "got .* and 0")],
)
def test_wrong_arguments_are_rejected(categories: np.ndarray, limit: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        capped_top_n(
            np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), biases=False, global_mean=0.0, n=2,
            categories=categories, max_per_category=limit, excluded_indptr=np.zeros(3, np.int64),
            excluded_columns=np.zeros(0, np.int32),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("is_new", "max_new", "message"), [(np.zeros(3, bool), 1, r"shape \(4,\)"), (np.zeros(4, bool), 0, "got .* and 0")]
)
def test_new_items_that_do_not_fit_are_rejected(is_new: np.ndarray, max_new: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        capped_top_n_with_new(
            np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), biases=False, global_mean=0.0, n=2,
            categories=np.zeros(4, np.int32), max_per_category=1, is_new=is_new, max_new=max_new,
            excluded_indptr=np.zeros(3, np.int64), excluded_columns=np.zeros(0, np.int32),
        )  # fmt: skip
