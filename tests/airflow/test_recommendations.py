"""The DAG in a real Airflow, in an environment of its own: what it says, and a day that is retried and repeated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys_spark.cli import cli
from recsys_spark.published import read_current_table
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import STAGES, safe_run_id
from recsys_spark.storage import LocalStorage
from tests.conftest import ROOT
from tests.docker.compose_processes import SPARK_HOME

AIRFLOW = os.environ.get("RECSYS_TEST_AIRFLOW", "")
DAGS = ROOT / "jobs" / "dags"
# The interval of this run begins the day before.
MOMENT, DAY = "2010-12-03T02:00:00+00:00", "2010-12-02"
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(
        not AIRFLOW,
        reason="RECSYS_TEST_AIRFLOW names no environment; make test-airflow and test-airflow-day make one",
    ),
]


@pytest.fixture
def ask_airflow(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a script with Airflow's Python and reads the JSON of its last line."""
    own = ("PYSPARK_PYTHON", "PYSPARK_SUBMIT_ARGS", "PYTHONPATH", "TMPDIR")
    environment = {name: value for name, value in os.environ.items() if name not in own} | {
        "PATH": f"{AIRFLOW}/bin{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": "local[2]"}),
        "RECSYS_HOME": str(ROOT),
        "RECSYS_CONFIG": str(tmp_path / "config.yaml"),
        "RECSYS_OUTPUT": str(tmp_path / "out"),
        "RECSYS_PYTHON": sys.executable,
        "RECSYS_SPARK_SUBMIT": str(tmp_path / "spark-submit"),
        "RECSYS_PY_FILES": str(tmp_path / "recsys_spark.zip"),
        "SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }

    def ask(*command: str) -> dict[str, Any]:
        done = subprocess.run(
            [f"{AIRFLOW}/bin/python", *command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-20_000:]
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        return json.loads(last) if last.startswith("{") else {"output": done.stdout + done.stderr}

    return ask


def test_airflow_loads_one_dag_with_one_task_per_stage(ask_airflow: Callable[..., dict[str, Any]]) -> None:
    told = ask_airflow(str(ROOT / "tests" / "airflow" / "describe_dag.py"), str(DAGS))
    assert told["errors"] == {}
    assert told["dags"] == ["recommendations"]
    assert told["timetable"] == "CronDataIntervalTimetable", "a preset gives an empty data interval"
    assert (told["max_active_runs"], told["catchup"], told["params"]) == (1, False, ["end", "start"])
    tasks = told["tasks"]
    assert tuple(tasks) == STAGES
    # One after the other: a lease keeps two stages from one run.
    assert [task["after"] for task in tasks.values()] == [[], *([name] for name in STAGES[:-1])]
    assert [name for name, task in tasks.items() if task["outlets"]] == ["publish"]
    for name, task in tasks.items():
        assert task["retries"] == 2
        assert Path(task["application"]) == ROOT / "jobs" / f"{name}.py"
        assert Path(task["application"]).is_file()
        assert "{{ run_id }}" in task["arguments"]


def test_airflow_has_no_spark_of_its_own() -> None:
    code = "import importlib.util as u; print(u.find_spec('pyspark') and u.find_spec('pyspark').origin)"
    done = subprocess.run([f"{AIRFLOW}/bin/python", "-c", code], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip()).parent
    assert not (folder / "jars").exists(), (
        "pyspark and pyspark-client share a folder, and the versions of both are mixed"
    )


def test_each_stage_is_submitted_for_the_day_and_the_run_and_publishing_alone_is_told(
    ask_airflow: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    told = tmp_path / "submitted"
    # Instead of Spark: writes down what it was given; the first publish fails.
    write_submit(tmp_path / "spark-submit", flag=tmp_path / "failed", real=f'echo "$*" >>"{told}"')
    ask_airflow("-m", "airflow", "db", "migrate")
    run = ask_airflow(str(ROOT / "tests" / "airflow" / "run_day.py"), str(DAGS), MOMENT)
    assert (run["state"], run["events"]) == ("success", ["publish"])
    assert run["tries"] == {name: 2 if name == "publish" else 1 for name in STAGES}
    submitted = told.read_text(encoding="utf-8").splitlines()
    assert len(submitted) == len(STAGES) + 1
    for line, name in zip(submitted, [*STAGES[:-1], "publish", "report"], strict=True):
        assert line.startswith("--master local[2]")
        job, *arguments = line[line.index(str(ROOT / "jobs")) :].split()
        assert job == str(ROOT / "jobs" / f"{name}.py")
        with cli.commands[name].make_context(name, arguments) as context:
            given = context.params
        assert given["run_id"] == run["run_id"]
        assert given["overrides"] == (f"output.path={tmp_path / 'out'}",)
        if name != "report":
            assert (given["start"], given["end"]) == (DAY, "2010-12-03")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_day_that_is_retried_cleared_and_repeated_leaves_one_published_table(
    ask_airflow: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    write_config(tmp_path / "config.yaml")
    write_submit(tmp_path / "spark-submit", flag=tmp_path / "failed")
    shutil.make_archive(str(tmp_path / "recsys_spark"), "zip", root_dir=ROOT, base_dir="recsys_spark")
    ask_airflow("-m", "airflow", "db", "migrate")
    run_day = str(ROOT / "tests" / "airflow" / "run_day.py")
    first = ask_airflow(run_day, str(DAGS), MOMENT)
    assert first["state"] == "success"
    assert first["tries"] == {name: 2 if name == "publish" else 1 for name in STAGES}
    assert first["events"] == ["publish"], "the attempt that failed told nobody"
    entries = publications(str(tmp_path / "out"), LocalStorage())
    assert [(entry.run_id, entry.date) for entry in entries] == [(safe_run_id(first["run_id"]), DAY)]
    assert ":" not in entries[0].run_id
    table = read_current_table(str(tmp_path / "out"))
    assert table.num_rows > 50
    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=*")
    assert (run / "report.html").is_file()

    again = ask_airflow(run_day, str(DAGS), MOMENT)
    assert (again["run_id"], again["state"]) == (first["run_id"], "success")
    assert publications(str(tmp_path / "out"), LocalStorage()) == entries
    assert read_current_table(str(tmp_path / "out")).equals(table)


def write_config(path: Path) -> None:
    """Write the shop's configuration with absolute paths and a short training."""
    config = yaml.safe_load((ROOT / "conf" / "online_retail.yaml").read_text(encoding="utf-8"))
    for section in (config["input"], config["catalogue"], config["recommend"]["deny"]):
        section["path"] = str(ROOT / section["path"])
    config["train"] |= {"rank": 4, "iterations": 2}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def write_submit(path: Path, flag: Path, real: str = f'"{SPARK_HOME}/bin/spark-submit" "$@"') -> None:
    """Write a spark-submit whose first publish fails after its work, as where its worker is lost."""
    lines = ["#!/bin/sh", f"{real} || exit $?", 'case "$*" in']
    lines += [f'*/publish.py*) if mkdir "{flag}" 2>/dev/null; then exit 1; fi ;;', "esac"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o755)
