"""Whole pipelines through the command line, on small real files."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.session import SessionLimits
from recsys_spark.train import plan_of_run
from tests.conftest import small_config
from tests.runs.test_lineage import events_in

WriteConfig = Callable[..., str]


@pytest.fixture(autouse=True)
def one_session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands run in the tests' session instead of starting their own."""
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)


def write_ratings(folder: Path, n_users: int = 30, n_items: int = 25, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    pairs = {(f"0{u:03}", f"é {i}") for u, i in rng.integers(0, [n_users, n_items], (250, 2))}
    lines = [f"{u},{i},{rng.integers(1, 6)}" for u, i in sorted(pairs)]
    (folder / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines), encoding="utf-8")


def pairs_of(folder: Path) -> set[tuple[str, str]]:
    lines = (folder / "ratings.csv").read_text(encoding="utf-8").splitlines()[1:]
    return {(user, item) for user, item, _ in (line.split(",") for line in lines)}


def only_run(folder: Path) -> Path:
    (run,) = (folder / "out" / "runs").glob("date=*/run=*")
    return run


@pytest.fixture(scope="module")
def published(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """Run one pipeline; return its folder, its command, and what it printed."""
    folder = tmp_path_factory.mktemp("published")
    write_ratings(folder)
    (folder / "items.csv").write_text("item_id,title\né 1,<b>One</b> [red]\n", encoding="utf-8")
    sections = {"catalogue": {"path": str(folder / "items.csv")}, "evaluate": {"holdout_share": 0.2, "n": 3}}
    sections["recommend"] = {"rows": True}
    sections["similar_items"], sections["similar_users"] = {"n": 4}, {"method": "jaccard", "n": 5, "min_ratings": 3}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(small_config(folder, sections), allow_unicode=True), encoding="utf-8")
    command = ["pipeline", "--config", str(config), "--run-id", "manual__2026-01-05T00:00:00+00:00"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(cli, "build_session", lambda app_name: spark)
        assert main(command) == 0
    return folder, command, printed.getvalue()


def test_pipeline_publishes_a_table_that_keeps_every_promise(published: tuple[Path, list[str], str]) -> None:
    folder, _, _ = published
    pairs = pairs_of(folder)
    run = only_run(folder)
    assert run.name == "run=manual__2026-01-05T00-00-00-00-00-d57988", "the scheduler's id is made safe for a path"
    assert not [entry.name for entry in run.iterdir() if entry.name.startswith("_")], "no intermediate tables are left"
    lists = ds.dataset(run / "recommendations").to_table().to_pylist()
    items = {item for _, item in pairs}
    assert {row["user_id"] for row in lists} == {user for user, _ in pairs}
    assert len({row["generated_at"] for row in lists}) == 1
    assert {(row["run_id"], row["model"]) for row in lists} == {(run.name.removeprefix("run="), "squared, rank 2")}
    flat = ds.dataset(run / "recommendation_rows").to_table().to_pylist()
    assert [row for row in flat if row["user_id"] == lists[0]["user_id"]] == [
        {
            "user_id": lists[0]["user_id"],
            **entry,
            **{name: lists[0][name] for name in ("generated_at", "run_id", "model")},
        }
        for entry in lists[0]["recommendations"]
    ]
    assert len(flat) == sum(len(row["recommendations"]) for row in lists)
    for row in lists:
        unseen = items - {item for user, item in pairs if user == row["user_id"]}
        entries = row["recommendations"]
        assert len(entries) == min(3, len(unseen))
        assert {entry["item_id"] for entry in entries} <= unseen
        assert [entry["position"] for entry in entries] == list(range(1, len(entries) + 1))
        keys = [(-entry["score"], entry["item_id"].encode()) for entry in entries]
        assert keys == sorted(keys)
        assert {entry["source"] for entry in entries} <= {"cf"}
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["stages"]["ingest"]["totals"]["accepted"] == len(pairs)
    assert manifest["stages"]["ingest"]["inputs"][0]["size"] == (folder / "ratings.csv").stat().st_size
    assert manifest["run"]["config"]["train"]["rank"] == 2
    assert len(manifest["run"]["code_fingerprint"]) == 16
    assert manifest["stages"]["recommend"]["schemas"]["recommendations"].startswith("struct<user_id:string,")


def test_every_stage_leaves_its_lineage_and_has_jobs_of_its_name(
    spark: SparkSession, published: tuple[Path, list[str], str]
) -> None:
    folder, _, _ = published
    run = only_run(folder)
    events = events_in(run)
    kinds = [(event["job"]["name"].removeprefix("test."), event["eventType"]) for event in events]
    names = ["ingest", "index", "train", "recommend", "evaluate", "publish", "report"]
    assert kinds == [(name, kind) for name in names for kind in ("START", "COMPLETE")]
    whole = {event["job"]["name"].removeprefix("test."): event for event in events if event["eventType"] == "COMPLETE"}
    places = {
        (name, way): {Path(dataset["name"]).name for dataset in event[way]}
        for name, event in whole.items()
        for way in ("inputs", "outputs")
    }
    assert places["ingest", "inputs"] == {"ratings.csv", "items.csv"}
    assert places["ingest", "outputs"] == {"ratings", "quarantine", "catalogue"}
    assert "ratings" in places["index", "inputs"]
    assert places["train", "inputs"] == {"indexed_ratings", "user_index", "item_index"}
    assert places["train", "outputs"] == {"user_factors", "item_factors"}
    assert {"recommendations", "recommendation_rows", "similar_items"} <= places["recommend", "outputs"]
    assert "recommendations" in places["publish", "inputs"]
    assert places["publish", "outputs"] == {"publication_log"}
    tracker = spark.sparkContext.statusTracker()
    for name in ("ingest", "train", "recommend"):
        assert len(tracker.getJobIdsForGroup(f"{run.name.removeprefix('run=')}/{name}")) > 0, name


def test_pipeline_prints_a_summary(published: tuple[Path, list[str], str]) -> None:
    folder, _, printed = published
    n = len(pairs_of(folder))
    for expected in (
        f"{n} rows in = {n} accepted + 0 merged duplicates + 0 quarantined",
        "objective after each half-iteration",
        "rmse",
        "ndcg@3",
        "recall@3",
        "popularity",
        "item_mean",
        "bias_only",
        str(only_run(folder) / "recommendations"),
        "published as entry 1",
    ):
        assert expected in printed
    assert printed.count("rated (") == 3, "three users are shown"


def test_metrics_are_those_of_a_model_that_has_not_seen_the_held_out_ratings(
    published: tuple[Path, list[str], str],
) -> None:
    folder, _, _ = published
    record = json.loads((only_run(folder) / "stages" / "evaluate.json").read_text())
    assert record["n_training"] + record["n_held_out"] == len(pairs_of(folder))
    metrics = {(row["model"], row["metric"]): row for row in record["metrics"] if row["segment"] == "all"}
    assert metrics.keys() >= {("model", "rmse"), ("bias_only", "rmse"), ("item_mean", "mae"), ("popularity", "ndcg@3")}
    assert metrics["model", "rmse"]["n"] == record["n_held_out"]
    written = ds.dataset(only_run(folder) / "metrics").to_table().to_pylist()
    assert sorted(written, key=repr) == sorted(record["metrics"], key=repr)


def test_plan_says_what_training_then_took(
    published: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command, _ = published
    before = files_under(folder / "out")
    assert main(["plan", *command[1:], "--log-format", "json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    manifest = json.loads((only_run(folder) / "manifest.json").read_text())
    record = manifest["stages"]["train"]["plan"]
    assert planned.pop("reason") == "the vectors fit whole into every worker"
    assert planned == record["predicted"]
    assert planned["largest_block_bytes"] == record["actual"]["largest_block_bytes"]
    assert record["actual"].keys() <= planned.keys()

    assert main(["plan", *command[1:]]) == 0
    printed = capsys.readouterr().out
    for expected in ("replicate exchange", "solved by", "sent to every worker", "the driver's JVM", "4.0 GiB"):
        assert expected in printed
    assert files_under(folder / "out") == before, "nothing is written"


def test_plan_of_other_settings_is_refused_where_they_cannot_fit(
    published: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, command, _ = published
    tight = SessionLimits(cores=2, result_bytes=50_000)
    monkeypatch.setattr(plan_of_run, "session_limits", lambda spark: tight)
    assert main(["plan", *command[1:]]) == 0
    large = [*command[1:], "--set", "train.rank=1000"]
    capsys.readouterr()
    assert main(["plan", *large]) == 0
    routed = "route exchange (replicate does not fit: the user vectors are more than one job may return)"
    assert routed in capsys.readouterr().out
    assert main(["plan", *large, "--set", "train.exchange=replicate"]) == 2
    shown = capsys.readouterr()
    assert "the results of one job" in shown.out
    assert "error: the user vectors are more than one job may return" in shown.err
    assert "remedy: lower train.rank to at most" in shown.err


def test_plan_needs_the_index(
    published: tuple[Path, list[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, _ = published
    root = ["--set", f"output.path={tmp_path / 'out'}"]
    assert main(["plan", *command[1:], *root]) == 2
    assert "this one does not exist" in capsys.readouterr().err
    assert main(["ingest", *command[1:], *root]) == 0
    assert main(["plan", *command[1:], *root]) == 2
    text = capsys.readouterr().err
    assert "plan needs index to be done first" in text
    assert "remedy: run index with --run-id" in text


@pytest.mark.parametrize(
    ("train", "expected", "score_range"),
    [
        (
            {"unobserved_weight": 0.1, "reg_param": 0.01, "bias_reg_param": 0.01},
            {("rating_model", "rmse"), ("bias_only", "mae"), ("model", "ndcg@10")},
            (-100, 100),
        ),
        (
            {"loss": "logistic", "positive_threshold": 3.0},
            {("model", "log_loss"), ("model", "auc"), ("item_mean", "auc"), ("model", "recall@10")},
            (0, 1),
        ),
        (
            {"exchange": "route", "biases": False},
            {("model", "rmse"), ("bias_only", "rmse"), ("item_mean", "mae"), ("model", "ndcg@10")},
            (-100, 100),
        ),
        ({"loss": "ials", "unobserved_weight": 0.1}, {("model", "ndcg@10"), ("popularity", "ndcg@10")}, (-2, 2)),
    ],
)
@pytest.mark.slow
def test_every_loss_is_measured_by_what_it_predicts(
    write_config: WriteConfig,
    tmp_path: Path,
    train: dict[str, object],
    expected: set[tuple[str, str]],
    score_range: tuple[float, float],
) -> None:
    write_ratings(tmp_path)
    config = write_config(train=train, evaluate={"holdout_share": 0.3})
    assert main(["pipeline", "--config", config]) == 0
    run = only_run(tmp_path)
    record = json.loads((run / "stages" / "evaluate.json").read_text())
    found = {(row["model"], row["metric"]): row["value"] for row in record["metrics"] if row["segment"] == "all"}
    assert expected <= found.keys()
    assert (("model", "rmse") in found) == ("exchange" in train)
    assert not [path.name for path in run.iterdir() if path.name.startswith("_")], "no vectors are left"
    assert all(np.isfinite(value) for value in found.values())
    lists = pq.read_table(run / "recommendations")["recommendations"].to_pylist()
    scores = [entry["score"] for entries in lists for entry in entries]
    assert scores
    assert all(score_range[0] <= score <= score_range[1] for score in scores)


def test_show_prints_the_published_list_with_titles(
    published: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command, _ = published
    row = ds.dataset(only_run(folder) / "recommendations").to_table().to_pylist()[0]
    assert main(["show", row["user_id"], *command[1:3]]) == 0
    shown = capsys.readouterr().out
    assert f"user {row['user_id']}" in shown
    for entry in row["recommendations"]:
        title = "<b>One</b> [red]" if entry["item_id"] == "é 1" else entry["item_id"]
        assert f"{entry['position']}. {title}" in shown


def test_neighbours_are_published_and_shown(
    published: tuple[Path, list[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command, printed = published
    run = only_run(folder)
    rated: dict[str, set[str]] = {}
    for user, item in pairs_of(folder):
        rated.setdefault(user, set()).add(item)
    by_user = {row["user_id"]: row for row in ds.dataset(run / "similar_users").to_table().to_pylist()}
    assert by_user.keys() == rated.keys()
    for user, row in by_user.items():
        common = {other: len(rated[user] & held) for other, held in rated.items() if other != user and len(held) >= 3}
        score = {o: c / len(rated[user] | rated[o]) * c / (c + 10) for o, c in common.items() if c}
        expected = sorted(score, key=lambda o: (-np.float32(score[o]), o))[:5]
        assert [entry["user_id"] for entry in row["neighbours"]] == expected
        assert [entry["n_common"] for entry in row["neighbours"]] == [common[o] for o in expected]
        assert (row["short_reason"] is None) == (len(expected) == 5)
    factors = {row["item_id"]: row for row in ds.dataset(run / "item_factors").to_table().to_pylist()}
    vectors = {item: np.array(row["factors"]) for item, row in factors.items()}
    weight = {item: row["n_ratings"] / (row["n_ratings"] + 10) for item, row in factors.items()}
    by_item = {row["item_id"]: row for row in ds.dataset(run / "similar_items").to_table().to_pylist()}
    assert by_item.keys() == vectors.keys()
    for item, row in by_item.items():
        unit = {o: v / np.linalg.norm(v) for o, v in vectors.items()}
        score = {o: float(unit[item] @ unit[o]) * weight[item] * weight[o] for o in vectors if o != item}
        expected = [o for o in sorted(score, key=lambda o: -score[o]) if score[o] > 0][:4]
        assert [entry["item_id"] for entry in row["neighbours"]] == expected
        assert {(row["run_id"], row["model"]) for row in by_item.values()} == {
            (run.name.removeprefix("run="), "factors of squared, rank 2, shrink 10")
        }
    assert "most similar by factors of squared, rank 2" in printed

    assert main(["similar", "é 1", *command[1:3]]) == 0
    shown = capsys.readouterr().out
    assert "item <b>One</b> [red]: most similar by factors" in shown
    assert all(entry["item_id"] in shown for entry in by_item["é 1"]["neighbours"])
    user = min(rated)
    assert main(["similar", user, "--users", *command[1:3]]) == 0
    assert f"user {user}: most similar by jaccard, shrink 10" in capsys.readouterr().out


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_repeating_a_finished_run_changes_nothing(published: tuple[Path, list[str], str]) -> None:
    folder, command, _ = published
    before = files_under(folder / "out")
    assert main(command) == 0
    assert files_under(folder / "out") == before
    assert main([*command, "--set", "train.rank=3"]) == 2, "another configuration is another run"
    assert files_under(folder / "out") == before


@pytest.mark.slow
def test_stages_one_by_one_give_the_tables_of_the_pipeline(
    published: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    folder, command, _ = published
    options = [*command[1:3], "--set", f"output.path={tmp_path / 'out'}", "--run-id", "parts", "--log-format", "json"]
    for stage in ("ingest", "index", "train", "recommend", "evaluate", "publish"):
        assert main([stage, *options]) == 0
    for table in ("ratings", "user_index", "item_index", "user_factors", "item_factors", "recommendations"):
        tables = [ds.dataset(run / table).to_table() for run in (only_run(folder), only_run(tmp_path))]
        of_this_run = [name for name in ("generated_at", "run_id") if name in tables[0].column_names]
        rows = [sorted(map(repr, found.drop_columns(of_this_run).to_pylist())) for found in tables]
        assert rows[0] == rows[1], table
    assert (tmp_path / "out" / "publication_log" / "00000001.json").exists()


def test_a_stage_that_was_cut_off_is_done_again(
    published: tuple[Path, list[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command, _ = published
    shutil.copytree(folder / "out", tmp_path / "out")
    run = only_run(tmp_path)
    before = files_under(run / "recommendations").values()
    shutil.rmtree(tmp_path / "out" / "publication_log")
    for record in ("recommend", "publish"):
        (run / "stages" / f"{record}.json").unlink()
    (run / "recommendations" / "part-half-written.parquet").write_bytes(b"PAR1")
    (run / "_lists").mkdir()
    assert main([*command, "--set", f"output.path={tmp_path / 'out'}"]) == 0
    assert "train: already done" in capsys.readouterr().err
    assert len(files_under(run / "recommendations").values()) == len(before)
    assert not (run / "_lists").exists()
    assert (tmp_path / "out" / "publication_log" / "00000001.json").exists()


def test_a_table_that_breaks_its_promise_is_not_published(
    published: tuple[Path, list[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command, _ = published
    shutil.copytree(folder / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "publication_log")
    lists = only_run(tmp_path) / "recommendations"
    (only_run(tmp_path) / "stages" / "publish.json").unlink()
    kept = ds.dataset(lists).to_table().slice(1)
    shutil.rmtree(lists)
    lists.mkdir()
    pq.write_table(kept, lists / "part-0.parquet")
    options = [*command[1:], "--set", f"output.path={tmp_path / 'out'}"]
    assert main(["publish", *options]) == 3
    assert "1 users without a list" in capsys.readouterr().err
    assert not (tmp_path / "out" / "publication_log").exists()


CORNERS = {
    "one user": ("u,a,1\nu,b,5\nu,c,3\n", {}),
    "one item": ("u,a,1\nv,a,5\nw,a,3\n", {}),
    "one rating": ("u,a,4\n", {}),
    "constant ratings": ("u,a,3\nu,b,3\nv,b,3\nv,c,3\n", {}),
    "rank larger than items": ("u,a,1\nu,b,5\nv,b,4\nv,c,3\n", {"train": {"rank": 64}}),
    "no biases": ("u,a,1\nu,b,5\nv,b,4\nv,c,3\n", {"train": {"biases": False}}),
}


@pytest.mark.parametrize("corner", list(CORNERS))
@pytest.mark.slow
def test_corners_of_the_data_give_finite_lists(write_config: WriteConfig, tmp_path: Path, corner: str) -> None:
    lines, sections = CORNERS[corner]
    (tmp_path / "ratings.csv").write_text("user_id,item_id,rating\n" + lines)
    holdout = 0.3 if corner in ("one user", "one rating", "no biases") else 0.0
    config = write_config(evaluate={"holdout_share": holdout}, **sections)
    assert main(["pipeline", "--config", config]) == 0
    rated = {tuple(line.split(",")[:2]) for line in lines.splitlines()}
    items = {item for _, item in rated}
    lists = ds.dataset(only_run(tmp_path) / "recommendations").to_table().to_pylist()
    assert {row["user_id"] for row in lists} == {user for user, _ in rated}
    for row in lists:
        unseen = {item for item in items if (row["user_id"], item) not in rated}
        assert {entry["item_id"] for entry in row["recommendations"]} == unseen
        assert np.isfinite([entry["score"] for entry in row["recommendations"]]).all()
        assert row["short_reason"].startswith(f"only {len(unseen)} of 3")


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[str]:
    taken = tmp_path / "taken"
    taken.write_text("a file where the folder should be")
    return str(taken)


def test_output_that_cannot_be_written_is_a_configuration_error(
    write_config: WriteConfig, tmp_path: Path, unwritable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ratings(tmp_path)
    assert main(["pipeline", "--config", write_config(output={"path": unwritable})]) == 2
    text = capsys.readouterr().err
    assert "the output path cannot be written" in text
    assert unwritable in text
