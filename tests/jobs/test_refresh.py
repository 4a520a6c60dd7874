"""A night that changes what changed: items stay, users with other ratings are solved anew, other lists taken over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.config import PipelineConfig
from recsys_spark.kernels.losses import Loss
from recsys_spark.kernels.objective import Regularization
from recsys_spark.pipeline import run_stages, stages
from recsys_spark.recommend import refresh
from recsys_spark.runs.publication_log import current_publication, publications
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.storage import LocalStorage
from recsys_spark.tables import CHANGED_USERS
from recsys_spark.train.taken_over import take_over_model
from tests.conftest import small_config
from tests.reference_rows import RowReference
from tests.unchecked_nights import context_of, make_lists, publish_unchecked

STORAGE = LocalStorage()
N_USERS, N_ITEMS = 24, 12
# Who has other ratings in the second night.
CHANGED = {"u00", "u01", "u02", "u03", "fresh", "odd"}
Ratings = dict[tuple[str, str], int]
Make = Callable[..., StageContext]


def first_ratings() -> Ratings:
    rng = np.random.default_rng(5)
    pairs = {(f"u{u:02}", f"i{i:02}") for u, i in rng.integers(0, [N_USERS, N_ITEMS], (130, 2))}
    ratings = {pair: int(rng.integers(1, 6)) for pair in sorted(pairs)}
    ratings |= {("u00", "i00"): 1, ("u01", "i01"): 1, ("u02", "i02"): 1, ("u02", "i03"): 4, ("u03", "i04"): 2}
    ratings.pop(("u00", "i05"), None)
    return ratings


def second_ratings() -> Ratings:
    """Return another night's: one more, another value, one less, of an unknown item, of new users."""
    ratings = first_ratings()
    ratings |= {("u00", "i05"): 5, ("u01", "i01"): 5, ("u03", "unheard"): 5, ("odd", "unheard"): 3}
    ratings |= {("fresh", "i00"): 5, ("fresh", "i07"): 1}
    del ratings["u02", "i02"]
    return ratings


def write_log(folder: Path, ratings: Ratings) -> None:
    lines = [f"{user},{item},{rating}" for (user, item), rating in ratings.items()]
    (folder / "ratings.csv").write_text("user_id,item_id,rating\n" + "\n".join(lines) + "\n")


def table(run: Run, name: str) -> pa.Table:
    found = ds.dataset(f"{run.path}/{name}", partitioning=None).to_table()
    return found.sort_by([(column, "ascending") for column in ("user_id", "item_id") if column in found.column_names])


def rows_of(run: Run, name: str, users: set[str]) -> pa.Table:
    return table(run, name).filter(pc.is_in(pc.field("user_id"), pa.array(sorted(users))))


def are_same(before: pa.Table, after: pa.Table) -> bool:
    """Return whether two tables have the same values to the last bit; whether columns may be null is not compared."""
    return before.column_names == after.column_names and all(
        before[name].equals(after[name]) for name in before.column_names
    )


def record(run: Run, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STORAGE.read_text(run.stage_record(stage)))
    return found


def night(spark: SparkSession, folder: Path, run_id: str, **sections: Any) -> StageContext:
    """Return the context of a night, with sections laid over those of all nights."""
    given: dict[str, Any] = {
        "train": {"rank": 3, "iterations": 2, "reg_param": 0.5},
        "recommend": {"n": 4},
        "evaluate": {"holdout_share": 0.0},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section} if isinstance(section, dict) else section
    return context_of(spark, PipelineConfig.model_validate(small_config(folder, given)), run_id)


@pytest.fixture(scope="module")
def nights(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Run]]:
    """Publish a night, change the log, and do one that refreshes who is affected, with the gate."""
    folder = tmp_path_factory.mktemp("refresh")
    write_log(folder, first_ratings())
    first = publish_unchecked(night(spark, folder, "r1"))
    write_log(folder, second_ratings())
    (best,) = (row["recommendations"][0] for row in rows_of(first, "recommendations", {"u09"}).to_pylist())
    (folder / "blocks.csv").write_text(f"user_id,item_id\nu09,{best['item_id']}\n")
    blocks = {"blocks": {"path": str(folder / "blocks.csv")}}
    second = night(spark, folder, "r2", recommend=blocks, refresh="affected")
    run_stages(second, stages(("ingest", "index", "train", "recommend", "evaluate", "publish")))
    return folder, {"r1": first, "r2": second.run}


def test_nothing_to_build_on_is_told_before_the_long_work(
    write_config: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spark: SparkSession,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "build_session", lambda app_name: spark)
    assert main(["pipeline", "--config", write_config(), "--refresh", "affected"]) == 2
    told = capsys.readouterr().err
    assert "where nothing changed, and nothing was published yet" in told
    assert "remedy: run the pipeline once with --refresh all" in told
    assert not list((tmp_path / "out").glob("runs/*/*"))


def test_lists_and_vectors_of_untouched_users_are_the_same_bits(nights: tuple[Path, dict[str, Run]]) -> None:
    _, runs = nights
    everybody = {user for user, _ in second_ratings()}
    touched = CHANGED | {"u09"}
    untouched = everybody - touched
    assert len(untouched) > N_USERS / 2
    for name in ("recommendations", "user_factors"):
        before, after = (rows_of(runs[run_id], name, untouched) for run_id in ("r1", "r2"))
        assert before.num_rows == len(untouched)
        assert are_same(before, after), name
    assert are_same(*(table(runs[run_id], "item_factors") for run_id in ("r1", "r2")))
    lists = table(runs["r2"], "recommendations").to_pylist()
    assert {row["user_id"] for row in lists} == everybody
    assert {row["user_id"] for row in lists if row["run_id"] == "r2"} == touched


def test_the_manifest_says_how_many_were_taken_over_and_why_the_others_were_not(
    nights: tuple[Path, dict[str, Run]],
) -> None:
    _, runs = nights
    manifest = json.loads(STORAGE.read_text(runs["r2"].manifest_path))
    n_users = len({user for user, _ in second_ratings()})
    train, lists = manifest["stages"]["train"], manifest["stages"]["recommend"]
    assert train["taken_over"] == {"run_id": "r1", "date": runs["r1"].date, "trained_in": "r1"}
    assert (train["changed_users"], train["ratings_of_unknown_items"], train["unknown_items"]) == (len(CHANGED), 2, 1)
    assert train["global_mean"] == record(runs["r1"], "train")["global_mean"]
    assert lists["refresh"] == {
        "taken_over_from": "r1",
        "taken_over": n_users - len(CHANGED) - 1,
        "refreshed": len(CHANGED) + 1,
        "reasons": {"ratings": len(CHANGED), "blocks": 1},
        "why_all": "",
    }
    assert record(runs["r1"], "recommend")["refresh"]["why_all"] == "refresh: all"
    assert record(runs["r1"], "recommend")["refresh"]["refreshed"] == N_USERS
    reasons = {row["user_id"]: row["reason"] for row in table(runs["r2"], "refreshed_users").to_pylist()}
    assert reasons == dict.fromkeys(CHANGED, "ratings") | {"u09": "blocks"}
    assert manifest["gate"]["oracle"]["disagreeing"] == []
    assert manifest["gate"]["compared"]["compared_with"] == "r1"
    assert current_publication(runs["r2"].root, STORAGE).run_id == "r2"


def test_users_with_other_ratings_are_solved_against_the_published_items(nights: tuple[Path, dict[str, Run]]) -> None:
    _, runs = nights
    items = table(runs["r2"], "item_factors").to_pylist()
    vectors = np.array([[*row["factors"], row["bias"]] for row in items])
    column = {row["item_id"]: k for k, row in enumerate(items)}
    mean = record(runs["r1"], "train")["global_mean"]
    found = {row["user_id"]: row for row in table(runs["r2"], "user_factors").to_pylist()}
    assert "odd" not in found, "of whom only a rating of an unknown item is known"
    for user in CHANGED - {"odd"}:
        rated = {column[i]: r - mean for (u, i), r in second_ratings().items() if u == user and i in column}
        penalties = Regularization(0.5, 3.0, 0.3, True)
        expected = RowReference(rated, rated.values(), None, vectors, 0.0, penalties, Loss("squared")).minimum()
        np.testing.assert_allclose([*found[user]["factors"], found[user]["bias"]], expected, rtol=1e-4, atol=1e-5)
        assert found[user]["n_ratings"] == len(rated)


def test_all_lists_are_those_of_a_full_recommendation_from_the_same_factors(
    nights: tuple[Path, dict[str, Run]], spark: SparkSession, tmp_path: Path
) -> None:
    folder, runs = nights
    blocks = {"blocks": {"path": str(folder / "blocks.csv")}}
    context = night(spark, folder, "r2", recommend=blocks, output={"path": str(tmp_path)})
    shutil.copytree(runs["r2"].path, context.run.path)
    for path in (context.run.stage_record("recommend"), f"{context.run.path}/run.json"):
        STORAGE.remove(path)
    run_stages(context, stages(("recommend",)))
    assert record(context.run, "recommend")["refresh"]["taken_over"] == 0
    made = [table(run, "recommendations").drop_columns(["generated_at", "run_id"]) for run in (context.run, runs["r2"])]
    assert are_same(*made)
    popular = [row for row in made[0].to_pylist() if row["user_id"] == "odd"]
    assert {entry["source"] for entry in popular[0]["recommendations"]} == {"popular"}


@pytest.fixture(scope="module")
def make(nights: tuple[Path, dict[str, Run]], spark: SparkSession) -> Make:
    """Return a function that makes the context of a further night."""
    return partial(night, spark, nights[0], "r3", refresh="affected")


@pytest.fixture(scope="module")
def third(nights: tuple[Path, dict[str, Run]], make: Make) -> StageContext:
    """Do a third night without new ratings, but with an item that may not be recommended any more; not published."""
    folder, _ = nights
    (folder / "deny.csv").write_text("item_id\ni07\n")
    context = make(recommend={name: {"path": str(folder / f"{name}.csv")} for name in ("deny", "blocks")})
    make_lists(context)
    return context


def test_lists_are_all_made_where_anything_else_changed(
    nights: tuple[Path, dict[str, Run]], make: Make, third: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs = nights
    context = third
    train, lists = record(context.run, "train"), record(context.run, "recommend")
    assert train["taken_over"] == {"run_id": "r2", "date": runs["r2"].date, "trained_in": "r1"}
    assert train["changed_users"] == 0
    assert are_same(table(context.run, "user_factors"), table(runs["r2"], "user_factors"))
    why = "what may be recommended changed for 1 items, such as 'i07'"
    n_users = len({user for user, _ in second_ratings()})
    assert lists["refresh"] == {
        "taken_over_from": None, "taken_over": 0, "refreshed": n_users, "reasons": {}, "why_all": why,
    }  # fmt: skip
    assert {row["run_id"] for row in table(context.run, "recommendations").to_pylist()} == {"r3"}

    assert refresh.run_to_take_lists_from(make(recommend={"n": 5}))[1] == "run r2 has another recommend.n"
    with monkeypatch.context() as patch:
        patch.setattr(refresh, "code_fingerprint", lambda: "another")
        assert "another version of the code" in refresh.run_to_take_lists_from(context)[1]
    trained = make(train={"rank": 2})
    assert take_over_model(trained) == (None, "it has another train.rank")
    stored = {**train, "taken_over": None, "why_trained": "it has another train.rank"}
    STORAGE.write_text(context.run.stage_record("train"), json.dumps(stored))
    assert refresh.run_to_take_lists_from(context)[1] == "the model was trained again: it has another train.rank"
    STORAGE.write_text(context.run.stage_record("train"), json.dumps(train))


def test_a_damaged_run_is_not_built_on(nights: tuple[Path, dict[str, Run]], third: StageContext) -> None:
    _, runs = nights
    context = third
    assert publications(context.run.root, STORAGE)[-1].run_id == "r2"
    for name, call, expected in (
        ("ratings", take_over_model, "its ratings cannot be compared"),
        ("item_factors", take_over_model, "it is damaged: item_factors/"),
        ("recommendations", refresh.run_to_take_lists_from, "run r2 is damaged: recommendations/"),
    ):
        STORAGE.remove(context.run.table_path(CHANGED_USERS))
        with damaged(runs["r2"], name):
            found, why = call(context)
        assert found is None
        assert expected in why
        assert not Path(context.run.table_path(CHANGED_USERS)).exists()


class damaged:
    """Flip a bit of a table's first file, among the values of its first column, and flip it back."""

    def __init__(self, run: Run, name: str) -> None:
        self.file = min(Path(run.path, name).glob("part-*.parquet"))
        self.content = self.file.read_bytes()

    def __enter__(self) -> None:
        content = bytearray(self.content)
        content[80] ^= 16
        self.file.write_bytes(content)

    def __exit__(self, *error: object) -> None:
        self.file.write_bytes(self.content)
