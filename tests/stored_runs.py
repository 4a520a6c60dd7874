"""Published runs as files, made without Spark, for what only looks at files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import STAGES, Run
from recsys_spark.runs.sealed_files import files_of_table
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import RECOMMENDATIONS

STORAGE = LocalStorage()


def write_run(root: Path, run_id: str, date: str = "2026-01-05", *, items: Sequence[str] = ("a", "b")) -> Run:
    """Write a run with one small table and the records of its stages up to publishing, and no manifest."""
    run = Run(str(root), run_id, date)
    path = Path(run.table_path(RECOMMENDATIONS))
    path.mkdir(parents=True)
    entries = [{"item_id": item, "score": 1.0, "position": k} for k, item in enumerate(items, 1)]
    table = pa.table({"user_id": ["u1", "u2"], "recommendations": [entries, entries]})
    pq.write_table(table, path / "part-0.parquet")
    (path / "_SUCCESS").touch()
    STORAGE.write_text(f"{run.path}/run.json", "{}")
    for stage in STAGES[: STAGES.index("publish")]:
        STORAGE.write_text(run.stage_record(stage), "{}")
    return run


def seal_run(run: Run) -> Run:
    """Write a run's manifest."""
    files = {RECOMMENDATIONS.name: files_of_table(run, RECOMMENDATIONS.name, STORAGE)}
    STORAGE.write_text(run.manifest_path, json.dumps({"files": files}))
    return run


def published_run(root: Path, run_id: str, date: str = "2026-01-05", *, items: Sequence[str] = ("a", "b")) -> Run:
    """Write, seal and publish a run."""
    run = seal_run(write_run(root, run_id, date, items=items))
    publish_run(run, STORAGE)
    return run


def make_old(path: str | Path, days: float) -> None:
    """Let all files below a path have been written some days ago."""
    for file in [Path(path), *Path(path).rglob("*")]:
        status = file.stat()
        os.utime(file, (status.st_atime, status.st_mtime - days * 86400))
