"""Two nights of a small shop through the command line: what they share, what the gate says, what readers see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml
from pyspark.sql import SparkSession

from recsys_spark import cli
from recsys_spark.cli import main
from recsys_spark.commands import runs as runs_cli
from recsys_spark.published import read_current, read_current_table
from recsys_spark.runs.publication_log import current_publication, publications
from recsys_spark.runs.run_directory import Run, find_runs
from recsys_spark.storage import LocalStorage
from tests.conftest import small_config

STORAGE = LocalStorage()
DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
Command = Callable[..., int]


def write_days(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "days").mkdir()
    for number, day in enumerate(DAYS):
        # Later days bring users and items whose ids come first.
        pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, [25, 20], (110, 2))})
        lines = [
            f"u{190 - 10 * number + u},i{50 - 5 * number + i},{rng.integers(1, 4)},{day}T10:00:00" for u, i in pairs
        ]
        (folder / "days" / f"{day}.csv").write_text("user_id,item_id,rating,at\n" + "\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Command]:
    """Run the first night, and a second one that is beyond a limit."""
    folder = tmp_path_factory.mktemp("shop")
    write_days(folder)
    sections: dict[str, Any] = {
        "input": {
            "path": str(folder / "days" / "{date}.csv"),
            "columns": {"timestamp": "at"},
            "timestamp_format": "iso",
        },
        "ingest": {"duplicates": "sum", "cancellations": True},
        "history": {},
        "train": {"loss": "implicit", "rank": 3, "iterations": 2, "warm_start": True},
        "evaluate": {"holdout_share": 0.2, "n": 3},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(small_config(folder, sections)))

    def command(name: str, *arguments: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            for module in (cli, runs_cli):
                patch.setattr(module, "build_session", lambda app_name: spark)
            return main([name, *arguments, "--config", str(config)])

    assert command("pipeline", "--run-id", "n1", "--date", DAYS[0]) == 0
    limits = [f"gate.{limit}" for limit in ("min_overlap=1.0", "max_lost_users=0.0", "max_metric_loss=1.0")]
    options = [text for limit in limits for text in ("--set", limit)]
    assert command("pipeline", "--run-id", "n2", "--date", DAYS[1], *options) == 3
    assert current_publication(str(folder / "out"), STORAGE).run_id == "n1"
    assert command("publish", "--run-id", "n2", *options, "--force") == 0
    return folder, command


def run_of(folder: Path, run_id: str) -> Run:
    (run,) = (run for run in find_runs(str(folder / "out"), STORAGE) if run.run_id == run_id)
    return run


def rows(run: Run, table: str) -> list[dict[str, Any]]:
    return ds.dataset(f"{run.path}/{table}", partitioning=None).to_table().to_pylist()


def test_ids_keep_their_numbers_and_ratings_add_up(shop: tuple[Path, Command]) -> None:
    folder, _ = shop
    first, second = (run_of(folder, run_id) for run_id in ("n1", "n2"))
    for side in ("user", "item"):
        before = {row[f"{side}_id"]: row[f"{side}_index"] for row in rows(first, f"{side}_index")}
        after = {row[f"{side}_id"]: row[f"{side}_index"] for row in rows(second, f"{side}_index")}
        assert before.items() <= after.items()
        assert sorted(after.values()) == list(range(len(after)))
        assert min(after, key=str.encode) not in before, "what came later stands first"
    lines = [line.split(",") for day in DAYS[:2] for line in (folder / f"days/{day}.csv").read_text().splitlines()[1:]]
    expected: dict[tuple[str, str], float] = {}
    for user, item, rating, _ in lines:
        expected[user, item] = expected.get((user, item), 0.0) + float(rating)
    assert {(row["user_id"], row["item_id"]): row["rating"] for row in rows(second, "ratings")} == expected
    record = json.loads(STORAGE.read_text(second.stage_record("ingest")))
    assert record["history"]["changed_days"] == [DAYS[1]]
    assert record["totals"]["rows_in"] < record["history"]["rows"] == len(lines)


def test_what_was_forced_leaves_a_mark(shop: tuple[Path, Command], capsys: pytest.CaptureFixture[str]) -> None:
    folder, command = shop
    entries = publications(str(folder / "out"), STORAGE)
    assert [(entry.run_id, entry.forced) for entry in entries] == [("n1", []), ("n2", ["min_overlap"])]
    gate = json.loads(STORAGE.read_text(run_of(folder, "n2").manifest_path))["gate"]
    limits = {limit["name"]: limit for limit in gate["limits"]}
    assert set(limits) == {
        "max_short_lists",
        "max_lost_users",
        "min_overlap",
        "max_changed_positions",
        "min_gain_over_popularity",
        "max_metric_loss",
    }
    assert [name for name, limit in limits.items() if limit["is_broken"]] == gate["forced"] == ["min_overlap"]
    assert gate["compared"]["compared_with"] == "n1"
    assert gate["oracle"]["users"] == 20
    assert gate["oracle"]["disagreeing"] == []
    assert 0 <= gate["oracle"]["largest_difference"] < 1e-6
    assert all(check["n_broken"] == 0 for check in gate["checks"] + gate["checks_of_indexes"])
    assert command("runs") == 0
    assert "current, forced" in capsys.readouterr().out


def test_two_runs_are_compared(shop: tuple[Path, Command], capsys: pytest.CaptureFixture[str]) -> None:
    folder, command = shop
    assert command("diff", "n1", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    lists = [
        {
            row["user_id"]: [entry["item_id"] for entry in row["recommendations"]]
            for row in rows(run_of(folder, run_id), "recommendations")
        }
        for run_id in ("n1", "n2")
    ]
    both = lists[0].keys() & lists[1].keys()
    assert (found["before"], found["after"]) == ("n1", "n2")
    assert found["users"] == {"before": len(lists[0]), "after": len(lists[1]), "both": len(both)}
    everybody = found["churn"][0]
    assert everybody["users"] == len(both)
    changed = sum(a != b for user in both for a, b in zip(lists[0][user], lists[1][user], strict=True))
    assert everybody["changed_positions"] == pytest.approx(changed / (3 * len(both)))
    items = [{item for of_user in each.values() for item in of_user} for each in lists]
    assert {name: found["items"][name] for name in ("before", "after", "both")} == {
        "before": len(items[0]),
        "after": len(items[1]),
        "both": len(items[0] & items[1]),
    }
    counts = {row["item_id"]: row["n_ratings"] for row in rows(run_of(folder, "n2"), "item_factors")}
    listed = [item for of_user in lists[1].values() for item in of_user]
    assert found["popularity"]["after"] == pytest.approx(np.mean([counts.get(item, 0) for item in listed]))
    assert {row["model"] for row in found["metrics"]} >= {"model", "popularity"}
    assert len({row["segment"] for row in found["metrics"]}) > 1
    # Nobody has a segment of the shop's own: what is told apart is who has a vector.
    (of_factors,) = (row for row in found["segments"] if row["segment"] == "cf")
    assert {name: of_factors[name] for name in ("users", "popularity")} == {
        name: found[name] for name in ("users", "popularity")
    }
    assert command("diff", "n1", "n2") == 0
    shown = capsys.readouterr().out
    assert "run n1 -> run n2" in shown
    assert f"users with a list: {len(lists[0])} -> {len(lists[1])}" in shown
    assert "by segment" in shown


def test_readers_see_what_is_current(shop: tuple[Path, Command], spark: SparkSession) -> None:
    folder, command = shop
    assert command("rollback") == 0
    root = str(folder / "out")
    assert {row["run_id"] for row in read_current_table(root).to_pylist()} == {"n1"}
    assert {row["run_id"] for row in read_current(spark, root).select("run_id").collect()} == {"n1"}
    assert command("rollback", "n2") == 0
    assert {row["run_id"] for row in read_current_table(root).to_pylist()} == {"n2"}
    assert command("verify") == 0


@pytest.mark.slow
def test_a_third_night_after_damage_and_forgetting(
    shop: tuple[Path, Command], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, command = shop
    root = folder / "out"
    gone = rows(run_of(folder, "n2"), "recommendations")[0]["user_id"]
    assert command("forget", gone) == 0
    assert command("verify") == 0
    for table in ("recommendations", "user_factors"):
        part = next(Path(run_of(folder, "n2").path, table).glob("*.parquet"))
        content = bytearray(part.read_bytes())
        content[len(content) // 3] ^= 16
        part.write_bytes(content)
    assert command("verify") == 3
    capsys.readouterr()
    assert command("pipeline", "--run-id", "n3", "--date", DAYS[2]) == 0
    told = capsys.readouterr().err
    assert "not compared with what readers see: run n2 is damaged" in told
    assert "not started from run n2" in told
    assert "started from run n1" in told
    lists = {row["user_id"] for row in read_current_table(str(root)).to_pylist()}
    third_day = {line.split(",")[0] for line in (folder / f"days/{DAYS[2]}.csv").read_text().splitlines()[1:]}
    assert (gone in lists) == (gone in third_day), "only what came since is known of who was forgotten"
    assert command("pipeline", "--run-id", "n1-again", "--date", DAYS[0]) == 0
    assert gone in {row["user_id"] for row in read_current_table(str(root)).to_pylist()}, "the raw log still says it"

    def numbers(run_id: str) -> dict[str, int]:
        return {row["user_id"]: row["user_index"] for row in rows(run_of(folder, run_id), "user_index")}

    # What runs share: a stored day, and what the first night has added to both indexes.
    parts = [*(root / "history/parts").glob(f"n3-*/event_date={DAYS[2]}/*.parquet")]
    parts += [max(root.glob(f"indexes/{side}_index/parts/n1-*/*.parquet")) for side in ("user", "item")]
    for part in parts:
        part.write_bytes(part.read_bytes()[:-20])
    assert command("verify") == 3
    capsys.readouterr()
    assert command("pipeline", "--run-id", "n4", "--date", DAYS[0]) == 0
    told = capsys.readouterr().err
    assert f"1 stored day(s) were damaged, and written again from the log, row for row: {DAYS[2]}" in told
    assert "1 damaged part(s) of user_index" in told
    assert "1 damaged part(s) of item_index" in told
    before, after = numbers("n1-again"), numbers("n4")
    assert before == after
    stages = json.loads(STORAGE.read_text(run_of(folder, "n4").manifest_path))["stages"]
    assert stages["ingest"]["history"]["mended_days"] == [DAYS[2]]
    assert stages["index"]["mended_parts"] == {"user_index": 1, "item_index": 1}
    assert command("verify") == 3, "run n2 still is what it was"
    assert "history" not in capsys.readouterr().out
