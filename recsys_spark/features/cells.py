"""The cells of a feature table, typed: one row per item, and what the cells of each feature are like."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys_spark.features.encoder import CellStatistics
from recsys_spark.kernels.feature_encoding import mean_and_deviation

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config.features import FeatureColumn

# Its square, and the sum of many squares, are still numbers.
_LARGEST = 1e150
# What Unicode takes for letters, digits and underscores: two of them at least are a word.
_WORD = r"(?U)\b\w\w+\b"


def cell_name(number: int) -> str:
    """Return the column of the typed cells of a feature, by its place in the configuration."""
    return f"cell{number}"


def words_name(number: int) -> str:
    """Return the column of the words of a feature, by its place in the configuration."""
    return f"{cell_name(number)}_words"


def typed_cells(rows: DataFrame, columns: dict[str, FeatureColumn]) -> DataFrame:
    """Turn the text of a feature table into typed cells.

    Parameters
    ----------
    rows : DataFrame
        ``item`` and one text column per feature, in the order of ``columns``.
    columns : dict of str to FeatureColumn

    Returns
    -------
    DataFrame
        ``item_id, n_rows`` and, by number of the feature, ``cell0, cell1, ...``: double (null where missing), the
        distinct values as ``array<string>``, or the hashes of the words as ``array<int>``; beside a double
        ``cell0_text``, where it could not be read, and beside hashes ``cell0_words``, the distinct words as
        ``array<struct<hash int, word string>>``. Of several rows of an item, the first cell in the order of the
        letters stands, blank ones aside. Rows without an item, or whose item goes over the end of a line, are left out.
        One shuffle, by item.
    """
    names = [f"text{number}" for number in range(len(columns))]
    # An id over the end of a line is what follows a stray quote, and would be listed as a new item.
    text = rows.toDF("item_id", *names).where((F.trim("item_id") != "") & ~F.col("item_id").rlike(r"[\r\n]"))
    filled = [F.min(F.when(F.trim(name) != "", F.trim(name))).alias(name) for name in names]
    by_item = text.groupBy("item_id").agg(F.count("*").alias("n_rows"), *filled)
    cells, beside = [], []
    for k, (name, column) in enumerate(zip(names, columns.values(), strict=True)):
        cells.append(_cell(name, column).alias(cell_name(k)))
        if column.kind == "numeric":
            beside.append(F.when(_number(F.col(name)).isNull(), F.col(name)).alias(f"{cell_name(k)}_text"))
        if column.kind == "text":
            beside.append(_words_with_hashes(F.col(name), column.n_hashes).alias(words_name(k)))
    return by_item.select("item_id", "n_rows", *cells, *beside)


def _cell(name: str, column: FeatureColumn) -> Column:
    text = F.col(name)
    if column.kind == "numeric":
        return _number(text)
    if column.kind == "text":
        hashes = F.transform(_words(text), lambda word: _hash(word, column.n_hashes))
        return F.coalesce(hashes, F.array().cast("array<int>"))
    if column.kind == "categorical":
        parts = F.array(text)
    else:
        # A list of JSON lines or Parquet, or text between separators.
        listed = F.when(text.startswith("["), F.from_json(text, "array<string>"))
        parts = F.transform(F.coalesce(listed, F.split(text, _quoted(column.separator))), lambda part: F.trim(part))
    return F.coalesce(F.array_distinct(F.filter(parts, lambda part: part != "")), F.array().cast("array<string>"))


def _words(text: Column) -> Column:
    return F.regexp_extract_all(F.lower(text), F.lit(_WORD), F.lit(0))


def _words_with_hashes(text: Column, n_hashes: int) -> Column:
    distinct = F.array_distinct(_words(text))
    return F.transform(distinct, lambda word: F.struct(_hash(word, n_hashes).alias("hash"), word.alias("word")))


def _hash(word: Column, n_hashes: int) -> Column:
    return F.pmod(F.xxhash64(word), F.lit(n_hashes)).cast("int")


def _number(text: Column) -> Column:
    number = text.try_cast("double")
    # Spark would take 12d and 12f for numbers, as they are in a program's text.
    return F.when(~text.rlike("[dDfF]$") & (F.abs(number) < F.lit(_LARGEST)), number)


def _quoted(separator: str) -> str:
    """Return a separator as a regular expression that matches nothing else."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in separator)


def cell_statistics(
    cells: DataFrame, columns: dict[str, FeatureColumn], wanted: dict[str, list[str]]
) -> dict[str, CellStatistics]:
    """Return what the cells of each feature are like.

    Parameters
    ----------
    cells : DataFrame
        As `typed_cells` returns them.
    columns : dict of str to FeatureColumn
    wanted : dict of str to list of str
        By feature, values that are counted whether or not they are frequent: those of another encoder.

    Notes
    -----
    Four passes over the typed cells, one shuffle of the distinct values' counts, and one of the frequent ones. The
    driver receives every number of the numeric features (8 bytes an item), of the others the counts of at most
    ``max_values`` values, and of those that are wanted.
    """
    n_items, missing, unreadable = _count_missing(cells, columns)
    numbers = {name: cell_name(k) for k, (name, column) in enumerate(columns.items()) if column.kind == "numeric"}
    values = _count_values(cells, columns, wanted)
    means = dict.fromkeys(columns, (0.0, 0.0))
    if numbers:
        table = cells.select(*numbers.values()).toArrow()
        for name, cell in numbers.items():
            means[name] = mean_and_deviation(table[cell].to_numpy().astype(np.float64))
    return {
        name: CellStatistics(n_items, missing[name], unreadable[name], *means[name], **values[name]._asdict())
        for name in columns
    }


def _count_missing(cells: DataFrame, columns: dict[str, FeatureColumn]) -> tuple[int, dict[str, int], dict[str, int]]:
    missing, unreadable = [], []
    for k, column in enumerate(columns.values()):
        cell, is_numeric = F.col(cell_name(k)), column.kind == "numeric"
        missing.append(F.count_if(cell.isNull() if is_numeric else F.size(cell) == 0).alias(f"missing{k}"))
        if is_numeric:
            unreadable.append(F.count(f"{cell_name(k)}_text").alias(f"unreadable{k}"))
    row = cells.agg(F.count("*").alias("n_items"), *missing, *unreadable).collect()[0].asDict()
    places = {name: k for k, name in enumerate(columns)}
    return (
        int(row["n_items"]),
        {name: int(row[f"missing{k}"]) for name, k in places.items()},
        {name: int(row.get(f"unreadable{k}", 0)) for name, k in places.items()},
    )


class _ValueCounts(NamedTuple):
    """See the attributes of `CellStatistics` of these names."""

    counts: dict[str, int]
    n_values: int
    n_uses: int
    n_frequent: int


def _count_values(
    cells: DataFrame, columns: dict[str, FeatureColumn], wanted: dict[str, list[str]]
) -> dict[str, _ValueCounts]:
    found = {name: _ValueCounts({}, 0, 0, 0) for name in columns}
    held = [_held_values(k) for k, column in enumerate(columns.values()) if column.kind != "numeric"]
    if not held:
        return found
    entries = cells.select(F.explode(F.concat(*held)).alias("entry")).select("entry.*")
    is_frequent = F.col("count") >= _of_feature([_least(column) for column in columns.values()])
    counted = entries.groupBy("feature", "value").count().withColumn("is_frequent", is_frequent).persist()
    try:
        sums = F.count("*").alias("n"), F.sum("count").alias("uses"), F.count_if("is_frequent").alias("frequent")
        totals = counted.groupBy("feature").agg(*sums).collect()
        table = _values_that_count(counted, columns, wanted).toArrow()
    finally:
        counted.unpersist()
    names = list(columns)
    for row in totals:
        found[names[row["feature"]]] = _ValueCounts({}, row["n"], row["uses"], row["frequent"])
    # In one order, whichever way the rows came.
    for feature, value, count in sorted(zip(*(column.to_pylist() for column in table.itercolumns()), strict=True)):
        found[names[feature]].counts[value] = count
    return found


def _values_that_count(
    counted: DataFrame, columns: dict[str, FeatureColumn], wanted: dict[str, list[str]]
) -> DataFrame:
    """Return ``feature, value, count`` of what may have a column of its own, and of what is wanted."""
    in_order = Window.partitionBy("feature").orderBy(F.desc("count"), "value")
    best = counted.where("is_frequent").withColumn("place", F.row_number().over(in_order))
    best = best.where(F.col("place") <= _of_feature([_most(column) for column in columns.values()]))
    best = best.select("feature", "value", "count")
    places = {name: k for k, name in enumerate(columns)}
    named = [(places[name], value) for name, values in wanted.items() for value in values]
    if not named:
        return best
    features, values = pa.array([k for k, _ in named], pa.int32()), pa.array([value for _, value in named])
    others = counted.sparkSession.createDataFrame(pa.table({"feature": features, "value": values}))
    return best.unionByName(counted.join(others, ["feature", "value"], "left_semi").select(*best.columns))


def _of_feature(numbers: list[int]) -> Column:
    """Return the number that belongs to the row's feature."""
    return F.element_at(F.array(*[F.lit(number).cast("long") for number in numbers]), F.col("feature") + 1)


def _least(column: FeatureColumn) -> int:
    return column.min_items if column.kind in ("categorical", "multi_valued") else 1


def _most(column: FeatureColumn) -> int:
    return column.n_hashes if column.kind == "text" else column.max_values


def _held_values(number: int) -> Column:
    """Return the distinct values of a feature's cell, beside the feature's number."""
    of_feature = F.lit(number).alias("feature")
    return F.transform(
        F.array_distinct(cell_name(number)), lambda value: F.struct(of_feature, value.cast("string").alias("value"))
    )
