"""The manifest of a run: what made its tables, and which files they are."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from recsys_spark import __version__
from recsys_spark.redaction import redacted
from recsys_spark.runs.run_directory import STAGES, StageContext
from recsys_spark.runs.sealed_files import files_of_table
from recsys_spark.storage import join, read_json


def write_manifest(context: StageContext, gate: dict[str, Any]) -> str:
    """Seal a run: write its manifest, with what the gate has found, after everything else; return where.

    Notes
    -----
    The files of the tables that readers and the next run use are read once, by the driver, for their checksums.
    """
    done = [stage for stage in STAGES if context.storage.exists(context.run.stage_record(stage))]
    content = {
        "run": read_json(context.storage, join(context.run.path, "run.json")),
        "stages": {stage: context.record(stage) for stage in done},
        "gate": gate,
        "versions": {
            "recsys_spark": __version__,
            "spark": context.spark.version,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
        "files": {
            name: files_of_table(context.run, name, context.storage)
            for stage in done
            for name in context.record(stage)["tables"]
            if context.storage.exists(join(context.run.path, name))
        },
        "sealed": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    context.storage.write_text(context.run.manifest_path, json.dumps(redacted(content), indent=2, ensure_ascii=False))
    return context.run.manifest_path
