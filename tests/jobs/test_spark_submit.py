"""A job as a scheduler starts it: its own process, by spark-submit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pyspark
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_spark_submit_runs_a_job_and_passes_its_exit_code_on(write_config: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\nu,a,x\nu,b,1\n")
    command = [Path(pyspark.__file__).parent / "bin" / "spark-submit", ROOT / "jobs" / "ingest.py"]
    options = ["--config", write_config(), "--run-id", "submitted", "--log-format", "json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    # spark-submit passes what the job writes to either stream on to its own output.
    assert "too many rows were quarantined" in done.stdout + done.stderr
    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=submitted")
    assert [row["raw"] for row in ds.dataset(run / "quarantine").to_table().to_pylist()] == ["u,a,x"]
    assert ds.dataset(run / "ratings").to_table().num_rows == 1
