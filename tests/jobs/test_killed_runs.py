"""Drivers that are killed in every phase: what readers see meanwhile, and what the next attempt makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from recsys_spark.publish.verification import verify
from recsys_spark.published import read_current_table
from recsys_spark.run_directory import Run
from recsys_spark.storage import LocalStorage
from tests.conftest import ROOT, python_path, small_config

pytestmark = pytest.mark.slow

# Where a driver is killed: at the first line of its log that holds the text, or some time after it.
MOMENTS = (
    ("ingest: started", 2.5),
    ("index: started", 0.0),
    ("index: started", 1.5),
    ("train 3/", 0.0),
    ("recommend: started", 1.5),
    ("evaluate: started", 1.0),
    ("publish: started", 0.0),
    ("publish: started", 1.5),
    ("publish: run ", 0.0),
)


def write_inputs(folder: Path) -> str:
    rng = np.random.default_rng(0)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, [60, 40], (900, 2))})
    lines = [f"u{u},i{i},{rng.integers(1, 6)}" for u, i in pairs]
    (folder / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines))
    train = {"rank": 4, "iterations": 6, "checkpoint_interval": 1, "tolerance": 0.0}
    (folder / "config.yaml").write_text(yaml.safe_dump(small_config(folder, {"train": train})))
    return str(folder / "config.yaml")


def start(config: str, run_id: str, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "jobs/pipeline.py", "--config", config, "--run-id", run_id, "--date", "2026-01-05"]
    command[-2:] = ["--set", f"output.path={out}"]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    # A session of its own, so that its JVM and its workers can be killed with it.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def kill_at(process: subprocess.Popen[str], text: str, seconds: float) -> bool:
    """Kill a driver and all it has started; return whether it came so far."""
    assert process.stderr is not None
    came = any(text in line for line in process.stderr)
    if came:
        time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return came


def lists(out: Path) -> list[str]:
    table = read_current_table(str(out), columns=["user_id", "recommendations"])
    return sorted(map(repr, table.to_pylist()))


def test_a_driver_killed_in_every_phase_is_none_the_worse(tmp_path: Path) -> None:
    config = write_inputs(tmp_path)
    assert start(config, "whole", tmp_path / "whole").wait() == 0
    expected, out = lists(tmp_path / "whole"), tmp_path / "killed"
    for text, seconds in MOMENTS:
        assert kill_at(start(config, "r1", out), text, seconds), f"the driver never said {text!r}"
        if (out / "publication_log").exists():
            assert lists(out) == expected, "readers see the whole table or none"
    process = start(config, "r1", out)
    assert process.wait() == 0, process.stderr and process.stderr.read()
    assert lists(out) == expected
    assert verify(str(out), LocalStorage())[1] == []
    (run,) = (out / "runs").glob("date=*/run=*")
    assert not [entry.name for entry in run.iterdir() if entry.name.startswith("_")]
    assert len(list((out / "publication_log").glob("0*.json"))) == 1
    ratings = ds.dataset(Run(str(out), "r1", run.parent.name.removeprefix("date=")).path + "/ratings").to_table()
    assert ratings.num_rows == len((tmp_path / "ratings.csv").read_text().splitlines()) - 1
