"""One user's history and recommendations, with titles where there is a catalogue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from recsys_spark.errors import ContractError
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage, Storage, local_path
from recsys_spark.tables import CATALOGUE, NEW_RATINGS, RATINGS, RECOMMENDATIONS, Table


@dataclass(frozen=True, slots=True)
class UserPage:
    """What a user rated, best first, and what the user is recommended."""

    user_id: str
    history: list[dict[str, Any]]
    recommendations: list[dict[str, Any]]
    short_reason: str | None
    titles: dict[str, str]


def read_user(
    run: Run, storage: Storage, user_id: str, spark: SparkSession | None = None, *, duplicates: str
) -> UserPage:
    """Read one user of a run; without Spark where the run is on this machine.

    Parameters
    ----------
    run : Run
    storage : Storage
    user_id : str
    spark : SparkSession or None
    duplicates : str
        The run's ``ingest.duplicates``: what becomes of two ratings of an item.

    Raises
    ------
    ContractError
        If the run has no list for the user.
    """
    reader = None if isinstance(storage, LocalStorage) else spark
    lists = read_rows(run, RECOMMENDATIONS, "user_id", [user_id], reader)
    if not lists:
        raise ContractError(
            "the table has no such user",
            where=run.table_path(RECOMMENDATIONS),
            got=repr(user_id),
            remedy="ids are compared exactly: check case, leading zeros and spaces",
        )
    history = _history(run, storage, user_id, reader, duplicates)
    history.sort(key=lambda row: (-row["rating"], row["item_id"]))
    recommendations = lists[0]["recommendations"]
    shown = [row["item_id"] for row in (*history, *recommendations)]
    titles = read_titles(run, shown, reader) if storage.exists(run.table_path(CATALOGUE)) else {}
    return UserPage(user_id, history, recommendations, lists[0]["short_reason"], titles)


def _history(
    run: Run, storage: Storage, user_id: str, reader: SparkSession | None, duplicates: str
) -> list[dict[str, Any]]:
    old, new = (
        read_rows(run, table, "user_id", [user_id], reader) if storage.exists(run.table_path(table)) else []
        for table in (RATINGS, NEW_RATINGS)
    )
    return merged_ratings(old, new, duplicates)


def merged_ratings(old: list[dict[str, Any]], new: list[dict[str, Any]], duplicates: str) -> list[dict[str, Any]]:
    """Return one row per item, as ``recommend.with_new_ratings`` does: new ones stand, or counts add up."""
    rows = {row["item_id"]: row for row in old}
    for row in new:
        before = rows.get(row["item_id"])
        if before is None or duplicates != "sum":
            rows[row["item_id"]] = row
            continue
        times = [r["timestamp"] for r in (before, row) if r.get("timestamp") is not None]
        sums = {
            name: math.fsum(given) if (given := [r[name] for r in (before, row) if r.get(name) is not None]) else None
            for name in ("rating", "weight")
        }
        rows[row["item_id"]] = {"item_id": row["item_id"], **sums, "timestamp": max(times, default=None)}
    return [rows[item_id] for item_id in sorted(rows, key=str.encode)]


def read_titles(run: Run, item_ids: Sequence[str], spark: SparkSession | None) -> dict[str, str]:
    """Return title and author of those items that the catalogue has."""
    rows = read_rows(run, CATALOGUE, "item_id", item_ids, spark)
    return {row["item_id"]: title_of(row) for row in rows}


def title_of(row: dict[str, Any]) -> str:
    """Return an item's title and author, as far as the catalogue has them."""
    title = str(row["title"] or row["item_id"])
    return f"{title}, {row['by']}" if row["by"] else title


def read_rows(
    run: Run, table: Table, column: str, values: Sequence[str], spark: SparkSession | None
) -> list[dict[str, Any]]:
    """Read the rows with some values of a column: by Spark where a session is given, else from this machine."""
    path = run.table_path(table)
    if spark is not None:
        return list(table.read(spark, path).where(F.col(column).isin(list(values))).toArrow().to_pylist())
    found = ds.dataset(local_path(path), format="parquet").to_table(
        filter=ds.field(column).isin(pa.array(list(values), pa.string()))
    )
    return list(found.to_pylist())


def print_user(console: Console, page: UserPage, *, longest_history: int = 10) -> None:
    """Print a user's page as two columns of titles."""
    grid = Grid(title=f"user {escape(page.user_id)}", title_justify="left", show_edge=False, pad_edge=False)
    grid.add_column(f"rated ({len(page.history)})", ratio=1, overflow="fold")
    grid.add_column("gets", ratio=1, overflow="fold")
    rated = [f"{row['rating']:g}  {_name(page, row)}" for row in page.history[:longest_history]]
    if len(page.history) > longest_history:
        rated.append(f"... and {len(page.history) - longest_history} more")
    gets = [
        f"{row['position']}. {_name(page, row)}  ({row['score']:.2f}, {row['source']})" for row in page.recommendations
    ]
    for line in range(max(len(rated), len(gets))):
        grid.add_row(*(escape(column[line]) if line < len(column) else "" for column in (rated, gets)))
    console.print(grid)
    if page.short_reason:
        console.print(escape(page.short_reason), style="yellow")


def _name(page: UserPage, row: dict[str, Any]) -> str:
    name: str = page.titles.get(row["item_id"], row["item_id"])
    return name
