"""A damaged index is made whole again from the tables of published runs, every id with its old number; or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recsys_spark.errors import DamagedFileError, RecsysError
from recsys_spark.index.id_index import append_ids, append_version, index_faults, index_folder, index_version
from recsys_spark.index.mended_index import mend_index, places_of_parts, seal_parts
from recsys_spark.publish.forgetting import forget_user
from recsys_spark.publish.retention import plan_removals
from recsys_spark.publish.verification import verify
from recsys_spark.runs.publication_log import publish_run
from recsys_spark.runs.run_directory import Run, StageContext
from recsys_spark.runs.sealed_files import files_of_table
from recsys_spark.tables import USER_INDEX
from tests.index.test_id_index import MakeContext, append, numbers

FIRST, SECOND, THIRD = ["d", "é", "b"], ["a", "c", "d"], ["z", "b", "A"]
NUMBERS = {"b": 0, "d": 1, "é": 2, "a": 3, "c": 4, "A": 5, "z": 6}


def night(make_context: MakeContext, run_id: str, ids: list[str]) -> StageContext:
    """Number the ids of a run, write its own index and the record of its stage, and publish it."""
    context = make_context(run_id=run_id)
    frame = context.spark.createDataFrame([(text,) for text in ids], "user_id string")
    mended = mend_index(context, USER_INDEX)
    version = append_ids(context, USER_INDEX, frame)
    context.write(USER_INDEX, version.read(context.spark).join(frame, "user_id", "left_semi"))
    name = USER_INDEX.name
    record = {
        "versions": {name: version.number},
        "parts": {name: places_of_parts(version)},
        "mended_parts": {name: mended},
        "tables": {},
    }
    context.storage.write_text(context.run.stage_record("index"), json.dumps(record))
    files = {name: files_of_table(context.run, name, context.storage)}
    context.storage.write_text(context.run.manifest_path, json.dumps({"files": files}))
    publish_run(context.run, context.storage)
    return context


@pytest.fixture
def nights(make_context: MakeContext) -> list[StageContext]:
    contexts = [night(make_context, f"r{k}", ids) for k, ids in enumerate((FIRST, SECOND), 1)]
    assert current(contexts[0]) == {text: n for text, n in NUMBERS.items() if n < 5}
    return contexts


def current(context: StageContext) -> dict[str, int]:
    return numbers(index_version(context.run.root, USER_INDEX, context.storage).read(context.spark))


def part_files(context: StageContext, number: int) -> list[Path]:
    version = index_version(context.run.root, USER_INDEX, context.storage)
    return sorted(Path(version.folder, version.parts[number].path).glob("*.parquet"))


def flip_largest(context: StageContext, number: int) -> None:
    file = max(part_files(context, number), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def rename_column(context: StageContext, number: int) -> None:
    """Change a column's name in the schema: all ids would be empty, and all of a run's would be new."""
    for file in part_files(context, number):
        file.write_bytes(file.read_bytes().replace(b"user_id", b"uzer_id"))
        (file.parent / f".{file.name}.crc").unlink()


def cut(context: StageContext, number: int) -> None:
    for file in part_files(context, number):
        file.write_bytes(file.read_bytes()[:-9])


def remove(context: StageContext, number: int) -> None:
    for file in part_files(context, number):
        file.unlink()


@pytest.mark.parametrize("damage", [flip_largest, rename_column, cut, remove])
def test_damaged_parts_are_written_again_with_every_number_as_it_was(
    make_context: MakeContext, nights: list[StageContext], damage: Callable[[StageContext, int], None]
) -> None:
    context = nights[0]
    old = index_version(context.run.root, USER_INDEX, context.storage)
    damage(context, 0)
    damage(context, 1)
    assert verify(context.run.root, context.storage)[1]
    after = night(make_context, "r3", THIRD)
    assert after.record("index")["mended_parts"] == {"user_index": 2}
    assert current(after) == NUMBERS
    version = index_version(after.run.root, USER_INDEX, after.storage)
    assert not any(n for n in (found.count() for found in index_faults(version, after.read(USER_INDEX)).values()))
    assert [(part.start, part.n) for part in version.parts] == [(0, 3), (3, 2), (5, 2)]
    assert verify(after.run.root, after.storage)[1] == []
    assert not any(Path(version.folder, part.path).exists() for part in old.parts), "nothing that nobody can read"
    assert numbers(index_version(after.run.root, USER_INDEX, after.storage, 3).read(after.spark)) == {
        text: n for text, n in NUMBERS.items() if n < 3
    }, "a run that had fewer numbers finds them too"


def test_numbers_of_forgotten_people_stay_nobodys(make_context: MakeContext, nights: list[StageContext]) -> None:
    context = nights[0]
    assert forget_user(context.run.root, context.storage, "d")
    assert verify(context.run.root, context.storage)[1] == [], "the version knows what the file is now"
    assert mend_index(context, USER_INDEX) == 0
    flip_largest(context, 0)
    assert mend_index(context, USER_INDEX) == 1
    found = current(context)
    (nobody,) = found.keys() - NUMBERS.keys()
    assert nobody.startswith("forgotten-")
    assert found == {nobody: 1, "b": 0, "é": 2, "a": 3, "c": 4}


def damage_table_of_run(context: StageContext) -> None:
    for file in Path(context.run.table_path(USER_INDEX)).glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:-9])


def contradict(context: StageContext) -> None:
    """Publish a run whose table gives a number to another id."""
    run = Run(context.run.root, "r9", context.run.date)
    rows = context.spark.createDataFrame([("b", 1)], USER_INDEX.schema)
    USER_INDEX.write(rows, run.table_path(USER_INDEX))
    files = {"user_index": files_of_table(run, "user_index", context.storage)}
    context.storage.write_text(run.manifest_path, json.dumps({"files": files}))


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (damage_table_of_run, "2 of 3 numbers are in no whole table of 1 published run(s)"),
        (contradict, "published runs say different things of the same number or id"),
    ],
)
def test_what_published_runs_do_not_have_is_refused_with_a_reason(
    nights: list[StageContext], trouble: Callable[[StageContext], None], reason: str
) -> None:
    first = nights[0]
    trouble(first)
    flip_largest(first, 0)
    before = sorted(path.name for path in Path(index_folder(first.run.root, USER_INDEX)).rglob("*.json"))
    with pytest.raises(RecsysError, match="user_index is damaged, and cannot be had from published runs") as caught:
        mend_index(first, USER_INDEX)
    told = str(caught.value)
    assert reason in told
    assert "its bytes were changed" in told
    assert "restore these files from a copy" in told
    assert sorted(path.name for path in Path(index_folder(first.run.root, USER_INDEX)).rglob("*.json")) == before


@pytest.mark.parametrize("text", ["", '{"parts": [{"path": "parts/r2"', '{"parts": [{"way": "x"}]}', "[]"])
def test_a_damaged_version_is_made_again_from_what_runs_have_written_down(
    make_context: MakeContext, nights: list[StageContext], text: str
) -> None:
    entry = Path(index_folder(nights[0].run.root, USER_INDEX), "versions", "00000002.json")
    entry.write_text(text)
    after = night(make_context, "r3", THIRD)
    assert current(after) == NUMBERS
    assert verify(after.run.root, after.storage)[1] == []
    version = index_version(after.run.root, USER_INDEX, after.storage)
    assert version.number == 4
    assert all(part.files for part in version.parts)
    now = datetime.now(UTC) + timedelta(days=9)
    assert plan_removals(after.run.root, after.storage, 3, now, timedelta(days=1)) == []
    forgotten = {each.place for each in forget_user(after.run.root, after.storage, "b")}
    assert forgotten == {"run r1", "run r3", "index"}
    assert current(after).keys() & NUMBERS.keys() == NUMBERS.keys() - {"b"}
    assert verify(after.run.root, after.storage)[1] == []


def test_while_the_newest_version_is_damaged_nobody_is_forgotten_by_halves(nights: list[StageContext]) -> None:
    root, storage = nights[0].run.root, nights[0].storage
    Path(index_folder(root, USER_INDEX), "versions", "00000002.json").write_text("[]")
    before = {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}
    for attempt in (
        lambda: forget_user(root, storage, "d"),
        lambda: plan_removals(root, storage, 2, datetime.now(UTC), timedelta(days=1)),
    ):
        with pytest.raises(DamagedFileError, match=r"newest version is damaged[\s\S]*00000002.json[\s\S]*run again"):
            attempt()
    assert {path: path.read_bytes() for path in Path(root).rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("with_checksums", [True, False])
def test_a_version_and_a_part_that_are_damaged_together_are_made_again(
    make_context: MakeContext, nights: list[StageContext], with_checksums: bool
) -> None:
    """What the part was is in the record of the run; where it is not, nobody takes it for whole."""
    last = nights[-1]
    assert forget_user(last.run.root, last.storage, "c")
    if not with_checksums:
        path = Path(last.run.stage_record("index"))
        record = json.loads(path.read_text())
        record["parts"]["user_index"][1].pop("files")
        path.write_text(json.dumps(record))
    flip_largest(last, 1)
    Path(index_folder(last.run.root, USER_INDEX), "versions", "00000002.json").write_text("")
    after = night(make_context, "r3", THIRD)
    assert after.record("index")["mended_parts"] == {"user_index": 1}
    found = current(after)
    (nobody,) = found.keys() - NUMBERS.keys()
    assert found == {text: n for text, n in NUMBERS.items() if text != "c"} | {nobody: NUMBERS["c"]}
    assert nobody.startswith("forgotten-")


def test_numbers_of_a_run_that_did_not_finish_are_given_anew(
    make_context: MakeContext, nights: list[StageContext]
) -> None:
    """Its version is damaged, and its record was never written: it has to number its ids again."""
    cut_off = make_context(run_id="cut-off")
    append(cut_off, ["x", "y"])
    Path(index_folder(cut_off.run.root, USER_INDEX), "versions", "00000003.json").write_text("{")
    after = night(make_context, "r3", THIRD)
    assert current(after) == NUMBERS


def test_without_any_version_left_it_is_named(make_context: MakeContext) -> None:
    context = make_context()
    append(context, ["a", "b"])
    entry = Path(index_folder(context.run.root, USER_INDEX), "versions", "00000001.json")
    entry.write_text("{")
    with pytest.raises(RecsysError, match=r"written down nowhere else[\s\S]*00000001.json[\s\S]*remedy: restore"):
        mend_index(context, USER_INDEX)


def test_parts_without_checksums_get_them_once_they_are_proven(make_context: MakeContext) -> None:
    context = make_context()
    append(context, ["a", "b"])
    sealed = index_version(context.run.root, USER_INDEX, context.storage)
    parts = tuple(replace(part, files=[]) for part in sealed.parts)
    assert append_version(context, replace(sealed, number=2, parts=parts))
    for _ in range(2):
        seal_parts(context, index_version(context.run.root, USER_INDEX, context.storage))
        assert index_version(context.run.root, USER_INDEX, context.storage) == replace(sealed, number=3)
