"""The encoder's file, what it leaves out, and the worker that encodes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from recsys_spark.config.features import FeatureColumn
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.features import item_features
from recsys_spark.features.encoder import CellStatistics, Encoder, fit_encoder
from recsys_spark.features.item_features import encode_items
from recsys_spark.session import SessionLimits
from recsys_spark.shared_value import SharedValue

COLUMNS = {
    "price": FeatureColumn(kind="numeric"),
    "kind": FeatureColumn(kind="categorical", min_items=2, weight=0.5),
    "words": FeatureColumn(kind="text", n_hashes=4),
}


def statistics(**changes: object) -> CellStatistics:
    return replace(CellStatistics(5, 1, 0, 0.0, 0.0, {}), **changes)


def encoder() -> Encoder:
    found = {
        "price": statistics(mean=3.0, deviation=2.0),
        "kind": statistics(counts={"b": 2, "a": 1, "é": 2, "c": 3}, n_values=4, n_uses=8),
        "words": statistics(counts={"0": 1, "3": 4}, n_values=2, n_uses=5),
    }
    return fit_encoder(COLUMNS, found)


def test_values_of_few_items_have_no_column_and_are_counted() -> None:
    made = encoder()
    assert made.column_names == ["price", "kind=b", "kind=c", "kind=é", *(f"words#{k}" for k in range(4))]
    assert (made.width, [feature.first for feature in made.features]) == (8, [0, 1, 4])
    # Of those that are counted one by one, a and new; and two more.
    found = statistics(counts={"b": 9, "a": 1, "new": 4}, n_values=5, n_uses=16)
    assert made.features[1].left_out(found) == (4, 7)
    assert made.features[2].left_out(statistics(counts={"1": 4}, n_values=1, n_uses=4)) == (0, 0)


def test_columns_without_a_difference_say_nothing() -> None:
    assert all(feature.says_something for feature in encoder().features)
    found = {"price": statistics(mean=3.0), "kind": statistics(counts={"a": 1}), "words": statistics()}
    assert not any(feature.says_something for feature in fit_encoder(COLUMNS, found).features)


def test_of_too_many_values_the_most_frequent_have_columns_and_the_file_names_no_others() -> None:
    columns = {"kind": FeatureColumn(kind="categorical", min_items=2, max_values=2)}
    counts = {"z": 3, "y": 3, "x": 5, "w": 2, "v": 1}
    made = fit_encoder(columns, {"kind": statistics(counts=counts, n_values=1_000, n_uses=2_000)})
    # z and y are as frequent: the first by its bytes stays.
    assert made.column_names == ["kind=x", "kind=y"]
    (feature,) = made.features
    assert feature.statistics.counts == {"x": 5, "y": 3}
    assert feature.left_out(statistics(counts=counts, n_values=1_000, n_uses=2_000)) == (998, 1_992)
    assert "z" not in json.loads(made.as_json())["features"][0]["statistics"]["counts"]


@given(st.dictionaries(st.text(max_size=2), st.integers(1, 5), max_size=8), st.integers(1, 4), st.integers(1, 9))
def test_columns_are_those_of_a_plain_sort(counts: dict[str, int], least: int, most: int) -> None:
    columns = {"kind": FeatureColumn(kind="multi_valued", min_items=least, max_values=most)}
    found = statistics(counts=counts, n_values=len(counts), n_uses=sum(counts.values()))
    (feature,) = fit_encoder(columns, {"kind": found}).features
    best = sorted((-count, value.encode()) for value, count in counts.items() if count >= least)[:most]
    assert [value.encode() for value in feature.values] == sorted(value for _, value in best)
    left_out = feature.left_out(found)
    assert left_out[0] + len(feature.values) == len(counts)
    assert left_out[1] + sum(feature.statistics.counts.values()) == sum(counts.values())


def test_a_regression_on_more_columns_than_the_driver_has_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = SessionLimits(cores=2, machine_bytes=48 * 101**2)
    monkeypatch.setattr(item_features, "session_limits", lambda spark: limits)
    spark = cast(SparkSession, None)
    item_features.require_room_for_regression(spark, 100)
    with pytest.raises(ConfigError, match=r"too many columns(.|\n)*got: 101 columns(.|\n)*lower max_values"):
        item_features.require_room_for_regression(spark, 101)
    monkeypatch.setattr(item_features, "session_limits", lambda spark: replace(limits, machine_bytes=None))
    item_features.require_room_for_regression(spark, 10**6)


def test_drift_counts_what_is_missing_as_a_value() -> None:
    price, kind, _ = encoder().features
    assert price.drift(statistics(mean=4.0)) == 0.5
    assert kind.drift(kind.statistics) == 0.0
    # Of nine: b 2, é 2, c 3, any other 1, missing 1; now nine of c.
    assert kind.drift(statistics(n_missing=0, counts={"c": 9}, n_values=1, n_uses=9)) == pytest.approx(6 / 9)
    # Or nine that have no column, of whatever value.
    assert kind.drift(statistics(n_missing=0, counts={}, n_values=9, n_uses=9)) == pytest.approx(8 / 9)


def test_the_file_gives_the_same_encoder_back() -> None:
    made = encoder()
    again = Encoder.from_content(json.loads(made.as_json()), "here")
    assert again == made
    assert again.version == made.version
    assert made.has_settings(COLUMNS)
    assert not made.has_settings({**COLUMNS, "kind": FeatureColumn(kind="categorical", min_items=3)})
    assert not made.has_settings(dict(reversed(COLUMNS.items()))), "cells are told by their place"
    other = fit_encoder(COLUMNS, {name: statistics() for name in COLUMNS})
    assert other.version != made.version


def test_a_changed_file_is_refused() -> None:
    content = json.loads(encoder().as_json())
    with pytest.raises(ContractError, match=r"another format\n  where: here\n  got: 1"):
        Encoder.from_content({**content, "format": 1}, "here")
    content["features"][0]["statistics"]["mean"] = 3.5
    with pytest.raises(ContractError, match="changed after it was written"):
        Encoder.from_content(content, "here")
    del content["features"][0]["statistics"]
    with pytest.raises(ContractError, match="parts that are missing"):
        Encoder.from_content(content, "here")


def test_the_worker_encodes_as_scikit_learn_does(monkeypatch: pytest.MonkeyPatch) -> None:
    prices, kinds = [1.0, None, 7.0, 2.0, 2.0, 3.0], ["b", None, "a", "é", "c", None]
    words = [[0, 3, 3], [], [1], [2, 0], [3], []]
    numbers = np.array([np.nan if p is None else p for p in prices])
    mean, deviation = float(np.nanmean(numbers)), float(np.nanstd(numbers))
    made = encoder()
    made = Encoder(
        (replace(made.features[0], statistics=statistics(mean=mean, deviation=deviation)), *made.features[1:])
    )
    batch = pa.RecordBatch.from_pydict(
        {
            "item_id": pa.array(list("vwxyzu")),
            "item_index": pa.array(range(6), pa.int32()),
            "cell0": pa.array(prices, pa.float64()),
            "cell1": pa.array([[k] if k else [] for k in kinds], pa.list_(pa.string())),
            "cell2": pa.array(words, pa.list_(pa.int32())),
        }
    )
    # Rows are encoded a few at a time, of a batch that is a part of a larger one.
    monkeypatch.setattr(item_features, "_ITEMS_AT_ONCE", 2)
    parts = list(encode_items(iter([batch, batch.slice(3, 1)]), SharedValue(made)))
    table = pa.Table.from_batches(parts)
    # Of w nothing is known, and of u no more than that its price is the mean.
    assert table["item_id"].to_pylist() == [*"vxyzu", "y"]
    found = np.zeros((6, made.width))
    rows = list(zip(table["columns"].to_pylist(), table["values"].to_pylist(), strict=True))
    for row, (columns, values) in zip((0, 2, 3, 4, 5), rows[:5], strict=True):
        assert columns == sorted(columns)
        found[row, columns] = values
    assert rows[5] == rows[2]
    assert rows[4] == ([], [])
    scaled = StandardScaler().fit_transform(numbers[:, None])[:, 0]
    np.testing.assert_allclose(found[:, 0], np.nan_to_num(scaled), rtol=1e-6)
    hot = OneHotEncoder(categories=[["b", "c", "é"]], handle_unknown="ignore", sparse_output=False)
    expected = hot.fit([["b"]]).transform([[kind or ""] for kind in kinds])
    np.testing.assert_array_equal(found[:, 1:4], 0.5 * expected)
    np.testing.assert_allclose((found[:, 4:] ** 2).sum(axis=1), [1, 0, 1, 1, 1, 0], rtol=1e-6)
