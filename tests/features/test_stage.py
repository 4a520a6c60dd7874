"""The features stage on Spark: a dirty table beside scikit-learn, and a second night."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import MultiLabelBinarizer, StandardScaler

from recsys_spark.config.features import FeatureColumn
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.features import read_item_features, stage, words_by_column
from recsys_spark.features.cells import cell_statistics, typed_cells
from recsys_spark.features.stage import _published_encoder
from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import ITEM_FEATURES, ITEM_INDEX, ITEM_WORDS, NEW_ITEMS

MakeContext = Callable[..., StageContext]
# By item: year, genres, words. Items a to d are rated, and "lost" is too.
ITEMS = {
    "a": ("1990", "Comedy.*War", "The good, the bad"),
    "b": ("2000", "War", "Bad Émile"),
    "c": ("", " Comedy .* ", ""),
    "d": ("two", "Opera", "good good ÉMILE"),
    "new": ("1994", "War.*Comedy.*War", "the the bad"),
    "void": ("", "Ballet", "?"),
}
RATED = ["a", "b", "c", "d", "lost"]
FEATURES = {
    "year": {"kind": "numeric"},
    "genres": {"kind": "multi_valued", "separator": ".*"},
    "words": {"kind": "text", "n_hashes": 4096, "weight": 2.0},
}


def make_run(
    make_context: MakeContext, folder: Path, run_id: str, lines: list[str], **settings: object
) -> StageContext:
    """Return a run whose index stage is done."""
    (folder / f"{run_id}.csv").write_text("\n".join(["item;year;genres;words", *lines]) + "\n", encoding="utf-8")
    section = {"path": str(folder / f"{run_id}.csv"), "delimiter": ";", "item": "item", "features": FEATURES}
    context = make_context(run_id=run_id, item_features={**section, **settings})
    index = [(name, number) for number, name in enumerate(RATED)]
    context.write(ITEM_INDEX, context.spark.createDataFrame(index, ITEM_INDEX.schema))
    done(context, "index", {"n_items": len(RATED)})
    return context


def done(context: StageContext, name: str, record: dict[str, object]) -> None:
    context.storage.write_text(context.run.stage_record(name), json.dumps(record))


def test_a_dirty_table_is_encoded_as_by_scikit_learn_and_every_cell_accounted_for(
    make_context: MakeContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    lines = [";".join([item, *cells]) for item, cells in ITEMS.items()]
    # A second row of an item, whose cells come after or are blank, and rows of no item: the last has a stray quote.
    odd = ["a;1991;;Zebras", ";1;2;3", " ;;;", '"x;1;War;war', 'y";2;War;war']
    context = make_run(make_context, tmp_path, "r1", [*lines, *odd])
    with caplog.at_level("WARNING"):
        record = stage.run(context)
    done(context, "features", record)
    assert {name: record[name] for name in ("n_items", "n_rows", "n_rows_without_item", "n_items_of_several_rows")} == {
        "n_items": 6, "n_rows": 10, "n_rows_without_item": 3, "n_items_of_several_rows": 1,
    }  # fmt: skip
    assert [record[f"n_{name}"] for name in ("new_items", "without_features", "new_without_features")] == [2, 1, 1]
    assert sorted(tuple(row) for row in context.read(NEW_ITEMS).collect()) == [("new", 5), ("void", 6)]
    told = {one["name"]: one for one in record["features"]}
    assert (told["year"]["n_missing"], told["year"]["n_unreadable"]) == (3, 1)
    assert (told["genres"]["n_unknown_values"], told["genres"]["n_uses_of_unknown_values"]) == (2, 2), told["genres"]
    assert (told["words"]["n_missing"], told["words"]["drift"]) == (2, None)
    for text in (
        "3 rows without an item in one line",
        "1 items stand in several rows",
        "says nothing of 1 rated items",
        "no value that could be encoded for 1 items that nobody has rated: they are not listed as new",
        "1 cells are no",
    ):
        assert text in caplog.text

    features = read_item_features(context)
    assert features is not None
    assert features.column_names[:3] == ["year", "genres=Comedy", "genres=War"]
    assert features.is_known.tolist() == [True, True, True, True, False, True, False]
    dense = features.dense()
    assert not dense[4].any(), "an item without features is average"
    found = dense[[0, 1, 2, 3, 5]]
    years = np.array([[1990.0], [2000.0], [np.nan], [np.nan], [1994.0]])
    np.testing.assert_allclose(found[:, 0], np.nan_to_num(StandardScaler().fit_transform(years)[:, 0]), rtol=1e-6)
    genres = [["Comedy", "War"], ["War"], ["Comedy"], [], ["War", "Comedy"]]
    np.testing.assert_array_equal(found[:, 1:3], MultiLabelBinarizer().fit_transform(genres))
    # Which column a word is hashed to is ours alone; what rows have in common is not.
    vectorizer = TfidfVectorizer()
    words = vectorizer.fit_transform([cells[2] for cells in ITEMS.values()]).toarray()[:5]
    np.testing.assert_allclose(found[:, 3:] @ found[:, 3:].T, 4.0 * words @ words.T, atol=1e-5)
    # Which words they are is told.
    by_column = words_by_column(row.asDict(recursive=True) for row in context.read(ITEM_WORDS).collect())
    analyse = vectorizer.build_analyzer()
    assert {item: sorted(word for words in held.values() for word in words) for item, held in by_column.items()} == {
        item: sorted(set(analyse(cells[2]))) for item, cells in ITEMS.items() if analyse(cells[2])
    }
    for row in context.read(ITEM_FEATURES).collect():
        assert sorted(by_column.get(row["item_id"], {})) == [column for column in row["columns"] if column >= 3]


def test_the_second_night_tells_drift_and_may_keep_the_encoder(
    make_context: MakeContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    first = make_run(make_context, tmp_path, "r1", ["a;1;x;", "b;3;x;", "c;1;y;", "d;3;y;"])
    before = stage.run(first)
    first.storage.write_text(first.run.manifest_path, "{}")
    publish_run(first.run, first.storage)

    lines = ["a;4;x;", "b;6;z;", "c;4;z;", "d;6;z;"]
    second = make_run(make_context, tmp_path, "r2", lines, encoder="published")
    with caplog.at_level("WARNING"):
        after = stage.run(second)
    assert (after["encoder"], after["encoder_of"]) == (before["encoder"], "r1")
    rows = {row["item_id"]: (row["columns"], row["values"]) for row in second.read(ITEM_FEATURES).collect()}
    assert rows == {"a": ([0, 1], [2.0, 1.0]), "b": ([0], [4.0]), "c": ([0], [2.0]), "d": ([0], [4.0])}
    told = {one["name"]: one for one in after["features"]}
    assert (told["year"]["drift"], told["genres"]["drift"]) == (3.0, 0.75)
    assert (told["genres"]["n_unknown_values"], told["genres"]["n_uses_of_unknown_values"]) == (1, 3)
    assert "item_features.year has drifted by 3 standard deviations of its mean" in caplog.text
    assert "item_features.genres has drifted by 0.75 of its values' shares" in caplog.text
    assert not told["words"]["has_drifted"]

    changed = {**FEATURES, "genres": {"kind": "multi_valued", "separator": ".*", "min_items": 3}}
    third = make_run(make_context, tmp_path, "r3", lines, encoder="published", features=changed)
    again = stage.run(third)
    assert again["encoder_of"] == "r3", "other settings need another encoder"
    assert {one["name"]: one["drift"] for one in again["features"]}["genres"] is None
    assert _published_encoder(first) is None, "a run is not compared with itself"


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_lists_and_numbers_keep_their_types(make_context: MakeContext, tmp_path: Path, kind: str) -> None:
    rows = [
        {"item": "a", "year": 1990.5, "genres": ["War, cold", "[x]"]},
        {"item": "b", "year": None, "genres": []},
        {"item": "c", "year": 1e3, "genres": ["[x]", None, "War, cold", "[x]"]},
    ]
    path = tmp_path / f"features.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    columns = {name: FEATURES[name] for name in ("year", "genres")}
    context = make_run(make_context, tmp_path, "r1", [], path=str(path), format=kind, delimiter=",", features=columns)
    record = stage.run(context)
    assert record["width"] == 3
    found = {row["item_id"]: row["columns"] for row in context.read(ITEM_FEATURES).collect()}
    assert found == {"a": [0, 1, 2], "c": [0, 1, 2]}, "nothing is known of b"
    assert record["n_without_features"] == 3
    encoder = json.loads((Path(context.run.path) / "item_features_encoder.json").read_text())
    assert encoder["features"][1]["values"] == ["War, cold", "[x]"]
    assert encoder["features"][0]["statistics"]["mean"] == 1495.25


def test_dates_decimals_and_bytes_of_a_table_are_features(
    make_context: MakeContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    days = [dt.date(2010, 1, 1), dt.date(2010, 3, 1), None, dt.date(2012, 2, 29)]
    prices = [Decimal("9.99"), Decimal("0.50"), Decimal("100.00"), None]
    rows = {
        "item": ["a", "b", "c", "d"],
        "released": days,
        "price": prices,
        "sizes": [[38, 39], [39], None, [38]],
        "maker": pa.array([b"x", b"\xe9", b"x", b"\xe9"]),
        "nothing": pa.nulls(4),
    }
    path = tmp_path / "typed.parquet"
    pq.write_table(pa.table(rows), path)
    kinds = {"released": "numeric", "price": "numeric", "sizes": "multi_valued", "maker": "categorical"}
    columns = {name: {"kind": kind} for name, kind in {**kinds, "nothing": "numeric"}.items()}
    context = make_run(
        make_context, tmp_path, "r1", [], path=str(path), format="parquet", delimiter=",", features=columns
    )
    with caplog.at_level("WARNING"):
        record = stage.run(context)
    done(context, "features", record)
    told = {one["name"]: one for one in record["features"]}
    assert {name: (one["n_missing"], one["n_unreadable"], one["width"]) for name, one in told.items()} == {
        "released": (1, 0, 1), "price": (1, 0, 1), "sizes": (1, 0, 2), "maker": (0, 0, 2), "nothing": (4, 0, 1),
    }  # fmt: skip
    assert "item_features.nothing: 4 items and not two different numbers: the column says nothing of any" in caplog.text
    features = read_item_features(context)
    assert features is not None
    assert features.column_names == ["released", "price", "sizes=38", "sizes=39", "maker=x", "maker=\ufffd", "nothing"]
    numbers = [[day.toordinal() if day else np.nan for day in days], [float(p) if p else np.nan for p in prices]]
    expected = np.nan_to_num(StandardScaler().fit_transform(np.array(numbers).T))
    np.testing.assert_allclose(features.dense()[:4, :2], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        features.dense()[:4, 2:], [[1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0]]
    )


def test_absent_columns_and_tables_without_a_value_are_named(
    make_context: MakeContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    context = make_run(make_context, tmp_path, "r1", ["a;1;x;"], features={"colour": {"kind": "text"}})
    with pytest.raises(ConfigError, match=r"item_features.features.colour\n  got: 'colour'"):
        stage.run(context)
    context = make_run(make_context, tmp_path, "r3", ["a;1;x;"], delimiter=",")
    with pytest.raises(ConfigError, match=r"'item;year;genres;words'\n(.|\n)*or item_features.delimiter to what"):
        stage.run(context)
    # One array of objects, in several lines and in one.
    (tmp_path / "array.json").write_text(json.dumps([{"item": "a", "genres": "x"}], indent=1))
    as_json = {
        "path": str(tmp_path / "array.json"),
        "format": "jsonl",
        "delimiter": ",",
        "features": {"genres": {"kind": "text"}},
    }
    context = make_run(make_context, tmp_path, "r4", [], **as_json)
    with pytest.raises(ConfigError, match=r"no such column(.|\n)*one object on each line"):
        stage.run(context)
    (tmp_path / "array.json").write_text(json.dumps([{"item": "a", "genres": "x"}] * 2))
    context = make_run(make_context, tmp_path, "r5", [], **as_json)
    with pytest.raises(
        ContractError, match=r"has no items\n(.|\n)*1 rows, none with an item(.|\n)*one object on each line"
    ):
        stage.run(context)
    # Neither a single value, nor one number for all, nor no cell says anything.
    silent = {"genres": {"kind": "categorical"}, "year": {"kind": "numeric"}, "words": {"kind": "text"}}
    context = make_run(make_context, tmp_path, "r6", ["a;1;x;", "b;1;y;?"], features=silent)
    with caplog.at_level("WARNING"), pytest.raises(ContractError, match=r"numbers that are all equal say nothing"):
        stage.run(context)
    for name, what in (("genres", "a value of min_items items"), ("year", "two different numbers"), ("words", "words")):
        assert f"item_features.{name}: 2 items and not {what}: the column says nothing of any" in caplog.text
    context = make_run(make_context, tmp_path, "r2", ["a;1;x;"], features={"genres": {"kind": "categorical"}})
    with pytest.raises(ContractError, match=r"no feature has a value that could be encoded(.|\n)*min_items"):
        stage.run(context)


def test_a_table_that_says_nothing_of_the_rated_items_is_refused(
    make_context: MakeContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    kinds = {"a`b": {"kind": "categorical", "min_items": 1}}
    lines = ['A;1;["x"]', 'B.0;2;["x","y"]']
    (tmp_path / "lists.csv").write_text("\n".join(["item;year;a`b", *lines]) + "\n")
    context = make_run(make_context, tmp_path, "r1", [], path=str(tmp_path / "lists.csv"), features=kinds)
    with caplog.at_level("WARNING"), pytest.raises(ContractError) as caught:
        stage.run(context)
    for text in ("none of the rated items is in the feature table", "got: 'A', 'B.0'", "such as 'a', 'b', 'c'"):
        assert text in str(caught.value)
    assert 'a`b: 2 values are lists, such as ["x","y"]; kind: multi_valued takes them apart' in caplog.text
    context = make_run(make_context, tmp_path, "r2", ["a;?;x;", "z;2;x;"], features={"year": {"kind": "numeric"}})
    with pytest.raises(ContractError, match=r"no rated item has a value that could be encoded\n(.|\n)*1 rated items"):
        stage.run(context)


def test_of_many_values_the_driver_sees_the_frequent_ones_and_sums(spark: SparkSession) -> None:
    columns = {
        "year": FeatureColumn(kind="numeric"),
        "by": FeatureColumn(kind="multi_valued", min_items=2, max_values=3),
        "plot": FeatureColumn(kind="text", n_hashes=2),
    }
    # e, d, c, b, a are of 5, 4, 3, 2, 2 items, and forty names of one item each.
    held = [("e", range(5)), ("d", range(4)), ("c", range(3)), ("b", (5, 6)), ("a", (5, 6))]
    names = [[name for name, items in held if i in items] + [f"{i}-{k}" for k in range(4)] for i in range(10)]
    years = ["1", " 2 ", "3d", "-4F", "1e3", "NaN", "Infinity", "1,5", "1e200", ""]
    rows = [(f"i{i}", years[i], "|".join(own), "one two two three four") for i, own in enumerate(names)]
    frame = spark.createDataFrame(rows, "item string, year string, by string, plot string")
    statistics = cell_statistics(typed_cells(frame, columns), columns, {"by": ["7-1", "gone", "e"]})
    assert (statistics["year"].n_missing, statistics["year"].n_unreadable) == (7, 6)
    assert statistics["year"].mean == pytest.approx(1003 / 3)
    assert sum(statistics["plot"].counts.values()) in (10, 20), "both hashes of every item, or one"
    found = statistics["by"]
    # Of b and a, as frequent, there is no room for either: c is the third.
    assert found.counts == {"e": 5, "d": 4, "c": 3, "7-1": 1}
    assert (found.n_values, found.n_uses, found.n_frequent) == (45, 16 + 40, 5)
