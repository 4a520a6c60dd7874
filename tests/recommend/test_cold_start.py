"""Lists of users without a trained vector: folded in, by segment, by popularity; workers called directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.kernels.csr_block import build_csr_block
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.kernels.solve_rows import RowProblem
from recsys_spark.rating_blocks import USERS, block_to_arrow
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.lists import rank_users
from recsys_spark.recommend.popularity import segment_popularity
from recsys_spark.shared_value import SharedValue
from recsys_spark.train import FoldInInput, prepare_fixed
from recsys_spark.train.fold_in import fold_in_blocks
from tests.reference_rows import RowReference

N_USERS, N_ITEMS, RANK = 12, 9, 2
LABELS = [f"item {(4 * k) % N_ITEMS}" for k in range(N_ITEMS)]
SEGMENTS = ["at", "zz", "é"]  # in the order of their bytes


def candidates_with(items: np.ndarray, popularity: np.ndarray, by_segment: np.ndarray) -> Candidates:
    """Candidates whose popularity in segments is a (n_segments, n_items) array; segments without any are absent."""
    candidates = Candidates.from_items(
        pa.array(LABELS), np.arange(N_ITEMS, dtype=np.int32), items, popularity,
        n_items=N_ITEMS, global_mean=0.0, biases=False,
    )  # fmt: skip
    column = {label: k for k, label in enumerate(candidates.labels.to_pylist())}
    rows = [(SEGMENTS[s], column[LABELS[k]], by_segment[s, k]) for s, k in zip(*np.nonzero(by_segment), strict=True)]
    rng = np.random.default_rng(0)
    rows = [rows[k] for k in rng.permutation(len(rows))]
    table = pa.table(
        {
            "segment": pa.array([row[0] for row in rows], pa.string()),
            "column": pa.array([row[1] for row in rows], pa.int32()),
            "popularity": pa.array([row[2] for row in rows], pa.float64()),
        }
    )
    segments, _ = segment_popularity(table)
    return Candidates(**{name: getattr(candidates, name) for name in Candidates.__slots__} | {"segments": segments})


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 11), has_half_life=st.booleans())
def test_lists_of_every_source_equal_brute_force(seed: int, n: int, has_half_life: bool) -> None:
    rng = np.random.default_rng(seed)
    items, users = (rng.integers(-2, 3, (m, RANK)).astype(np.float32) for m in (N_ITEMS, N_USERS))
    overall = rng.integers(0, 30, N_ITEMS).astype(float)
    by_segment = rng.integers(0, 3, (3, N_ITEMS)) * (rng.random((3, N_ITEMS)) < rng.choice([0.3, 1.0]))
    by_segment = by_segment * np.where(has_half_life, 0.25, 1.0)
    by_segment[:, 0] += 1.0  # all three are there
    hidden = [np.flatnonzero(rng.random(N_ITEMS) < 0.3).tolist() for _ in users]
    kinds = [["cf", "fold_in", None][k] for k in rng.integers(0, 3, N_USERS)]
    segment = [None if rng.random() < 0.3 else int(rng.integers(0, 3)) for _ in users]
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array(range(N_USERS)),
            "factors": pa.array(
                [row.tolist() if kind else None for row, kind in zip(users, kinds, strict=True)], pa.list_(pa.float32())
            ),
            "bias": pa.array([0.0] * N_USERS, pa.float32()),
            "hidden": pa.array(hidden, pa.list_(pa.int32())),
            "segment": pa.array(segment, pa.int32()),
            "source": pa.array([kind if kind == "fold_in" else None for kind in kinds], pa.string()),
        }
    )
    made = rank_users(iter([batch]), SharedValue(candidates_with(items, overall, by_segment)), n)
    lists = {row["user"]: row["recommendations"] for part in made for row in part.to_pylist()}
    assert len(lists) == N_USERS
    share = overall.astype(np.float32) / max(overall.sum(), 1)
    for user, entries in lists.items():
        if kinds[user]:
            scores, sources = items @ users[user], [kinds[user]] * N_ITEMS
        elif segment[user] is None:
            scores, sources = overall, ["popular"] * N_ITEMS
        else:
            own = by_segment[segment[user]]
            scores, sources = own + share, ["segment_popular" if count else "popular" for count in own]
        left = [k for k in range(N_ITEMS) if k not in hidden[user]]
        expected = sorted(left, key=lambda k: (-np.float32(scores[k]), LABELS[k].encode()))[:n]
        assert [entry["item_id"] for entry in entries] == [LABELS[k] for k in expected]
        assert [entry["source"] for entry in entries] == [sources[k] for k in expected]
        np.testing.assert_allclose([entry["score"] for entry in entries], [scores[k] for k in expected], rtol=1e-6)


def test_a_segment_is_filled_up_with_what_is_popular_overall() -> None:
    overall, by_segment = np.array([9, 0, 3, 8, 0, 0, 7, 5, 1]), np.zeros((3, N_ITEMS))
    by_segment[1, [2, 8]] = 1.0
    candidates = candidates_with(np.ones((N_ITEMS, RANK), np.float32), overall, by_segment)
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array([0]),
            "factors": pa.array([None], pa.list_(pa.float32())),
            "bias": pa.array([None], pa.float32()),
            "hidden": pa.array([[0]], pa.list_(pa.int32())),
            "segment": pa.array([0], pa.int32()),
        }
    )
    (made,) = rank_users(iter([batch]), SharedValue(candidates), 4)
    (row,) = made.to_pylist()
    assert [(entry["item_id"], entry["source"]) for entry in row["recommendations"]] == [
        (LABELS[2], "segment_popular"),
        (LABELS[8], "segment_popular"),
        (LABELS[3], "popular"),
        (LABELS[6], "popular"),
    ]


@pytest.mark.parametrize("biases", [False, True])
def test_workers_fold_in_whom_the_reference_does(biases: bool) -> None:
    rng = np.random.default_rng(4)
    loss = Loss("squared", unobserved_weight=0.1)
    problem = RowProblem(Regularization(0.3, 0.2, 0.5, biases), loss)
    items = rng.normal(size=(N_ITEMS, RANK + biases)).astype(np.float32)
    given = FoldInInput(prepare_fixed(items, np.ones(N_ITEMS, np.bool_), 0.0, problem), problem, biases)
    rated = {40: [0, 3], 7: [8], 23: [1, 2, 5, 6]}
    triples = [(u, i, float(rng.integers(1, 6))) for u, mine in rated.items() for i in mine]
    block = build_csr_block(*(np.array(column) for column in zip(*triples, strict=True)))
    made = list(fold_in_blocks(iter([block_to_arrow(USERS, 3, block)]), SharedValue(given)))
    rows: dict[int, dict[str, Any]] = {row["user_index"]: row for part in made for row in part.to_pylist()}
    assert rows.keys() == rated.keys()
    for user, row in rows.items():
        mine = [(i, value) for u, i, value in triples if u == user]
        columns, values = zip(*mine, strict=True)
        expected = RowReference(columns, values, None, items, 0.0, problem.regularization, loss).minimum()
        found = [*row["factors"], row["bias"]] if biases else row["factors"]
        np.testing.assert_allclose(found, expected, atol=2e-4)
        assert row["n_ratings"] == len(mine)
        assert biases or row["bias"] == 0
