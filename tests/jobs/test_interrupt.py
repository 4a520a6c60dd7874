"""A training that is interrupted: what it leaves, what it says, and that it goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import INDEXED_RATINGS, ITEM_INDEX, USER_INDEX
from tests.conftest import ROOT, python_path
from tests.train.test_fit_factors import N_ITEMS, N_USERS, observations

WriteConfig = Callable[..., str]


def events_of_spark(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the one application whose log, one file of JSON lines, is in the folder."""
    (log,) = [file for file in folder.iterdir() if not file.name.startswith(".")]
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def lineage(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.rglob(f"lineage/*-{stage}-*.json"))]


def write_indexed_run(root: Path, run_id: str, triples: list[tuple[int, int, float]] | None = None) -> None:
    """Write what the index stage leaves for training."""
    run = Run(str(root), run_id, "2026-01-05")
    users, items, values = zip(*(observations() if triples is None else triples), strict=True)
    n = len(values)
    tables = {
        INDEXED_RATINGS: {
            "user_index": pa.array(users, pa.int32()),
            "item_index": pa.array(items, pa.int32()),
            "rating": pa.array(values, pa.float32()),
            "weight": pa.nulls(n, pa.float32()),
            "timestamp": pa.nulls(n, pa.timestamp("us", "UTC")),
        },
        USER_INDEX: {"user_id": [f"u{n}" for n in range(N_USERS)], "user_index": pa.array(range(N_USERS), pa.int32())},
        ITEM_INDEX: {"item_id": [f"i{n}" for n in range(N_ITEMS)], "item_index": pa.array(range(N_ITEMS), pa.int32())},
    }
    for table, columns in tables.items():
        Path(run.table_path(table)).mkdir(parents=True)
        pq.write_table(pa.table(columns), Path(run.table_path(table)) / "part-0.parquet")
    LocalStorage().write_text(run.stage_record("index"), json.dumps({"n_users": N_USERS, "n_items": N_ITEMS}))


@pytest.mark.parametrize("standing", [True, False])
def test_ctrl_c_leaves_a_run_that_goes_on_and_says_how(
    standing: bool, spark: SparkSession, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_indexed_run(tmp_path / "out", "cut")
    settings = {"rank": 3, "iterations": 10, "tolerance": 0.0, "solver": "cg", "checkpoint_interval": 2}
    settings |= {"standing_tasks": standing}
    config = write_config(train=settings)
    (tmp_path / "spark-events").mkdir()
    settings_of_log = {
        "enabled": "true",
        "dir": f"file://{tmp_path}/spark-events",
        "rolling.enabled": "false",
        "compress": "false",
    }
    options = " ".join(f"--conf spark.eventLog.{name}={value}" for name, value in settings_of_log.items())
    submit = os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell")
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", config, "--run-id", "cut"]
    job = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": python_path(), "PYSPARK_SUBMIT_ARGS": f"{options} {submit}"},
    )
    said = []
    with job:
        assert job.stderr is not None
        for line in job.stderr:
            said.append(line)
            if " train 7/20: " in line:
                # As a terminal does it: everything that the command has started gets the signal too.
                os.killpg(job.pid, signal.SIGINT)
    assert job.returncode == 130, "".join(said)
    begin = "  remedy: go on with: "
    assert said[-2:] == ["error: interrupted\n", f"{begin}recsys-spark train --config {config} --run-id cut\n"]

    described = [
        event["Properties"]
        for event in events_of_spark(tmp_path / "spark-events")
        if event["Event"] == "SparkListenerJobStart"
    ]
    descriptions = {properties.get("spark.job.description") for properties in described}
    assert {"train", "train: blocks of ratings", "train: checkpoint after iteration 2"} <= descriptions
    iterations = {f"train: iteration {n}, {side}" for n in (1, 2, 3) for side in ("users", "items")}
    # A checkpoint is a job of its own: the tasks end for it, and begin again.
    stretches = {f"train: iteration {n}, users, and what follows it" for n in (1, 3)}
    assert (stretches if standing else iterations) <= descriptions
    assert {properties.get("spark.jobGroup.id") for properties in described} <= {"cut/train", None}

    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    told: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, message, **fields: told.append(message))
    again = shlex.split(said[-1].removeprefix(begin))
    assert main(again[1:]) == 0
    (resumed,) = [message for message in told if "goes on after iteration" in message]
    assert int(resumed.split("iteration ")[1].split(",")[0]) >= 2
    events = lineage(tmp_path, "train")
    assert [event["eventType"] for event in events] == ["START", "ABORT", "START", "COMPLETE"]
    ids = [event["run"]["runId"] for event in events]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert len({event["run"]["facets"]["parent"]["run"]["runId"] for event in lineage(tmp_path, "*")}) == 1


def test_sigterm_ends_a_command_as_ctrl_c_does(write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\nu,a,1\n")
    command = ["pipeline", "--config", write_config(), "--dry-run"]
    code = (
        "import sys, time\n"
        "from recsys_spark import cli\n"
        "def wait(*_):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        f"cli._inputs = wait\nsys.argv[1:] = {command!r}\ncli.entry_point()\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "waiting\n"
    job.terminate()
    _, said = job.communicate()
    assert job.returncode == 130
    assert said.lstrip("\n") == "error: interrupted\n  remedy: give the same command again\n"
