"""The commands about runs: what there is, how two differ, which one readers see, what may go, what is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from pyspark.sql import SparkSession
from rich.console import Console

from recsys_spark.byte_sizes import human_size
from recsys_spark.commands.options import config_option, set_option
from recsys_spark.config.file import load_config
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.progress import configure_logging
from recsys_spark.publish.forgetting import forget_user, nobody_else_working
from recsys_spark.publish.retention import plan_removals, remove_all
from recsys_spark.publish.run_difference import compare_runs
from recsys_spark.publish.verification import verify
from recsys_spark.redaction import redact, redacted
from recsys_spark.report.run_pages import list_runs, print_difference, print_runs
from recsys_spark.runs.publication_log import (
    Publication,
    current_publication,
    pin_run,
    publications,
    roll_back,
    unpin,
)
from recsys_spark.runs.run_directory import Run, find_runs, safe_run_id
from recsys_spark.session import build_session
from recsys_spark.storage import Storage, is_local, storage_for

_CURRENT = "current"


@dataclass(frozen=True, slots=True)
class _Place:
    """An output path: where runs lie, and how to get at them."""

    root: str
    storage: Storage
    spark: SparkSession | None
    term: timedelta

    def run(self, name: str) -> Run:
        """Return a run by its id; ``current``: the one that readers see."""
        if name == _CURRENT:
            return current_publication(self.root, self.storage).run(self.root)
        known = find_runs(self.root, self.storage)
        found = [run for run in known if run.run_id in (name, safe_run_id(name))]
        if not found:
            near = ", ".join(run.run_id for run in known[-10:])
            raise ConfigError(
                "there is no such run", where=self.root, got=name, allowed=near or "there are no runs yet"
            )
        return found[-1]


def _with_config(command: Callable[..., None]) -> Callable[..., None]:
    return config_option(set_option(command))


def _open(name: str, config_path: str, overrides: tuple[str, ...], *, with_spark: bool = False) -> _Place:
    configure_logging("text")
    config = load_config(config_path, overrides)
    root = config.output.path
    spark = build_session(f"recsys-{name}-{config.name}") if with_spark or not is_local(root) else None
    return _Place(root, storage_for(root, spark), spark, timedelta(minutes=config.output.lease_minutes))


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a name that is blank: a shell's variable that was never set must not stand for something else."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is blank", context, parameter)
    return value


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _tell(entry: Publication) -> None:
    pinned = ", pinned: what is published waits until recsys-spark unpin" if entry.pinned else ""
    click.echo(f"entry {entry.number}: readers see run {entry.run_id} of {entry.date}{pinned}")


@click.command()
@_with_config
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def runs(config_path: str, overrides: tuple[str, ...], output: str) -> None:
    """List the runs under output.path, and which one readers see."""
    place = _open("runs", config_path, overrides)
    lines = list_runs(place.root, place.storage)
    if output == "json":
        click.echo(json.dumps(redacted([asdict(line) for line in lines])))
    else:
        print_runs(_console(), lines)


@click.command()
@click.argument("before", callback=_named)
@click.argument("after", default=_CURRENT, callback=_named)
@_with_config
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def diff(before: str, after: str, config_path: str, overrides: tuple[str, ...], output: str) -> None:
    """Say how the lists of run AFTER (default: current) differ from those of run BEFORE."""
    place = _open("diff", config_path, overrides, with_spark=True)
    assert place.spark is not None
    found = compare_runs(place.spark, place.storage, place.run(before), place.run(after))
    if output == "json":
        click.echo(json.dumps(found))
    else:
        print_difference(_console(), found)


@click.command()
@click.argument("run_id", required=False, callback=_named)
@_with_config
def rollback(run_id: str | None, config_path: str, overrides: tuple[str, ...]) -> None:
    """Show readers the run before the current one again, or RUN_ID; the next run that is published goes on."""
    place = _open("rollback", config_path, overrides)
    _tell(roll_back(place.root, place.storage, place.run(run_id) if run_id else None))


@click.command()
@click.argument("run_id", required=False, callback=_named)
@_with_config
def pin(run_id: str | None, config_path: str, overrides: tuple[str, ...]) -> None:
    """Keep readers with the current run, or with RUN_ID, whatever is published, until unpin."""
    place = _open("pin", config_path, overrides)
    _tell(pin_run(place.root, place.storage, place.run(run_id) if run_id else None))


@click.command(name="unpin")
@_with_config
def unpin_command(config_path: str, overrides: tuple[str, ...]) -> None:
    """Take readers from the pinned run to the newest one."""
    place = _open("unpin", config_path, overrides)
    _tell(unpin(place.root, place.storage))


@click.command()
@_with_config
@click.option("--keep", type=click.IntRange(min=1), required=True, metavar="K", help="Published runs to keep.")
@click.option(
    "--min-age-hours",
    type=click.FloatRange(min=0),
    default=48.0,
    show_default=True,
    help="What readers or a run may still use stays so long.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(config_path: str, overrides: tuple[str, ...], keep: int, min_age_hours: float, dry_run: bool) -> None:
    """Remove old runs, attempts that came to nothing, and files that no version names any more."""
    place = _open("gc", config_path, overrides)
    removals = plan_removals(place.root, place.storage, keep, datetime.now(UTC), timedelta(hours=min_age_hours))
    for removal in removals:
        click.echo(f"{human_size(removal.n_bytes):>12}  {redact(removal.path)}  ({removal.reason})")
    if not dry_run:
        remove_all(place.root, removals, place.storage)
    total = human_size(sum(removal.n_bytes for removal in removals))
    click.echo(f"{len(removals):,} {'would be ' if dry_run else ''}removed, {total}")


@click.command(name="verify")
@click.argument("run_id", required=False, callback=_named)
@_with_config
def verify_command(run_id: str | None, config_path: str, overrides: tuple[str, ...]) -> None:
    """Check that what is stored is what was written: all runs, or RUN_ID, and what runs share; exit with 3 if not."""
    place = _open("verify", config_path, overrides)
    run = place.run(run_id) if run_id else None
    if run is not None and not place.storage.exists(run.manifest_path) and not _was_published(place, run):
        raise ConfigError(
            "this run has no manifest yet, so nothing says what its files should be",
            where=run.path,
            remedy="let it be published; until then, nobody reads it",
        )
    n_files, faults = verify(place.root, place.storage, run)
    if faults:
        raise ContractError(
            f"{len(faults):,} of {n_files:,} files are not what was written",
            where=place.root,
            got="\n    ".join(faults[:20]) + ("\n    ..." if len(faults) > 20 else ""),
            remedy="restore them from a copy, or roll back to a run that is whole and let gc remove the others",
        )
    click.echo(f"{n_files:,} files are as they were written")


def _was_published(place: _Place, run: Run) -> bool:
    return any(entry.newest(place.root) == run for entry in publications(place.root, place.storage))


@click.command()
@click.argument("user_id", callback=_named)
@_with_config
def forget(user_id: str, config_path: str, overrides: tuple[str, ...]) -> None:
    """Remove a person from all kept runs, the history and the index; what the raw log says is not touched.

    While it works, no run does, and the other way round.
    """
    place = _open("forget", config_path, overrides)
    with nobody_else_working(place.root, place.storage, place.term):
        found = forget_user(place.root, place.storage, user_id)
    for each in found:
        click.echo(f"{each.place}: " + ", ".join(f"{n:,} of {name}" for name, n in each.rows.items()))
    n_rows = sum(sum(each.rows.values()) for each in found)
    click.echo(f"{n_rows:,} rows were removed" if found else "nothing is kept of this user")


COMMANDS: tuple[Any, ...] = (runs, diff, rollback, pin, unpin_command, gc, verify_command, forget)
