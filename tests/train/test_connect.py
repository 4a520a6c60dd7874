"""The same code over Spark Connect: a client without a JVM, a server in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyspark
import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from tests.conftest import ROOT, python_path
from tests.ml.small_models import results
from tests.small_fits import fits_and_lists
from tests.train.test_fit_factors import observations

pytestmark = pytest.mark.connect
_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
_SECONDS_TO_START = 180


@pytest.fixture(scope="module")
def remote(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server that has not this package on its path, and return its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
        *("--class", _SERVER, "--master", "local[2]", "--driver-memory", "1g"),
        *("--driver-java-options", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"),
        *("--conf", "spark.sql.adaptive.enabled=false", "--conf", "spark.sql.codegen.factoryMode=NO_CODEGEN"),
        *("--conf", f"spark.connect.grpc.binding.port={port}", "--conf", "spark.sql.shuffle.partitions=2"),
    ]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_SUBMIT_ARGS")
    }
    folder = tmp_path_factory.mktemp("server")
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + _SECONDS_TO_START
            while not _answers(port):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield f"sc://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)


def environment_without(*names: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in names}


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_client(remote: str, arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYSPARK_SUBMIT_ARGS", "JAVA_HOME")
    }
    environment |= {"SPARK_REMOTE": remote, "PYTHONPATH": python_path(), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_factors_and_lists_are_those_of_a_classic_session(spark: SparkSession, remote: str, tmp_path: Path) -> None:
    # So small that the fixed side goes as a file.
    done = run_client(remote, ["-m", "tests.small_fits", str(tmp_path)], LARGEST_IN_FUNCTION="1000")
    assert done.returncode == 0, done.stderr
    (tmp_path / "classic").mkdir()
    expected = fits_and_lists(spark, tmp_path / "classic")
    found = np.load(tmp_path / "arrays.npz")
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_estimator_is_that_of_a_classic_session(spark: SparkSession, remote: str, tmp_path: Path) -> None:
    done = run_client(remote, ["-m", "tests.ml.small_models", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    (tmp_path / "classic").mkdir()
    assert json.loads((tmp_path / "results.json").read_text()) == results(spark, tmp_path / "classic")


def test_the_pipeline_runs_over_connect(
    spark: SparkSession, remote: str, write_config: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"u{u},i{i},{value}" for u, i, value in observations()]
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines))
    sections: dict[str, Any] = {
        "train": {"rank": 3, "iterations": 3, "checkpoint_interval": 1},
        "evaluate": {"holdout_share": 0.2},
    }
    config = write_config(**sections)
    job = str(ROOT / "jobs" / "pipeline.py")
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    assert main(["pipeline", "--config", config, "--run-id", "classic"]) == 0
    done = run_client(remote, [job, "--config", config, "--run-id", "remote"])
    assert done.returncode == 0, done.stderr
    runs = [next((tmp_path / "out" / "runs").glob(f"date=*/run={name}")) for name in ("classic", "remote")]
    for table in ("user_factors", "item_factors", "recommendations"):
        tables = [ds.dataset(run / table).to_table() for run in runs]
        of_the_run = [name for name in ("run_id", "generated_at") if name in tables[0].column_names]
        classic, over_connect = (sorted(map(repr, found.drop_columns(of_the_run).to_pylist())) for found in tables)
        assert classic == over_connect, table

    relative = run_client(remote, [job, "--config", config, "--set", "output.path=out"])
    assert relative.returncode == 2
    assert "files have to be where both client and server see them" in relative.stderr
