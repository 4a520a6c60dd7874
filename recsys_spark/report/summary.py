"""The summary that a pipeline prints when it is done."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.report.neighbour_page import print_neighbours, read_neighbours
from recsys_spark.report.samples import sample_items, sample_users
from recsys_spark.report.stage import page_path
from recsys_spark.report.user_page import print_user, read_user
from recsys_spark.runs.run_directory import STAGES, StageContext
from recsys_spark.storage import join
from recsys_spark.tables import SIMILAR_ITEMS, Table

_SAMPLE_USERS, _SAMPLE_ITEMS = 3, 2


def print_summary(console: Console, context: StageContext, tables: dict[str, tuple[Table, ...]]) -> None:
    """Print what went in, how training went, how good it is, three users, similar items, times and places.

    Parameters
    ----------
    console : Console
    context : StageContext
    tables : dict
        Tables by stage.
    """
    records = {
        stage: context.record(stage) for stage in STAGES if context.storage.exists(context.run.stage_record(stage))
    }
    console.rule(f"run {context.run.run_id}", align="left")
    if "ingest" in records:
        _print_rows(console, records["ingest"])
    if "train" in records:
        _print_objective(console, records["train"])
    if "evaluate" in records:
        _print_metrics(console, records["evaluate"], context.config.evaluate.n)
    if "recommend" in records and "train" in records:
        _print_users(console, context)
        _print_similar_items(console, context)
    _print_times(console, records)
    _print_places(console, context, records, tables)


def _print_rows(console: Console, record: dict[str, Any]) -> None:
    t = record["totals"]
    console.print(
        f"{t['rows_in']:,} rows in = {t['accepted']:,} accepted + {t['merged']:,} merged duplicates "
        f"+ {t['quarantined']:,} quarantined"
    )
    if t["outside_interval"]:
        console.print(f"{t['outside_interval']:,} further rows lie outside the run's interval")
    for reason, count in record["reasons"].items():
        if count:
            console.print(f"  quarantined {count:,}: {reason}")


def _print_objective(console: Console, record: dict[str, Any]) -> None:
    if not record["history"]:
        console.print(f"model: {record['label']}")
        return
    grid = _grid(
        "objective after each half-iteration",
        "iteration",
        "side",
        "objective",
        "observed loss",
        "all pairs",
        "penalty",
        "seconds",
    )
    for step in record["history"]:
        grid.add_row(
            str(step["iteration"]),
            step["side"],
            f"{step['objective']:,.1f}",
            f"{step['observed']:,.1f}",
            f"{step['unobserved']:,.1f}",
            f"{step['penalty']:,.1f}",
            f"{step['seconds']:.2f}",
        )
    console.print(grid)


def _print_metrics(console: Console, record: dict[str, Any], n: int) -> None:
    """Print the measures over all users, of lists those of length n, and what the model does not beat in red."""
    rows = [row for row in record["metrics"] if row["segment"] == "all"]
    rows = [row for row in rows if "@" not in row["metric"] or row["metric"].endswith(f"@{n}")]
    if not rows:
        console.print("nothing was held out, so nothing was measured")
        return
    models = list(dict.fromkeys(row["model"] for row in rows))
    title = (
        f"on {record['n_held_out']:,} held-out ratings (split: {record['split']}), fitted to {record['n_training']:,}"
    )
    grid = _grid(title, "metric", *models, "measured on")
    for metric in dict.fromkeys(row["metric"] for row in rows):
        by_model = {row["model"]: row for row in rows if row["metric"] == metric}
        values = [_with_interval(by_model[m]) if m in by_model else "" for m in models]
        grid.add_row(metric, *values, f"{next(iter(by_model.values()))['n']:,}")
    console.print(grid)
    for row in record["comparisons"]:
        if row["verdict"] != "better":
            text = f"{row['model']} does not beat {row['baseline']} by {row['metric']}: {row['verdict']}"
            console.print(f"{text} ({row['advantage']:+.4f})", style="bold red", highlight=False)
    if record.get("advice"):
        console.print(record["advice"], style="red", highlight=False)


def _with_interval(row: dict[str, Any]) -> str:
    """Return a value, and how far half its interval reaches."""
    if row["low"] is None:
        return f"{row['value']:.4f}"
    return f"{row['value']:.4f} ±{(row['high'] - row['low']) / 2:.4f}"


def _print_users(console: Console, context: StageContext) -> None:
    read = partial(read_user, context.run, context.storage, duplicates=context.config.ingest.duplicates)
    for user_id in sample_users(context, _SAMPLE_USERS):
        console.print()
        print_user(console, read(user_id, context.spark))
    console.print()


def _print_similar_items(console: Console, context: StageContext) -> None:
    if not context.storage.exists(context.run.table_path(SIMILAR_ITEMS)):
        return
    for item_id in sample_items(context, _SAMPLE_ITEMS):
        page = read_neighbours(context.run, context.storage, SIMILAR_ITEMS, item_id, context.spark)
        print_neighbours(console, page)
        console.print()


def _print_times(console: Console, records: dict[str, dict[str, Any]]) -> None:
    grid = _grid("time", "stage", "seconds")
    for stage, record in records.items():
        grid.add_row(stage, f"{record['seconds']:.1f}")
    grid.add_row("all", f"{sum(record['seconds'] for record in records.values()):.1f}")
    console.print(grid)


def _print_places(
    console: Console,
    context: StageContext,
    records: dict[str, dict[str, Any]],
    tables: dict[str, tuple[Table, ...]],
) -> None:
    console.print("tables (Parquet):")
    for stage in records:
        for table in tables[stage]:
            path = context.run.table_path(table)
            if context.storage.exists(path):
                console.print(f"  {path}", soft_wrap=True, highlight=False)
    if "report" in records:
        console.print(f"page: {page_path(context.run)}", soft_wrap=True, highlight=False)
    if "publish" in records:
        console.print(f"manifest: {join(context.run.path, 'manifest.json')}", soft_wrap=True, highlight=False)
        entry = records["publish"]["publication"]
        console.print(
            f"published as entry {entry['number']} of {join(context.run.root, 'publication_log')}",
            soft_wrap=True,
        )


def _grid(title: str, *columns: str) -> Grid:
    grid = Grid(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number == 0 or column == "side" else "right")
    return grid
