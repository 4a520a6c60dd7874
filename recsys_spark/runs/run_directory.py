"""A run's own directory: where its tables are, which stages are done, and the record of each."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from recsys_spark import __version__
from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ConfigError
from recsys_spark.interval import Interval, logical_date, parse_interval
from recsys_spark.progress import Progress
from recsys_spark.redaction import redact, redacted
from recsys_spark.storage import Storage, join, read_json
from recsys_spark.tables import Table

STAGES = ("ingest", "index", "features", "train", "recommend", "evaluate", "publish", "report")


@dataclass(frozen=True, slots=True)
class Run:
    """One run: ``<root>/runs/date=<date>/run=<run_id>``, written once and never changed after publishing."""

    root: str
    run_id: str
    date: str

    @property
    def path(self) -> str:
        """The run's directory."""
        return join(self.root, "runs", f"date={self.date}", f"run={self.run_id}")

    @property
    def manifest_path(self) -> str:
        """Where the manifest lies, which is written last: a run that has one is whole."""
        return join(self.path, "manifest.json")

    def table_path(self, table: Table) -> str:
        """Return where a table of this run lies."""
        return join(self.path, table.name)

    def stage_record(self, stage: str) -> str:
        """Return where the record of a finished stage lies."""
        return join(self.path, "stages", f"{stage}.json")


@dataclass(frozen=True, slots=True)
class StageContext:
    """All that a stage is given: session, configuration, run, interval, and where to say how far it is.

    ``tables_read`` fills with the tables of the run that the stage has read, by name; with ``leaves_lineage``, every
    attempt leaves events that name them. ``require_lease`` raises where another process has taken the run over.
    """

    spark: SparkSession
    config: PipelineConfig
    run: Run
    storage: Storage
    progress: Progress
    interval: Interval | None = None
    must_resume: bool = False
    force: bool = False
    leaves_lineage: bool = True
    require_lease: Callable[[], None] = field(default=lambda: None, compare=False)
    tables_read: dict[str, Table] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        """Return which run, where."""
        interval = f", {self.interval.start.isoformat()} to {self.interval.end.isoformat()}" if self.interval else ""
        return f"StageContext: run {self.run.run_id} in {redact(self.run.path)}{interval}"

    def read(self, table: Table) -> DataFrame:
        """Read a table of this run."""
        self.tables_read[table.name] = table
        return table.read(self.spark, self.run.table_path(table))

    def write(self, table: Table, frame: DataFrame) -> None:
        """Write a table of this run; it must not be there yet."""
        table.write(frame, self.run.table_path(table))

    def record(self, stage: str) -> dict[str, Any]:
        """Return what a finished stage has written down about itself."""
        record: dict[str, Any] = read_json(self.storage, self.run.stage_record(stage))
        return record


def new_run_id(now: datetime) -> str:
    """Return a run id that sorts by time and does not collide."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def interval_of(run: Run, storage: Storage, given: Interval | None) -> Interval | None:
    """Return the interval that was given, or else the one that the run was started with."""
    path = join(run.path, "run.json")
    if given is not None or not storage.exists(path):
        return given
    stored = read_json(storage, path)["interval"]
    return parse_interval(None, stored["start"], stored["end"]) if stored else None


def safe_run_id(text: str) -> str:
    """Return a run id as it can stand in a path: schedulers put ``:`` and ``+`` into theirs.

    A replaced character is told by a few digits at the end, so that no two ids become one run.

    Raises
    ------
    ConfigError
        If nothing usable is left.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")
    if not safe or len(safe) > 200:
        raise ConfigError(
            "--run-id cannot be used as a directory name",
            got=text[:200],
            allowed="up to 200 letters, digits, dots, dashes and underscores",
        )
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def open_run(root: str, storage: Storage, *, run_id: str | None, first_stage: str, interval: Interval | None) -> Run:
    """Find the run that a command works on, or name a new one; nothing is written.

    Parameters
    ----------
    root : str
        The configured ``output.path``.
    storage : Storage
        Of ``root``.
    run_id : str or None
        As given by the caller.
    first_stage : str
        Stage that the command starts with; only ``ingest`` can start a run.
    interval : Interval or None
        Decides the day a new run is filed under.

    Returns
    -------
    Run

    Raises
    ------
    ConfigError
        If a later stage is asked for and the run is not there.
    """
    now = datetime.now(UTC)
    known = find_runs(root, storage)
    if run_id is not None:
        wanted = safe_run_id(run_id)
        found = [run for run in known if run.run_id == wanted]
        if found:
            return found[-1]
    elif first_stage != "ingest":
        raise ConfigError(
            f"{first_stage} continues a run, and none was named",
            remedy=f"give --run-id; {_describe_runs(known, root)}",
        )
    if first_stage != "ingest":
        raise ConfigError(
            f"{first_stage} continues a run, and this one does not exist",
            got=f"--run-id {run_id}",
            remedy=f"run ingest first with this run id; {_describe_runs(known, root)}",
        )
    name = safe_run_id(run_id) if run_id is not None else new_run_id(now)
    return Run(root, name, logical_date(interval, now).isoformat())


def find_runs(root: str, storage: Storage) -> list[Run]:
    """Return the runs under an output path, by date and then run id."""
    runs = []
    for date in storage.list_names(join(root, "runs")):
        if date.startswith("date="):
            names = storage.list_names(join(root, "runs", date))
            runs += [
                Run(root, n.removeprefix("run="), date.removeprefix("date=")) for n in names if n.startswith("run=")
            ]
    return runs


def _describe_runs(runs: list[Run], root: str) -> str:
    if not runs:
        return f"there are no runs under {root} yet"
    return f"runs there: {', '.join(run.run_id for run in runs[-5:])}"


@cache
def code_fingerprint(parts: tuple[str, ...] = ("",)) -> str:
    """Return a hash of this package's source files, or of some of its files and folders.

    The package may lie in a folder or, as spark-submit ships it, in a zip archive; both have the same hash.
    """
    package = files("recsys_spark")
    sources = sorted(source for part in parts for source in _sources(package.joinpath(part) if part else package, part))
    content = hashlib.sha256()
    for name, text in sources:
        content.update(f"{name}\0".encode() + text + b"\0")
    return content.hexdigest()[:16]


def _sources(place: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    """Return the Python files at a place of the package: their names in it, and what they say."""
    if place.is_file():
        if name.endswith(".py"):
            yield name, place.read_bytes()
        return
    for entry in place.iterdir():
        yield from _sources(entry, f"{name}/{entry.name}" if name else entry.name)


def start_run(context: StageContext) -> None:
    """Write ``run.json``, or check that the run that is there was started from the same configuration.

    Raises
    ------
    ConfigError
        If the configuration or interval differs from the run's own.
    """
    path = join(context.run.path, "run.json")
    mine: dict[str, Any] = {
        "run_id": context.run.run_id,
        "date": context.run.date,
        "interval": context.interval.as_dict() if context.interval else None,
        "config_fingerprint": context.config.fingerprint(),
        "config": redacted(context.config.model_dump(mode="json")),
        "version": __version__,
        "code_fingerprint": code_fingerprint(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not context.storage.exists(path):
        context.storage.write_text(path, json.dumps(mine, indent=2, ensure_ascii=False))
        return
    theirs = read_json(context.storage, path)
    changed = _changed_keys(theirs["config"], mine["config"])
    if theirs["interval"] != mine["interval"]:
        changed.append("the interval")
    if changed:
        raise ConfigError(
            "this run was started from another configuration",
            where=path,
            got=f"changed since: {', '.join(changed)}",
            remedy="give the run's own configuration, or start a new run with another --run-id",
        )


def _changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    changed: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        name = f"{prefix}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            changed += _changed_keys(old, new, f"{name}.")
        elif old != new and not name.startswith(("output.", "tune.")):
            changed.append(name)
    return changed
