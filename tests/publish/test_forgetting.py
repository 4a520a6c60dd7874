"""A person is gone from every file, the others are not, and everything agrees with itself afterwards."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_spark import tables
from recsys_spark.errors import RecsysError
from recsys_spark.index.id_index import sealed_part
from recsys_spark.publish import forgetting
from recsys_spark.publish.forgetting import forget_user
from recsys_spark.publish.verification import verify
from recsys_spark.published import read_current_table
from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import Run
from recsys_spark.runs.sealed_files import files_of_table
from recsys_spark.storage.numbered_log import NumberedLog
from tests.conftest import ROOT
from tests.faulty_storage import StorageFault, fails_at
from tests.stored_runs import STORAGE

ANNA, NUMBER = "u1", 1
INDEX_PART = "indexes/user_index/parts/r1-0"
USERS = ["u0", ANNA, "u11", "xu1"]


def neighbours(user: str) -> list[dict[str, Any]]:
    others = [other for other in USERS if other != user]
    return [{"user_id": o, "similarity": 1.0, "position": k, "n_common": 2} for k, o in enumerate(others, 1)]


TABLES: dict[str, pa.Table] = {
    "ratings": pa.table({"user_id": USERS * 2, "item_id": list("aaaabbbb"), "rating": [1.0] * 8}),
    "user_index": pa.table({"user_id": USERS, "user_index": pa.array(range(4), pa.int32())}),
    "indexed_ratings": pa.table({"user_index": pa.array([0, 1, 2, 3, 1], pa.int32()), "rating": [1.0] * 5}),
    "item_factors": pa.table({"item_id": ["a", "b"], "n_ratings": [4, 4]}),
    "user_factors": pa.table({"user_id": USERS, "bias": [0.5] * 4}),
    "user_weights": pa.table({"user_id": USERS, "weights": [[0.5]] * 4}),
    "evaluation_split": pa.table({"user_index": pa.array([0, 1, 1, 2], pa.int32()), "rating": [1.0] * 4}),
    "neighbourhoods": pa.table({"row_index": pa.array([0, 1, 2], pa.int32()), "neighbours": [[1.0]] * 3}),
    # What a killed attempt has left.
    "_lists": pa.table({"user_id": USERS, "recommendations": [[1.0]] * 4}),
    "_merged": pa.table({"item_id": ["a", "b"]}),
    "recommendations": pa.table({"user_id": USERS, "recommendations": [[{"item_id": "c", "score": 1.0}]] * 4}),
    "similar_users": pa.table(
        {
            "user_id": USERS,
            "neighbours": [neighbours(user) for user in USERS],
            "short_reason": pa.array([None] * 4, pa.string()),
        }
    ),
    "quarantine": pa.table({"reason": ["bad"] * 5, "raw": ["u1,a,x", '{"user": "u1"}', "u11,a,x", "xu1,a,x", None]}),
}


def write_table(folder: Path, table: pa.Table) -> None:
    """Write a table as two files."""
    folder.mkdir(parents=True)
    half = table.num_rows // 2
    for number, part in enumerate((table.slice(0, half), table.slice(half))):
        pq.write_table(part, folder / f"part-{number}.parquet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_everything(tmp_path / "out")


def write_everything(root: Path) -> Path:
    for run_id in ("r1", "r2"):
        run = Run(str(root), run_id, "2026-01-05")
        for name, table in TABLES.items():
            write_table(Path(run.path) / name, table)
        STORAGE.write_text(f"{run.path}/run.json", '{"config": {"train": {"model": "user_knn"}}}')
        STORAGE.write_text(f"{run.path}/report.json", json.dumps({"readers": [ANNA]}))
        STORAGE.write_text(f"{run.path}/report.html", ANNA)
        files = {name: files_of_table(run, name, STORAGE) for name in TABLES if not name.startswith("_")}
        STORAGE.write_text(run.manifest_path, json.dumps({"files": files, "sealed": "then"}))
        publish_run(run, STORAGE)
    write_table(root / "indexes/user_index/parts/r1-0", TABLES["user_index"])
    log = NumberedLog(STORAGE, str(root / "indexes/user_index/versions"))
    parts = [{"path": "parts/r1-0", "start": 0, "n": 4, "files": sealed_part(str(root / INDEX_PART), STORAGE)}]
    log.append(1, {"parts": parts})
    days = {}
    for day in ("2026-01-03", "2026-01-04"):
        place = f"parts/r1-1/event_date={day}"
        write_table(
            root / "history" / place,
            TABLES["ratings"] if day.endswith("4") else TABLES["ratings"].filter([False] * 7 + [True]),
        )
        files_of_day = [
            {"path": f"{place}/{path.name}", "size": path.stat().st_size}
            for path in sorted((root / "history" / place).iterdir())
        ]
        days[day] = {"rows": 8 if day.endswith("4") else 1, "hash": "1", "delivered": [], "files": files_of_day}
    history = NumberedLog(STORAGE, str(root / "history/versions"))
    history.append(1, {"days": days, "rows": 9})
    history.append(2, {"days": {"2026-01-04": days["2026-01-04"]}, "rows": 8})
    return root


def cells(root: Path) -> set[Any]:
    """Return every value of every Parquet file, lists opened."""
    found: set[Any] = set()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                add(inner)
        elif isinstance(value, list):
            for inner in value:
                add(inner)
        else:
            found.add(value)

    for file in root.rglob("*.parquet"):
        for row in pq.read_table(file, partitioning=None).to_pylist():
            add(row)
    return found


def read(root: Path, table: str, run_id: str = "r1") -> list[dict[str, Any]]:
    return pq.read_table(Run(str(root), run_id, "2026-01-05").path + f"/{table}", partitioning=None).to_pylist()


def check_forgotten(root: Path) -> None:
    assert not [
        value for value in cells(root) if isinstance(value, str) and value in (ANNA, "u1,a,x", '{"user": "u1"}')
    ]
    assert verify(str(root), STORAGE)[1] == []
    for run_id in ("r1", "r2"):
        assert [row["user_index"] for row in read(root, "indexed_ratings", run_id)] == [0, 2, 3]
        assert [row["user_index"] for row in read(root, "evaluation_split", run_id)] == [0, 2]
        assert [row["row_index"] for row in read(root, "neighbourhoods", run_id)] == [0, 2]
        assert not list(root.rglob("report.*")), "the pages knew the person, and can be made again"
        assert [row["user_id"] for row in read(root, "recommendations", run_id)] == ["u0", "u11", "xu1"]
        assert [row["raw"] for row in read(root, "quarantine", run_id)] == ["u11,a,x", "xu1,a,x", None]
        similar = {row["user_id"]: row for row in read(root, "similar_users", run_id)}
        assert [(e["user_id"], e["position"]) for e in similar["u0"]["neighbours"]] == [("u11", 1), ("xu1", 2)]
        assert similar["u0"]["short_reason"] == "a neighbour was forgotten"
    index = pq.read_table(root / "indexes/user_index/parts/r1-0", partitioning=None).to_pylist()
    assert [row["user_index"] for row in index] == [0, 1, 2, 3], "the number is nobody else's"
    assert [row["user_id"] for row in index if row["user_index"] != NUMBER] == ["u0", "u11", "xu1"]
    (part,) = NumberedLog(STORAGE, str(root / "indexes/user_index/versions")).read(1)["parts"]
    assert part["forgotten"] == [NUMBER]
    versions = NumberedLog(STORAGE, str(root / "history/versions"))
    assert [versions.read(n)["rows"] for n in (1, 2)] == [7, 6]
    assert versions.read(1)["days"]["2026-01-04"]["rows"] == 6
    assert versions.read(1)["days"]["2026-01-03"]["hash"] == "1", "a day without the user stays as it is"
    assert versions.read(1)["days"]["2026-01-04"]["hash"] != "1", "the same rows again are other rows than are left"


def test_a_person_is_gone_and_the_others_are_not(root: Path) -> None:
    untouched = {path: path.read_bytes() for path in root.rglob("item_factors/*.parquet")}
    report = {each.place: each.rows for each in forget_user(str(root), STORAGE, ANNA)}
    check_forgotten(root)
    assert (
        report["run r1"]
        == report["run r2"]
        == {
            "ratings": 2,
            "user_index": 1,
            "user_factors": 1,
            "recommendations": 1,
            "quarantine": 2,
            "similar_users": 4,
            "indexed_ratings": 2,
            "user_weights": 1,
            "evaluation_split": 2,
            "neighbourhoods": 1,
            "_lists": 1,
            "report.html": 1,
            "report.json": 1,
        }
    )
    assert (report["history"], report["index"]) == ({"rating_events": 2}, {"user_index": 1})
    assert {path: path.read_bytes() for path in untouched} == untouched
    assert read_current_table(str(root)).num_rows == 3
    assert forget_user(str(root), STORAGE, ANNA) == []
    assert forget_user(str(root), STORAGE, "nobody") == []


def test_a_person_is_forgotten_where_an_older_version_names_files_that_are_gone(root: Path) -> None:
    """As after a day was damaged, and written again: its old files are named by the version before."""
    log = NumberedLog(STORAGE, str(root / "history/versions"))
    day = log.read(2)["days"]["2026-01-04"]
    place = "parts/r2-0/event_date=2026-01-04"
    write_table(root / "history" / place, TABLES["ratings"])
    files = [
        {"path": f"{place}/{path.name}", "size": path.stat().st_size} for path in (root / "history" / place).iterdir()
    ]
    log.append(3, {"days": {"2026-01-04": {**day, "files": files}}, "rows": 8})
    (root / "history" / day["files"][1]["path"]).unlink()
    assert {each.place: each.rows for each in forget_user(str(root), STORAGE, ANNA)}["history"] == {"rating_events": 3}
    assert log.read(3)["rows"] == 6
    assert verify(str(root), STORAGE)[1] == []


def test_the_number_is_that_of_the_newest_version_and_not_of_an_attempt_that_came_to_nothing(root: Path) -> None:
    """A killed attempt has given Anna the number of another, and left a folder that it worked in."""
    parts = root / "indexes/user_index/parts"
    write_table(parts / "a-killed", pa.table({"user_id": [ANNA], "user_index": pa.array([3], pa.int32())}))
    write_table(parts / "a-killed-work", pa.table({"user_id": [ANNA], "part": [0], "place": [0]}))
    forget_user(str(root), STORAGE, ANNA)
    check_forgotten(root)


def test_a_damaged_version_that_a_newer_one_stands_in_for_is_passed_over(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("recsys_spark"), "propagate", True)
    for folder in ("history", "indexes/user_index"):
        log = NumberedLog(STORAGE, str(root / folder / "versions"))
        newest, entry = log.latest() or (0, {})
        log.append(newest + 1, entry)
        Path(log.path(newest)).write_text("[]")
    assert {each.place for each in forget_user(str(root), STORAGE, ANNA)} >= {"history", "index"}
    assert ANNA not in cells(root)
    told = {record.getMessage() for record in caplog.records if "is damaged, and passed over" in record.getMessage()}
    assert len(told) == 2
    assert verify(str(root), STORAGE)[1] == []


def test_whoever_is_forgotten_leaves_an_id_of_their_own(root: Path) -> None:
    for user in (ANNA, "u0"):
        forget_user(str(root), STORAGE, user)
    index = pq.read_table(root / "indexes/user_index/parts/r1-0", partitioning=None).to_pylist()
    assert len({row["user_id"] for row in index}) == len(USERS), "an index has every id once"


def test_no_table_of_people_is_passed_over() -> None:
    of_people = {
        value.name
        for value in vars(tables).values()
        if isinstance(value, tables.Table) and {"user_id", "user_index"} & {*value.schema.names}
    }
    known = {table.name for table in (*forgetting.BY_USER, *forgetting.BY_NUMBER)}
    # Changed by code of their own: lists of others, and what is kept from run to run.
    assert of_people == known | {"similar_users", "rating_events"}


@pytest.mark.parametrize("after", [False, True])
def test_forgetting_that_is_cut_off_is_finished_by_the_next_attempt(fast_folder: Path, after: bool) -> None:
    number = 5
    while True:
        root = write_everything(fast_folder / f"{number}")
        try:
            forget_user(str(root), fails_at(number, after=after), ANNA)
        except (StorageFault, RecsysError):
            forget_user(str(root), STORAGE, ANNA)
            check_forgotten(root)
            number += 11
            continue
        break
    assert number > 100


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads of a process cannot be seen here")
def test_no_thread_is_left_that_would_abort_the_process_at_its_end(root: Path) -> None:
    code = (
        "import os\n"
        "from recsys_spark.publish.forgetting import forget_user\n"
        "from recsys_spark.storage import LocalStorage\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"assert forget_user({str(root)!r}, LocalStorage(), {ANNA!r})\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    part = root / "runs/date=2026-01-05/run=r2/ratings/part-0.parquet"
    part.write_bytes(b"PAR1 and no more")
    with pytest.raises(RecsysError, match=r"cannot be read[\s\S]*run=r2/ratings/part-0"):
        forget_user(str(root), STORAGE, ANNA)
