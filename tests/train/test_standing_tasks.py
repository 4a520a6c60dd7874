"""Tasks that stay for many calls, and what they do when things go wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from recsys_spark.errors import RecsysError
from recsys_spark.machine_folder import machine_folder
from recsys_spark.session import default_parallelism
from recsys_spark.train import standing_tasks
from recsys_spark.train.standing_tasks import StandingTasks, can_stand


def square(batches: Iterator[pa.RecordBatch], more: int = 0) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch["block"].to_pylist():
            yield pa.RecordBatch.from_pydict(
                {"block": [number], "square": [number**2 + more], "process": [os.getpid()]}
            )


def fail_at(batches: Iterator[pa.RecordBatch], bad: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch["block"].to_pylist():
            if number == bad:
                raise FileNotFoundError(f"no block {number} here")
            yield pa.RecordBatch.from_pydict({"block": [number]})


def die_once(batches: Iterator[pa.RecordBatch], mark: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch["block"].to_pylist():
            if number == 1:
                with Path(mark).open("x"):
                    os.kill(os.getpid(), signal.SIGKILL)
            yield pa.RecordBatch.from_pydict({"block": [number]})


def folders() -> set[str]:
    return {path.name for path in machine_folder().glob("tasks-*")}


@pytest.fixture
def tasks(spark: SparkSession) -> Iterator[StandingTasks]:
    before = folders()
    tasks = StandingTasks(spark)
    yield tasks
    tasks.release()
    assert folders() == before, "what tasks were called through is gone"


def squares(found: pa.Table) -> dict[int, int]:
    return dict(zip(found["block"].to_pylist(), found["square"].to_pylist(), strict=True))


def test_every_block_is_worked_on_once_per_call_in_one_job(spark: SparkSession, tasks: StandingTasks) -> None:
    assert can_stand(spark)
    # Counted by a job of its own, the first time.
    n_cores = default_parallelism(spark)
    group = "standing tasks"
    spark.sparkContext.setJobGroup(group, "a test")
    try:
        for more in range(20):
            assert squares(tasks.map_blocks(range(7), partial(square, more=more))) == {n: n**2 + more for n in range(7)}
        assert len(spark.sparkContext.statusTracker().getJobIdsForGroup(group)) == 1
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
        spark.sparkContext.setLocalProperty("spark.job.description", None)  # type: ignore[arg-type]
    processes = set(tasks.map_blocks(range(40), square)["process"].to_pylist())
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= n_cores


def test_other_jobs_run_after_a_release_and_the_next_call_starts_tasks_again(
    spark: SparkSession, tasks: StandingTasks
) -> None:
    for _ in range(2):
        assert squares(tasks.map_blocks([3], square)) == {3: 9}
        tasks.release()
        assert spark.range(10, numPartitions=4).count() == 10


def test_tasks_that_were_forgotten_let_another_job_run(
    spark: SparkSession, tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.map_blocks(range(4), square)
    # They hold all cores; nobody releases them.
    assert spark.range(10, numPartitions=4).count() == 10
    assert squares(tasks.map_blocks(range(4), square)) == {n: n**2 for n in range(4)}


def test_the_error_of_a_call_is_the_error_of_the_job(tasks: StandingTasks) -> None:
    with pytest.raises(PythonException, match="no block 2 here"):
        tasks.map_blocks(range(4), partial(fail_at, bad=2))
    assert squares(tasks.map_blocks([5], square)) == {5: 25}


def test_a_job_that_is_cancelled_is_not_started_again(spark: SparkSession, tasks: StandingTasks) -> None:
    tasks.map_blocks([1], square)
    spark.sparkContext.cancelAllJobs()
    time.sleep(0.5)
    with pytest.raises(Py4JJavaError, match="cancelled"):
        tasks.map_blocks([1], square)
    # It was asked for once, and heeded once.
    assert squares(tasks.map_blocks([1], square)) == {1: 1}


def test_an_interrupted_call_leaves_no_task(
    spark: SparkSession, tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(message: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(standing_tasks, "_received", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tasks.map_blocks(range(4), square)
    assert spark.range(10, numPartitions=4).count() == 10


def test_tasks_that_cannot_reach_the_driver_say_so(tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    address = standing_tasks._address_in
    monkeypatch.setattr(
        standing_tasks, "partial", lambda work, address: partial(work, address=f"{address} of another machine")
    )
    with pytest.raises(RecsysError, match=r"no task came to .*\n.*\n.*standing_tasks: false"):
        tasks.map_blocks([1], square)
    assert standing_tasks._address_in is address


def test_long_names_of_folders_do_without(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert not can_stand(spark)
