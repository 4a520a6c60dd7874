"""Lists with limits per category, marginal relevance and damping against plain Python."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.config import PipelineConfig
from recsys_spark.config.recommend import RecommendConfig
from recsys_spark.publish.gate import check_categories
from recsys_spark.recommend.candidates import Candidates
from recsys_spark.recommend.lists import rank_users
from recsys_spark.recommend.popularity import segment_popularity
from recsys_spark.recommend.variety import with_variety
from recsys_spark.shared_value import SharedValue
from recsys_spark.tables import RECOMMENDATIONS
from tests.conftest import small_config
from tests.kernels.test_capped_top_n import walk_of_one
from tests.kernels.test_marginal_relevance import rerank_one


def expected_list(
    scores: dict[int, float],
    names: list[str],
    factors: list[list[float]],
    categories: np.ndarray,
    config: RecommendConfig,
) -> list[tuple[str, float]]:
    """Sort, walk within the limit, and choose for variety: the definition of one user's list."""
    # Columns are items by name.
    order = sorted(range(len(names)), key=lambda k: names[k].encode())
    column = {k: c for c, k in enumerate(order)}
    ranking = sorted(
        ((column[k], float(np.float32(score))) for k, score in scores.items()), key=lambda e: (-e[1], e[0])
    )
    of_column = categories[order] if config.max_per_category else np.full(len(order), -1)
    length = config.n if config.mmr is None else config.mmr.pool
    found = walk_of_one(ranking, of_column, config.max_per_category or 1, length)
    if config.mmr is not None:
        by_column = [factors[k] for k in order]
        found = rerank_one(dict(found), by_column, config.mmr.relevance_weight, config.n)
    return [(names[order[c]], score) for c, score in found]


N_USERS, N_ITEMS, RANK = 6, 14, 2


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 8),
    limit=st.sampled_from([None, 1, 2]),
    mmr=st.sampled_from([None, 0.3, 0.9]),
    damping=st.sampled_from([0.0, 0.5]),
    biases=st.booleans(),
)
def test_lists_equal_brute_force(
    seed: int, n: int, limit: int | None, mmr: float | None, damping: float, biases: bool
) -> None:
    rng = np.random.default_rng(seed)
    config = RecommendConfig(
        n=n,
        max_per_category=limit,
        mmr=None if mmr is None else {"relevance_weight": mmr, "pool": int(rng.integers(n, 16))},  # type: ignore[arg-type]
        popularity_damping=damping,
    )
    eligible = np.flatnonzero(rng.random(N_ITEMS) < 0.8).astype(np.int32)
    if not len(eligible):
        return
    users = rng.integers(-2, 3, (N_USERS, RANK + 1)).astype(np.float32)
    items = rng.integers(-2, 3, (N_ITEMS, RANK + 1)).astype(np.float32)
    popularity = rng.integers(1, 50, N_ITEMS)
    categories = rng.integers(-1, 3, N_ITEMS).astype(np.int32)
    names = [f"item {(5 * k) % N_ITEMS}" for k in range(N_ITEMS)]
    candidates = with_variety(
        Candidates.from_items(
            pa.array([names[k] for k in eligible]),
            eligible,
            items[eligible] if biases else items[eligible, :RANK],
            popularity[eligible],
            n_items=N_ITEMS,
            global_mean=0.5,
            biases=biases,
        ),
        categories if limit else None,
        config,
    )
    hidden = [np.flatnonzero(rng.random(N_ITEMS) < 0.3).tolist() * 2 for _ in users]
    is_known = rng.random(N_USERS) < 0.7
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array(range(N_USERS)),
            "factors": pa.array(
                [u[:RANK].tolist() if known else None for u, known in zip(users, is_known, strict=True)],
                pa.list_(pa.float32()),
            ),
            "bias": pa.array([float(u[RANK]) if biases else 0.0 for u in users], pa.float32()),
            "hidden": pa.array(hidden, pa.list_(pa.int32())),
        }
    )
    rows = {r["user"]: r for part in rank_users(iter([batch]), SharedValue(candidates), n) for r in part.to_pylist()}
    for user in range(N_USERS):
        left = [k for k in eligible.tolist() if k not in hidden[user]]
        if is_known[user]:
            own, wide = users[user].astype(float), items.astype(float)
            # Nothing but this bias is ever rounded: the others are small whole numbers.
            bias = np.float32(biases * wide[:, RANK] - [damping * math.log1p(k) for k in popularity]).astype(float)
            products = wide[:, :RANK] @ own[:RANK]
            scores = {k: 0.5 + products[k] + biases * own[RANK] + bias[k] for k in left}
        else:
            scores = {k: float(popularity[k]) for k in left}
        expected = expected_list(scores, names, items[:, :RANK].astype(float).tolist(), categories, config)
        entries = rows[user]["recommendations"]
        found = [(e["item_id"], e["score"]) for e in entries]
        assert found == expected
        keys = [(-e["score"], e["item_id"].encode()) for e in entries]
        assert keys == sorted(keys)
        reason = rows[user]["short_reason"]
        assert (reason is None) == (len(entries) == n)
        if reason is not None:
            n_hidden, n_over = len(eligible) - len(left), len(left) - len(entries)
            assert f": {len(eligible)} items are eligible" in reason
            assert n_hidden == 0 or f"rated or blocked {n_hidden} of them" in reason
            assert (f"no more than {limit} of a category may be listed, which leaves out {n_over}" in reason) == (
                n_over > 0
            )


def test_probabilities_are_damped_as_log_odds_and_kept_in_order() -> None:
    items = np.float32([[3.0], [2.0], [1.0]])
    made = Candidates.from_items(
        pa.array(["a", "b", "c"]), np.arange(3, dtype=np.int32), items, np.array([99, 0, 0]),
        n_items=3, global_mean=0.0, biases=False, as_probability=True,
    )  # fmt: skip
    damped = with_variety(made, None, RecommendConfig(popularity_damping=0.5))
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array([0]),
            "factors": pa.array([[1.0]], pa.list_(pa.float32())),
            "bias": pa.array([0.0], pa.float32()),
            "hidden": pa.array([[]], pa.list_(pa.int32())),
        }
    )
    (lists,) = rank_users(iter([batch]), SharedValue(damped), 3)
    entries = lists.to_pylist()[0]["recommendations"]
    assert [e["item_id"] for e in entries] == ["b", "c", "a"]
    log_odds = [2.0, 1.0, 3.0 - 0.5 * math.log(100)]
    np.testing.assert_allclose([e["score"] for e in entries], [1 / (1 + math.exp(-x)) for x in log_odds], rtol=1e-6)


def test_new_items_and_categories_are_limited_together() -> None:
    # Best first: new red, old red, new red, new blue, old blue.
    made = Candidates.from_items(
        pa.array(["a", "b", "c", "d", "e"]), np.arange(5, dtype=np.int32), np.float32([[5], [4], [3], [2], [1]]),
        np.array([0, 9, 0, 0, 9]), n_items=5, global_mean=0.0, biases=False,
    )  # fmt: skip
    made = replace(made, is_new=np.array([True, False, True, True, False]))
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array([0, 1]),
            "factors": pa.array([[1.0], None], pa.list_(pa.float32())),
            "bias": pa.array([0.0, None], pa.float32()),
        }
    )
    found = {}
    for limit, max_new in ((2, 1), (1, 2), (None, 2)):
        config = RecommendConfig(n=4, max_per_category=limit, max_new_items=max_new)
        categories = None if limit is None else np.int32([0, 0, 0, 1, 1])
        limited = with_variety(made, categories, config)
        rows = [row for part in rank_users(iter([batch]), SharedValue(limited), 4) for row in part.to_pylist()]
        found[limit, max_new] = [
            ("".join(e["item_id"] for e in row["recommendations"]), row["short_reason"]) for row in rows
        ]
        sources = [{e["item_id"]: e["source"] for e in row["recommendations"]} for row in rows]
        assert all(sources[0][item] == ("content" if item in "acd" else "cf") for item in sources[0])
        assert sources[1] == {"b": "popular", "e": "popular"}, "what nobody has rated is not popular"
    reason = "only {} of 4: 5 items are eligible, and no more than {} may be listed, which leaves out {}"
    of_popular = "only 2 of 4: 2 items are eligible"
    assert found == {
        (2, 1): [
            ("abe", reason.format(3, "2 of a category and 1 new items", 2)),
            ("be", of_popular),
        ],
        (1, 2): [
            ("ad", reason.format(2, "1 of a category and 2 new items", 3)),
            ("be", of_popular),
        ],
        (None, 2): [("abce", None), ("be", of_popular)],
    }


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    limit=st.sampled_from([None, 1, 2]),
    mmr=st.sampled_from([None, 0.3]),
    has_segments=st.booleans(),
)
def test_popular_lists_are_those_without_new_items(
    seed: int, n: int, limit: int | None, mmr: float | None, has_segments: bool
) -> None:
    rng = np.random.default_rng(seed)
    is_new = rng.random(N_ITEMS) < 0.4
    is_new[0] = False
    popularity = np.where(is_new, 0, rng.integers(0, 4, N_ITEMS))
    vectors = rng.integers(-2, 3, (N_ITEMS, RANK)).astype(np.float32)
    categories = rng.integers(-1, 3, N_ITEMS).astype(np.int32)
    table = {"segment": ["s", "s"], "column": pa.array([0, 0], pa.int32()), "popularity": [2.0, 0.0]}
    config = RecommendConfig(
        n=n, max_per_category=limit, max_new_items=2,
        mmr=None if mmr is None else {"relevance_weight": mmr, "pool": 12},  # type: ignore[arg-type]
    )  # fmt: skip
    hidden = np.flatnonzero(rng.random(N_ITEMS) < 0.3).tolist()
    batch = pa.RecordBatch.from_pydict(
        {
            "user": pa.array([0]),
            "factors": pa.array([None], pa.list_(pa.float32())),
            "bias": pa.array([None], pa.float32()),
            "hidden": pa.array([hidden], pa.list_(pa.int32())),
            "segment": pa.array([0 if has_segments else None], pa.int32()),
        }
    )

    def lists(kept: np.ndarray, with_new: bool) -> list[dict[str, Any]]:
        made = Candidates.from_items(
            pa.array([chr(97 + k) for k in kept]), kept.astype(np.int32), vectors[kept], popularity[kept],
            n_items=N_ITEMS, global_mean=0.0, biases=False,
        )  # fmt: skip
        of_segment, _ = segment_popularity(pa.table(table).slice(0, 1))
        made = replace(made, segments=of_segment, is_new=is_new[kept] if with_new else None)
        made = with_variety(made, None if limit is None else categories, config)
        return [row for part in rank_users(iter([batch]), SharedValue(made), n) for row in part.to_pylist()]

    (found,), (expected,) = lists(np.arange(N_ITEMS), True), lists(np.flatnonzero(~is_new), False)
    assert found["recommendations"] == expected["recommendations"]
    if expected["short_reason"] is not None:
        assert found["short_reason"].split(", and no more")[0] == expected["short_reason"].split(", and no more")[0]


def test_without_settings_nothing_changes() -> None:
    made = Candidates.from_items(
        pa.array(["a"]), np.int32([0]), np.ones((1, 2), np.float32), np.array([1]),
        n_items=1, global_mean=0.0, biases=False,
    )  # fmt: skip
    assert with_variety(made, None, RecommendConfig()) is made


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"recommend": {"max_per_category": 2}}, "needs catalogue.category"),
        ({"recommend": {"max_per_category": 2}, "catalogue": {"path": "x"}}, "needs catalogue.category"),
        ({"recommend": {"n": 20, "mmr": {"pool": 19}}}, "mmr.pool must be at least n, 20"),
        ({"recommend": {"mmr": {"pool": 20}}, "evaluate": {"n": 30}}, "at least evaluate.n, 30"),
        ({"recommend": {"mmr": {}}, "train": {"rank": 0}}, "needs train.rank above 0"),
        ({"recommend": {"mmr": {"relevance_weight": 0}}}, "greater than 0"),
        ({"recommend": {"popularity_damping": -1.0}}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PipelineConfig.model_validate(small_config(tmp_path, sections))


def test_the_gate_finds_lists_with_too_many_of_a_category(spark: SparkSession) -> None:
    entries = [[{"item_id": name} for name in own] for own in (["a", "b", "c"], ["a", "c", "x", "y"], [])]
    lists = spark.createDataFrame(
        list(zip(["u", "v", "w"], entries, strict=True)),
        "user_id string, recommendations array<struct<item_id:string>>",
    )
    categories = spark.createDataFrame([("a", "red"), ("b", "red"), ("c", "blue")], "item_id string, category string")
    found = check_categories(lists, categories, 1)
    assert (found.n_broken, found.examples) == (1, ["'u'"])
    assert check_categories(lists, categories, 2).n_broken == 0


@pytest.mark.slow
def test_a_pipeline_lists_and_measures_what_is_configured(
    spark: SparkSession, tmp_path: Path, write_config: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    rng = np.random.default_rng(3)
    pairs = sorted({(f"u{u}", f"i{i:02}") for u, i in rng.integers(0, [12, 20], (120, 2))})
    lines = [f"{user},{item},{rng.integers(1, 6)}" for user, item in pairs]
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines) + "\n")
    kinds = {f"i{k:02}": ("", " red", "red ", "blue")[k % 4] for k in range(19)}
    (tmp_path / "items.csv").write_text(
        "item_id,title,kind\n" + "".join(f"{i},t,{kind}\n" for i, kind in kinds.items())
    )
    config = write_config(
        catalogue={"path": str(tmp_path / "items.csv"), "category": "kind"},
        recommend={"n": 5, "max_per_category": 2, "mmr": {"pool": 8}, "popularity_damping": 0.2},
        evaluate={"n": 4, "holdout_share": 0.2},
    )
    assert cli.main(["pipeline", "--config", config, "--run-id", "r"]) == 0
    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=*")
    record = json.loads((run / "stages" / "recommend.json").read_text())
    assert record["n_without_category"] == sum(not kinds.get(item, "").strip() for item in {i for _, i in pairs})
    assert "lists with more than 2 items of a category" in (run / "stages" / "publish.json").read_text()
    metrics = {(row["model"], row["metric"]) for row in ds.dataset(run / "metrics").to_table().to_pylist()}
    assert metrics >= {(model, "ndcg@4") for model in ("model", "by_score_alone", "popularity")}

    items, users = (
        {row[key]: row for row in ds.dataset(run / table).to_table().to_pylist()}
        for key, table in (("item_id", "item_factors"), ("user_id", "user_factors"))
    )
    mean = json.loads((run / "stages" / "train.json").read_text())["global_mean"]
    names = sorted(items)
    numbers = np.array([{"red": 0, "blue": 1}.get(kinds.get(name, "").strip(), -1) for name in names])
    factors = [items[name]["factors"] for name in names]
    damped = {name: row["bias"] - 0.2 * math.log1p(row["n_ratings"]) for name, row in items.items()}
    wanted = PipelineConfig.model_validate(
        {"name": "x", "input": {"path": "x"}, "output": {"path": "x"}, "evaluate": {"n": 4},
         "recommend": {"n": 5, "max_per_category": 2, "mmr": {"pool": 8}}}
        | {"catalogue": {"path": "x", "category": "kind"}}
    ).recommend  # fmt: skip
    for row in ds.dataset(run / RECOMMENDATIONS.name).to_table().to_pylist():
        user = users[row["user_id"]]
        scores = {
            k: mean + user["bias"] + damped[name] + float(np.dot(user["factors"], items[name]["factors"]))
            for k, name in enumerate(names)
            if (row["user_id"], name) not in pairs
        }
        expected = expected_list(scores, names, factors, numbers, wanted)
        assert [e["item_id"] for e in row["recommendations"]] == [name for name, _ in expected]
