"""The night in Airflow 3: one task per stage, each by spark-submit in an environment that Airflow does not share.

A data interval is a UTC day that is over. A task that is retried, or a day that is cleared, goes on with the same run:
stages that are done are left alone, and publishing again is no new entry. For a first load or a backfill over many days
in one run, give `start` and `end`. Where things lie is told by the environment variables below.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param

# The folder with jobs/ and conf/, on the machine of Airflow's workers; paths below may be relative to it.
HOME = Path(os.environ.get("RECSYS_HOME") or Path(__file__).resolve().parents[2])
CONFIG = os.environ.get("RECSYS_CONFIG", "conf/online_retail.yaml")
# Where runs and the published table lie; default: the configuration's own `output.path`.
OUTPUT = os.environ.get("RECSYS_OUTPUT", "")
# Spark has an environment of its own. Airflow's must have no pyspark.
SPARK_SUBMIT = os.environ.get("RECSYS_SPARK_SUBMIT", "spark-submit")
SPARK_PROPERTIES = os.environ.get("RECSYS_SPARK_PROPERTIES") or None
PY_FILES = os.environ.get("RECSYS_PY_FILES") or None
# The Python of driver and executors; without it, what Spark is configured to use.
PYTHON = os.environ.get("RECSYS_PYTHON") or None
PUBLISHED = os.environ.get("RECSYS_ASSET", "recsys://recommendations")
STAGES = ("ingest", "index", "features", "train", "recommend", "evaluate", "publish", "report")

# Without a parameter, the day on which the data interval starts, whatever the hour of the schedule.
START = "{{ params.start or (data_interval_start | ds) }}"
END = "{{ params.end or macros.ds_add(params.start or (data_interval_start | ds), 1) }}"


def absolute(path: str | None) -> str | None:
    """Return a path of this machine under the home folder; URIs and absolute paths as they are."""
    return path if path is None or "://" in path else str(HOME / path)


def submit(stage: str) -> SparkSubmitOperator:
    """Return the task of a stage."""
    # The command line makes a directory name of the run id, which has `:` and `+`; two ids never share one.
    named = ["--run-id", "{{ run_id }}", "--start", START, "--end", END, "--log-format", "json"]
    configured = ["--config", absolute(CONFIG), *(["--set", f"output.path={OUTPUT}"] if OUTPUT else [])]
    return SparkSubmitOperator(
        task_id=stage,
        application=str(HOME / "jobs" / f"{stage}.py"),
        name=f"recsys-{stage}",
        spark_binary=SPARK_SUBMIT,
        properties_file=absolute(SPARK_PROPERTIES),
        py_files=absolute(PY_FILES),
        conf={"spark.pyspark.python": PYTHON} if PYTHON else None,
        application_args=["{{ run_id }}", *configured] if stage == "report" else [*configured, *named],
        # Only the table that readers see is news to other DAGs.
        outlets=[Asset(name="recommendations", uri=PUBLISHED)] if stage == "publish" else [],
    )


with DAG(
    dag_id="recommendations",
    description="Rating logs in, per-user top-N tables out",
    # A cron preset such as `@daily` gives an empty data interval in Airflow 3. Two hours for rows that come late.
    schedule=CronDataIntervalTimetable("0 2 * * *", timezone="UTC"),
    # Days before it could not be backfilled; without `catchup` no day is made up for by itself.
    start_date=datetime(2000, 1, 1, tzinfo=UTC),
    catchup=False,
    # One night after the other: each merges its ratings with those before.
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=5), "retry_exponential_backoff": True},
    params={
        "start": Param(
            None, type=["null", "string"], format="date", description="First day, instead of the interval's"
        ),
        "end": Param(None, type=["null", "string"], format="date", description="Day after the last"),
    },
    doc_md=__doc__,
    tags=["recsys"],
) as dag:
    before = None
    for name in STAGES:
        task = submit(name)
        if before is not None:
            before >> task
        before = task
