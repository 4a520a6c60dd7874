"""One user of a stored run: the vector, and the ratings as the model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from recsys_spark.factor_tables import vectors_from_columns
from recsys_spark.kernels.arrays import BoolArray, Float32Array, Float64Array, Int64Array
from recsys_spark.report.stored_run import Items, StoredRun, as_utc
from recsys_spark.report.user_page import merged_ratings
from recsys_spark.tables import FOLDED_FACTORS, NEW_RATINGS, RATINGS, USER_BLOCKS, USER_FACTORS, Table
from recsys_spark.train import observed_row, were_held_back

_RATING_COLUMNS = ("item_id", "rating", "weight", "timestamp")


@dataclass(frozen=True, slots=True)
class History:
    """The user's ratings, new ones in the place of old ones, as the model takes them.

    Attributes
    ----------
    item_ids : list of str
    ratings : float64 array of shape (n,)
    is_fitted : bool array of shape (n,)
        Whether the rating is an observation of the model; it is not where the model does not know the item, where
        ``train.positive_threshold`` leaves it out, or where training has kept it back to judge itself by.
    """

    item_ids: list[str]
    ratings: Float64Array
    is_fitted: BoolArray


@dataclass(frozen=True, slots=True)
class RatedUser:
    """What a run knows of a user.

    Attributes
    ----------
    history : History
    rated, blocked : list
        Rows of ratings, old and new; ids of blocked items.
    source : str or None
        ``cf`` or ``fold_in``, whichever made the vector; None: there is none.
    vector : float32 array of shape (width,) or None
    columns : int64 array of shape (n_observations,)
        Of the items that the observations are of.
    values, weights : float32 arrays of shape (n_observations,)
        Weights None: all ones.
    """

    history: History
    rated: list[dict[str, Any]]
    blocked: list[str]
    source: str | None
    vector: Float32Array | None
    columns: Int64Array
    values: Float32Array
    weights: Float32Array | None

    @classmethod
    def read(cls, stored: StoredRun, user_id: str, items: Items) -> RatedUser:
        """Read a user; one that the run does not know has nothing."""
        old = stored.rows(RATINGS, _RATING_COLUMNS, "user_id", [user_id])
        new = stored.rows(NEW_RATINGS, _RATING_COLUMNS, "user_id", [user_id])
        merged = merged_ratings(old, new, stored.config.ingest.duplicates)
        is_touched = bool(items.are_trained([row["item_id"] for row in new]).any())
        source, index, vector = _vector(stored, user_id, is_touched=is_touched)
        columns = items.columns([row["item_id"] for row in merged])
        ratings = np.array([row["rating"] for row in merged], np.float32).astype(np.float64)
        is_fitted, values, weights = observed_row(
            ratings,
            _weights(stored, merged),
            _days(stored, merged, [RATINGS, NEW_RATINGS] if source == "fold_in" else [RATINGS]),
            stored.config.train,
            stored.record("train")["global_mean"],
        )
        takes_part = items.are_trained([row["item_id"] for row in merged])
        if source == "cf" and stored.config.train.validation_share > 0:
            takes_part &= ~were_held_back(index, items.index[columns], stored.config.train.validation_share)
        history = History([row["item_id"] for row in merged], ratings, is_fitted & takes_part)
        return cls(
            history,
            old + new,
            [row["item_id"] for row in stored.rows(USER_BLOCKS, ("item_id",), "user_id", [user_id])],
            source,
            vector,
            columns[history.is_fitted],
            values[takes_part[is_fitted]],
            None if weights is None else weights[takes_part[is_fitted]],
        )


def _vector(stored: StoredRun, user_id: str, *, is_touched: bool) -> tuple[str | None, int, Float32Array | None]:
    """Return what made the user's vector, the user's index, and the vector."""
    for source, table in (("fold_in", FOLDED_FACTORS), ("cf", USER_FACTORS)):
        if source == "cf" and is_touched:
            break
        if stored.has(table):
            found = stored.read(table, ("user_index", "factors", "bias"), "user_id", [user_id])
            if found.num_rows:
                index, factors, bias = (column.combine_chunks() for column in found.itercolumns())
                vectors = vectors_from_columns(factors, bias, biases=stored.record("train")["biases"])
                return source, index[0].as_py(), vectors[0]
    return None, -1, None


def _weights(stored: StoredRun, rows: list[dict[str, Any]]) -> Float64Array | None:
    if stored.config.input.columns.weight is None:
        return None
    weights = [1.0 if row["weight"] is None else row["weight"] for row in rows]
    return np.array(weights, np.float32).astype(np.float64)


def _days(stored: StoredRun, rows: list[dict[str, Any]], tables: list[Table]) -> Float64Array | None:
    """Return how many days before the latest rating of some tables each row is; 0 where that is not known."""
    if stored.config.train.half_life_days is None:
        return None
    latest = stored.latest([table for table in tables if stored.has(table)])
    ages = [(latest - as_utc(row["timestamp"])) if row["timestamp"] and latest else timedelta() for row in rows]
    return np.array([age / timedelta(days=1) for age in ages], np.float64)
