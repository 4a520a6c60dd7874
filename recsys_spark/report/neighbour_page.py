"""What is similar to one item or user, with titles where there is a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.features import read_encoder, words_by_column
from recsys_spark.report.user_page import read_rows, read_titles
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage, Storage
from recsys_spark.tables import CATALOGUE, ITEM_FEATURES, ITEM_WORDS, SIMILAR_ITEMS, Table

_MOST_SHARED = 3


@dataclass(frozen=True, slots=True)
class NeighbourPage:
    """The neighbours of an item or user, most similar first.

    ``titles`` are those of items; ``shared`` names the features that the row has in common with some neighbours.
    """

    id_name: str
    row_id: str
    neighbours: list[dict[str, Any]]
    short_reason: str | None
    model: str
    titles: dict[str, str]
    shared: dict[str, list[str]]


def read_neighbours(
    run: Run, storage: Storage, table: Table, row_id: str, spark: SparkSession | None = None
) -> NeighbourPage:
    """Read one row of ``similar_items`` or ``similar_users``; without Spark where the run is on this machine.

    Raises
    ------
    ConfigError
        If the run has no such table.
    ContractError
        If the table has no such row.
    """
    path, id_name = run.table_path(table), table.key[0]
    if not storage.exists(path):
        raise ConfigError(
            f"this run has no table of {table.name.replace('_', ' ')}",
            where=path,
            remedy=f"add {table.name}: {{method: factors}} to the configuration, and run the pipeline again",
        )
    reader = None if isinstance(storage, LocalStorage) else spark
    found = read_rows(run, table, id_name, [row_id], reader)
    if not found:
        raise ContractError(
            f"the table has no such {id_name.removesuffix('_id')}",
            where=path,
            got=repr(row_id),
            remedy="ids are compared exactly: check case, leading zeros and spaces",
        )
    row = found[0]
    shown = [row_id, *(entry[id_name] for entry in row["neighbours"])]
    has_titles = table == SIMILAR_ITEMS and storage.exists(run.table_path(CATALOGUE))
    titles = read_titles(run, shown, reader) if has_titles else {}
    has_features = table == SIMILAR_ITEMS and storage.exists(run.table_path(ITEM_FEATURES))
    shared = _shared_features(run, storage, shown, reader) if has_features else {}
    return NeighbourPage(id_name, row_id, row["neighbours"], row["short_reason"], row["model"], titles, shared)


def _shared_features(run: Run, storage: Storage, items: list[str], reader: SparkSession | None) -> dict[str, list[str]]:
    """Return which values and words the first of some items has in common with others, as far as with any.

    What counts most in the first item comes first. Words that share a hash are not in common.
    """
    value_of_column = read_encoder(run, storage).value_of_column
    has_words = storage.exists(run.table_path(ITEM_WORDS))
    words = words_by_column(read_rows(run, ITEM_WORDS, "item_id", items, reader)) if has_words else {}
    weight_of: dict[tuple[int, str], float] = {}
    held: dict[str, set[tuple[int, str]]] = {}
    for row in read_rows(run, ITEM_FEATURES, "item_id", items, reader):
        of_item = words.get(row["item_id"], {})
        for column, weight in zip(row["columns"], row["values"], strict=True):
            named = of_item.get(column, [value_of_column[column]] if column in value_of_column else [])
            held.setdefault(row["item_id"], set()).update((column, value) for value in named)
            if row["item_id"] == items[0]:
                weight_of.update({(column, value): weight for value in named})
    best_first = sorted(weight_of, key=lambda key: (-weight_of[key], *key))
    shared = {item: [key[1] for key in best_first if key in held.get(item, ())] for item in items[1:]}
    return {item: values for item, values in shared.items() if values}


def print_neighbours(console: Console, page: NeighbourPage) -> None:
    """Print a row's neighbours, one per line."""
    kind = page.id_name.removesuffix("_id")
    title = f"{kind} {page.titles.get(page.row_id, page.row_id)}: most similar by {page.model}"
    # Not the table's own title, which would be folded to the table's width.
    console.print(f"[italic]{escape(title)}[/italic]", highlight=False)
    grid = Grid(show_edge=False, pad_edge=False)
    grid.add_column("", justify="right")
    grid.add_column(f"{kind}s", overflow="fold")
    grid.add_column("similarity", justify="right")
    shows_common = any(entry["n_common"] is not None for entry in page.neighbours)
    if shows_common:
        grid.add_column("in common", justify="right")
    if page.shared:
        grid.add_column("features in common", overflow="fold")
    for entry in page.neighbours:
        name = page.titles.get(entry[page.id_name], entry[page.id_name])
        common = [f"{entry['n_common']:,}"] if shows_common else []
        shared = [escape(_few(page.shared.get(entry[page.id_name], [])))] if page.shared else []
        grid.add_row(str(entry["position"]), escape(name), f"{entry['similarity']:.3f}", *common, *shared)
    console.print(grid)
    if page.short_reason:
        console.print(escape(page.short_reason), style="yellow")


def _few(values: list[str]) -> str:
    shown = ", ".join(values[:_MOST_SHARED])
    return shown if len(values) <= _MOST_SHARED else f"{shown} and {len(values) - _MOST_SHARED} more"
