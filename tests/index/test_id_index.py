"""Indexes over several runs: numbers stay, versions are kept, and of two that append one goes after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.errors import RecsysError
from recsys_spark.index.id_index import append_ids, index_faults, index_version
from recsys_spark.publish.gate import check_ids
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.tables import USER_INDEX
from tests.faulty_storage import WatchedStorage

MakeContext = Callable[..., StageContext]


def append(context: StageContext, ids: list[str]) -> dict[str, int]:
    frame = context.spark.createDataFrame([(text,) for text in ids], "user_id string")
    return numbers(append_ids(context, USER_INDEX, frame).read(context.spark))


def numbers(frame: Any) -> dict[str, int]:
    rows = frame.collect()
    found = {row["user_id"]: row["user_index"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_an_id_keeps_its_number_and_new_ones_are_numbered_on(make_context: MakeContext) -> None:
    context = make_context()
    first = append(context, ["b", "é", "a"])
    assert first == {"a": 0, "b": 1, "é": 2}
    second = append(context, ["z", "a", "A", "b"])
    assert second == first | {"A": 3, "z": 4}
    assert append(context, ["z"]) == second
    root, storage = context.run.root, context.storage
    assert index_version(root, USER_INDEX, storage).number == 2, "nothing new is no new version"
    assert numbers(index_version(root, USER_INDEX, storage, 3).read(context.spark)) == first, "versions are kept"


def test_of_two_writers_one_numbers_its_ids_after_the_other(make_context: MakeContext) -> None:
    """The other writer appends between this one's look at the newest version and its own entry."""
    rival, waiting = make_context(run_id="rival"), ["z"]

    def others_first(n: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "create_if_absent" and waiting:
            append(rival, [waiting.pop()])

    context = replace(make_context(run_id="mine"), storage=WatchedStorage(before=others_first))
    assert append(context, ["a", "b"]) == {"z": 0, "a": 1, "b": 2}
    version = index_version(context.run.root, USER_INDEX, context.storage)
    assert (version.number, version.n) == (2, 3)
    parts = {path.name for path in (Path(version.folder) / "parts").iterdir()}
    assert parts == {Path(part.path).name for part in version.parts}, "what the lost attempt has written is gone"


def test_a_writer_that_is_always_late_gives_up_with_a_reason(make_context: MakeContext) -> None:
    context, taken = make_context(), []

    def others_first(n: int, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "create_if_absent":
            taken.append(arguments[0])
            Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)
            Path(arguments[0]).write_text('{"parts": []}')

    with pytest.raises(RecsysError, match=r"other runs keep appending to user_index"):
        append(replace(context, storage=WatchedStorage(before=others_first)), ["a"])
    assert len(taken) == 5


def test_a_damaged_version_is_named(make_context: MakeContext) -> None:
    context = make_context()
    append(context, ["a", "b"])
    append(context, ["c"])
    entry = Path(context.run.root) / "indexes/user_index/versions/00000002.json"
    content = json.loads(entry.read_text())
    content["parts"].pop(0)
    entry.write_text(json.dumps(content))
    with pytest.raises(RecsysError, match="its parts do not follow each other"):
        index_version(context.run.root, USER_INDEX, context.storage)


@pytest.mark.parametrize(
    ("rows", "broken"),
    [
        ([("a", 0), ("b", 1), ("c", 2)], []),
        ([("a", 0), ("a", 1), ("c", 2)], ["user_ids with several numbers", "user_ids of the run with another number"]),
        (
            [("a", 0), ("b", 0), ("c", 2)],
            ["user_indexes with several ids", "user_index has gaps", "user_ids of the run with another number"],
        ),
        ([("a", 0), ("b", 1), ("c", 3)], ["user_indexes out of range", "user_ids of the run with another number"]),
        ([("a", 0), ("b", 1)], ["user_index has gaps", "user_ids of the run with another number"]),
        ([("a", 0), (None, 1), ("c", 2)], ["user_indexes out of range", "user_ids of the run with another number"]),
    ],
)
def test_whatever_breaks_the_bijection_is_found(
    make_context: MakeContext, rows: list[tuple[str | None, int]], broken: list[str]
) -> None:
    context = make_context()
    good = [("a", 0), ("b", 1), ("c", 2)]
    append(context, ["a", "b", "c"])
    version = index_version(context.run.root, USER_INDEX, context.storage)
    USER_INDEX.write(context.spark.createDataFrame(rows, USER_INDEX.schema), f"{version.folder}/parts/damaged")
    (part,) = version.parts
    damaged = replace(version, parts=(replace(part, path="parts/damaged"),))
    of_run = context.spark.createDataFrame(good, USER_INDEX.schema)
    checks = check_ids(index_faults(damaged, of_run))
    assert [check.name for check in checks if check.n_broken] == broken
