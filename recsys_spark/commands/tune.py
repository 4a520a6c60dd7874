"""The command that looks for better settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import click
from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.commands.options import config_option, indexed_run, log_format_option, require_run_id, set_option
from recsys_spark.config import PipelineConfig
from recsys_spark.config.file import load_config
from recsys_spark.evaluate.trials import best_first
from recsys_spark.evaluate.tuning import Search, search
from recsys_spark.progress import configure_logging
from recsys_spark.session import build_session
from recsys_spark.storage import join, storage_for


@click.command()
@config_option
@set_option
@click.option("--run-id", metavar="ID", help="A run whose index stage is done.")
@click.option("--output", metavar="FILE", help="Where the configuration with the best settings goes. Default: the run.")
@log_format_option
def tune(
    config_path: str,
    overrides: Sequence[str],
    run_id: str | None,
    output: str | None,
    log_format: Literal["text", "json"],
) -> None:
    """Try settings of train, as the section tune says, and write the configuration with the best of them.

    The ratings that evaluate holds out have no part in it. Trials that are done are not done again: the same command
    after an interruption goes on.
    """
    configure_logging(log_format)
    config = load_config(config_path, overrides)
    run_id = require_run_id("tune", config_path, run_id)
    spark = build_session(f"recsys-tune-{config.name}")
    context = indexed_run("tune", config, spark, run_id, log_format)
    found = search(context)
    target = output or join(context.run.path, "tuning", "best.yaml")
    storage_for(target, spark).write_text(target, best_config(config, found).as_yaml())
    if log_format == "text":
        console = Console()
        print_search(console if console.is_terminal else Console(width=160), found)
    click.echo(target)


def best_config(config: PipelineConfig, found: Search) -> PipelineConfig:
    """Return the configuration with the best settings in the place of its own."""
    train = config.train.model_copy(update=found.best.tried)
    return config.model_copy(update={"train": train})


def print_search(console: Console, found: Search) -> None:
    """Print the trials, the best first: what was tried, and the score after each rung."""
    names = list(found.trials[0].tried)
    grid = Grid(show_edge=False, pad_edge=False)
    for name in names:
        grid.add_column(name, justify="right")
    for rung in found.rungs:
        grid.add_column(f"{found.metric}, {rung['iterations']} iterations", justify="right")
    by_number = {trial.number: trial for trial in found.trials}
    for number in _order(found):
        cells = [str(by_number[number].tried[name]) for name in names]
        scores = [rung["scores"].get(number, math.nan) for rung in found.rungs]
        grid.add_row(*cells, *("" if math.isnan(score) else f"{score:.5f}" for score in scores))
    console.print(grid)
    if found.refused:
        console.print(f"{len(found.refused)} combinations are no valid settings, such as {found.refused[0]}")
    fits = sum(len(rung["scores"]) for rung in found.rungs)
    console.print(
        f"{len(found.trials)} settings, {fits} fits ({found.n_reused} known from before), {found.seconds:.0f} s",
        highlight=False,
    )


def _order(found: Search) -> list[int]:
    """Return all trials: those that came furthest first, and of these the best."""
    ordered: list[int] = []
    for rung in reversed(found.rungs):
        ordered += [number for number in best_first(rung["scores"], found.metric) if number not in ordered]
    return ordered
