"""The cells of a feature table, typed: one row per item, and what the cells of each feature are like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.features.encoder import CellStatistics
from recsys_spark.kernels.feature_encoding import mean_and_deviation

if TYPE_CHECKING:
    # Workers import this package, and have no pydantic.
    from recsys_spark.config.features import FeatureColumn

# What Unicode takes for letters, digits and underscores: two of them at least are a word.
# Its square, and the sum of many squares, are still numbers.
_LARGEST = 1e150
_WORD = r"(?U)\b\w\w+\b"


def cell_name(number: int) -> str:
    """Return the column of the typed cells of a feature, by its place in the configuration."""
    return f"cell{number}"


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
        ``cell0_text``, where it could not be read. Of several rows of an item, the first cell in the order of the
        letters stands, blank ones aside. Rows without an item are left out. One shuffle, by item.
    """
    names = [f"text{number}" for number in range(len(columns))]
    text = rows.toDF("item_id", *names).where(F.trim("item_id") != "")
    filled = [F.min(F.when(F.trim(name) != "", F.trim(name))).alias(name) for name in names]
    by_item = text.groupBy("item_id").agg(F.count("*").alias("n_rows"), *filled)
    cells, unreadable = [], []
    for k, (name, column) in enumerate(zip(names, columns.values(), strict=True)):
        cells.append(_cell(name, column).alias(cell_name(k)))
        if column.kind == "numeric":
            unreadable.append(F.when(_number(F.col(name)).isNull(), F.col(name)).alias(f"{cell_name(k)}_text"))
    return by_item.select("item_id", "n_rows", *cells, *unreadable)


def _cell(name: str, column: FeatureColumn) -> Column:
    text = F.col(name)
    if column.kind == "numeric":
        return _number(text)
    if column.kind == "text":
        words = F.regexp_extract_all(F.lower(text), F.lit(_WORD), F.lit(0))
        hashes = F.transform(words, lambda word: F.pmod(F.xxhash64(word), F.lit(column.n_hashes)).cast("int"))
        return F.coalesce(hashes, F.array().cast("array<int>"))
    if column.kind == "categorical":
        parts = F.array(text)
    else:
        # A list of JSON lines or Parquet, or text between separators.
        listed = F.when(text.startswith("["), F.from_json(text, "array<string>"))
        parts = F.transform(F.coalesce(listed, F.split(text, _quoted(column.separator))), lambda part: F.trim(part))
    return F.coalesce(F.array_distinct(F.filter(parts, lambda part: part != "")), F.array().cast("array<string>"))


def _number(text: Column) -> Column:
    number = text.try_cast("double")
    return F.when(F.abs(number) < F.lit(_LARGEST), number)


def _quoted(separator: str) -> str:
    """Return a separator as a regular expression that matches nothing else."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in separator)


def cell_statistics(cells: DataFrame, columns: dict[str, FeatureColumn]) -> dict[str, CellStatistics]:
    """Return what the cells of each feature are like.

    Notes
    -----
    Three passes over the typed cells, one shuffle of the distinct values' counts. The driver receives every number of
    the numeric features (8 bytes an item), and every distinct value with its count.
    """
    n_items, missing, unreadable = _count_missing(cells, columns)
    numbers = {name: cell_name(k) for k, (name, column) in enumerate(columns.items()) if column.kind == "numeric"}
    counts = _count_values(cells, columns)
    means = dict.fromkeys(columns, (0.0, 0.0))
    if numbers:
        table = cells.select(*numbers.values()).toArrow()
        for name, cell in numbers.items():
            means[name] = mean_and_deviation(table[cell].to_numpy().astype(np.float64))
    return {
        name: CellStatistics(n_items, missing[name], unreadable[name], *means[name], counts[name]) for name in columns
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


def _count_values(cells: DataFrame, columns: dict[str, FeatureColumn]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {name: {} for name in columns}
    held = [_held_values(k) for k, column in enumerate(columns.values()) if column.kind != "numeric"]
    if not held:
        return counts
    entries = cells.select(F.explode(F.concat(*held)).alias("entry")).select("entry.*")
    table = entries.groupBy("feature", "value").count().toArrow()
    names = list(columns)
    for feature, value, count in zip(*(column.to_pylist() for column in table.itercolumns()), strict=True):
        counts[names[feature]][value] = count
    # In one order, whichever way the rows came.
    return {name: dict(sorted(found.items())) for name, found in counts.items()}


def _held_values(number: int) -> Column:
    """Return the distinct values of a feature's cell, beside the feature's number."""
    of_feature = F.lit(number).alias("feature")
    return F.transform(
        F.array_distinct(cell_name(number)), lambda value: F.struct(of_feature, value.cast("string").alias("value"))
    )
