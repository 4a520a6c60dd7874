"""A whole pipeline with a neighbourhood model, against a plain reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from tests.reference_neighbours import predictions

WriteConfig = Callable[..., str]
N_USERS, N_ITEMS = 14, 10


@pytest.mark.slow
def test_lists_of_item_knn_equal_the_reference(
    spark: SparkSession, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    model = "item_knn"
    rng = np.random.default_rng(7)
    known = rng.random((N_USERS, N_ITEMS)) < 0.5
    found = [(int(u), int(i), float(rng.integers(1, 6))) for u, i in zip(*np.nonzero(known), strict=True)]
    lines = [f"u{u:02},i{i:02},{rating:g}" for u, i, rating in found]
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines))
    (tmp_path / "deny.csv").write_text("item_id\ni03\n")
    knn = {"k": 4, "shrink": 1.0, "prior_weight": 0.5}
    config = write_config(
        train={"model": model, "knn": knn}, evaluate={"holdout_share": 0.2},
        recommend={"deny": {"path": str(tmp_path / "deny.csv")}},
    )  # fmt: skip
    assert main(["pipeline", "--config", config, "--run-id", "r"]) == 0
    assert f"model: {model}, pearson, k 4" in capsys.readouterr().out
    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=*")
    assert not [path.name for path in run.iterdir() if path.name.startswith("_")], "no intermediate tables are left"

    expected = predictions(found, N_USERS, N_ITEMS, model, similarity="pearson", k=4, shrink=1.0, prior=0.5)
    lists = {row["user_id"]: row for row in ds.dataset(run / "recommendations").to_table().to_pylist()}
    assert len(lists) == N_USERS
    for user in range(N_USERS):
        row = lists[f"u{user:02}"]
        left = [i for i in range(N_ITEMS) if not known[user, i] and i != 3]
        best = sorted(left, key=lambda i: (-np.float32(expected[user, i]), i))[:3]
        entries = row["recommendations"]
        np.testing.assert_allclose([e["score"] for e in entries], expected[user, best], rtol=1e-5)
        if len({f"{expected[user, i]:.5f}" for i in left}) == len(left):
            assert [entry["item_id"] for entry in entries] == [f"i{i:02}" for i in best]
        assert {(entry["source"], row["model"]) for entry in entries} <= {("cf", f"{model}, pearson, k 4")}

    record = json.loads((run / "stages" / "evaluate.json").read_text())
    metrics = {(row["model"], row["metric"]): row["value"] for row in record["metrics"]}
    assert metrics.keys() >= {("model", "rmse"), ("bias_only", "rmse"), ("item_mean", "mae"), ("model", "ndcg@10")}
    assert all(np.isfinite(value) for value in metrics.values())
    assert main(["plan", "--config", config, "--run-id", "r"]) == 2
    assert f"only the training of factors has a plan\n  where: train.model\n  got: {model}" in capsys.readouterr().err
