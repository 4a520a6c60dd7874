"""The command that injects faults into a storage, the user's own or a temporary folder, and counts what survives."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Grid

from recsys_spark.chaos.campaign import ACTS, Outcome, run_campaign
from recsys_spark.chaos.faulty_storage import KINDS
from recsys_spark.commands.options import set_option
from recsys_spark.config.file import load_config
from recsys_spark.errors import RecsysError
from recsys_spark.progress import configure_logging
from recsys_spark.session import build_session
from recsys_spark.storage import is_local, join, storage_for

log = logging.getLogger("recsys_spark")

# Every small file is made durable, hundreds of thousands of them: on a disk, that would be what takes the time.
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder with a random name is made in it)


@click.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(),
    metavar="FILE",
    help="Test the storage of its output.path, in a new folder.",
)
@set_option
@click.option(
    "--most", type=click.IntRange(min=1), metavar="N", help="Operations of an act that are hit; default: all."
)
def chaos(config_path: str | None, overrides: tuple[str, ...], most: int | None) -> None:
    """Inject faults into publishing, rolling back and cleaning up, and look whether readers are any the worse.

    Without Spark, in a temporary folder, or where --config puts its runs; what it writes there is removed.
    """
    configure_logging("text")
    with ExitStack() as stack:
        # Warnings of the faults are what is wanted here; what the process does afterwards may warn again.
        stack.callback(log.setLevel, log.level)
        log.setLevel(logging.ERROR)
        if config_path is None:
            memory = str(_IN_MEMORY) if _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK) else None
            folder = tempfile.TemporaryDirectory(prefix="recsys_spark_chaos_", dir=memory)
            root, spark = stack.enter_context(folder), None
        else:
            root = load_config(config_path, overrides).output.path
            spark = None if is_local(root) else build_session("recsys-chaos")
        storage = storage_for(root, spark)
        place = join(root, f"_chaos-{secrets.token_hex(4)}")
        storage.check_writable(place)
        stack.callback(storage.remove, place)
        outcomes = list(run_campaign(storage, place, most=most))
    _print(outcomes)
    failed = [outcome for outcome in outcomes if outcome.failure]
    click.echo(f"{len(outcomes):,} faults injected, {len(outcomes) - len(failed):,} survived")
    if failed:
        first = failed[0]
        raise RecsysError(
            f"{len(failed):,} faults were not survived",
            where=f"{first.act}, operation {first.number} ({first.operation}), which {first.kind}",
            got=str(first.failure),
            remedy="do not let two runs publish at once on this storage, and run recsys-spark verify after a fault",
        )


def _print(outcomes: list[Outcome]) -> None:
    injected = Counter((outcome.act, outcome.kind) for outcome in outcomes)
    survived = Counter((outcome.act, outcome.kind) for outcome in outcomes if not outcome.failure)
    grid = Grid(show_edge=False, pad_edge=False)
    for title in ("survived of injected", *KINDS):
        grid.add_column(title)
    for act in ACTS:
        cells = [f"{survived[act.name, kind]} of {injected[act.name, kind]}" for kind in KINDS]
        grid.add_row(act.name, *cells)
    Console(width=170).print(grid)
