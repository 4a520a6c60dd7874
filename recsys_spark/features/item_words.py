"""Which words of an item stand behind the columns of hashed ones: for people, who cannot read hashes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.features.cells import words_name
from recsys_spark.features.encoder import Encoder


def item_words(cells: DataFrame, encoder: Encoder) -> DataFrame | None:
    """Return the table ``item_words`` of typed cells: for every item the words of its texts, each with its column.

    None where no feature is text. One shuffle, by ranges of the item's id.
    """
    texts = [(k, feature) for k, feature in enumerate(encoder.features) if feature.kind == "text"]
    if not texts:
        return None
    # As structs they are in the order of their columns, and then of their letters.
    words = F.array_sort(F.concat(*[_with_columns(k, feature.first) for k, feature in texts]))
    rows = cells.select("item_id", words.alias("words")).where(F.size("words") > 0)
    return rows.repartitionByRange("item_id").sortWithinPartitions("item_id")


def _with_columns(number: int, first: int) -> Column:
    """Return the words of a feature's cell with columns of the encoded row, which those of the feature begin at."""
    words = F.transform(
        words_name(number),
        lambda told: F.struct((told["hash"] + F.lit(first)).alias("column"), told["word"].alias("word")),
    )
    return F.coalesce(words, F.array().cast("array<struct<column:int,word:string>>"))


def words_by_column(rows: Iterable[dict[str, Any]]) -> dict[str, dict[int, list[str]]]:
    """Return the words of some items by column, from rows of ``item_words``: several where they share a column."""
    found: dict[str, dict[int, list[str]]] = {}
    for row in rows:
        of_item = found.setdefault(row["item_id"], {})
        for entry in row["words"]:
            of_item.setdefault(entry["column"], []).append(entry["word"])
    return found
