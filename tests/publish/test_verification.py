from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys_spark.publish.verification import verify
from recsys_spark.runs.run_directory import Run
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import RECOMMENDATIONS
from tests.stored_runs import STORAGE, published_run, write_run


def part_of(run: Run) -> Path:
    return Path(run.table_path(RECOMMENDATIONS)) / "part-0.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    published_run(tmp_path, "r1")
    published_run(tmp_path, "r2")
    write_run(tmp_path, "unfinished")
    history = tmp_path / "history"
    for table, part in (("user_index", "r1-0"), ("item_index", "r1-1")):
        folder = tmp_path / "indexes" / table
        (folder / "parts" / part).mkdir(parents=True)
        (folder / "parts" / part / "part-0.parquet").write_bytes(b"ids")
        log = NumberedLog(STORAGE, str(folder / "versions"))
        log.append(1, {"parts": [{"path": f"parts/{part}", "start": 0, "n": 1}]})
    day = history / "parts" / "r1-2" / "event_date=2026-01-05"
    day.mkdir(parents=True)
    (day / "part-0.parquet").write_bytes(b"ratings")
    files = [{"path": "parts/r1-2/event_date=2026-01-05/part-0.parquet", "size": 7}]
    NumberedLog(STORAGE, str(history / "versions")).append(1, {"days": {"2026-01-05": {"files": files}}})
    return tmp_path


def test_what_is_whole_has_no_faults(root: Path) -> None:
    n_files, faults = verify(str(root), STORAGE)
    assert faults == []
    assert n_files == 2 * 2 + 2 + 2 + 1


def test_every_flipped_bit_and_every_cut_is_found(root: Path) -> None:
    part = part_of(Run(str(root), "r1", "2026-01-05"))
    whole = part.read_bytes()
    for place in range(0, len(whole), 37):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        (fault,) = verify(str(root), STORAGE)[1]
        assert "its bytes were changed" in fault
        assert str(part) in fault
        part.write_bytes(whole[:place])
        (fault,) = verify(str(root), STORAGE)[1]
        assert f"has {place:,} bytes instead of {len(whole):,}" in fault
    part.write_bytes(whole)
    assert verify(str(root), STORAGE)[1] == []


def break_log(root: Path) -> None:
    (root / "publication_log" / "00000001.json").unlink()


def damage_entry(root: Path) -> None:
    (root / "publication_log" / "00000001.json").write_text('{"number": 1')


def remove_current(root: Path) -> None:
    Path(Run(str(root), "r2", "2026-01-05").manifest_path).unlink()


def damage_manifest(root: Path) -> None:
    Path(Run(str(root), "r1", "2026-01-05").manifest_path).write_text("{")


def add_file(root: Path) -> None:
    part_of(Run(str(root), "r1", "2026-01-05")).with_name("part-1.parquet").write_bytes(b"more")


def remove_file(root: Path) -> None:
    part_of(Run(str(root), "r1", "2026-01-05")).unlink()


def remove_index(root: Path) -> None:
    (root / "indexes/user_index/parts/r1-0/part-0.parquet").unlink()


def tear_index(root: Path) -> None:
    entry = root / "indexes/item_index/versions/00000001.json"
    entry.write_text(json.dumps({"parts": [{"path": "parts/r1-1", "start": 5, "n": 1}]}))


def cut_history(root: Path) -> None:
    (root / "history/parts/r1-2/event_date=2026-01-05/part-0.parquet").write_bytes(b"rat")


def remove_history(root: Path) -> None:
    (root / "history/parts/r1-2/event_date=2026-01-05/part-0.parquet").unlink()


def damage_history(root: Path) -> None:
    (root / "history/versions/00000001.json").write_text("")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (break_log, "00000001.json: is not there"),
        (damage_entry, "00000001.json: is damaged"),
        (remove_current, "readers see this run, and it is not whole"),
        (damage_manifest, "a file of the run is damaged"),
        (add_file, "part-1.parquet: is no file of the run"),
        (remove_file, "part-0.parquet: is not there"),
        (remove_index, "r1-0: is not there"),
        (tear_index, "its parts do not follow each other"),
        (cut_history, "has 3 bytes instead of 7"),
        (remove_history, "part-0.parquet: is not there"),
        (damage_history, "a file of the run is damaged"),
    ],
)
def test_each_kind_of_damage_is_named(root: Path, damage: object, expected: str) -> None:
    assert callable(damage)
    damage(root)
    faults = verify(str(root), STORAGE)[1]
    assert len(faults) == 1
    assert expected in faults[0]


def test_one_run_can_be_looked_at_alone(root: Path) -> None:
    remove_file(root)
    assert verify(str(root), STORAGE, Run(str(root), "r2", "2026-01-05"))[1] == []
    assert verify(str(root), STORAGE, Run(str(root), "r1", "2026-01-05"))[1]
