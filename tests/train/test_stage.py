"""What the train stage tells of a training that failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from tests.jobs.test_interrupt import write_indexed_run
from tests.train.test_fit_factors import observations


@pytest.mark.parametrize("exchange", ["replicate", "route"])
def test_a_row_without_a_finite_solution_is_named_by_the_callers_id(
    spark: SparkSession,
    write_config: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exchange: str,
) -> None:
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    triples = [(u, i, 1e38 if (u, i) == (3, 0) else value) for u, i, value in observations()]
    write_indexed_run(tmp_path / "out", "huge", triples)
    config = write_config(train={"rank": 3, "reg_param": 1e-6, "n_blocks": 1, "exchange": exchange})
    assert main(["train", "--config", config, "--run-id", "huge"]) == 4
    told = capsys.readouterr().err
    assert "error: iteration 1, items: solved vectors must be finite" in told
    assert "where: item_id 'i0'" in told
    assert "Traceback" not in told
