from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.interval import Interval
from recsys_spark.runs.run_directory import (
    Run,
    code_fingerprint,
    find_runs,
    interval_of,
    new_run_id,
    open_run,
    safe_run_id,
)
from recsys_spark.storage import LocalStorage
from tests.conftest import ROOT

DAY = Interval(datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC))


def started(root: Path, run_id: str, date: str, interval: Interval | None = None) -> Run:
    run = Run(str(root), run_id, date)
    content = {"interval": interval.as_dict() if interval else None}
    LocalStorage().write_text(f"{run.path}/run.json", json.dumps(content))
    return run


def test_a_new_run_is_filed_under_the_day_of_its_interval(tmp_path: Path) -> None:
    run = open_run(str(tmp_path), LocalStorage(), run_id="a:b", first_stage="ingest", interval=DAY)
    assert run.path == f"{tmp_path}/runs/date=2026-01-05/run=a-b-6783a3"
    assert not any(tmp_path.iterdir()), "naming a run writes nothing"


def test_a_run_is_found_again_by_its_id(tmp_path: Path) -> None:
    run = started(tmp_path, "x", "2026-01-05")
    started(tmp_path, "y", "2026-01-06")
    for stage in ("ingest", "train"):
        assert open_run(str(tmp_path), LocalStorage(), run_id="x", first_stage=stage, interval=None) == run
    assert [found.run_id for found in find_runs(str(tmp_path), LocalStorage())] == ["x", "y"]
    again = started(tmp_path, "x", "2026-01-07")
    assert open_run(str(tmp_path), LocalStorage(), run_id="x", first_stage="ingest", interval=DAY) == again, (
        "the latest"
    )
    with pytest.raises(ConfigError, match="runs there: x, y, x"):
        open_run(str(tmp_path), LocalStorage(), run_id=None, first_stage="train", interval=None)


def test_a_retry_without_its_interval_keeps_the_interval_of_the_run(tmp_path: Path) -> None:
    storage = LocalStorage()
    assert interval_of(started(tmp_path, "dated", "2026-01-05", DAY), storage, None) == DAY
    assert interval_of(started(tmp_path, "undated", "2026-01-05"), storage, None) is None
    assert interval_of(Run(str(tmp_path), "new", "2026-01-05"), storage, DAY) == DAY


def test_run_ids_are_safe_for_paths_and_sort_by_time() -> None:
    assert safe_run_id("manual__2026-11-21T19:46:50.45+00:00") == "manual__2026-11-21T19-46-50.45-00-00-43f9f6"
    assert safe_run_id("../../etc") == "etc-74ccf3"
    assert safe_run_id("a:b") != safe_run_id("a+b"), "two runs of a scheduler stay two runs"
    for bad in ("", "::", "é", "x" * 201):
        with pytest.raises(ConfigError, match="cannot be used as a directory name"):
            safe_run_id(bad)
    first, second = (new_run_id(datetime(2026, 1, day, tzinfo=UTC)) for day in (5, 6))
    assert first < second
    assert safe_run_id(first) == first


def test_the_code_has_the_same_hash_in_a_folder_and_in_the_zip_that_a_cluster_is_given(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", root_dir=ROOT, base_dir="recsys_spark")
    parts = ("kernels", "train", "rating_blocks.py")
    code = "import recsys_spark; from recsys_spark.runs.run_directory import code_fingerprint\n"
    code += f"print(recsys_spark.__file__, code_fingerprint(), code_fingerprint({parts}))"
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": archive}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{archive}/recsys_spark/__init__.py", code_fingerprint(), code_fingerprint(parts)]
    assert len({code_fingerprint(), code_fingerprint(parts), code_fingerprint(("kernels",))}) == 3
