"""What a worker does whose task wants no more of it."""

from __future__ import annotations

import os
import subprocess
import sys

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


def test_sessions_of_one_machine_have_it(spark: SparkSession) -> None:
    assert spark.sparkContext.getConf().get("spark.python.daemon.module") == "recsys_spark.worker_daemon"
