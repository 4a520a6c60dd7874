"""Executors that die in the middle of an iteration, on a cluster of two."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pyspark
import pytest
from pyspark.sql import SparkSession

from recsys_spark.kernels import hot_rows
from tests.conftest import ROOT, python_path
from tests.small_fits import arrays_of, fit

pytestmark = pytest.mark.cluster


def spark_home(folder: Path) -> Path:
    """Return a Spark whose cluster leaves its files in the folder: links to the installed one's."""
    home = folder / "spark"
    home.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (home / entry.name).symlink_to(entry)
    return home


def test_factors_are_the_same_when_an_executor_dies(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = spark_home(tmp_path)
    command = [str(home / "bin" / "spark-submit"), "--master", "local-cluster[2,1,1024]"]
    # A folder for temporary files of each executor's own, as on machines of their own: the other one's copies of
    # blocks are out of sight.
    command += ["--conf", "spark.executorEnv.TMPDIR=.", "--conf", "spark.sql.shuffle.partitions=2"]
    command += ["--conf", "spark.sql.adaptive.enabled=false", "--conf", "spark.sql.codegen.factoryMode=NO_CODEGEN"]
    command += ["--driver-java-options", "-XX:TieredStopAtLevel=1"]
    command += ["--conf", "spark.executor.extraJavaOptions=-XX:TieredStopAtLevel=1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"}
    environment |= {"SPARK_HOME": str(home), "PYTHONPATH": python_path()}
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "cluster_fits.py"), str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((home / "work").glob("app-*/*/recsys_spark-*")), "executors kept copies of their own"
    found = np.load(tmp_path / "arrays.npz")
    monkeypatch.setattr(hot_rows, "HOT_FLOOR", 9)
    expected: dict[str, np.ndarray] = {}
    (tmp_path / "local").mkdir()
    for exchange in ("replicate", "route"):
        expected |= arrays_of(fit(spark, tmp_path / "local", exchange), exchange)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
