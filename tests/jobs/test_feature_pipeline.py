"""A whole pipeline that regresses on features, and what it explains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main

WriteConfig = Callable[..., str]
N_USERS, N_ITEMS = 14, 12
GENRES = ["War", "Comedy", "Comedy|War", "Drama"]


def write_files(folder: Path) -> dict[str, Any]:
    """Write ratings that follow the genres; the last item has no ratings, and item 3 no features."""
    rng = np.random.default_rng(11)
    likes = {genre: rng.normal(size=N_USERS) for genre in ("War", "Comedy", "Drama")}
    lines, features = [], ["item_id,genres,year"]
    for i in range(N_ITEMS):
        genres = GENRES[i % 4]
        if i != 3:
            features.append(f"i{i:02},{genres},{1980 + i}")
        for u in np.flatnonzero(rng.random(N_USERS) < 0.6) if i < N_ITEMS - 1 else []:
            rating = np.clip(round(3 + 1.5 * sum(likes[genre][u] for genre in genres.split("|"))), 1, 5)
            lines.append(f"u{u:02},i{i:02},{rating}")
    (folder / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines) + "\n")
    (folder / "features.csv").write_text("\n".join(features) + "\n")
    kinds = {"genres": {"kind": "multi_valued", "separator": "|"}, "year": {"kind": "numeric"}}
    return {"path": str(folder / "features.csv"), "features": kinds}


@pytest.mark.slow
def test_a_regression_is_trained_measured_listed_and_explained(
    spark: SparkSession, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    section = write_files(tmp_path)
    lines = (tmp_path / "features.csv").read_text().splitlines()
    plots = [f"A {'siege' if 'War' in line else 'wedding'} in winter" for line in lines[1:]]
    with_plots = [f"{line},{plot}" for line, plot in zip(lines, ["plot", *plots], strict=True)]
    (tmp_path / "features.csv").write_text("\n".join(with_plots) + "\n")
    section["features"] = {**section["features"], "plot": {"kind": "text", "n_hashes": 512, "weight": 0.5}}
    config = write_config(
        item_features=section, train={"model": "feature_regression", "reg_param": 0.5},
        evaluate={"holdout_share": 0.25, "relevant_rating": 4.0}, ingest={"rating_range": [1, 5]},
        similar_users={"method": "factors"},
    )  # fmt: skip
    assert main(["pipeline", "--config", config, "--run-id", "r"]) == 0
    printed = capsys.readouterr()
    assert "model: feature_regression, squared, 516 features" in printed.out or "objective after" in printed.out
    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=*")
    assert not [path.name for path in run.iterdir() if path.name.startswith("_")], "no intermediate tables are left"

    names = ds.dataset(run / "feature_weights").to_table().sort_by("column")["feature"].to_pylist()
    assert names == ["genres=Comedy", "genres=Drama", "genres=War", *(f"plot#{k}" for k in range(512)), "year"]
    weights = {row["user_id"]: row for row in ds.dataset(run / "user_weights").to_table().to_pylist()}
    items = {row["item_id"]: row["factors"] for row in ds.dataset(run / "item_factors").to_table().to_pylist()}
    assert items["i03"] == [0.0] * 516
    lists = {row["user_id"]: row for row in ds.dataset(run / "recommendations").to_table().to_pylist()}
    for user, row in lists.items():
        for entry in row["recommendations"]:
            own = weights[user]
            expected = own["intercept"] + np.dot(own["weights"], items[entry["item_id"]])
            assert entry["score"] == pytest.approx(expected, abs=1e-5)
    report = (run / "report.html").read_text()
    assert "What is known of the items" in report
    assert "by features" in report, "the page explains a list by features too"
    record = json.loads((run / "stages" / "evaluate.json").read_text())
    rmse = [row for row in record["metrics"] if row["metric"] == "rmse"]
    assert (
        sum(row["n"] for row in rmse if row["model"] == "model" and "users of" in row["segment"])
        + sum(row["n"] for row in rmse if row["model"] == "model" and row["segment"] == "new users")
        == record["n_held_out"]
    ), "errors are told by activity too"
    overall = {row["model"]: row["value"] for row in rmse if row["segment"] == "all"}
    assert overall["model"] < overall["item_mean"], "ratings follow the genres"

    user, row = next((user, row) for user, row in sorted(lists.items()) if row["recommendations"])
    assert main(["why", user, "--config", config]) == 0
    page = capsys.readouterr().out
    assert "genres=" in page or "plot=" in page
    assert "plot#" not in page
    entry = next(entry for entry in row["recommendations"] if entry["item_id"] != "i03")
    assert main(["why", user, "--item", entry["item_id"], "--config", config]) == 0
    page = capsys.readouterr().out
    assert "the same score by features" in page
    assert "plot=winter" in page
    assert "plot#" not in page
    added = [
        float(line.split()[0])
        for line in page.split("the same score by features")[1].splitlines()[2:]
        if line[:2].strip()[:1] in ("+", "-")
    ]
    assert sum(added) == pytest.approx(entry["score"], abs=5e-4)


def test_new_items_are_listed_compared_checked_and_measured(
    spark: SparkSession, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    section = write_files(tmp_path)
    with (tmp_path / "features.csv").open("a") as file:
        file.write("new1,War,1990\nnew2,Comedy,1991\nnew3,Drama,1992\n")
    (tmp_path / "deny.csv").write_text("item_id\nnew3\n")
    kinds = {f"i{i:02}": GENRES[i % 4][0] for i in range(N_ITEMS)} | {"new1": "W", "new2": "C", "new3": "D"}
    lines = [f"{name},title,{kind}" for name, kind in kinds.items()]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,kind", *lines]) + "\n")
    config = write_config(
        catalogue={"path": str(tmp_path / "items.csv"), "category": "kind"},
        item_features=section | {"factor_map": {"min_ratings": 1, "reg_param": 0.1}},
        train={"side_information": {"reg_param": 0.5}, "reg_param": 0.5, "iterations": 4},
        recommend={"n": 4, "max_new_items": 1, "max_per_category": 2, "deny": {"path": str(tmp_path / "deny.csv")}},
        similar_items={"content_weight": 0.5, "n": 3}, ingest={"rating_range": [1, 5]},
        evaluate={"holdout_share": 0.25, "relevant_rating": 4.0, "holdout_items_share": 0.4, "n": 2},
    )  # fmt: skip
    assert main(["pipeline", "--config", config, "--run-id", "r"]) == 0
    capsys.readouterr()
    (run,) = (tmp_path / "out" / "runs").glob("date=*/run=*")
    assert not [path.name for path in run.iterdir() if path.name.startswith("_")], "no intermediate tables are left"

    new = {row["item_id"]: row for row in ds.dataset(run / "content_factors").to_table().to_pylist()}
    assert set(new) == {f"i{N_ITEMS - 1:02}", "new1", "new2", "new3"}
    assert {row["n_ratings"] for row in new.values()} == {0}
    old = {row["item_id"]: row for row in ds.dataset(run / "item_factors").to_table().to_pylist()}
    users = {row["user_id"]: row for row in ds.dataset(run / "user_factors").to_table().to_pylist()}
    mean = json.loads((run / "stages" / "train.json").read_text())["global_mean"]
    rated = {(row["user_id"], row["item_id"]) for row in ds.dataset(run / "ratings").to_table().to_pylist()}
    lists = {
        row["user_id"]: row["recommendations"] for row in ds.dataset(run / "recommendations").to_table().to_pylist()
    }
    n_new = 0
    for user, entries in lists.items():
        vector = users[user]
        scores = {
            name: mean + vector["bias"] + row["bias"] + np.dot(vector["factors"], row["factors"])
            for name, row in (old | new).items()
            if (user, name) not in rated and name != "new3"
        }
        # Down the whole ranking, but past every new item after the first, and the third of a kind.
        best: list[str] = []
        for name in sorted(scores, key=lambda name: (-np.float32(scores[name]), name)):
            n_alike = sum(kinds[other] == kinds[name] for other in best)
            if n_alike < 2 and not (name in new and any(other in new for other in best)):
                best.append(name)
        assert [entry["item_id"] for entry in entries] == best[:4], user
        assert [entry["source"] for entry in entries] == ["content" if name in new else "cf" for name in best[:4]]
        n_new += sum(name in new for name in best[:4])
    record = json.loads((run / "stages" / "recommend.json").read_text())
    assert record["n_new_entries"] == n_new > 0
    assert set(record["lists_by_source"]) == {"cf"}
    checks = {check["name"] for check in json.loads((run / "stages" / "publish.json").read_text())["checks"]}
    assert checks >= {"lists with more than 1 new items", "lists with more than 2 items of a category"}

    similar = {row["item_id"]: row["neighbours"] for row in ds.dataset(run / "similar_items").to_table().to_pylist()}
    assert set(similar) == set(old) | set(new)
    assert all(neighbours for item, neighbours in similar.items() if item != "i03"), "new items have neighbours too"
    assert "new3" not in {entry["item_id"] for neighbours in similar.values() for entry in neighbours}

    metrics = json.loads((run / "stages" / "evaluate.json").read_text())["metrics"]
    of_new = {(row["model"], row["metric"]): row["value"] for row in metrics if row["metric"].startswith("new items")}
    for model in ("content", "popularity_in_hindsight", "random"):
        assert 0 <= of_new[model, "new items: ndcg@2"] <= 1
    # How far features are ahead is tested where there are more items.
    assert 0 < of_new["random", "new items: recall@2"] < 1
    assert of_new["content", "new items: recall@2"] > 0

    user = next(user for user, entries in lists.items() if any(entry["source"] == "content" for entry in entries))
    entry = next(entry for entry in lists[user] if entry["source"] == "content")
    assert main(["why", user, "--item", entry["item_id"], "--config", config]) == 0
    page = capsys.readouterr().out
    assert f"position {entry['position']} of the list" in page
