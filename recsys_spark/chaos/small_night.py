"""A night without Spark: the real pipeline, log, lease and manifests around stages that write a line each."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, cast

from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.pipeline import Stage, run_stages
from recsys_spark.progress import Progress
from recsys_spark.runs.publication_log import publications, publish_run
from recsys_spark.runs.run_directory import STAGES, Run, StageContext
from recsys_spark.runs.sealed_files import files_of_table, table_faults
from recsys_spark.storage import Storage, join
from recsys_spark.tables import RECOMMENDATIONS

DATE = "2026-01-05"
# What a pipeline without features has to do until readers see its tables.
_NAMES = tuple(name for name in STAGES if name not in ("features", "report"))


class SilentProgress(Progress):
    """Says nothing: a campaign has thousands of nights."""

    def say(self, message: str, **fields: Any) -> None:
        """Say nothing."""


def small_run(root: str, run_id: str) -> Run:
    """Return a run of the campaign."""
    return Run(root, run_id, DATE)


def run_small_night(root: str, run_id: str, storage: Storage) -> None:
    """Run all stages of a small pipeline, from nothing or from where an attempt was cut off, and publish."""
    settings = {"name": "chaos", "input": {"path": "-"}, "output": {"path": root, "check_room": False}}
    config = PipelineConfig.model_validate(settings)
    # None of these stages needs a session. Lineage is for people: what a fault does to it harms no reader.
    nothing = cast(SparkSession, None)
    run, progress = small_run(root, run_id), SilentProgress()
    context = StageContext(nothing, config, run, storage, progress, force=False, leaves_lineage=False)
    run_stages(context, [_stage(name) for name in _NAMES])


def text_of(run: Run) -> str:
    """Return what a run's table holds."""
    return f"the lists of {run.run_id}"


def what_readers_see(root: str, storage: Storage) -> str | None:
    """Return the id of the current run, having read its table whole as readers do; None where nothing is published.

    Raises
    ------
    AssertionError
        If it is not whole.
    """
    entries = publications(root, storage)
    if not entries:
        return None
    run = entries[-1].run(root)
    faults = table_faults(run, RECOMMENDATIONS.name, storage)
    if faults or storage.read_text(_table_file(run)) != text_of(run):
        raise AssertionError(f"readers see half of run {run.run_id}: {faults}")
    return run.run_id


def _stage(name: str) -> Stage:
    if name == "publish":
        return Stage(name, _publish, (), _NAMES[:-1])
    tables = (RECOMMENDATIONS,) if name == "recommend" else ()
    return Stage(name, partial(_write_table, is_last=bool(tables)), tables, _NAMES[: _NAMES.index(name)])


def _write_table(context: StageContext, *, is_last: bool) -> dict[str, Any]:
    if is_last:
        context.storage.write_text(_table_file(context.run), text_of(context.run))
    return {}


def _publish(context: StageContext) -> dict[str, Any]:
    run = context.run
    files = {RECOMMENDATIONS.name: files_of_table(run, RECOMMENDATIONS.name, context.storage)}
    context.storage.write_text(run.manifest_path, json.dumps({"files": files}))
    entry, _ = publish_run(run, context.storage)
    return {"entry": entry.number}


def _table_file(run: Run) -> str:
    return join(run.table_path(RECOMMENDATIONS), "part-0.txt")
