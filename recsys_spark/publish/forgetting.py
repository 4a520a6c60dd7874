"""Take one person out of everything that is kept: runs, history, indexes. Without Spark, file by file."""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_spark.errors import DamagedFileError, RecsysError
from recsys_spark.index import index_folder, version_log
from recsys_spark.ingest import FORGOTTEN, history_folder
from recsys_spark.publish.kept_versions import parts_of_history, parts_of_index, readable_versions
from recsys_spark.runs.lease import Lease, held, lease_to_forget
from recsys_spark.runs.run_directory import Run, find_runs
from recsys_spark.runs.sealed_files import place_in_run
from recsys_spark.storage import Storage, join, read_json
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import (
    CANCELLED_RATINGS,
    CHANGED_USERS,
    EVALUATION_SPLIT,
    FOLDED_FACTORS,
    INDEXED_RATINGS,
    LATE_RATINGS,
    NEIGHBOURHOODS,
    NEW_QUARANTINE,
    NEW_RATINGS,
    NEW_USERS,
    QUARANTINE,
    RATING_EVENTS,
    RATINGS,
    RECOMMENDATION_ROWS,
    RECOMMENDATIONS,
    REFRESHED_USERS,
    SIMILAR_USERS,
    USER_BLOCKS,
    USER_FACTORS,
    USER_INDEX,
    USER_SEGMENTS,
    USER_WEIGHTS,
)

BY_USER = (
    RATINGS,
    CANCELLED_RATINGS,
    LATE_RATINGS,
    NEW_RATINGS,
    USER_INDEX,
    NEW_USERS,
    USER_FACTORS,
    FOLDED_FACTORS,
    RECOMMENDATIONS,
    RECOMMENDATION_ROWS,
    CHANGED_USERS,
    REFRESHED_USERS,
    USER_BLOCKS,
    USER_SEGMENTS,
    USER_WEIGHTS,
)
BY_NUMBER = (INDEXED_RATINGS, EVALUATION_SPLIT)
_BY_TEXT = (QUARANTINE, NEW_QUARANTINE)
# Of people, and made again by one command.
_PAGES = ("report.html", "report.json")
# As Spark has written them: a reader of one user reads one of them.
_ROWS_PER_GROUP = 10_000

Change = Callable[[pa.Table], tuple[pa.Table, int]]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed from one place: a run, the history or an index; rows by table."""

    place: str
    rows: dict[str, int]


@contextmanager
def nobody_else_working(root: str, storage: Storage, term: timedelta) -> Iterator[None]:
    """Keep other processes that forget somebody, and all runs, from working at the same time.

    What one of them has read before, and writes after, would bring the person back.

    Parameters
    ----------
    root : str
    storage : Storage
    term : timedelta
        Of the lease.

    Raises
    ------
    RecsysError
        If one is at work.
    """
    with held(lease_to_forget(root, storage, term), term):
        # A run looks the other way round: it takes its own lease, and then asks for this one.
        for run in find_runs(root, storage):
            Lease(storage, run.path, term, doing=f"working on run {run.run_id}").require_free()
        yield


def forget_user(root: str, storage: Storage, user_id: str) -> list[Forgotten]:
    """Remove a person's rows from all that is kept under an output path.

    Each file that holds any is written again without them, and moved into place; manifests are made to agree. In the
    index, the number stays and the id becomes a random one, so that nobody else gets the number. The same command
    again finishes what was cut off.

    Parameters
    ----------
    root : str
    storage : Storage
    user_id : str
        Exactly as in the tables.

    Returns
    -------
    list of Forgotten
        Where something was removed.

    Raises
    ------
    RecsysError
        If a file with rows by user cannot be read, or the newest version of the history or the index.

    Notes
    -----
    Every file of these tables, and of what attempts have left behind, is read once, by this process, one at a time.
    Quarantined rows go where the id stands in their text by itself, as a cell does. The page of a run that knew the
    person is removed whole: ``recsys-spark report`` makes it again. Checkpoints of unfinished runs know numbers alone.
    """
    number = _number_of(root, storage, user_id)
    # A newest version that cannot be read has to be found before anything is changed.
    next(readable_versions(NumberedLog(storage, join(history_folder(root), "versions")), parts_of_history), None)
    found = [_forget_in_run(run, storage, user_id, number) for run in find_runs(root, storage)]
    found.append(_forget_in_history(root, storage, user_id))
    found.append(_forget_in_index(root, storage, user_id))
    return [each for each in found if each.rows]


def _forget_in_run(run: Run, storage: Storage, user_id: str, number: int | None) -> Forgotten:
    changes: dict[str, Change] = {table.name: _without("user_id", user_id) for table in BY_USER}
    changes |= {table.name: _without_text(user_id) for table in _BY_TEXT}
    changes[SIMILAR_USERS.name] = _without_neighbour(user_id)
    if number is not None:
        changes |= {table.name: _without("user_index", number) for table in BY_NUMBER}
        if _is_of_users(run, storage):
            changes[NEIGHBOURHOODS.name] = _without("row_index", number)
    left_behind = [name for name in storage.list_names(run.path) if name.startswith("_")]
    changes |= {name: _where_there_is("user_id", _without("user_id", user_id)) for name in left_behind}
    correct = partial(_correct_manifest, run, storage) if storage.exists(run.manifest_path) else None
    rows = {name: _rewrite(join(run.path, name), storage, change, correct) for name, change in changes.items()}
    found = {name: n for name, n in rows.items() if n}
    pages = [name for name in _PAGES if storage.exists(join(run.path, name))]
    told = number is not None and "report.json" in pages
    if found or (told and json.dumps(user_id, ensure_ascii=False) in storage.read_text(join(run.path, "report.json"))):
        for name in pages:
            storage.remove(join(run.path, name))
            found[name] = 1
    return Forgotten(f"run {run.run_id}", found)


def _is_of_users(run: Run, storage: Storage) -> bool:
    """Return whether the rows of the run's ``neighbourhoods``, if there are any, are users."""
    place = join(run.path, "run.json")
    return storage.exists(place) and read_json(storage, place)["config"]["train"]["model"] == "user_knn"


def _rewrite(path: str, storage: Storage, change: Change, before: Callable[[str, bytes], None] | None = None) -> int:
    """Write those files of a table again that a change makes smaller; return how many rows went.

    ``before`` is told of a file and its new content. What it writes down is true once the file is in place; where that
    is cut off, the next attempt finds the user still there, and makes the same content.
    """
    removed = 0
    for file in storage.find(path):
        if not file.path.endswith(".parquet"):
            continue
        changed, n = change(_read_table(file.path, storage))
        if n:
            content = _as_parquet(changed)
            if before is not None:
                before(file.path, content)
            storage.replace_bytes(file.path, content)
            removed += n
    return removed


def _correct_manifest(run: Run, storage: Storage, path: str, content: bytes) -> None:
    """Let a run's manifest say what a file is about to be; what it says of other files stands."""
    manifest = read_json(storage, run.manifest_path)
    place = place_in_run(run, path)
    for files in manifest["files"].values():
        for file in files:
            if file["path"] == place:
                file["size"] = len(content)
                if "sha256" in file:
                    file["sha256"] = hashlib.sha256(content).hexdigest()
    storage.write_text(run.manifest_path, json.dumps(manifest, indent=2, ensure_ascii=False))


def _read_table(path: str, storage: Storage) -> pa.Table:
    try:
        return _from_parquet(storage.read_bytes(path))
    except (pa.ArrowException, OSError) as error:
        raise RecsysError(
            "a file that may hold the user cannot be read",
            where=path,
            got=str(error).partition("\n")[0],
            remedy="restore or remove it, and run the command again; a file of the history or of an index, a run that "
            "ingests writes again where it can",
        ) from error


def _from_parquet(content: bytes) -> pa.Table:
    # By this thread alone: one of pyarrow's own that still holds the bytes when the process ends would abort it.
    return pq.ParquetFile(io.BytesIO(content), pre_buffer=False).read(use_threads=False)


def _as_parquet(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", row_group_size=_ROWS_PER_GROUP, write_page_checksum=True)
    return content.getvalue()


def _without(column: str, value: str | int) -> Change:
    def change(table: pa.Table) -> tuple[pa.Table, int]:
        kept = table.filter(pc.fill_null(pc.not_equal(table[column], value), True))
        return kept, table.num_rows - kept.num_rows

    return change


def _where_there_is(column: str, change: Change) -> Change:
    return lambda table: change(table) if column in table.column_names else (table, 0)


def _without_text(user_id: str) -> Change:
    """Drop quarantined rows that name the user: the id, and no letter or digit beside it."""
    named = re.compile(rf"(?<!\w){re.escape(user_id)}(?!\w)")

    def change(table: pa.Table) -> tuple[pa.Table, int]:
        kept = pa.array([text is None or not named.search(text) for text in table["raw"].to_pylist()], pa.bool_())
        return table.filter(kept), int(pc.sum(pc.invert(kept)).as_py() or 0)

    return change


def _without_neighbour(user_id: str) -> Change:
    """Drop the user's own row, and the user from the others' lists, whose places close up."""

    def change(table: pa.Table) -> tuple[pa.Table, int]:
        kept, n = _without("user_id", user_id)(table)
        lists = kept["neighbours"].to_pylist()
        shorter = [
            [
                {**entry, "position": place}
                for place, entry in enumerate((e for e in entries if e["user_id"] != user_id), 1)
            ]
            for entries in lists
        ]
        n += sum(len(a) - len(b) for a, b in zip(lists, shorter, strict=True))
        reasons = [
            reason or ("a neighbour was forgotten" if len(a) > len(b) else None)
            for reason, a, b in zip(kept["short_reason"].to_pylist(), lists, shorter, strict=True)
        ]
        for name, values in (("neighbours", shorter), ("short_reason", reasons)):
            place = kept.schema.get_field_index(name)
            kept = kept.set_column(place, kept.schema.field(name), pa.array(values, kept.schema.field(name).type))
        return kept, n

    return change


def _forget_in_history(root: str, storage: Storage, user_id: str) -> Forgotten:
    """Rewrite files where they are, for versions go on naming them, and let the versions say what they are now."""
    folder = history_folder(root)
    log = NumberedLog(storage, join(folder, "versions"))
    readable = [number for number, _ in readable_versions(log, parts_of_history)]

    def correct(path: str, content: bytes) -> None:
        place = path[path.rindex("/history/parts/") + len("/history/") :]
        for number in readable:
            version = log.read(number)
            days = [day for day in version["days"].values() if place in {file["path"] for file in day["files"]}]
            for day in days:
                # Of an older version, files may be gone that were damaged, and are in the next one as new files.
                places = {file["path"]: join(folder, file["path"]) for file in day["files"] if file["path"] != place}
                others = {each: storage.read_bytes(path) for each, path in places.items() if storage.exists(path)}
                contents = {place: content} | others
                for file in day["files"]:
                    if file["path"] in contents:
                        file |= _seal(contents[file["path"]])
                day["rows"] = sum(pq.read_metadata(io.BytesIO(each)).num_rows for each in contents.values())
                # No delivery makes it what it is now: the next one of this day is compared anew.
                day["hash"] = f"{FORGOTTEN}{secrets.token_hex(8)}"
            if days:
                version["rows"] = sum(day["rows"] for day in version["days"].values())
                storage.write_text(log.path(number), json.dumps(version, indent=1, ensure_ascii=False))

    n = _rewrite(join(folder, "parts"), storage, _without("user_id", user_id), correct)
    return Forgotten("history", {RATING_EVENTS.name: n} if n else {})


def _forget_in_index(root: str, storage: Storage, user_id: str) -> Forgotten:
    folder, log = index_folder(root, USER_INDEX), version_log(root, USER_INDEX, storage)
    readable = [number for number, _ in readable_versions(log, parts_of_index)]

    def correct(path: str, content: bytes) -> None:
        place, _, name = path[path.rindex("/user_index/parts/") + len("/user_index/") :].rpartition("/")
        file = {"path": name, **_seal(content)}
        for number in readable:
            version = log.read(number)
            if mine := [part for part in version["parts"] if part["path"] == place]:
                _correct_parts(mine, file, _numbers_in(path, storage, user_id))
                storage.write_text(log.path(number), json.dumps(version, indent=1, ensure_ascii=False))
        # By these a version is made again whose entry is damaged.
        for record_path, record in _records_of_parts(root, storage):
            if mine := [part for part in record["parts"][USER_INDEX.name] if part["path"] == place]:
                _correct_parts(mine, file, _numbers_in(path, storage, user_id))
                storage.write_text(record_path, json.dumps(record, indent=2, ensure_ascii=False))

    def change(table: pa.Table) -> tuple[pa.Table, int]:
        is_user = pc.fill_null(pc.equal(table["user_id"], user_id), False)
        n = int(pc.sum(is_user).as_py() or 0)
        ids = pc.if_else(is_user, f"forgotten-{secrets.token_hex(8)}", table["user_id"])
        return table.set_column(table.schema.get_field_index("user_id"), table.schema.field("user_id"), ids), n

    n = _rewrite(join(folder, "parts"), storage, change, correct)
    return Forgotten("index", {USER_INDEX.name: n} if n else {})


def _seal(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _correct_parts(parts: list[dict[str, Any]], file: dict[str, Any], numbers: list[int]) -> None:
    """Let what is written down of a part say what one of its files is about to be, and whose numbers are nobody's."""
    for part in parts:
        part["forgotten"] = sorted({*part.get("forgotten", []), *numbers})
        for known in part.get("files", []):
            if known["path"] == file["path"]:
                known |= file


def _records_of_parts(root: str, storage: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what runs have written down of the parts of the index, and where."""
    for run in find_runs(root, storage):
        path = run.stage_record("index")
        with suppress(DamagedFileError):
            record = read_json(storage, path) if storage.exists(path) else {}
            if USER_INDEX.name in record.get("parts", {}):
                yield path, record


def _newest_parts(root: str, storage: Storage) -> list[str]:
    versions = readable_versions(version_log(root, USER_INDEX, storage), parts_of_index)
    newest = next(versions, None)
    return [] if newest is None else [part["path"] for part in newest[1]["parts"]]


def _number_of(root: str, storage: Storage, user_id: str) -> int | None:
    """Return the user's number, None where the index does not know the user, or has forgotten it already.

    By the newest version alone: in parts that no version names, of attempts that came to nothing, numbers are others'.
    """
    for part in _newest_parts(root, storage):
        for file in storage.find(join(index_folder(root, USER_INDEX), part)):
            if file.path.endswith(".parquet") and (numbers := _numbers_in(file.path, storage, user_id)):
                return numbers[0]
    return None


def _numbers_in(path: str, storage: Storage, user_id: str) -> list[int]:
    table = _read_table(path, storage)
    numbers: list[int] = table.filter(pc.equal(table["user_id"], user_id))["user_index"].to_pylist()
    return numbers
