"""Similar items by features, and by features and factors, on Spark: against dense products in double precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from recsys_spark.config.features import FeatureColumn
from recsys_spark.errors import ConfigError
from recsys_spark.features.encoder import CellStatistics, fit_encoder
from recsys_spark.kernels import blended_neighbours
from recsys_spark.recommend.similar import write_similar
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.session import SessionLimits
from recsys_spark.tables import ITEM_ELIGIBILITY, ITEM_FACTORS, ITEM_FEATURES, ITEM_INDEX, NEW_ITEMS, SIMILAR_ITEMS

MakeContext = Callable[..., StageContext]
N_RATED, N_NEW, RANK, N = 70, 5, 3, 4
N_ITEMS = N_RATED + N_NEW
MIN_RATINGS, SHRINK, WEIGHT = 3, 2.0, 0.3
DENIED = 6
# One genre that most items have, and authors of two or three items each.
AUTHORS = [f"a{k:02}" for k in range(30)]
COLUMNS = {"genres": FeatureColumn(kind="multi_valued"), "by": FeatureColumn(kind="multi_valued", weight=2.0)}


def item(index: int) -> str:
    """Return an id; those of the indexes do not ascend."""
    return f"item {(11 * index) % N_ITEMS:02}"


def make_features() -> np.ndarray:
    """Of rated and new items; one rated item has none."""
    rng = np.random.default_rng(5)
    dense = np.zeros((N_ITEMS, 1 + len(AUTHORS)), np.float32)
    dense[:, 0] = rng.random(N_ITEMS) < 0.8
    dense[np.arange(N_ITEMS), 1 + np.arange(N_ITEMS) % len(AUTHORS)] = 2.0
    dense[9] = 0
    return dense


def make_run(make_context: MakeContext, similar_items: dict[str, object]) -> tuple[StageContext, np.ndarray]:
    """Return a run as it is before neighbours are looked for, and each item's number of ratings."""
    context = make_context(
        item_features={"path": "x", "features": {name: column.model_dump() for name, column in COLUMNS.items()}},
        train={"rank": RANK},
        similar_items={"n": N, "min_ratings": MIN_RATINGS, **similar_items},
    )
    rng, dense = np.random.default_rng(7), make_features()
    factors = rng.normal(size=(N_RATED, RANK)).astype(np.float32)
    n_ratings = np.concatenate([rng.integers(1, 9, N_RATED), np.zeros(N_NEW, int)])
    names = [item(index) for index in range(N_ITEMS)]

    def write(table, rows):
        context.write(table, context.spark.createDataFrame(rows, table.schema).repartition(2))

    write(ITEM_INDEX, [(names[index], index) for index in range(N_RATED)])
    write(NEW_ITEMS, [(names[index], index) for index in range(N_RATED, N_ITEMS)])
    write(ITEM_FACTORS, [(names[k], k, factors[k].tolist(), 0.5, int(n_ratings[k])) for k in range(N_RATED)])
    write(ITEM_ELIGIBILITY, [(names[k], "denied" if k == DENIED else None) for k in range(N_ITEMS)])
    held = [np.flatnonzero(row) for row in dense]
    write(
        ITEM_FEATURES, [(names[k], k, held[k].tolist(), dense[k, held[k]].tolist()) for k in range(N_ITEMS) if k != 9]
    )
    counts = [{"g": int(dense[:, 0].sum())}, dict.fromkeys(AUTHORS, 2)]
    found = {name: CellStatistics(N_ITEMS, 0, 0, 0.0, 0.0, of) for name, of in zip(COLUMNS, counts, strict=True)}
    place = f"{context.run.path}/item_features_encoder.json"
    context.storage.write_text(place, fit_encoder(COLUMNS, found).as_json())
    records = {"index": {"n_items": N_RATED}, "features": {"n_new_items": N_NEW}, "train": {"rank": RANK, "label": "m"}}
    for stage, record in records.items():
        context.storage.write_text(context.run.stage_record(stage), json.dumps(record))
    return context, n_ratings


def cosines_of_factors(context: StageContext, n_ratings: np.ndarray) -> np.ndarray:
    """Return all cosines as they are believed; those of items without ratings are 0."""
    factors = np.zeros((N_ITEMS, RANK))
    for row in context.read(ITEM_FACTORS).collect():
        factors[row["item_index"]] = row["factors"]
    believed = n_ratings / (n_ratings + SHRINK)
    return cosine_similarity(factors) * np.outer(believed, believed)


@pytest.mark.parametrize(
    "similar_items", [{"method": "content"}, {"content_weight": WEIGHT, "shrink": SHRINK}], ids=["content", "blend"]
)
def test_neighbours_are_those_of_a_dense_product(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, similar_items: dict[str, object]
) -> None:
    # Authors stay sparse, as they do where there are more items.
    monkeypatch.setattr(blended_neighbours, "_ROWS_PER_HOLDER", 4)
    context, n_ratings = make_run(make_context, similar_items)
    counts = write_similar(context, datetime(2026, 1, 5, tzinfo=UTC))
    similarities = cosine_similarity(make_features().astype(float))
    label = "content"
    if "content_weight" in similar_items:
        similarities = WEIGHT * similarities + (1 - WEIGHT) * cosines_of_factors(context, n_ratings)
        label = f"factors of m, shrink {SHRINK:g}, content at {WEIGHT:g}"
    may_be = ((n_ratings >= MIN_RATINGS) | (n_ratings == 0)) & (np.arange(N_ITEMS) != DENIED)
    rows = {row["item_id"]: row for row in context.read(SIMILAR_ITEMS).collect()}
    assert len(rows) == N_ITEMS, "new items have neighbours too"
    n_short = 0
    for index in range(N_ITEMS):
        others = [other for other in np.flatnonzero(may_be).tolist() if other != index]
        # Cosines of equal features differ in their last digits alone: they are equal neighbours.
        ranked = sorted((-round(similarities[index, other], 6), item(other)) for other in others)
        best = [(name, -value) for value, name in ranked if value < 0][:N]
        row = rows[item(index)]
        entries = row["neighbours"]
        assert [entry["item_id"] for entry in entries] == [name for name, _ in best], item(index)
        np.testing.assert_allclose([entry["similarity"] for entry in entries], [value for _, value in best], atol=2e-6)
        assert [entry["position"] for entry in entries] == list(range(1, len(best) + 1))
        assert (row["short_reason"] is None) == (len(best) == N)
        assert row["model"] == label
        n_short += len(best) < N
    assert counts["similar_items"]["n_short_lists"] == n_short
    assert counts["similar_items"]["n_candidates"] == may_be.sum()
    of_new = [row for name, row in rows.items() if name in {item(k) for k in range(N_RATED, N_ITEMS)}]
    assert all(row["neighbours"] for row in of_new)


def test_features_that_are_dense_have_to_fit(make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = make_run(make_context, {"content_weight": WEIGHT})
    limits = SessionLimits(cores=2, result_bytes=N_ITEMS * 4 * 2, worker_bytes=None)
    monkeypatch.setattr("recsys_spark.features.item_features.session_limits", lambda spark: limits)
    with pytest.raises(ConfigError, match=r"more than a task may be sent(.|\n)*75 items, 31 columns"):
        write_similar(context, datetime(2026, 1, 5, tzinfo=UTC))
