from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from pyspark.sql import SparkSession

from recsys_spark.errors import ConfigError, ContractError
from recsys_spark.storage import (
    LocalStorage,
    Storage,
    is_local,
    literal_path,
    local_path,
    storage_for,
)
from recsys_spark.storage.arrow import ArrowStorage
from recsys_spark.storage.hadoop import HadoopStorage


@pytest.fixture(params=["local", "hadoop", "arrow"])
def storage(request: pytest.FixtureRequest, spark: SparkSession) -> Storage:
    if request.param == "arrow":
        return ArrowStorage("/")
    return LocalStorage() if request.param == "local" else HadoopStorage(spark)


def test_find_takes_files_folders_and_globs(storage: Storage, tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt", "_hidden.csv", ".hidden.csv"):
        (tmp_path / name).write_text("x" * len(name))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "d.csv").write_text("")

    def names(pattern: str) -> list[str]:
        return [Path(file.path).name for file in storage.find(str(tmp_path / pattern))]

    assert names("a.csv") == ["a.csv"]
    assert names("*.csv") == ["a.csv", "b.csv"]
    (tmp_path / "_temporary").mkdir()
    (tmp_path / "_temporary" / "e.csv").write_text("")
    assert names("") == ["a.csv", "b.csv", "c.txt", "d.csv"]
    assert names("fold*") == ["d.csv"]
    assert names("absent.csv") == []
    (found,) = storage.find(str(tmp_path / "a.csv"))
    assert found.size == 5
    assert found.modified == pytest.approx((tmp_path / "a.csv").stat().st_mtime, abs=1)


def test_head_is_decompressed(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"abcdef")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"abcdef"))
    assert storage.read_head(str(tmp_path / "a.csv"), 3) == b"abc"
    assert storage.read_head(str(tmp_path / "a.csv.gz"), 100) == b"abcdef"
    assert storage.checksum(str(tmp_path / "a.csv")) == hashlib.sha256(b"abcdef").hexdigest()


def test_create_if_absent_has_one_winner_and_writes_replace(storage: Storage, tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "entry.json")
    assert storage.create_if_absent(path, "first é")
    assert not storage.create_if_absent(path, "second")
    assert storage.read_text(path) == "first é"
    storage.write_text(path, "third")
    assert storage.read_text(path) == "third"
    assert [name for name in storage.list_names(str(tmp_path / "new")) if not name.startswith(".")] == ["entry.json"]
    assert storage.exists(path)
    storage.remove(str(tmp_path / "new"))
    assert not storage.exists(path)
    storage.remove(path)
    assert storage.list_names(str(tmp_path / "new")) == []


def test_local_files_are_for_readers_and_nothing_else_is_left(tmp_path: Path) -> None:
    storage = LocalStorage()
    assert storage.create_if_absent(str(tmp_path / "created"), "a")
    assert not storage.create_if_absent(str(tmp_path / "created"), "b")
    storage.write_text(str(tmp_path / "written"), "a")
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ("created", "written"), 0o644
    )


def test_bytes_are_replaced_whole(storage: Storage, tmp_path: Path) -> None:
    path, content = str(tmp_path / "new" / "a.parquet"), bytes(range(256)) * 3
    storage.replace_bytes(path, content)
    assert storage.read_bytes(path) == content
    storage.replace_bytes(path, b"")
    assert storage.read_bytes(path) == b""
    assert storage.list_names(str(tmp_path / "new")) in (["a.parquet"], [".a.parquet.crc", "a.parquet"])


def test_room_is_told(storage: Storage, tmp_path: Path) -> None:
    free = storage.free_bytes(str(tmp_path))
    if isinstance(storage, ArrowStorage):
        assert free is None
        return
    assert free is not None
    # Hadoop counts what is reserved for root, too.
    assert 0.95 * shutil.disk_usage(tmp_path).free <= free <= shutil.disk_usage(tmp_path).total


def test_a_folder_that_cannot_be_made_is_named(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage.check_writable(str(tmp_path / "fine"))
    with pytest.raises(ConfigError, match="the output path cannot be written"):
        storage.check_writable(str(tmp_path / "file" / "below"))


def test_damaged_gzip_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(b"no gzip at all")
    with pytest.raises(ContractError, match="cut off or damaged"):
        LocalStorage().read_head(str(tmp_path / "a.csv.gz"), 10)


def test_a_write_without_room_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, path = LocalStorage(), str(tmp_path / "a.json")
    storage.write_text(path, "old")

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        for write in (storage.write_text, storage.create_if_absent):
            with pytest.raises(OSError, match="No space left"):
                write(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert storage.read_text(path) == "old"


def test_what_another_process_removes_meanwhile_is_gone_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, folder = LocalStorage(), tmp_path / "folder"
    storage.write_text(str(folder / "inner" / "a"), "a")
    storage.write_text(str(folder / "b"), "b")
    list_folder, remove_folder = Path.iterdir, shutil.rmtree

    def listed_before(path: Path) -> list[Path]:
        return [*list_folder(path), folder / "gone"]

    def removed_by_the_other(path: Path) -> None:
        remove_folder(path / "inner" if (path / "inner").exists() else path)
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", listed_before)
        patch.setattr(Path, "is_file", lambda path: not path.is_dir())
        assert [Path(file.path).name for file in storage.find(str(folder))] == ["b", "a"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", removed_by_the_other)
        storage.remove(str(folder))
    assert not folder.exists()


def test_local_paths_and_uris() -> None:
    assert is_local("/a/b")
    assert is_local("a b.csv")
    assert is_local("file:///a")
    assert not is_local("hdfs://host/a")
    assert not is_local("s3a://bucket/a")
    assert local_path("file://" + quote("/a b/é")) == Path("/a b/é")
    assert isinstance(storage_for("/a"), LocalStorage)
    with pytest.raises(ConfigError, match="needs a running Spark session"):
        storage_for("s3a://bucket/a")


def test_pattern_characters_are_taken_literally(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a[1]{x}.csv").write_text("here")
    (tmp_path / "a1.csv").write_text("not here")
    rows = spark.read.text(literal_path(str(tmp_path / "a[1]{x}.csv"))).collect()
    assert [row["value"] for row in rows] == ["here"]
