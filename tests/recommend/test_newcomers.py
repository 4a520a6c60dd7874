"""New ratings, segments and users without vectors, through Spark."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.factor_tables import collect_rows
from recsys_spark.index.id_index import index_folder
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.publish import stage as publish_stage
from recsys_spark.rating_blocks import USERS
from recsys_spark.recommend import stage
from recsys_spark.recommend.new_ratings import with_new_ratings
from recsys_spark.report.explanation import explain_user
from recsys_spark.report.stored_run import StoredRun
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.shared_value import shared
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import (
    FOLDED_FACTORS,
    INDEXED_RATINGS,
    ITEM_FACTORS,
    ITEM_INDEX,
    NEW_QUARANTINE,
    NEW_RATINGS,
    NEW_USERS,
    POPULARITY,
    RATINGS,
    RECOMMENDATIONS,
    USER_FACTORS,
    USER_INDEX,
    Table,
)
from recsys_spark.train import (
    FoldInInput,
    constant_of_rows,
    fold_in_users,
    further_observations,
    positives,
    prepare_fixed,
    row_problem,
)
from tests.reference_rows import RowReference
from tests.train.test_fit_factors import fit, frame, observations

MakeContext = Callable[..., StageContext]
N_USERS, N_ITEMS, RANK, N = 6, 10, 2, 6
NOW = datetime(2026, 1, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "settings",
    [{"solver": "dual"}, {"loss": "ials", "unobserved_weight": 0.1, "biases": True, "solver": "cholesky"}],
)
def test_a_fold_in_is_the_users_next_half_iteration(spark: SparkSession, settings: dict[str, Any]) -> None:
    ratings = frame(spark, observations())
    before, after = (fit(spark, ratings, iterations=n, **settings) for n in (1, 2))
    config = TrainConfig(rank=4, **settings)
    problem, constant = row_problem(config), constant_of_rows(config, before.global_mean)
    fixed = prepare_fixed(before.item_vectors, before.item_degrees > 0, constant, problem)
    with shared(spark, FoldInInput(fixed, problem, before.biases)) as given:
        found = fold_in_users(further_observations(ratings, config, before.global_mean, None), given, 3)
        index, vectors = collect_rows(found, USERS, biases=before.biases)
    assert sorted(index.tolist()) == np.flatnonzero(after.user_degrees).tolist()
    np.testing.assert_array_equal(vectors, after.user_vectors[index])
    assert np.abs(vectors - before.user_vectors[index]).max() > 1e-3


def test_new_ratings_stand_in_the_place_of_old_ones_and_counts_add_up(spark: SparkSession) -> None:
    def ratings(*rows: tuple[int, int, float]) -> Any:
        return spark.createDataFrame([(*row, None, NOW) for row in rows], INDEXED_RATINGS.schema)

    old, new = ratings((0, 0, 5.0), (0, 1, 4.0), (1, 0, 3.0)), ratings((0, 1, 1.0), (2, 0, 2.0))
    for duplicates, again in (("max", 1.0), ("sum", 5.0)):
        found = with_new_ratings(old.drop("weight"), new, duplicates).collect()
        assert sorted(tuple(row)[:3] for row in found) == [(0, 0, 5.0), (0, 1, again), (1, 0, 3.0), (2, 0, 2.0)]


def item(k: int) -> str:
    return f"i{(7 * k) % N_ITEMS}"


class SmallRun:
    """What earlier stages leave: users u0 to u5, u4 of them untrained; the last item has no factors."""

    def __init__(self, context: StageContext) -> None:
        rng = np.random.default_rng(2)
        self.context = context
        self.mean = 3.25
        self.items = rng.normal(size=(N_ITEMS, RANK + 1)).astype(np.float32)
        self.users = rng.normal(size=(N_USERS, RANK + 1)).astype(np.float32)
        self.rated = {
            u: {int(i): float(rng.integers(1, 6)) for i in rng.choice(N_ITEMS, 4, replace=False)}
            for u in range(N_USERS)
        }
        self.days = {(u, i): int(rng.integers(0, 30)) for u, mine in self.rated.items() for i in mine}
        spark = context.spark
        rows = [(u, i, r) for u, mine in self.rated.items() for i, r in mine.items()]
        at = {pair: NOW - timedelta(days=day) for pair, day in self.days.items()}

        def factors(vector: np.ndarray) -> tuple[list[float], float, int]:
            return vector[:RANK].tolist(), float(vector[RANK]), 3

        tables: list[tuple[Any, list[Any]]] = [
            (USER_INDEX, [(f"u{k}", k) for k in range(N_USERS)]),
            (ITEM_INDEX, [(item(k), k) for k in range(N_ITEMS)]),
            (RATINGS, [(f"u{u}", item(i), r, at[u, i], None, 1, "f") for u, i, r in rows]),
            (INDEXED_RATINGS, [(u, i, r, None, at[u, i]) for u, i, r in rows]),
            (USER_FACTORS, [(f"u{k}", k, *factors(self.users[k])) for k in range(N_USERS) if k != 4]),
            (ITEM_FACTORS, [(item(k), k, *factors(self.items[k])) for k in range(N_ITEMS - 1)]),
        ]
        for table, content in tables:
            context.write(table, spark.createDataFrame(content, table.schema))
        records: dict[str, dict[str, Any]] = {
            "train": {"global_mean": self.mean, "biases": True, "loss": "squared", "rank": RANK, "label": "squared"},
            "index": {"n_items": N_ITEMS, "n_users": N_USERS, "n_ratings": len(rows)},
        }
        records["index"]["versions"] = {table.name: self.keep_index(table) for table in (USER_INDEX, ITEM_INDEX)}
        for name, record in records.items():
            context.storage.write_text(context.run.stage_record(name), json.dumps(record | {"tables": {}}))

    def keep_index(self, table: Table) -> int:
        """Keep an index as its first version."""
        folder = index_folder(self.context.run.root, table)
        index = self.context.read(table)
        index.write.parquet(f"{folder}/parts/first")
        n = index.count()
        entry = {"run_id": "r1", "written": "then", "n": n, "parts": [{"path": "parts/first", "start": 0, "n": n}]}
        assert NumberedLog(self.context.storage, f"{folder}/versions").append(1, entry)
        return 1

    def vector(self, rated: dict[int, float]) -> np.ndarray:
        """Fold in, by the reference."""
        known = {i: r - self.mean for i, r in rated.items() if i < N_ITEMS - 1}
        config = self.context.config.train
        regularization = Regularization(config.reg_param, config.bias_reg_param, config.reg_exponent, True)
        items = self.items[: N_ITEMS - 1]
        return RowReference(known, known.values(), None, items, 0.0, regularization, Loss("squared")).minimum()

    def scores(self, vector: np.ndarray) -> np.ndarray:
        items = self.items.astype(float)
        return self.mean + items[:, :RANK] @ vector[:RANK] + items[:, RANK] + vector[RANK]


def best(scores: np.ndarray, hidden: set[int]) -> list[str]:
    left = [k for k in range(N_ITEMS - 1) if k not in hidden]
    return [item(k) for k in sorted(left, key=lambda k: (-np.float32(scores[k]), item(k)))[:N]]


def write_files(folder: Path) -> dict[str, Any]:
    """Write new ratings, segments and blocks; return the section that names them."""
    new = [("u0", 1, 5), ("u0", 2, 1), ("late", 3, 5), ("late", 5, 2), ("late", N_ITEMS - 1, 5), ("lost", 77, 4)]
    lines = [f"{user},{item(k) if k < N_ITEMS else 'no such'},{r},1768867200\n" for user, k, r in new]
    (folder / "new.csv").write_text("user_id,item_id,rating,at\n" + "".join(lines) + "late,i1,five,1768867200\n")
    in_big = [f"u{k},big" for k in range(4)]
    segments = [*in_big, "visitor,big", "u4,small", "guest,small", "torn,small", "torn,big"]
    (folder / "segments.csv").write_text("user_id,segment\n" + "\n".join(segments) + "\n")
    (folder / "blocks.csv").write_text(f"user_id,item_id\nlate,{item(0)}\nvisitor,{item(1)}\n")
    return {
        "n": N,
        "new_ratings": str(folder / "new.csv"),
        "segments": {"path": str(folder / "segments.csv")},
        "popularity": {"half_life_days": 10.0, "min_segment_ratings": 6},
        "blocks": {"path": str(folder / "blocks.csv")},
    }


def test_everybody_gets_the_list_of_brute_force_and_the_gate_lets_it_pass(
    make_context: MakeContext, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    context = make_context(
        input={"columns": {"timestamp": "at"}},
        ingest={"max_quarantined_share": 0.5},
        train={"validation_share": 0.2, "rank": RANK},
        recommend=write_files(tmp_path),
    )
    run = SmallRun(context)
    with caplog.at_level("WARNING"):
        record = stage.run(context)

    assert record["new_ratings"]["totals"]["accepted"] == 6 == context.read(NEW_RATINGS).count()
    assert record["new_ratings"]["reasons"]["unparsable_rating"] == 1 == context.read(NEW_QUARANTINE).count()
    assert (record["ratings_of_unknown_items"], record["unknown_items"]) == (2, 2)
    assert "has 2 ratings of 2 items that the model does not know, such as" in caplog.text
    assert "recommend.segments names 1 users in several segments" in caplog.text
    assert record["unknown_ids"] == {"blocks_users": 0, "blocks_items": 0}
    numbers = {row["user_id"]: row["user_index"] for row in context.read(NEW_USERS).collect()}
    assert numbers == {name: N_USERS + k for k, name in enumerate(["guest", "late", "lost", "torn", "visitor"])}
    assert record["new_users"] == 5

    rated = {f"u{u}": dict(mine) for u, mine in run.rated.items()}
    rated["u0"] |= {1: 5.0, 2: 1.0}
    rated["late"] = {3: 5.0, 5: 2.0, N_ITEMS - 1: 5.0}
    folded = {name: run.vector(rated[name]) for name in ("u0", "u4", "late")}
    found = {row["user_id"]: [*row["factors"], row["bias"]] for row in context.read(FOLDED_FACTORS).collect()}
    assert found.keys() == folded.keys()
    for name, vector in folded.items():
        np.testing.assert_allclose(found[name], vector, atol=2e-4)

    days = {(f"u{u}", i): day for (u, i), day in run.days.items()}
    # 1768867200 is the 20th, which is also when the latest of the other ratings was made at most.
    days |= {("u0", 1): 0, ("u0", 2): 0, ("late", 3): 0, ("late", 5): 0, ("late", N_ITEMS - 1): 0}
    counts, in_big = np.zeros(N_ITEMS), np.zeros(N_ITEMS)
    for (name, i), day in days.items():
        counts[i] += 0.5 ** (day / 10)
        in_big[i] += (name in ("u0", "u1", "u2", "u3")) * 0.5 ** (day / 10)
    stored = {(row["segment"], row["item_id"]): row["popularity"] for row in context.read(POPULARITY).collect()}
    expected = {(None, item(k)): counts[k] for k in range(N_ITEMS) if counts[k]}
    expected |= {("big", item(k)): in_big[k] for k in range(N_ITEMS) if in_big[k]}
    assert stored == pytest.approx(expected, abs=1e-6), "the small segment has too few ratings"

    by_segment = in_big + counts / counts[: N_ITEMS - 1].sum()
    lists = {row["user_id"]: row["recommendations"] for row in context.read(RECOMMENDATIONS).collect()}
    scores = {f"u{u}": run.scores(run.users[u].astype(float)) for u in (1, 2, 3, 5)}
    scores |= {name: run.scores(vector) for name, vector in folded.items()}
    scores |= {"lost": counts, "guest": counts, "torn": by_segment, "visitor": by_segment}
    blocked = {"late": {0}, "visitor": {1}}
    assert lists.keys() == scores.keys()
    for name, entries in lists.items():
        hidden = set(rated.get(name, {})) | blocked.get(name, set())
        assert [entry["item_id"] for entry in entries] == best(scores[name], hidden), name
    sources = {name: {entry["source"] for entry in entries} for name, entries in lists.items()}
    assert {name for name, found in sources.items() if found == {"fold_in"}} == set(folded)
    assert {name for name, found in sources.items() if found == {"cf"}} == {"u1", "u2", "u3", "u5"}
    assert {name for name, found in sources.items() if found == {"popular"}} == {"lost", "guest"}
    own = {item(k) for k in range(N_ITEMS) if in_big[k]}
    for name in ("torn", "visitor"):
        for entry in lists[name]:
            assert entry["source"] == ("segment_popular" if entry["item_id"] in own else "popular")

    published(context)
    stored_run = StoredRun.open(context.run, context.storage, None)
    for name, source in (("late", "fold_in"), ("u1", "cf"), ("visitor", None)):
        explained = explain_user(stored_run, name)
        assert explained.source == source
        for one, entry in zip(explained.explanations, lists[name], strict=True):
            assert (one.position, one.item_id) == (entry["position"], entry["item_id"])
            assert one.score == pytest.approx(entry["score"], abs=1e-6)
            assert source is None or sum(one.parts.values()) + one.of_history.sum() == pytest.approx(
                one.score, abs=1e-6
            )
            assert source != "fold_in" or abs(one.parts["unsettled"]) < 1e-4


def published(context: StageContext) -> None:
    """Publish the run, whose gate must find nothing."""
    for name in ("ingest", "recommend", "evaluate"):
        context.storage.write_text(context.run.stage_record(name), json.dumps({"tables": {}}))
    run = {"config": context.config.model_dump(mode="json")}
    context.storage.write_text(f"{context.run.path}/run.json", json.dumps(run))
    checks = publish_stage.run(context)["checks"]
    assert not [check for check in checks if check["n_broken"]]


def test_new_ratings_that_are_not_there_or_cannot_be_read_are_refused(
    make_context: MakeContext, tmp_path: Path
) -> None:
    context = make_context(recommend={"new_ratings": [str(tmp_path / "absent.csv")]})
    with pytest.raises(ConfigError, match=r"no input file was found\n  where: recommend\.new_ratings"):
        stage.run(context)
    (tmp_path / "absent.csv").write_text("user_id,item_id,rating\nu0,i1,many\n")
    with pytest.raises(ContractError, match=r"new_quarantine\n  got: 1 of 1 rows set aside"):
        stage.run(context)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "squared", "positive_threshold": None}, [0.0, 0.5, 1.0]),
        ({"loss": "logistic"}, [1.0]),
        ({"loss": "logistic", "positive_threshold": 0.5}, [0.5, 1.0]),
        ({"loss": "implicit"}, [0.0, 0.5, 1.0]),
        ({"loss": "ials", "unobserved_weight": 0.1, "positive_threshold": 0.5}, [0.5, 1.0]),
    ],
)
def test_what_was_not_liked_makes_nothing_popular(
    spark: SparkSession, settings: dict[str, Any], expected: list[float]
) -> None:
    ratings = spark.createDataFrame([(0.0,), (0.5,), (1.0,)], "rating float")
    liked = positives(ratings, TrainConfig.model_validate(settings))
    assert sorted(row["rating"] for row in liked.collect()) == expected
