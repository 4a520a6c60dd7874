"""Run by Airflow's own Python: one run of the DAG for a day, as `airflow dags test` does it; prints what became of it.

The same arguments again clear the day and run it again under the same run id.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import select

folder, moment = sys.argv[1], datetime.fromisoformat(sys.argv[2])
dag = DagBag(folder).dags["recommendations"]
for task in dag.tasks:
    task.retry_delay = timedelta(seconds=1)
    task.retry_exponential_backoff = 0
run = dag.test(logical_date=moment, run_after=moment)
with create_session() as session:
    events = [event.source_task_id for event in session.scalars(select(AssetEvent))]
tries = {instance.task_id: instance.try_number for instance in run.get_task_instances()}
print("\n" + json.dumps({"run_id": run.run_id, "state": run.state, "tries": tries, "events": events}))
