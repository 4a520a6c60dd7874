"""Tasks that stay for many calls, and what they do when things go wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from recsys_spark.errors import RecsysError
from recsys_spark.machine_folder import machine_folder
from recsys_spark.session import cores_of_machine
from recsys_spark.train import standing_tasks
from recsys_spark.train.standing_tasks import StandingTasks, can_stand
from tests.conftest import ROOT, python_path


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
            if number == 1 and not Path(mark).exists():
                Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield pa.RecordBatch.from_pydict({"block": [number]})


def sleep(batches: Iterator[pa.RecordBatch], seconds: dict[int, float]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch["block"].to_pylist():
            time.sleep(seconds[number])
            yield pa.RecordBatch.from_pydict({"block": [number], "process": [os.getpid()]})


def large(batches: Iterator[pa.RecordBatch], n_bytes: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch["block"].to_pylist():
            yield pa.RecordBatch.from_pydict({"block": [number], "content": [bytes(n_bytes)]})


def folders() -> set[str]:
    return {path.name for path in machine_folder().glob("tasks-*")}


def stand_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tasks stand even where other work slows everything down."""
    monkeypatch.setattr(standing_tasks, "_LONGEST_STAND", 600.0)
    monkeypatch.setattr(standing_tasks, "_IDLE_SECONDS", 60.0)


@pytest.fixture
def tasks(spark: SparkSession) -> Iterator[StandingTasks]:
    before = folders()
    tasks = StandingTasks(spark)
    yield tasks
    tasks.release()
    assert folders() == before, "what tasks were called through is gone"


def squares(found: pa.Table) -> dict[int, int]:
    return dict(zip(found["block"].to_pylist(), found["square"].to_pylist(), strict=True))


def test_every_block_is_worked_on_once_per_call_in_one_job(
    spark: SparkSession, tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_for_long(monkeypatch)
    assert can_stand(spark)
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
    assert 1 <= len(processes) <= cores_of_machine(spark)


def test_other_jobs_run_after_a_release_and_the_next_call_starts_tasks_again(
    spark: SparkSession, tasks: StandingTasks
) -> None:
    for _ in range(2):
        assert squares(tasks.map_blocks([3], square)) == {3: 9}
        tasks.release()
        assert spark.range(10, numPartitions=4).count() == 10


def test_tasks_that_were_forgotten_let_another_job_run(spark: SparkSession, tasks: StandingTasks) -> None:
    tasks.map_blocks(range(4), square)
    # They hold all cores; nobody releases them.
    assert spark.range(10, numPartitions=4).count() == 10
    assert squares(tasks.map_blocks(range(4), square)) == {n: n**2 for n in range(4)}


def test_a_task_that_ended_while_others_worked_is_replaced(
    spark: SparkSession, tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cores_of_machine(spark) < 2:
        pytest.skip("one core: there is no other task")
    monkeypatch.setattr(standing_tasks, "_IDLE_SECONDS", 0.3)
    wait_for = partial(sleep, seconds={0: 0.0, 1: 1.5})
    tasks.map_blocks([1, 0], wait_for)
    both = tasks.map_blocks([0, 1], partial(sleep, seconds={0: 0.2, 1: 0.2}))
    assert len(set(both["process"].to_pylist())) == 2


def test_a_later_call_of_more_blocks_gets_more_tasks(spark: SparkSession, tasks: StandingTasks) -> None:
    tasks.map_blocks([0], square)
    found = tasks.map_blocks(range(4), partial(sleep, seconds=dict.fromkeys(range(4), 0.3)))
    assert len(set(found["process"].to_pylist())) == min(4, cores_of_machine(spark))


def test_cores_are_offered_to_others_now_and_then(
    spark: SparkSession, tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_tasks, "_LONGEST_STAND", 0.0)
    for _ in range(2):
        assert squares(tasks.map_blocks([2], square)) == {2: 4}
        assert tasks._job is None


def test_default_time_limits_of_sockets_do_not_matter(tasks: StandingTasks) -> None:
    socket.setdefaulttimeout(30)
    try:
        found = tasks.map_blocks(range(3), partial(large, n_bytes=8 << 20))
    finally:
        socket.setdefaulttimeout(None)
    assert sorted(found["block"].to_pylist()) == [0, 1, 2]


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


def test_a_call_that_is_cancelled_raises(spark: SparkSession, tasks: StandingTasks) -> None:
    canceller = threading.Timer(1.5, spark.sparkContext.cancelAllJobs)
    canceller.start()
    with pytest.raises(Py4JJavaError, match="cancelled"):
        tasks.map_blocks([0], partial(sleep, seconds={0: 120.0}))
    canceller.join()


def test_an_interrupted_call_does_not_wait_for_its_tasks(spark: SparkSession, tasks: StandingTasks) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            tasks.map_blocks(range(4), partial(sleep, seconds=dict.fromkeys(range(4), 120.0)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert spark.range(10, numPartitions=4).count() == 10
    assert time.monotonic() - started < 60, "a task that is cancelled does not finish its block"


def test_tasks_that_cannot_reach_the_driver_say_so(tasks: StandingTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(work: Any, **settings: Any) -> Any:
        return partial(work, **settings | {"address": f"{settings['address']} of another machine"})

    monkeypatch.setattr(standing_tasks, "partial", elsewhere)
    with pytest.raises(RecsysError, match=r"3 jobs, .* ended without a result\n.*\n.*standing_tasks: false"):
        tasks.map_blocks([1], square)


@pytest.mark.parametrize("name", ["x" * 90, "ü" * 50])
def test_where_there_can_be_no_socket_there_are_no_standing_tasks(
    name: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / name
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert not can_stand(spark)
    assert folders() == set()


@pytest.mark.slow
@pytest.mark.parametrize(("master", "survives"), [("local[2,4]", True), ("local[2]", False)])
def test_a_worker_that_is_killed_is_replaced_where_spark_tries_again(
    master: str, survives: bool, tmp_path: Path
) -> None:
    program = (
        "import sys\n"
        "from functools import partial\n"
        "from recsys_spark.session import build_session\n"
        "from recsys_spark.train.standing_tasks import StandingTasks\n"
        "from tests.train.test_standing_tasks import die_once\n"
        "tasks = StandingTasks(build_session('killed'))\n"
        "found = tasks.map_blocks([0, 1, 2], partial(die_once, mark=sys.argv[1]))\n"
        "print('blocks', sorted(found['block'].to_pylist()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": python_path(), "PYSPARK_SUBMIT_ARGS": f"--master {master} pyspark-shell"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "mark")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "mark").exists()
    assert ("blocks [0, 1, 2]" in done.stdout) == survives, done.stderr
    assert (done.returncode == 0) == survives
    assert survives or "Python worker exited unexpectedly" in done.stderr
