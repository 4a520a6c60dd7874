"""Vectors that fit neither into a worker nor into the driver are trained all the same."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, python_path

pytestmark = pytest.mark.slow
MIB = 1 << 20
LIMIT = 500 * MIB
SETTINGS = {
    "spark.executor.pyspark.memory": "500m",
    # The limit is one of addresses: Arrow's default pool reserves a GiB of them, and every thread's heap 64 MiB.
    "spark.executorEnv.ARROW_DEFAULT_MEMORY_POOL": "system",
    "spark.executorEnv.MALLOC_ARENA_MAX": "1",
    # Large arrays give their addresses back when they go, instead of leaving holes in the heap.
    "spark.executorEnv.MALLOC_MMAP_THRESHOLD_": "1048576",
    "spark.sql.shuffle.partitions": "4",
}


def test_a_side_larger_than_a_worker_is_routed(tmp_path: Path) -> None:
    options = " ".join(f"--conf {name}={value}" for name, value in SETTINGS.items())
    environment = {**os.environ, "PYTHONPATH": python_path()}
    # The side is larger than the heap of the one JVM, driver and executor, as well.
    options += " --driver-java-options '-XX:TieredStopAtLevel=1'"
    environment["PYSPARK_SUBMIT_ARGS"] = f"--master local[2] --driver-memory 640m {options} pyspark-shell"
    command = [sys.executable, "-m", "tests.large_fixed_side", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "mem limits" not in line]
    assert done.returncode == 0, "\n".join(told[-60:])
    found = json.loads((tmp_path / "found.json").read_text())
    side = found["side_bytes"]
    assert side > 700 * MIB

    assert found["worker"] == {"limit": LIMIT, "can_have": False}, "the limit is set, and it bites"
    assert found["planned_limit"] == LIMIT - 80 * MIB
    assert found["refusal"].startswith("a worker needs more than its part of spark.executor.pyspark.memory")
    assert "train.exchange: route" in found["refusal"]
    # The side is a file; a worker has too few addresses to map it.
    assert "Cannot allocate memory" in found["failure"], found["failure"]

    assert found["exchange"] == "route"
    assert found["n_trained"] * 1024 == side, "every vector of the side was trained"
    assert all(after < before for before, after in itertools.pairwise(found["objectives"]))
    assert found["actual"]["worker_bytes"] < LIMIT
    assert found["driver_peak"] < LIMIT
    for name in ("worker_bytes", "shuffle_bytes_per_iteration"):
        assert found["actual"][name] / 2 <= found["predicted"][name] <= found["actual"][name] * 2, name
