"""Run by Airflow's own Python: load the DAG as Airflow does, and print what it says as JSON."""

from __future__ import annotations

import json
import sys

from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
dag = bag.dags.get("recommendations")
told = {"errors": bag.import_errors, "dags": sorted(bag.dags)}
if dag is not None:
    told |= {
        "timetable": type(dag.timetable).__name__,
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "params": sorted(dag.params),
        "tasks": {
            task.task_id: {
                "after": sorted(task.upstream_task_ids),
                "retries": task.retries,
                "application": task.application,
                "arguments": task.application_args,
                "outlets": [outlet.uri for outlet in task.outlets],
            }
            for task in dag.topological_sort()
        },
    }
print("\n" + json.dumps(told))
