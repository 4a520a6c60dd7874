"""What a worker does whose task wants no more of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from tests.conftest import python_path

# In a process of its own: a worker takes over its signals. The other end of its connection is closed.
HUNG_UP = """
import socket
from pyspark import daemon
from recsys_spark import worker_daemon

def serve(worker):
    ours, theirs = socket.socketpair()
    theirs.close()
    return worker(ours, True)

try:
    serve(daemon.worker)
except BrokenPipeError:
    print("PySpark's ends with an error")
print(serve(worker_daemon.worker))
"""


def test_a_worker_that_nobody_listens_to_ends_without_a_word() -> None:
    environment = {**os.environ, "PYTHONPATH": python_path(), "PYTHON_DAEMON_KILL_WORKER_ON_FLUSH_FAILURE": "1"}
    done = subprocess.run([sys.executable, "-c", HUNG_UP], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["PySpark's ends with an error", "1"]
    assert done.stderr == ""


def test_workers_of_one_machine_come_from_it(spark: SparkSession) -> None:
    def name_of_main(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            spec = sys.modules["__main__"].__spec__
            yield pa.RecordBatch.from_pydict({"main": [spec.name if spec else "no module"]})

    found = spark.range(1).mapInArrow(name_of_main, "main string").collect()
    assert [row["main"] for row in found] == ["recsys_spark.worker_daemon"]
