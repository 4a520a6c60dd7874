"""A training plan as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.byte_sizes import human_size
from recsys_spark.train import TrainingPlan, describe_methods


def print_plan(console: Console, plan: TrainingPlan, reason: str = "") -> None:
    """Print what a training will take: by side, against the session's limits, and in time."""
    shuffled = plan.predicted.shuffle_bytes_per_iteration
    because = f" ({reason})" if reason else ""
    console.print(
        f"{plan.n_ratings:,} ratings, {plan.width} numbers per row, at most {plan.iterations} iterations, "
        f"{plan.exchange} exchange{because}, {plan.n_blocks} blocks per side on {plan.limits.cores} cores",
        highlight=False,
    )
    console.print(_by_side(plan))
    console.print(_against_limits(plan))
    console.print(
        f"shuffled: {human_size(plan.shuffle_bytes)} once, to block the ratings; "
        f"{human_size(shuffled) if shuffled else 'nothing'} per iteration\n"
        f"time, roughly: {plan.predicted.blocking_seconds:.1f} s to block the ratings, "
        f"{plan.predicted.iteration_seconds:.1f} s per iteration, {plan.seconds:.0f} s if all are needed",
        highlight=False,
    )


def _by_side(plan: TrainingPlan) -> Grid:
    sides = list(plan.sides.values())
    rows = {
        "rows": [f"{side.n_rows:,}" for side in sides],
        "rows with ratings": [f"{side.n_trained:,}" for side in sides],
        "rows split over all blocks": [f"{side.n_split:,}" for side in sides],
        "solved by": [describe_methods(side) for side in sides],
        "kernel time on one core": [f"{side.core_seconds:.1f} s" for side in sides],
        "largest block": [human_size(side.largest_block_bytes) for side in sides],
        "vectors of the largest block": [human_size(side.largest_vectors_bytes) for side in sides],
        "sent to every worker": [human_size(side.broadcast_bytes) for side in sides],
        "returned to the driver": [human_size(side.returned_bytes) for side in sides],
    }
    return _grid("once per iteration", ["", *plan.sides], rows)


def _against_limits(plan: TrainingPlan) -> Grid:
    limits, predicted = plan.limits, plan.predicted
    returned = max(side.returned_bytes for side in plan.sides.values())
    needed = {
        "a Python worker": (predicted.worker_bytes, limits.worker_bytes),
        "the driver's Python": (predicted.driver_bytes, None),
        "the driver's JVM": (plan.driver_heap_bytes, limits.driver_heap_bytes),
        "the results of one job": (returned, limits.result_bytes),
        "all on this machine" if limits.is_local else "the driver's machine": (
            plan.machine_bytes,
            limits.machine_bytes,
        ),
    }
    rows = {
        name: [human_size(most), "no limit known" if allowed is None else human_size(allowed)]
        for name, (most, allowed) in needed.items()
    }
    return _grid("memory", ["", "needed", "there is"], rows)


def _grid(title: str, columns: list[str], rows: dict[str, list[str]]) -> Grid:
    grid = Grid(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left")
    for name, cells in rows.items():
        grid.add_row(name, *cells)
    return grid
