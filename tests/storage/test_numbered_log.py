from __future__ import annotations

from pathlib import Path

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.storage import LocalStorage
from recsys_spark.storage.numbered_log import NumberedLog
from tests.faulty_storage import StorageFault, WatchedStorage


def test_numbers_are_taken_once(tmp_path: Path) -> None:
    log = NumberedLog(LocalStorage(), str(tmp_path / "log"))
    assert log.latest() is None
    assert log.append(1, {"who": "é"})
    assert not log.append(1, {"who": "another"})
    assert log.append(2, {"who": "another"})
    assert log.latest() == (2, {"who": "another"})
    assert log.read(1) == {"who": "é"}


def test_files_that_are_no_entries_and_names_listed_twice_do_no_harm(tmp_path: Path) -> None:
    class Stuttering(LocalStorage):
        def list_names(self, folder: str) -> list[str]:
            return super().list_names(folder) * 2

    log = NumberedLog(Stuttering(), str(tmp_path))
    log.append(1, {})
    for name in (".00000002.json-x", "00000002.json.tmp", "2.json", "notes.txt"):
        (tmp_path / name).write_text("half")
    assert log.numbers() == [1]


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    (tmp_path / "00000001.json").write_text('{"who"')
    with pytest.raises(RecsysError, match=r"damaged[\s\S]*00000001\.json"):
        NumberedLog(LocalStorage(), str(tmp_path)).latest()


def test_an_entry_that_lands_and_is_reported_as_failed_counts_as_made(tmp_path: Path) -> None:
    def fail_after_create(n: int, name: str, arguments: object) -> None:
        if name == "create_if_absent":
            raise StorageFault("the connection broke")

    log = NumberedLog(WatchedStorage(after=fail_after_create), str(tmp_path))
    assert log.append(1, {"who": "me"})
    assert log.read(1) == {"who": "me"}
    with pytest.raises(StorageFault):
        log.append(1, {"who": "another"})
    assert log.read(1) == {"who": "me"}


def test_an_entry_that_is_sent_twice_and_finds_its_own_name_taken_counts_as_made(tmp_path: Path) -> None:
    class Repeating(LocalStorage):
        def create_if_absent(self, path: str, text: str) -> bool:
            super().create_if_absent(path, text)
            return super().create_if_absent(path, text)

    log = NumberedLog(Repeating(), str(tmp_path))
    assert log.append(1, {"who": "me"})
    assert not log.append(1, {"who": "another"})


def test_an_entry_that_did_not_land_is_a_failure(tmp_path: Path) -> None:
    def fail_before_create(n: int, name: str, arguments: object) -> None:
        if name in ("create_if_absent", "exists"):
            raise StorageFault("gone")

    log = NumberedLog(WatchedStorage(before=fail_before_create), str(tmp_path))
    with pytest.raises(StorageFault):
        log.append(1, {"who": "me"})
    assert log.numbers() == []
