"""Neighbours as workers and Spark find them, against all pairs compared one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics.pairwise import cosine_similarity

from recsys_spark import row_neighbours
from recsys_spark.errors import ConfigError
from recsys_spark.kernels import blended_neighbours
from recsys_spark.kernels.blended_neighbours import blended_rows
from recsys_spark.kernels.neighbour_average import sparse_rows
from recsys_spark.kernels.neighbours import Measure
from recsys_spark.kernels.similarity import RowSizes, similarity_vectors
from recsys_spark.rating_blocks import ITEMS, USERS, Side
from recsys_spark.row_neighbours import (
    NeighbourCandidates,
    choose_n_parts,
    find_by_blend,
    find_by_common,
    find_by_factors,
    write_neighbours_by_common,
)
from recsys_spark.shared_value import SharedValue
from tests.kernels.test_neighbours import of_two_rows

N_USERS, N_ITEMS = 17, 13


def ratings(seed: int = 0) -> list[tuple[int, int, float]]:
    """Ratings of which one user, the last, has nearly all items, and one item one rating."""
    rng = np.random.default_rng(seed)
    pairs = {(u, i) for u in range(N_USERS) for i in range(N_ITEMS - 1) if rng.random() < 0.35 or u == N_USERS - 1}
    return [(u, i, float(rng.integers(1, 6))) for u, i in sorted(pairs | {(0, N_ITEMS - 1)})]


def rows_of(side: Side, found: list[tuple[int, int, float]]) -> list[dict[int, float]]:
    rows: list[dict[int, float]] = [{} for _ in range(N_USERS if side == USERS else N_ITEMS)]
    for user, item, rating in found:
        row, column = (user, item) if side == USERS else (item, user)
        rows[row][column] = rating
    return rows


def candidates_of(rows: list[dict[int, float]], chosen: list[int]) -> NeighbourCandidates:
    """Candidates whose labels are not in the order of their index."""
    lengths = np.array([np.sqrt(sum(v * v for v in row.values())) for row in rows])
    sizes = RowSizes(np.array([len(row) for row in rows]), lengths)
    labels = pa.array([label(row) for row in chosen])
    return NeighbourCandidates.from_rows(labels, np.array(chosen, np.int32), sizes)


def label(row: int) -> str:
    return f"row {(7 * row) % 19}"


def brute_force(
    rows: list[dict[int, float]], row: int, chosen: list[int], measure: Measure, n: int
) -> list[tuple[str, float, int]]:
    found = []
    for other in chosen:
        common = len(rows[row].keys() & rows[other].keys())
        if other != row and common:
            value = of_two_rows(measure.name, rows[row], rows[other], measure.n_columns)
            found.append((np.float32(value * common / (common + measure.shrink)), label(other), common))
    best = sorted((-value, name.encode(), common) for value, name, common in found if value > 0)[:n]
    return [(name.decode(), -value, common) for value, name, common in best]


def assert_are_neighbours(row: dict[str, Any], expected: list[tuple[str, float, int]]) -> None:
    entries = row["neighbours"]
    assert [entry["position"] for entry in entries] == list(range(1, len(expected) + 1))
    np.testing.assert_allclose(
        [entry["similarity"] for entry in entries], [value for _, value, _ in expected], rtol=1e-5
    )
    # Values that differ by rounding alone may stand in another order.
    if len({f"{value:.5g}" for _, value, _ in expected}) == len(expected):
        assert [(entry["id"], entry["n_common"]) for entry in entries] == [
            (name, common) for name, _, common in expected
        ]


def batches_of(side: Side, found: list[tuple[int, int, float]], part: int, n_parts: int) -> list[pa.RecordBatch]:
    """Make what Spark sends a part: all ratings of those who hold any of its rows, in some order, in two batches."""
    holders: dict[int, list[tuple[int, float]]] = {}
    for user, item, rating in found:
        row, holder = (user, item) if side == USERS else (item, user)
        holders.setdefault(holder, []).append((row, rating))
    sent = [h for h, held in sorted(holders.items(), reverse=True) if any(row % n_parts == part for row, _ in held)]
    columns = {
        "part": pa.array([part] * len(sent), pa.int32()),
        "holder": pa.array(sent, pa.int32()),
        "rows": pa.array([[row for row, _ in sorted(holders[h])] for h in sent], pa.list_(pa.int32())),
        "values": pa.array([[v for _, v in sorted(holders[h])] for h in sent], pa.list_(pa.float32())),
    }
    whole = pa.RecordBatch.from_pydict(columns)
    return [whole.slice(0, 0), whole.slice(0, 2), whole.slice(2)]


@pytest.mark.parametrize("side", [USERS, ITEMS])
def test_the_worker_finds_the_neighbours_of_its_part(side: Side) -> None:
    found = ratings()
    rows = rows_of(side, found)
    chosen = [row for row in range(len(rows)) if row not in (1, 5)]
    measure = Measure("rating_cosine", 2.0, N_ITEMS if side == USERS else N_USERS)
    everywhere = SharedValue(candidates_of(rows, chosen))
    done = []
    for part in range(3):
        batches = iter(batches_of(side, found, part, 3))
        for batch in find_by_common(batches, everywhere, measure, 4, 3):
            for row in batch.to_pylist():
                assert row["row"] % 3 == part
                assert_are_neighbours(row, brute_force(rows, row["row"], chosen, measure, 4))
                done.append(row["row"])
    assert sorted(done) == [row for row, mine in enumerate(rows) if mine]
    assert list(find_by_common(iter([]), everywhere, measure, 4, 3)) == []


def test_the_worker_compares_factors() -> None:
    rng = np.random.default_rng(2)
    factors, n_ratings = rng.normal(size=(6, 3)).astype(np.float32), np.arange(1, 7)
    factors[4] = 0.0
    sizes = RowSizes(np.zeros(6, np.int64), np.zeros(6))
    chosen = np.array([0, 1, 2, 4, 5], np.int32)
    vectors = similarity_vectors(factors, n_ratings, 3.0)
    candidates = NeighbourCandidates.from_rows(
        pa.array([label(row) for row in chosen.tolist()]), chosen, sizes, vectors[chosen]
    )
    batch = pa.RecordBatch.from_pydict(
        {
            "row": pa.array(range(6), pa.int32()),
            "factors": pa.array(factors.tolist(), pa.list_(pa.float32())),
            "n_ratings": pa.array(n_ratings, pa.int32()),
        }
    )
    (done,) = find_by_factors(iter([batch, batch.slice(0, 0)]), SharedValue(candidates), 3.0, 2)
    products = vectors.astype(float) @ vectors.T.astype(float)
    for row in done.to_pylist():
        others = [k for k in chosen.tolist() if k != row["row"] and products[row["row"], k] > 0]
        best = sorted(others, key=lambda k: -products[row["row"], k])[:2]
        assert [entry["id"] for entry in row["neighbours"]] == [label(k) for k in best]
        assert {entry["n_common"] for entry in row["neighbours"]} <= {None}
    assert done["neighbours"][4].as_py() == []


@pytest.mark.parametrize(("side", "name"), [(ITEMS, "llr"), (USERS, "rating_cosine")])
def test_spark_finds_the_neighbours_of_all_rows(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: Side, name: str
) -> None:
    monkeypatch.setattr(row_neighbours, "_RATINGS_PER_PART", 45)
    found = ratings(1)
    rows = rows_of(side, found)
    chosen = [row for row in range(len(rows)) if row != 2]
    measure = Measure(name, 0.0, N_ITEMS if side == USERS else N_USERS)
    frame = spark.createDataFrame(found, "user_index int, item_index int, rating float").repartition(3)
    path = str(tmp_path / "found")
    write_neighbours_by_common(frame, side, candidates_of(rows, chosen), measure, n=5, path=path)
    written = spark.read.parquet(path).toArrow().to_pylist()
    assert sorted(row["row"] for row in written) == [row for row, mine in enumerate(rows) if mine]
    for row in written:
        assert_are_neighbours(row, brute_force(rows, row["row"], chosen, measure, 5))


def test_parts_are_as_many_as_fit() -> None:
    assert choose_n_parts({10: 100}, cores=2) == 4
    assert choose_n_parts({}, cores=2) == 4
    # 100 holders of 10 ratings: 4 or 8 parts are sent all 1,000, 32 a third of them (at most 10 parts hear of each).
    assert choose_n_parts({10: 100}, cores=2, ratings_per_part=500) == 32


def test_parts_that_take_too_many_copies_of_the_ratings_are_refused() -> None:
    # Everyone's 10,000 ratings go to every part, until there are as many parts as ratings.
    with pytest.raises(ConfigError, match="too many ratings to compare"):
        choose_n_parts({10_000: 100}, cores=2, ratings_per_part=100_000)


def test_the_worker_blends_vectors_and_features_that_all_tasks_have(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    factors = rng.normal(size=(N_ITEMS, 4)).astype(np.float32)
    factors[3] = 0
    features = rng.random((N_ITEMS, 5)) < 0.3
    items, columns = np.nonzero(features)
    content = sparse_rows(items, columns, np.ones(len(items), np.float32), N_ITEMS)
    # Some columns are dense, and some are not.
    monkeypatch.setattr(blended_neighbours, "_ROWS_PER_HOLDER", 3)
    blended = blended_rows(similarity_vectors(factors, np.ones(N_ITEMS, int), 0.0), content, 5, 0.4)
    assert 4 < blended.vectors.shape[1] < 4 + 5
    expected = 0.6 * cosine_similarity(factors) + 0.4 * cosine_similarity(features)
    chosen = [0, 2, 3, 5, 6, 9, 12]
    sizes = RowSizes(np.zeros(N_ITEMS, np.int64), np.zeros(N_ITEMS))
    candidates = NeighbourCandidates.from_rows(
        pa.array([label(row) for row in chosen]), np.array(chosen, np.int32), sizes
    )
    monkeypatch.setattr(row_neighbours, "_ENTRIES_AT_ONCE", 6)
    batch = pa.RecordBatch.from_pydict({"row": pa.array([12, 0, 1, 3, 7], pa.int32())})
    made = find_by_blend(
        iter([batch.slice(0, 4), batch.slice(4), batch.slice(0, 0)]), SharedValue((candidates, blended)), 3
    )
    found = {row["row"]: row["neighbours"] for part in made for row in part.to_pylist()}
    assert list(found) == [12, 0, 1, 3, 7]
    for row, entries in found.items():
        products = {label(other): expected[row, other] for other in chosen if other != row}
        best = sorted((name for name in products if products[name] > 0), key=lambda name: (-products[name], name))[:3]
        assert [entry["id"] for entry in entries] == best
        assert [entry["similarity"] for entry in entries] == pytest.approx([products[name] for name in best], abs=1e-6)
        assert all(entry["n_common"] is None for entry in entries)
