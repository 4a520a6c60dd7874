"""Lists that categories, features and the age of ratings take part in, over nights that refresh who is affected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import PipelineConfig
from recsys_spark.recommend.refresh import run_to_take_lists_from
from recsys_spark.runs.run_directory import Run, StageContext
from tests.conftest import small_config
from tests.unchecked_nights import context_of, make_lists, publish_unchecked

N_USERS, N_ITEMS = 20, 14
GENRES = ["War", "Comedy", "Drama"]


def write_ratings(folder: Path, n_changed: int) -> None:
    rng = np.random.default_rng(3)
    lines = [
        f"u{u:02},i{i:02},{rng.integers(1, 6)},2026-01-{rng.integers(1, 5):02}T00:00:00"
        for u in range(N_USERS)
        for i in np.flatnonzero(rng.random(N_ITEMS) < 0.5)
    ]
    lines += [f"u{u:02},i00,5,2026-01-04T12:00:00" for u in range(n_changed)]
    (folder / "ratings.csv").write_text("user_id,item_id,rating,timestamp\n" + "\n".join(lines) + "\n")


def write_items(folder: Path, genres: dict[str, str], kinds: dict[str, str]) -> None:
    """Write what is known of the items; ``new`` is rated by nobody."""
    names = [*(f"i{i:02}" for i in range(N_ITEMS)), "new"]
    rows = [
        f"{name},{name},{genres.get(name, GENRES[k % 3])},{kinds.get(name, 'ABC'[k % 3])}"
        for k, name in enumerate(names)
    ]
    (folder / "items.csv").write_text("item_id,title,genre,kind\n" + "\n".join(rows) + "\n")


def night(spark: SparkSession, folder: Path, run_id: str, refresh: str) -> StageContext:
    items = {"path": str(folder / "items.csv")}
    sections: dict[str, Any] = {
        "input": {"columns": {"timestamp": "timestamp"}, "timestamp_format": "yyyy-MM-dd'T'HH:mm:ss"},
        "catalogue": {**items, "category": "kind"},
        "item_features": {**items, "features": {"genre": {"kind": "categorical"}}, "factor_map": {"min_ratings": 1}},
        "train": {"rank": 3, "iterations": 2, "reg_param": 0.5, "half_life_days": 3},
        "recommend": {"n": 4, "max_per_category": 2, "max_new_items": 1},
        "evaluate": {"holdout_share": 0.0},
        "refresh": refresh,
    }
    return context_of(spark, PipelineConfig.model_validate(small_config(folder, sections)), run_id)


def refreshed(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run.stage_record("recommend")).read_text())["refresh"]
    return found


def lists_made_in(run: Run, run_id: str) -> set[str]:
    lists = ds.dataset(f"{run.path}/recommendations", partitioning=None).to_table()
    return set(lists.filter(pc.field("run_id") == run_id)["user_id"].to_pylist())


@pytest.mark.slow
def test_lists_stand_night_after_night_until_what_they_are_made_from_changes(
    spark: SparkSession, tmp_path: Path
) -> None:
    write_ratings(tmp_path, 0)
    write_items(tmp_path, {}, {})
    first = publish_unchecked(night(spark, tmp_path, "r1", "all"))
    everybody = lists_made_in(first, "r1")
    assert len(everybody) == N_USERS
    lists = ds.dataset(f"{first.path}/recommendations", partitioning=None).to_table()["recommendations"].to_pylist()
    assert "content" in {entry["source"] for entries in lists for entry in entries}, "the new item is listed"

    latest = first
    for n_changed, run_id in ((2, "r2"), (3, "r3")):
        write_ratings(tmp_path, n_changed)
        latest = publish_unchecked(night(spark, tmp_path, run_id, "affected"))
        assert refreshed(latest)["why_all"] == ""
    made = [lists_made_in(latest, run_id) for run_id in ("r1", "r2", "r3")]
    assert [len(users) for users in made] == [N_USERS - 3, 2, 1], "each list is of the night that has made it"

    write_items(tmp_path, {}, {"i05": "D"})
    context = night(spark, tmp_path, "r4", "affected")
    make_lists(context)
    assert refreshed(context.run)["why_all"] == "categories changed for 1 items, such as 'i05'"
    assert lists_made_in(context.run, "r4") == everybody

    write_items(tmp_path, {"new": "War"}, {})
    context = night(spark, tmp_path, "r5", "affected")
    make_lists(context)
    assert refreshed(context.run)["why_all"] == "vectors from features changed for 1 items, such as 'new'"
    assert run_to_take_lists_from(context)[0] is None
