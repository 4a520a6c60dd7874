"""The command line: one command per stage, the whole pipeline, and a look at a published table.

The exit codes are those of ``command_end``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import click
from pyspark.sql import SparkSession
from rich.console import Console

from recsys_spark import __version__
from recsys_spark.commands.chaos import chaos
from recsys_spark.commands.end import (
    EXIT_CODES,
    command_line,
    going_on_with,
    stop_spark,
    take_sigterm_for_ctrl_c,
    tell_end,
    was_interrupted,
)
from recsys_spark.commands.examples import add_examples
from recsys_spark.commands.options import config_option, indexed_run, log_format_option, require_run_id, set_option
from recsys_spark.commands.report import export_metrics, report
from recsys_spark.commands.runs import COMMANDS
from recsys_spark.commands.setup import completion, doctor, init
from recsys_spark.commands.tune import tune
from recsys_spark.config import PipelineConfig
from recsys_spark.config.file import load_config
from recsys_spark.config.reference import reference
from recsys_spark.errors import ConfigError
from recsys_spark.ingest.headers import list_inputs
from recsys_spark.ingest.log_files import check_interval, list_log
from recsys_spark.ingest.stage import NEW_RATINGS_SETTING
from recsys_spark.interval import Interval, parse_interval
from recsys_spark.pipeline import run_stages, stages, with_work
from recsys_spark.progress import Progress, configure_logging, log_run_id
from recsys_spark.redaction import redact
from recsys_spark.report.explanation import explain_user
from recsys_spark.report.neighbour_page import print_neighbours, read_neighbours
from recsys_spark.report.plan_table import print_plan
from recsys_spark.report.stored_run import StoredRun
from recsys_spark.report.summary import print_summary
from recsys_spark.report.user_page import print_user, read_user
from recsys_spark.report.why_page import print_why, shown_ids
from recsys_spark.runs.publication_log import current_publication
from recsys_spark.runs.run_directory import STAGES, Run, StageContext, interval_of, open_run
from recsys_spark.session import build_session
from recsys_spark.storage import FileStatus, Storage, is_local, storage_for
from recsys_spark.storage.table_files import list_table_files
from recsys_spark.tables import SIMILAR_ITEMS, SIMILAR_USERS
from recsys_spark.train import TrainingPlan
from recsys_spark.train.exchange_choice import choose_exchange
from recsys_spark.train.plan_of_run import plan_run

_DESCRIPTIONS = {
    "ingest": "Read the raw log: ratings, and what had to be set aside.",
    "index": "Number users and items.",
    "features": "Encode the items' features, where some are configured.",
    "train": "Fit the factors.",
    "recommend": "Write every user's best items.",
    "evaluate": "Measure the configuration on held-out ratings, beside baselines.",
    "publish": "Check the table and make it the one that readers see.",
    "pipeline": "Run all stages in one Spark session and print a summary.",
}


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Rating logs in, per-user top-N tables out."""


def _stage_options(command: Callable[..., None]) -> Callable[..., None]:
    options = [
        config_option,
        set_option,
        click.option("--date", metavar="DAY", help="Only events of this day (UTC), YYYY-MM-DD."),
        click.option("--start", metavar="TIME", help="Only events from this time on (UTC unless it says otherwise)."),
        click.option("--end", metavar="TIME", help="Only events before this time."),
        click.option("--run-id", metavar="ID", help="Name of the run; later stages continue it. Default: a new one."),
        click.option(
            "--resume", "must_resume", is_flag=True, help="Fail unless training can go on from a checkpoint of the run."
        ),
        click.option(
            "--refresh",
            type=click.Choice(["all", "affected"]),
            help="Overrides the setting: affected keeps the published items, and lists of users without changes.",
        ),
        click.option("--force", is_flag=True, help="Publish beyond the limits of the gate; leaves a mark in the log."),
        click.option("--dry-run", is_flag=True, help="Show configuration, inputs, plan and targets; write nothing."),
        log_format_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _stage_command(name: str, names: Sequence[str]) -> click.Command:
    @_stage_options
    def command(**arguments: Any) -> None:
        _run(name, names, **arguments)

    return click.command(name, help=_DESCRIPTIONS[name])(command)


for _name in STAGES[:-1]:
    cli.add_command(_stage_command(_name, (_name,)))
cli.add_command(_stage_command("pipeline", STAGES))
for _command in (*COMMANDS, chaos, report, export_metrics, tune, init, doctor, completion):
    cli.add_command(_command)


def _run(
    name: str,
    names: Sequence[str],
    *,
    config_path: str,
    overrides: Sequence[str],
    date: str | None,
    start: str | None,
    end: str | None,
    run_id: str | None,
    must_resume: bool,
    refresh: str | None,
    force: bool,
    dry_run: bool,
    log_format: Literal["text", "json"],
) -> None:
    configure_logging(log_format)
    config = load_config(config_path, [*overrides, f"refresh={refresh}"] if refresh else overrides)
    interval = parse_interval(date, start, end)
    if interval is not None:
        check_interval(config.input, interval)
    progress = Progress.for_stream(log_format)
    # A dry run on local files needs no Spark; it should answer at once.
    spark = None if dry_run and _all_local(config) else build_session(f"recsys-{name}-{config.name}")
    storage = storage_for(config.output.path, spark)
    run = open_run(config.output.path, storage, run_id=run_id, first_stage=names[0], interval=interval)
    interval = interval_of(run, storage, interval)
    check_interval(config.input, interval)
    if dry_run or spark is None:
        files = _inputs(config, run, storage, names[0], interval, spark)
        _print_plan(config, run, names, interval, [(file.path, file.size) for file in files])
        return
    context = StageContext(spark, config, run, storage, progress, interval, must_resume, force)
    log_run_id(run.run_id)
    progress.say(f"run {run.run_id} in {run.path}")
    options = {"config": config_path, "set": overrides, "run_id": run.run_id, "date": date, "start": start, "end": end}
    with going_on_with(command_line(name, **options, refresh=refresh, force=force)):
        run_stages(context, stages(names))
    if name == "pipeline" and log_format == "text":
        print_summary(_console(), context, {stage.name: stage.tables for stage in stages()})


def _inputs(
    config: PipelineConfig,
    run: Run,
    storage: Storage,
    first_stage: str,
    interval: Interval | None,
    spark: SparkSession | None,
) -> list[FileStatus]:
    """Return the raw files that a stage would read, or the run's tables that earlier stages have left for it."""
    if first_stage != "ingest":
        earlier = [stage for stage in stages() if stage.name in stages([first_stage])[0].needs]
        return [file for stage in earlier for table in stage.tables for file in storage.find(run.table_path(table))]
    beside = [found for where, file in config.files.items() for found in list_table_files(file, where, spark)]
    if config.recommend.new_ratings is not None:
        beside += list_inputs(config.new_ratings_input, spark, NEW_RATINGS_SETTING)
    return list_log(config.input, interval, spark).files + beside


def _all_local(config: PipelineConfig) -> bool:
    beside = [file.path for file in config.files.values()]
    if config.recommend.new_ratings is not None:
        beside += config.new_ratings_input.paths
    return all(is_local(path) for path in (*config.input.paths, config.output.path, *beside))


def _print_plan(
    config: PipelineConfig,
    run: Run,
    names: Sequence[str],
    interval: Interval | None,
    files: list[tuple[str, int]],
) -> None:
    echo = click.echo
    echo("# configuration\n" + redact(config.as_yaml()))
    echo("# inputs")
    for path, size in files:
        echo(f"{size:>15,} bytes  {redact(path)}")
    echo(f"{sum(size for _, size in files):>15,} bytes in {len(files)} files")
    echo(f"interval: {interval.start.isoformat()} to {interval.end.isoformat()}" if interval else "interval: all times")
    echo("\n# plan, and where each stage writes")
    for stage in with_work(stages(names), config):
        targets = stage.targets(run)
        echo(f"{stage.name:<10} {redact(targets[0])}")
        for target in targets[1:]:
            echo(f"{'':<10} {redact(target)}")
    echo("\nnothing was written (--dry-run)")


@cli.command()
@click.argument("user_id")
@config_option
@set_option
@click.option("--date", metavar="DAY", help="The table published for this day; default: the current one.")
def show(user_id: str, config_path: str, overrides: Sequence[str], date: str | None) -> None:
    """Print one user's history and recommendations from the published table."""
    console, run, storage, spark = _open_published("show", config_path, overrides, date)
    duplicates = StoredRun.open(run, storage, spark).config.ingest.duplicates
    print_user(console, read_user(run, storage, user_id, spark, duplicates=duplicates), longest_history=30)


@cli.command()
@click.argument("row_id", metavar="ID")
@config_option
@set_option
@click.option("--date", metavar="DAY", help="The table published for this day; default: the current one.")
@click.option("--users", "of_users", is_flag=True, help="ID is a user's, not an item's.")
def similar(row_id: str, config_path: str, overrides: Sequence[str], date: str | None, of_users: bool) -> None:
    """Print what is most similar to an item, or to a user, from the published table."""
    console, run, storage, spark = _open_published("similar", config_path, overrides, date)
    table = SIMILAR_USERS if of_users else SIMILAR_ITEMS
    print_neighbours(console, read_neighbours(run, storage, table, row_id, spark))


def _open_published(
    name: str, config_path: str, overrides: Sequence[str], date: str | None
) -> tuple[Console, Run, Storage, SparkSession | None]:
    """Find the run that readers see and say which it is; Spark is started only where it is not on this machine."""
    configure_logging("text")
    config = load_config(config_path, overrides)
    day = parse_interval(date, None, None)
    root = config.output.path
    spark = None if is_local(root) else build_session(f"recsys-{name}-{config.name}")
    storage = storage_for(root, spark)
    entry = current_publication(root, storage, day.start.date().isoformat() if day else None)
    console = _console()
    console.print(f"entry {entry.number}, run {entry.run_id}, published {entry.published_at}", highlight=False)
    return console, entry.run(root), storage, spark


@cli.command()
@click.argument("user_id")
@click.option("--item", "item_id", metavar="ID", help="The item to explain, listed or not; default: the whole list.")
@config_option
@set_option
@click.option("--date", metavar="DAY", help="The table published for this day; default: the current one.")
def why(user_id: str, item_id: str | None, config_path: str, overrides: Sequence[str], date: str | None) -> None:
    """Say why a user gets the published list, or why an item stands where it does, or not at all.

    Each past rating's part of a score, which add up to it; what each filter removed; the position by score.
    """
    console, run, storage, spark = _open_published("why", config_path, overrides, date)
    explained = explain_user(stored := StoredRun.open(run, storage, spark), user_id, item_id)
    print_why(console, explained, stored.titles(shown_ids(explained)), in_full=item_id is not None)


@cli.command()
@config_option
@set_option
@click.option("--run-id", metavar="ID", help="A run whose index stage is done.")
@log_format_option
def plan(config_path: str, overrides: Sequence[str], run_id: str | None, log_format: Literal["text", "json"]) -> None:
    """Say what training will take, before it: blocks, solvers, bytes, memory, time; exit with 2 if it cannot fit.

    Settings may differ from those that the run was started with, such as --set train.rank=128. Nothing is written.
    """
    configure_logging(log_format)
    config = load_config(config_path, overrides)
    run_id = require_run_id("plan", config_path, run_id)
    spark = build_session(f"recsys-plan-{config.name}")
    plans = plan_run(indexed_run("plan", config, spark, run_id, log_format))
    try:
        found, reason = choose_exchange(config.train, plans, has_storage=True)
    except ConfigError:
        # What was looked at is shown, and then refused.
        _show_plan(plans.route if config.train.exchange == "route" else plans.replicate, "", log_format)
        raise
    _show_plan(found, reason, log_format)


def _show_plan(found: TrainingPlan, reason: str, log_format: str) -> None:
    if log_format == "json":
        click.echo(json.dumps({**found.as_dict(), "reason": reason}))
    else:
        print_plan(_console(), found, reason)


@cli.command()
def settings() -> None:
    """Print the reference of all settings, as Markdown."""
    click.echo(reference(), nl=False)


add_examples(cli)


def _console() -> Console:
    console = Console()
    # A log file has no width; titles should not be folded at 80 columns there.
    return console if console.is_terminal else Console(width=160)


def main(arguments: Sequence[str], *, ends_process: bool = False) -> int:
    """Run one command and return its exit code; errors that a user can act on are printed, never raised.

    Parameters
    ----------
    arguments : sequence of str
        The command and its options, without the program's name.
    ends_process : bool
        Whether nothing comes after it: a command that is interrupted then stops Spark.

    Returns
    -------
    int
        0 ok, 2 configuration, 3 data contract or gate, 4 numerical, 130 interrupted, 1 anything else.
    """
    try:
        cli.main(args=list(arguments), prog_name="recsys-spark", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if ends_process and was_interrupted(error):
            stop_spark()
        return tell_end(error)
    return 0


def entry_point(*first: str) -> None:
    """Run the console script, or a job; ``first`` stands before the arguments that the process was given."""
    take_sigterm_for_ctrl_c()
    sys.exit(main([*first, *sys.argv[1:]], ends_process=True))
