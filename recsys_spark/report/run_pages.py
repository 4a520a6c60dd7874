"""What there is under an output path, and how two runs differ, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from recsys_spark.runs.publication_log import Publication, publications
from recsys_spark.runs.run_directory import STAGES, Run, find_runs
from recsys_spark.storage import Storage, join


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run: the stages that are done, its numbers in the publication log, and what readers have to do with it."""

    run: Run
    stages: list[str]
    entries: list[int]
    state: str


def list_runs(root: str, storage: Storage) -> list[RunLine]:
    """Return all runs under an output path, by date and then id; without Spark where it is local."""
    log = publications(root, storage)
    lines = []
    for run in find_runs(root, storage):
        done = {name.removesuffix(".json") for name in storage.list_names(join(run.path, "stages"))}
        stages = [stage for stage in STAGES if stage in done]
        entries = [entry.number for entry in log if run in (entry.run(root), entry.newest(root))]
        lines.append(RunLine(run, stages, entries, _state(run, stages, log)))
    return lines


def _state(run: Run, stages: list[str], log: list[Publication]) -> str:
    published = [entry for entry in log if entry.newest(run.root) == run]
    marks = []
    if log and log[-1].run(run.root) == run:
        marks.append("current, pinned" if log[-1].pinned else "current")
    elif published:
        marks.append("published")
    if any(entry.forced for entry in published):
        marks.append("forced")
    if marks:
        return ", ".join(marks)
    # There are features only where some are configured.
    wanted = set(STAGES[: STAGES.index("publish")]) - {"features"}
    return "not published" if wanted <= set(stages) else "unfinished"


def print_runs(console: Console, lines: list[RunLine]) -> None:
    """Print runs as a table."""
    grid = Grid(show_edge=False, pad_edge=False)
    for title in ("date", "run", "state", "entries of the log", "stages done"):
        grid.add_column(title)
    for line in lines:
        numbers = ", ".join(map(str, line.entries))
        grid.add_row(line.run.date, escape(line.run.run_id), line.state, numbers, " ".join(line.stages))
    console.print(grid)


def print_difference(console: Console, found: dict[str, Any]) -> None:
    """Print what `compare_runs` has found."""
    console.print(f"run {escape(found['before'])} -> run {escape(found['after'])}", highlight=False)
    grid = _grid("what changed for whom", "", "users", "overlap", "positions changed", "same list")
    for row in found["churn"]:
        name = "all" if row["segment"] is None else escape(row["segment"])
        overlap = f"{row['overlap']:.3f} ± {row['overlap_margin']:.3f}"
        grid.add_row(name, f"{row['users']:,}", overlap, f"{row['changed_positions']:.1%}", f"{row['same_lists']:.1%}")
    console.print(grid)
    for name, of_what in (("users", "with a list"), ("items", "in some list")):
        n = found[name]
        eligible = f" (of {n['eligible']:,} that may be)" if n.get("eligible") else ""
        console.print(
            f"{name} {of_what}: {n['before']:,} -> {n['after']:,}{eligible}; {n['after'] - n['both']:,} new, "
            f"{n['before'] - n['both']:,} gone",
            highlight=False,
        )
    means = " -> ".join(map(_mean, found["popularity"].values()))
    console.print(f"ratings of a listed item, on average: {means}", highlight=False)
    if found["segments"]:
        grid = _grid("by segment", "", "users", "items in some list", "ratings of a listed item")
        for row in found["segments"]:
            counts = [f"{row[name]['before']:,} -> {row[name]['after']:,}" for name in ("users", "items")]
            grid.add_row(escape(row["segment"]), *counts, " -> ".join(map(_mean, row["popularity"].values())))
        console.print(grid)
    for title, rows in (
        ("held-out metrics", [row for row in found["metrics"] if row["segment"] == "all"]),
        ("of the model, by segment", [r for r in found["metrics"] if r["segment"] != "all" and r["model"] == "model"]),
    ):
        of_both = [row for row in rows if row["before"] is not None and row["after"] is not None]
        if of_both:
            console.print(_metrics_grid(title, of_both))
        if len(of_both) < len(rows):
            console.print(f"{title}: {len(rows) - len(of_both):,} more of one of the runs alone", highlight=False)


def _metrics_grid(title: str, rows: list[dict[str, Any]]) -> Grid:
    by = "model" if all(row["segment"] == "all" for row in rows) else "segment"
    grid = _grid(title, by, "metric", "before", "after", "difference")
    for row in rows:
        shown = [f"{value:.4f}" for value in (row["before"], row["after"])]
        grid.add_row(escape(row[by]), row["metric"], *shown, f"{row['after'] - row['before']:+.4f}")
    return grid


def _mean(value: float | None) -> str:
    return f"{value:,.1f}" if value is not None else "-"


def _grid(title: str, *columns: str) -> Grid:
    grid = Grid(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        grid.add_column(column)
    return grid
