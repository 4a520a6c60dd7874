"""Which run a night builds on that keeps the published items; the rest is in tests/jobs/test_refresh.py."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.errors import ConfigError
from recsys_spark.runs.publication_log import pin_run, roll_back, unpin
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.train.taken_over import run_to_build_on
from tests.conftest import small_config
from tests.stored_runs import published_run
from tests.unchecked_nights import context_of


def context(folder: Path, run_id: str) -> StageContext:
    config = PipelineConfig.model_validate(small_config(folder, {"refresh": "affected"}))
    return context_of(cast(SparkSession, None), config, run_id)


def test_a_night_builds_on_the_run_that_readers_see(tmp_path: Path) -> None:
    root, mine = tmp_path / "out", context(tmp_path, "mine")
    with pytest.raises(ConfigError, match="nothing was published yet"):
        run_to_build_on(mine)
    published_run(root, "a")
    published_run(root, "b")
    assert run_to_build_on(mine).run_id == "b"
    roll_back(str(root), mine.storage)
    assert run_to_build_on(mine).run_id == "a"
    pin_run(str(root), mine.storage)
    published_run(root, "c")
    assert run_to_build_on(mine).run_id == "a", "readers stay with it"
    unpin(str(root), mine.storage)
    assert run_to_build_on(mine).run_id == "c"
    assert run_to_build_on(context(tmp_path, "c")).run_id == "a", "not on itself"
