"""The stages in order: what each needs, whether it is done, and the record it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import recsys_spark.evaluate.stage as evaluate_stage
import recsys_spark.features.stage as features_stage
import recsys_spark.index.stage as index_stage
import recsys_spark.ingest.stage as ingest_stage
import recsys_spark.publish.stage as publish_stage
import recsys_spark.recommend.stage as recommend_stage
import recsys_spark.report.stage as report_stage
import recsys_spark.train.stage as train_stage
from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ConfigError, comes_from
from recsys_spark.job_labels import labelled_jobs
from recsys_spark.redaction import redacted
from recsys_spark.runs.lease import Lease, held, lease_to_forget
from recsys_spark.runs.lineage import Dataset, EventType, StageEvents, outside_inputs
from recsys_spark.runs.publication_log import log_folder
from recsys_spark.runs.run_directory import STAGES, Run, StageContext, start_run
from recsys_spark.storage import Storage
from recsys_spark.tables import Table
from recsys_spark.train.taken_over import run_to_build_on


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: its name, what it does, the tables it writes, and the stages that must be done before."""

    name: str
    run: Callable[[StageContext], dict[str, Any]]
    tables: tuple[Table, ...]
    needs: tuple[str, ...]

    def targets(self, run: Run) -> list[str]:
        """Return where the stage writes: its tables, or what it has instead of tables."""
        elsewhere = report_stage.page_path(run) if self.name == "report" else log_folder(run.root)
        return [run.table_path(table) for table in self.tables] or [elsewhere]


_ALL = {
    "ingest": Stage("ingest", ingest_stage.run, ingest_stage.TABLES, ()),
    "index": Stage("index", index_stage.run, index_stage.TABLES, ("ingest",)),
    "features": Stage("features", features_stage.run, features_stage.TABLES, ("index",)),
    "train": Stage("train", train_stage.run, train_stage.TABLES, ("index",)),
    "recommend": Stage("recommend", recommend_stage.run, recommend_stage.TABLES, ("index", "train")),
    "evaluate": Stage("evaluate", evaluate_stage.run, evaluate_stage.TABLES, ("index",)),
    "publish": Stage("publish", publish_stage.run, publish_stage.TABLES, ("ingest", "index", "recommend", "evaluate")),
    "report": Stage("report", report_stage.run, report_stage.TABLES, ("publish",)),
}


def stages(names: Sequence[str] = STAGES) -> list[Stage]:
    """Return stages by name."""
    return [_ALL[name] for name in names]


def with_work(chosen: Sequence[Stage], config: PipelineConfig) -> list[Stage]:
    """Return the stages that have something to do in a configuration."""
    return [stage for stage in chosen if stage.name != "features" or config.item_features is not None]


def run_stages(context: StageContext, chosen: Sequence[Stage]) -> None:
    """Run stages of one run in order; those that are done already are left alone.

    A lease keeps two processes from working on the same run at once, as after a retry of what still runs.

    Raises
    ------
    ConfigError
        If the output cannot be written, the run has another configuration, an earlier stage is missing, or there is no
        published run for ``refresh: affected`` to build on.
    RecsysError
        If another process is working on the run, or forgetting a person.
    """
    chosen = with_work(chosen, context.config)
    context.storage.check_writable(context.run.root)
    if all(context.storage.exists(context.run.stage_record(stage.name)) for stage in chosen):
        # A finished run is not touched any more.
        start_run(context)
        for stage in chosen:
            _tell_done(context, stage)
        return
    if context.config.refresh == "affected" and not context.storage.exists(context.run.stage_record("train")):
        # Before the long work.
        run_to_build_on(context)
    term = timedelta(minutes=context.config.output.lease_minutes)
    with held(Lease(context.storage, context.run.path, term), term) as lease:
        lease_to_forget(context.run.root, context.storage, term).require_free()
        start_run(context)
        context = replace(context, require_lease=lease.require)
        for stage in chosen:
            lease.require()
            _run_stage(context, stage)


def require_done(name: str, needs: Sequence[str], run: Run, storage: Storage) -> None:
    """Refuse to go on where stages are missing that a command needs.

    Raises
    ------
    ConfigError
        It names the stages, and how to have them.
    """
    missing = [needed for needed in needs if not storage.exists(run.stage_record(needed))]
    if missing:
        raise ConfigError(
            f"{name} needs {' and '.join(missing)} to be done first",
            where=run.path,
            remedy=f"run {', '.join(missing)} with --run-id {run.run_id}, or the whole pipeline",
        )


def _needs(stage: Stage, context: StageContext) -> tuple[str, ...]:
    """Return the stages that must be done before, in this configuration."""
    uses_features = context.config.item_features is not None and stage.name in ("train", "recommend", "evaluate")
    return (*stage.needs, "features") if uses_features else stage.needs


def _run_stage(context: StageContext, stage: Stage) -> None:
    storage, run = context.storage, context.run
    if storage.exists(run.stage_record(stage.name)):
        _tell_done(context, stage)
        return
    require_done(stage.name, _needs(stage, context), run, storage)
    for table in stage.tables:
        # What an attempt that was cut off has left: its record is missing, so nobody has read it.
        storage.remove(run.table_path(table))
    context.progress.say(f"{stage.name}: started", stage=stage.name)
    started, clock = datetime.now(UTC), time.monotonic()
    details = _run_with_events(replace(context, tables_read={}), stage)
    seconds = round(time.monotonic() - clock, 3)
    record = {
        "stage": stage.name,
        "started": started.isoformat(timespec="seconds"),
        "seconds": seconds,
        "tables": {table.name: run.table_path(table) for table in stage.tables},
        "schemas": {table.name: table.schema.simpleString() for table in stage.tables},
        **details,
    }
    storage.write_text(run.stage_record(stage.name), json.dumps(redacted(record), indent=2, ensure_ascii=False))
    context.progress.say(f"{stage.name}: done after {seconds:.1f} s", stage=stage.name, seconds=seconds)


def _run_with_events(context: StageContext, stage: Stage) -> dict[str, Any]:
    """Run a stage, and write down what it has read and written."""
    if not context.leaves_lineage:
        return _run_labelled(context, stage)
    events = StageEvents(context, stage.name)
    events.write("START")
    try:
        details = _run_labelled(context, stage)
    except BaseException as error:
        # Of Ctrl-C, Spark may make an error of its own: the job that it has cancelled.
        kind: EventType = "ABORT" if comes_from(error, (KeyboardInterrupt, SystemExit)) else "FAIL"
        # What it may have written is no table of the run: nobody reads it.
        events.write(kind, _inputs(context, stage, []), (), error)
        raise
    log_files = [file["path"] for file in details.get("inputs", [])]
    events.write("COMPLETE", _inputs(context, stage, log_files), _outputs(context, stage))
    return details


def _run_labelled(context: StageContext, stage: Stage) -> dict[str, Any]:
    """Run a stage under its name in Spark's pages."""
    with labelled_jobs(context.spark, stage.name, group=f"{context.run.run_id}/{stage.name}"):
        return stage.run(context)


def _inputs(context: StageContext, stage: Stage, log_files: list[str]) -> list[Dataset]:
    own = {table.name for table in stage.tables}
    earlier = [table for name, table in context.tables_read.items() if name not in own]
    return outside_inputs(context.config, stage.name, log_files) + [
        Dataset.of_table(context.run.table_path(table), table) for table in earlier
    ]


def _outputs(context: StageContext, stage: Stage) -> list[Dataset]:
    found = [place for place in stage.targets(context.run) if context.storage.exists(place)]
    tables = {context.run.table_path(table): table for table in stage.tables}
    return [Dataset.of_table(place, tables[place]) if place in tables else Dataset(place) for place in found]


def _tell_done(context: StageContext, stage: Stage) -> None:
    context.progress.say(f"{stage.name}: already done in run {context.run.run_id}", stage=stage.name)
