"""An index that is damaged, made whole again from what runs have written down: every id keeps its number."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import asdict, replace
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys_spark.errors import DamagedFileError, RecsysError
from recsys_spark.index.id_index import (
    ATTEMPTS,
    IndexPart,
    IndexVersion,
    append_version,
    index_folder,
    index_version,
    new_place,
    part_faults,
    parts_of,
    sealed_part,
    version_log,
)
from recsys_spark.runs.run_directory import Run, StageContext, find_runs
from recsys_spark.runs.sealed_files import table_faults
from recsys_spark.storage import join, read_json
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import Table


def mend_index(context: StageContext, table: Table) -> int:
    """Write damaged parts of an index again, from the tables of published runs, and a damaged newest version.

    A part has the numbers from its first one on, without gaps, and every run whose manifest is there has the ids of its
    ratings with their numbers, under a checksum. So a part is whole where runs say of each of its numbers which id has
    it, and none another. Numbers of people who were forgotten belong to nobody, as before.

    Parameters
    ----------
    context : StageContext
    table : Table
        ``user_index`` or ``item_index``.

    Returns
    -------
    int
        How many parts were damaged, and are whole in a new version.

    Raises
    ------
    RecsysError
        If numbers are in no published run, or runs contradict each other. Nothing is changed then.

    Notes
    -----
    The driver reads the files of the index once, for their checksums. Where one is damaged, one job for each run that
    is asked, the newest first.
    """
    for _ in range(ATTEMPTS):
        before, is_restored = _newest_version(context, table)
        damaged = [part for part in before.parts if _faults(context, before, part, is_restored=is_restored)]
        if not damaged and not is_restored:
            return 0
        ids = _ids_of_runs(context, before, damaged) if damaged else None
        written = {part.start: _write_again(context, before, part, ids) for part in damaged if ids is not None}
        parts = tuple(written.get(part.start, part) for part in before.parts)
        after = IndexVersion(table, before.folder, before.number + 1, parts)
        if append_version(context, after):
            _tell(context, before, damaged, is_restored=is_restored)
            return len(damaged)
        for part in written.values():
            context.storage.remove(join(before.folder, part.path))
    raise RecsysError(
        f"other runs keep appending to {table.name}",
        where=index_folder(context.run.root, table),
        got=f"{ATTEMPTS} attempts",
        remedy="let one run at a time number its ids, and run the stage again; nothing was changed",
    )


def places_of_parts(version: IndexVersion) -> list[dict[str, Any]]:
    """Return what a run writes down of a version's parts."""
    return [asdict(part) for part in version.parts]


def seal_parts(context: StageContext, proven: IndexVersion) -> None:
    """Write down the checksums of parts that have none, in a new version, once they are proven to be what they were.

    Where another run appends at the same moment, the next publish does it.

    Parameters
    ----------
    context : StageContext
    proven : IndexVersion
        The newest version, or as much of it as was looked at.
    """
    newest = index_version(context.run.root, proven.table, context.storage)
    unsealed = {part.path for part in proven.parts if not part.files}
    parts = tuple(
        replace(part, files=sealed_part(join(newest.folder, part.path), context.storage))
        if part.path in unsealed and not part.files
        else part
        for part in newest.parts
    )
    if parts != newest.parts:
        append_version(context, replace(newest, number=newest.number + 1, parts=parts))


def _faults(context: StageContext, version: IndexVersion, part: IndexPart, *, is_restored: bool) -> list[str]:
    """Return the faults of a part; one that only a record without checksums knows is not taken for whole."""
    if is_restored and not part.files:
        return [f"{join(version.folder, part.path)}: what it was is written down nowhere"]
    return part_faults(version, part, context.storage)


def _tell(context: StageContext, before: IndexVersion, damaged: list[IndexPart], *, is_restored: bool) -> None:
    """Say what was mended, and remove what nobody can read: whoever is forgotten has to be taken out of all files."""
    for part in damaged:
        context.storage.remove(join(before.folder, part.path))
    name = before.table.name
    if is_restored:
        context.progress.say(
            f"index: the newest version of {name} was damaged, and made again from the records of runs"
        )
    if damaged:
        context.progress.say(
            f"index: {len(damaged):,} damaged part(s) of {name}, {sum(part.n for part in damaged):,} ids, were written "
            "again from the tables of published runs; every id has the number that it had",
            mended=len(damaged),
        )


def _newest_version(context: StageContext, table: Table) -> tuple[IndexVersion, bool]:
    """Return the newest version, and whether it had to be made from what is left, its own entry being damaged.

    What is left are earlier entries, and the places of parts that runs have written down. A version that no run has
    written down is one of a run that had not finished its index stage: nobody has its numbers.
    """
    root, storage = context.run.root, context.storage
    try:
        return index_version(root, table, storage), False
    except DamagedFileError as error:
        log = version_log(root, table, storage)
        parts = _parts_that_are_left(context, table, log)
        if parts is None:
            raise DamagedFileError(
                f"the newest version of {table.name} is damaged, and what it named is written down nowhere else",
                where=log.path(log.numbers()[-1]),
                got=repr(error),
                remedy="restore this file from a copy, or begin anew in another output.path, with other numbers; "
                "readers keep what they have",
            ) from None
    return IndexVersion(table, index_folder(root, table), log.numbers()[-1], tuple(parts)), True


def _parts_that_are_left(context: StageContext, table: Table, log: NumberedLog) -> list[IndexPart] | None:
    earlier: tuple[int, list[IndexPart]] = (0, [])
    for number in reversed(log.numbers()):
        with suppress(DamagedFileError):
            earlier = (number, parts_of(log, number))
            break
    places: tuple[int, list[dict[str, Any]]] = (0, [])
    for record in (_record_of(context, run) for run in find_runs(context.run.root, context.storage)):
        if table.name in record.get("parts", {}) and record["versions"][table.name] > places[0]:
            places = (record["versions"][table.name], record["parts"][table.name])
    if earlier[0] >= places[0]:
        return earlier[1] or None
    known = {part.path: part for part in earlier[1]}
    return [known.get(place["path"]) or IndexPart(**place) for place in places[1]]


def _record_of(context: StageContext, run: Run) -> dict[str, Any]:
    try:
        record: dict[str, Any] = read_json(context.storage, run.stage_record("index"))
    except (RecsysError, OSError):
        return {}
    return record


def _ids_of_runs(context: StageContext, version: IndexVersion, damaged: list[IndexPart]) -> DataFrame:
    """Return ids and numbers of damaged parts, each once, as whole tables of published runs have them."""
    table = version.table
    id_name, index_name = table.schema.names
    wanted = sum(part.n for part in damaged)
    forgotten = [number for part in damaged for number in part.forgotten]
    nobody = [(f"forgotten-{secrets.token_hex(8)}", number) for number in forgotten]
    known = context.spark.createDataFrame(nobody, table.schema)
    n_known, asked = len(nobody), 0
    for run in reversed(find_runs(context.run.root, context.storage)):
        if not _has_whole_table(context, run, table):
            continue
        asked += 1
        of_run = table.read(context.spark, run.table_path(table)).where(_is_of(damaged, index_name))
        known = known.unionByName(of_run).distinct()
        counts = known.agg(F.count_distinct(index_name), F.count_distinct(id_name), F.count("*")).collect()[0]
        n_known = counts[0]
        if not counts[0] == counts[1] == counts[2]:
            raise _cannot_mend(
                context, version, damaged, "published runs say different things of the same number or id"
            )
        if n_known == wanted:
            return known
    raise _cannot_mend(
        context,
        version,
        damaged,
        f"{wanted - n_known:,} of {wanted:,} numbers are in no whole table of {asked:,} published run(s)",
    )


def _has_whole_table(context: StageContext, run: Run, table: Table) -> bool:
    if not context.storage.exists(run.manifest_path) or not context.storage.exists(run.table_path(table)):
        return False
    try:
        return not table_faults(run, table.name, context.storage)
    except (RecsysError, OSError, KeyError):
        return False


def _is_of(parts: list[IndexPart], index_name: str) -> Column:
    ranges = [F.col(index_name).between(part.start, part.start + part.n - 1) for part in parts]
    return reduce(Column.__or__, ranges)


def _write_again(context: StageContext, version: IndexVersion, part: IndexPart, ids: DataFrame) -> IndexPart:
    index_name = version.table.schema.names[1]
    place = new_place(context)
    path = join(version.folder, place)
    rows = ids.where(_is_of([part], index_name)).repartitionByRange(index_name).sortWithinPartitions(index_name)
    version.table.write(rows, path)
    return IndexPart(place, part.start, part.n, sealed_part(path, context.storage), part.forgotten)


def _cannot_mend(context: StageContext, version: IndexVersion, damaged: list[IndexPart], why: str) -> RecsysError:
    faults = [fault for part in damaged for fault in part_faults(version, part, context.storage)] or [
        join(version.folder, part.path) for part in damaged
    ]
    return RecsysError(
        f"{version.table.name} is damaged, and cannot be had from published runs",
        where="; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else ""),
        got=why,
        allowed="files as they were written, or published runs that have every one of their numbers",
        remedy="restore these files from a copy, or begin anew in another output.path, with other numbers; readers "
        "keep what they have",
    )
