"""Vectors of items that nobody has rated, from tables written by hand, against scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import Ridge

from recsys_spark.config.features import FeatureColumn
from recsys_spark.features.encoder import CellStatistics, fit_encoder
from recsys_spark.recommend.new_items import write_content_factors
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import CONTENT_FACTORS, INDEXED_RATINGS, ITEM_FACTORS, ITEM_FEATURES, ITEM_INDEX, NEW_ITEMS

# In the index: "disliked" has ratings that no positive came of, "gone" has none any more. "bare" has no features.
INDEX = ["a", "b", "c", "disliked", "gone", "bare"]
NEW = ["new", "void"]
FEATURES = {"a": [0], "b": [1], "c": [0, 1], "disliked": [0], "gone": [1], "new": [0, 1]}
FACTORS = {"a": [1.0, 0.5, 0.1], "b": [-1.0, 0.25, 0.3], "c": [0.5, 2.0, -0.2], "bare": [9.0, 9.0, 9.0]}


def test_new_are_items_with_features_and_without_any_rating(make_context: Callable[..., StageContext]) -> None:
    columns = {"genres": FeatureColumn(kind="multi_valued")}
    context = make_context(
        item_features={
            "path": "x",
            "features": {name: column.model_dump() for name, column in columns.items()},
            "factor_map": {"reg_param": 0.5, "min_ratings": 2},
        },
        train={"loss": "ials", "unobserved_weight": 0.1, "positive_threshold": 4.0, "biases": True},
        recommend={"max_new_items": 1},
    )
    number = {name: k for k, name in enumerate([*INDEX, *NEW])}
    ratings = [
        (0, number[name], 1.0 if name == "disliked" else 5.0, None, None) for name in ("a", "b", "c", "disliked")
    ]
    rows = {
        ITEM_INDEX: [(name, number[name]) for name in INDEX],
        NEW_ITEMS: [(name, number[name]) for name in NEW],
        ITEM_FEATURES: [(name, number[name], held, [1.0] * len(held)) for name, held in FEATURES.items()],
        ITEM_FACTORS: [(name, number[name], vector[:2], vector[2], 2) for name, vector in FACTORS.items()],
        INDEXED_RATINGS: ratings,
    }
    for table, content in rows.items():
        context.write(table, context.spark.createDataFrame(content, table.schema))
    statistics = CellStatistics(8, 2, 0, 0.0, 0.0, {"x": 4, "y": 4}, 2, 8, 2)
    context.storage.write_text(
        f"{context.run.path}/item_features_encoder.json", fit_encoder(columns, {"genres": statistics}).as_json()
    )
    records = {"index": {"n_items": len(INDEX)}, "features": {"n_new_items": len(NEW)}, "train": {"biases": True}}
    for stage, record in records.items():
        context.storage.write_text(context.run.stage_record(stage), json.dumps(record))

    assert write_content_factors(context) == {"n_content_items": 2}
    found = {row["item_id"]: row for row in context.read(CONTENT_FACTORS).collect()}
    # What a user has disliked is rated; of "void" nothing is known.
    assert set(found) == {"gone", "new"}
    dense = np.array([[k in FEATURES[name] for k in range(2)] for name in ("a", "b", "c", "gone", "new")], float)
    oracle = Ridge(alpha=0.5).fit(dense[:3], np.array([FACTORS[name] for name in "abc"]))
    for name, expected in zip(("gone", "new"), oracle.predict(dense[3:]), strict=True):
        row = found[name]
        assert (row["item_index"], row["n_ratings"]) == (number[name], 0)
        np.testing.assert_allclose([*row["factors"], row["bias"]], expected, atol=1e-5)


def test_without_room_for_new_items_nothing_is_written(make_context: Callable[..., StageContext]) -> None:
    context = make_context(item_features={"path": "x", "features": {"a": {"kind": "numeric"}}})
    assert write_content_factors(context) == {}
    assert not context.storage.exists(context.run.table_path(CONTENT_FACTORS))
