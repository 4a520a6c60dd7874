"""The evaluate stage on small logs: what it writes is measured again, from its own split, by loops."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from recsys_spark.config import TrainConfig
from recsys_spark.errors import ContractError
from recsys_spark.evaluate import held_out_ratings, measured_models, stage
from recsys_spark.pipeline import run_stages, stages
from recsys_spark.progress import Progress
from recsys_spark.runs.run_directory import StageContext

MakeContext = Callable[..., StageContext]
N_USERS, N_ITEMS = 40, 25


def write_log(folder: Path, seed: int = 0) -> None:
    """Tastes that factors can find: users like every third item, and rate it later the larger its number is."""
    rng, lines = np.random.default_rng(seed), ["user_id,item_id,rating,time"]
    for user in range(N_USERS):
        for item in range(N_ITEMS):
            if rng.random() < 0.5:
                rating = (5 if (user + item) % 3 == 0 else 2) - int(rng.random() < 0.3)
                lines.append(f"u{user},i{item},{rating},{86_400 * (10 + item + int(rng.integers(0, 3)))}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")


def evaluated(make_context: MakeContext, folder: Path, **sections: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the evaluate stage and what it needs; return its record, and the split."""
    write_log(folder)
    paths = {"path": str(folder / "ratings.csv"), "columns": {"timestamp": "time"}}
    context = make_context(input=paths, **sections)
    run_stages(context, stages(("ingest", "index", "evaluate")))
    left = [entry.name for entry in Path(context.run.path).iterdir() if entry.name.startswith("_")]
    assert not left, "no intermediate tables are left"
    written = ds.dataset(f"{context.run.path}/metrics").to_table().to_pylist()
    record = context.record("evaluate")
    assert sorted(written, key=repr) == sorted(record["metrics"], key=repr)
    return record, ds.dataset(f"{context.run.path}/evaluation_split").to_table().to_pylist()


def values(record: dict[str, Any]) -> dict[tuple[str, str], float]:
    return {(row["model"], row["metric"]): row["value"] for row in record["metrics"] if row["segment"] == "all"}


def rmse(predicted: list[float], actual: list[float]) -> float:
    return math.sqrt(np.mean((np.array(predicted) - np.array(actual)) ** 2))


def popular_ndcg(split: list[dict[str, Any]], counts: Counter[int], n: int) -> float:
    """Return NDCG of lists of the items with the highest counts, ties by index, of ratings of 4 and more."""
    found = []
    for user in range(N_USERS):
        relevant = {
            r["item_index"] for r in split if r["user_index"] == user and r["part"] == "held_out" and r["rating"] >= 4
        }
        seen = {r["item_index"] for r in split if r["user_index"] == user and r["part"] != "held_out"}
        trained = {r["item_index"] for r in split if r["part"] == "training"}
        best = sorted(trained - seen, key=lambda item: (-counts[item], item))[:n]
        gains = [1 / math.log2(place + 2) for place, item in enumerate(best) if item in relevant]
        if relevant:
            found.append(sum(gains) / sum(1 / math.log2(p + 2) for p in range(min(n, len(relevant)))))
    return float(np.mean(found))


def labelled(
    make_context: MakeContext, folder: Path, is_zero: Callable[[int, int], bool]
) -> tuple[StageContext, dict[str, Any]]:
    """Evaluate the logistic loss on labels by user and day, of which each user's last one is held out."""
    lines = ["user_id,item_id,rating,time"]
    for user in range(12):
        for day in range(6):
            lines.append(f"u{user},i{(user * 5 + day) % 9},{int(not is_zero(user, day))},{86_400 * (10 + day)}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    context = make_context(
        input={"path": str(folder / "ratings.csv"), "columns": {"timestamp": "time"}},
        train={"loss": "logistic"},
        evaluate={"split": "last_k", "n": 3},
    )
    run_stages(context, stages(("ingest", "index", "evaluate")))
    return context, context.record("evaluate")


def test_without_both_labels_to_train_on_nothing_is_measured_and_told_why(
    make_context: MakeContext, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    with caplog.at_level("WARNING"):
        context, record = labelled(make_context, tmp_path, lambda user, day: day == 5 and user < 4)
    assert record["metrics"] == []
    assert (record["n_training"], record["n_held_out"]) == (60, 12)
    assert ds.dataset(f"{context.run.path}/metrics").to_table().num_rows == 0
    assert "of the ratings that are not held out, all have the label 1" in caplog.text
    assert "train.positive_threshold" in caplog.text


def test_without_both_labels_held_out_errors_are_told_and_no_area(make_context: MakeContext, tmp_path: Path) -> None:
    _, record = labelled(make_context, tmp_path, lambda user, day: day == 2)
    of_model = {row["metric"]: row["value"] for row in record["metrics"] if row["model"] == "model"}
    assert not [name for name in of_model if name.startswith("auc")], "there is no pair of a one and a zero"
    assert 0 < of_model["log_loss"] < 1
    assert all(math.isfinite(row["value"]) for row in record["metrics"])


def test_held_out_users_are_folded_in_and_everything_stands_beside_baselines(
    make_context: MakeContext, tmp_path: Path
) -> None:
    evaluation = {
        "split": "users", "holdout_share": 0.4, "relevant_rating": 4, "n": 3, "at": [1, 5, 40], "item_knn": True,
        "sampled_negatives": 6, "recent_days": 5, "replicates": 30, "activity_bounds": [8],
    }  # fmt: skip
    record, split = evaluated(make_context, tmp_path, evaluate=evaluation, train={"rank": 3, "iterations": 5})
    parts = Counter(row["part"] for row in split)
    assert (parts["training"], parts["fold_in"], parts["held_out"]) == tuple(
        record[f"n_{name}"] for name in ("training", "fold_in", "held_out")
    )
    found = values(record)
    held_out = [row for row in split if row["part"] == "held_out"]
    training = [row for row in split if row["part"] == "training"]
    actual, mean = [row["rating"] for row in held_out], float(np.mean([row["rating"] for row in training]))
    assert found["global_mean", "rmse"] == pytest.approx(rmse([mean] * len(actual), actual))
    of_item = {i: np.mean([r["rating"] for r in training if r["item_index"] == i]) for i in range(N_ITEMS)}
    assert found["item_mean", "rmse"] == pytest.approx(rmse([of_item[r["item_index"]] for r in held_out], actual))
    # Nobody but the fold-in knows these users: without it, the model could say no more than biases of items do.
    assert found["model", "rmse"] < 0.8 * found["item_mean", "rmse"]
    counts = Counter(row["item_index"] for row in training)
    assert found["popularity", "ndcg@3"] == pytest.approx(popular_ndcg(split, counts, 3))
    latest = max(row["timestamp"] for row in training)
    recent = Counter(row["item_index"] for row in training if (latest - row["timestamp"]).total_seconds() < 5 * 86_400)
    assert found["popularity_recent", "ndcg@5"] == pytest.approx(popular_ndcg(split, recent, 5))
    assert found["model", "ndcg@3"] > found["popularity", "ndcg@3"]
    assert found.keys() >= {
        ("item_knn", "rmse"), ("item_knn", "ndcg@1"), ("bias_only", "mae"), ("model", "r2"), ("model", "auc"),
        ("model", "auc_per_user"), ("model", "calibration_error"), ("model", "coverage@3"), ("model", "diversity@3"),
        ("popularity", "overlap_with_model@3"), ("model", "sampled_6_ndcg@3"), ("popularity", "sampled_6_hit_rate@3"),
    }  # fmt: skip
    assert all(np.isfinite(value) for value in found.values())
    # Lists longer than the catalogue hold all of it, but for what is known of the user; places that stay empty count.
    by_user = Counter(row["user_index"] for row in held_out if row["rating"] >= 4)
    for model in ("model", "popularity", "popularity_recent", "item_knn"):
        assert found[model, "recall@40"] == found[model, "hit_rate@40"] == 1.0
        assert found[model, "precision@40"] == pytest.approx(np.mean(list(by_user.values())) / 40)
    compared = {(row["baseline"], row["metric"]): row["verdict"] for row in record["comparisons"]}
    assert compared["global_mean", "rmse"] == "better"
    assert compared.keys() == {
        *((name, "rmse") for name in ("bias_only", "item_mean", "global_mean", "item_knn")),
        *((name, "ndcg@3") for name in ("popularity", "popularity_recent", "item_knn")),
    }


def test_models_of_rating_errors_are_fitted_side_by_side_with_the_same_bits(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    together = stage.fit_together

    def compare(context: StageContext, parts: Any, configs: Any, like: Any) -> Any:
        found = together(context, parts, configs, like)
        for name, config in configs.items():
            alone = measured_models.fit_measured(context, parts, config, f"alone {name}")
            np.testing.assert_array_equal(found[name].user_vectors, alone.user_vectors)
            np.testing.assert_array_equal(found[name].item_vectors, alone.item_vectors)
            assert len(found[name].history) == len(alone.history)
            compared.append(name)
        return found

    monkeypatch.setattr(stage, "fit_together", compare)
    told: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, text, **fields: told.append(text))
    train = {"rank": 2, "iterations": 3, "unobserved_weight": 0.2, "reg_param": 0.01, "bias_reg_param": 0.01}
    record, _ = evaluated(make_context, tmp_path, train=train, evaluate={"n": 3, "holdout_share": 0.2, "replicates": 0})
    assert compared == ["rating_model", "bias_only"]
    assert "evaluate: fitted side by side: rating_model, bias_only" in told
    assert {model for model, metric in values(record) if metric == "rmse"} == {
        "rating_model", "bias_only", "item_mean", "global_mean"
    }  # fmt: skip


def test_a_split_by_time_and_labels(make_context: MakeContext, tmp_path: Path) -> None:
    """One factor and one iteration: a model that has learnt nothing is told so."""
    train = {
        "loss": "logistic",
        "positive_threshold": 4,
        "rank": 1,
        "iterations": 1,
        "reg_param": 1e6,
        "bias_reg_param": 1e6,
    }
    evaluation = {"split": "time", "holdout_share": 0.3, "n": 3, "replicates": 30}
    record, split = evaluated(make_context, tmp_path, evaluate=evaluation, train=train)
    first = min(row["timestamp"] for row in split if row["part"] == "held_out")
    assert max(row["timestamp"] for row in split if row["part"] == "training") < first
    assert record["from_time"] is not None
    found = values(record)
    held_out = [row for row in split if row["part"] == "held_out"]
    share = np.mean([row["rating"] >= 4 for row in split if row["part"] == "training"])
    losses = [-math.log(share if row["rating"] >= 4 else 1 - share) for row in held_out]
    assert found["global_mean", "log_loss"] == pytest.approx(np.mean(losses))
    assert found["global_mean", "auc"] == 0.5
    counts = Counter(row["item_index"] for row in split if row["part"] == "training")
    # Hits are what training takes for a liking, where nothing else is told.
    assert found["popularity", "ndcg@3"] == pytest.approx(popular_ndcg(split, counts, 3))
    assert "new items" in {row["segment"] for row in record["metrics"]}
    assert [row for row in record["comparisons"] if row["verdict"] != "better"]
    assert record["advice"] == stage.advice(TrainConfig.model_validate(train), record["comparisons"])


def test_advice_is_for_lists_that_lose_and_losses_that_see_rated_pairs_alone() -> None:
    def row(metric: str, advantage: float) -> dict[str, Any]:
        return {"metric": metric, "advantage": advantage}

    plain, pulled = TrainConfig(), TrainConfig(unobserved_weight=0.1)
    found = stage.advice(plain, [row("ndcg@10", -0.1)])
    assert found is not None
    tried = yaml.safe_load(re.search(r"train: (\{.*?\})", found)[1])
    assert TrainConfig.model_validate(tried).unobserved_weight > 0
    labels = stage.advice(TrainConfig(loss="logistic"), [row("ndcg@10", 0.0)])
    assert TrainConfig.model_validate(yaml.safe_load(re.search(r"train: (\{.*?\})", labels)[1])).loss == "ials"
    assert stage.advice(pulled, [row("ndcg@10", -0.1)]) is None
    assert stage.advice(TrainConfig(loss="implicit"), [row("ndcg@10", -0.1)]) is None
    assert stage.advice(plain, [row("ndcg@10", 0.1), row("rmse", -0.1)]) is None


def test_a_split_that_leaks_stops_the_run(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaking:
        from_time = None

        def __init__(self, frame: Any) -> None:
            self.frame = frame

    real = held_out_ratings.split_by

    def leak(ratings: Any, config: Any) -> Any:
        frame = real(ratings, config).frame
        return Leaking(
            frame.unionByName(frame.where("part = 'held_out'").selectExpr("* except (part)", "'training' as part"))
        )

    monkeypatch.setattr(held_out_ratings, "split_by", leak)
    with pytest.raises(ContractError, match="ratings that are in the table twice"):
        evaluated(make_context, tmp_path)
