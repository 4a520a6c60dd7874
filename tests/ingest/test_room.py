from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recsys_spark.errors import ConfigError
from recsys_spark.ingest.room import require_room
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import FileStatus, LocalStorage
from tests.stored_runs import published_run

MakeContext = Callable[..., StageContext]
FILES = [FileStatus("/log/a.csv", 1000, 0.0), FileStatus("/log/b.csv.gz", 100, 0.0)]


class FullStorage(LocalStorage):
    def __init__(self, free: int | None) -> None:
        self.free = free

    def free_bytes(self, folder: str) -> int | None:
        return self.free


def with_room(context: StageContext, free: int | None) -> StageContext:
    return replace(context, storage=FullStorage(free))


def test_the_first_run_is_judged_by_its_input(make_context: MakeContext, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    context = make_context()
    assert require_room(context, FILES) == 2 * (2 * 1000 + 6 * 100)
    assert require_room(with_room(context, 5200), FILES) == 5200
    assert require_room(with_room(context, None), FILES) == 5200, "a storage that does not say has room"
    with pytest.raises(ConfigError, match=r"too little room[\s\S]*5 KiB free[\s\S]*gc --keep K"):
        require_room(with_room(context, 5199), FILES)
    require_room(with_room(make_context(output={"path": str(tmp_path / "out"), "check_room": False}), 0), FILES)


def test_later_runs_are_judged_by_the_one_before(make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context()
    run = published_run(tmp_path / "out", "r0")
    size = sum(file.stat().st_size for file in Path(run.path).rglob("*.parquet"))
    assert require_room(context, FILES) == 2 * size
    Path(run.manifest_path).write_text("{")
    assert require_room(context, FILES) == 5200, "a damaged manifest is no reason to stop"
