"""The report stage: the page of a run, one HTML file in its directory."""

from __future__ import annotations

import json
from typing import Any

from recsys_spark.redaction import redact
from recsys_spark.report.page import run_page
from recsys_spark.report.page_data import gather
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.storage import join
from recsys_spark.tables import Table

TABLES: tuple[Table, ...] = ()


def run(context: StageContext) -> dict[str, Any]:
    """Write ``report.html``, and ``report.json`` with what it was made from.

    Returns
    -------
    dict
        The paths. Nothing of the run's tables is changed.
    """
    data = gather(context)
    data["config"] = redact(data["config"])
    content = json.dumps(data, indent=1, ensure_ascii=False)
    context.storage.write_text(data_path(context.run), content)
    context.storage.write_text(page_path(context.run), run_page(json.loads(content)))
    context.progress.say(f"report: {page_path(context.run)}", path=page_path(context.run))
    return {"page": page_path(context.run), "data": data_path(context.run)}


def page_path(run: Run) -> str:
    """Return where the page of a run lies."""
    return join(run.path, "report.html")


def data_path(run: Run) -> str:
    """Return where the data of that page lie."""
    return join(run.path, "report.json")
