"""Indexes that only grow: an id keeps its number for ever, and new ids are numbered on.

``<root>/indexes/<table>/versions/00000001.json`` names the parts of a version, which lie in ``parts`` beside it.
A version has the parts of the one before, and one more; or the same parts, where damaged ones were written again.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import DamagedFileError, RecsysError
from recsys_spark.index.dense_index import write_dense_index
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.runs.sealed_files import file_faults, seal
from recsys_spark.storage import FileStatus, Storage, join
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import Table

ATTEMPTS = 5
"""How often a run numbers again after others that were first."""


@dataclass(frozen=True, slots=True)
class IndexPart:
    """Ids that one run has added: where they are, their first number, and how many.

    Attributes
    ----------
    path : str
        In the index's folder.
    start, n : int
    files : list of dict
        ``path`` (in the part), ``size`` and ``sha256`` of its files; empty where they were not written down.
    forgotten : list of int
        Numbers of people who were forgotten: their ids are in no other table.
    """

    path: str
    start: int
    n: int
    files: list[dict[str, Any]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """An index as one run has left it; version 0 is empty.

    Attributes
    ----------
    table : Table
        ``user_index`` or ``item_index``.
    folder : str
    number : int
    parts : tuple of IndexPart
    """

    table: Table
    folder: str
    number: int
    parts: tuple[IndexPart, ...]

    def __repr__(self) -> str:
        """Return which index, and how large it is."""
        return f"IndexVersion: {self.table.name} {self.number}, {self.n:,} ids of {len(self.parts)} runs"

    @property
    def n(self) -> int:
        """How many numbers were given: 0 to ``n - 1``."""
        return sum(part.n for part in self.parts)

    def read(self, spark: SparkSession) -> DataFrame:
        """Read all ids and their numbers."""
        if not self.parts:
            return spark.createDataFrame([], self.table.schema)
        return self.table.read(spark, *[join(self.folder, part.path) for part in self.parts])


def index_folder(root: str, table: Table) -> str:
    """Return where the versions of an index lie."""
    return join(root, "indexes", table.name)


def version_log(root: str, table: Table, storage: Storage) -> NumberedLog:
    """Return the log of an index's versions."""
    return NumberedLog(storage, join(index_folder(root, table), "versions"))


def index_version(root: str, table: Table, storage: Storage, n: int | None = None) -> IndexVersion:
    """Return the newest version of an index, or as much of it as an earlier one had.

    Parameters
    ----------
    root : str
    table : Table
    storage : Storage
    n : int, optional
        How many numbers the earlier version had given. Its parts are those of the newest: where one was damaged, and
        written again, the newest names what is whole.

    Raises
    ------
    DamagedFileError
        If its entry is damaged, or a part of it does not begin where the one before ends.
    """
    log = version_log(root, table, storage)
    numbers = log.numbers()
    folder = index_folder(root, table)
    if not numbers:
        return IndexVersion(table, folder, 0, ())
    parts = parts_of(log, numbers[-1])
    return IndexVersion(table, folder, numbers[-1], tuple(part for part in parts if n is None or part.start < n))


def parts_of(log: NumberedLog, number: int) -> list[IndexPart]:
    """Return the parts of a version; raises as `index_version`."""
    try:
        parts = [IndexPart(**part) for part in log.read(number)["parts"]]
        starts = [sum(part.n for part in parts[:k]) for k in range(len(parts))]
    except (DamagedFileError, TypeError, KeyError) as error:
        raise _damaged_version(log.path(number), " ".join(map(str.strip, str(error).splitlines()))) from None
    if starts != [part.start for part in parts]:
        got = f"its parts do not follow each other: {[(part.start, part.n) for part in parts]}"
        raise _damaged_version(log.path(number), got)
    return parts


def _damaged_version(path: str, got: str) -> DamagedFileError:
    return DamagedFileError(
        "a version of an index is damaged",
        where=path,
        got=got,
        remedy="run again: the index stage goes by what runs have written down of it",
    )


def part_faults(version: IndexVersion, part: IndexPart, storage: Storage) -> list[str]:
    """Return how the files of a part differ from what was written; each of them is read, by the driver.

    Of a part whose files were not written down, nobody knows but whether there are any.
    """
    files = storage.find(join(version.folder, part.path))
    if not files:
        return [f"{join(version.folder, part.path)}: is not there"]
    found = {_name(file): file for file in files}
    faults = file_faults(part.files, found, storage) if part.files else []
    return [f"{join(version.folder, part.path)}/{fault}" for fault in faults]


def _name(file: FileStatus) -> str:
    return file.path.rpartition("/")[2]


def append_ids(context: StageContext, table: Table, ids: DataFrame) -> IndexVersion:
    """Give numbers to the ids that an index does not have yet, in ascending order.

    Parameters
    ----------
    context : StageContext
    table : Table
        ``user_index`` or ``item_index``.
    ids : DataFrame
        Distinct ids, read several times.

    Returns
    -------
    IndexVersion
        One that has all these ids: a new one, or the newest where none was missing.

    Raises
    ------
    RecsysError
        If other runs append first again and again.
    ContractError
        If there would be more ids than int32 has numbers.

    Notes
    -----
    One anti-join by id and what `write_dense_index` does, of the new ids; again for every attempt.
    """
    for _ in range(ATTEMPTS):
        before = index_version(context.run.root, table, context.storage)
        new = ids.join(before.read(context.spark), table.key[0], "left_anti") if before.parts else ids
        if before.parts and not new.take(1):
            return before
        place = new_place(context)
        path = join(before.folder, place)
        n = write_dense_index(new, table, path, f"{path}-work", context.storage, start=before.n)
        part = IndexPart(place, before.n, n, sealed_part(path, context.storage))
        after = IndexVersion(table, before.folder, before.number + 1, (*before.parts, part))
        if append_version(context, after):
            return after
        # Its numbers were given to the other run's ids.
        context.storage.remove(join(before.folder, part.path))
        context.progress.say(f"index: another run has appended to {table.name} meanwhile; numbering again after it")
    raise RecsysError(
        f"other runs keep appending to {table.name}",
        where=version_log(context.run.root, table, context.storage).folder,
        got=f"{ATTEMPTS} attempts",
        remedy="let one run at a time number its ids, and run the stage again; nothing was changed",
    )


def append_version(context: StageContext, version: IndexVersion) -> bool:
    """Add a version to the log; return False, changing nothing, where another run has taken its number."""
    entry = {
        "run_id": context.run.run_id,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "n": version.n,
        "parts": [asdict(part) for part in version.parts],
    }
    return version_log(context.run.root, version.table, context.storage).append(version.number, entry)


def new_place(context: StageContext) -> str:
    """Return a place for a part of this run that no other part has."""
    return join("parts", f"{context.run.run_id}-{secrets.token_hex(4)}")


def sealed_part(path: str, storage: Storage) -> list[dict[str, Any]]:
    """Return what is written down of the files of a part."""
    return [seal(file, _name(file), storage) for file in storage.find(path)]


def index_faults(version: IndexVersion, of_run: DataFrame) -> dict[str, DataFrame]:
    """Return what breaks the promise of an index, as rows with a column ``id``, by what is wrong with them.

    Every id has one number, every number from 0 to ``n - 1`` has one id, and the run has no other numbers.

    Parameters
    ----------
    version : IndexVersion
    of_run : DataFrame
        The ids of a run with their numbers.

    Notes
    -----
    Shuffles: the index by id and by number, and a join with the run's.
    """
    id_name, index_name = version.table.schema.names
    spark = of_run.sparkSession
    whole = version.read(spark).select(F.col(id_name).alias("id"), F.col(index_name).alias("number"))
    mine = of_run.select(F.col(id_name).alias("id"), F.col(index_name).alias("number"))
    outside = ~F.coalesce(F.col("number").between(0, version.n - 1), F.lit(False)) | F.col("id").isNull()
    # Distinct numbers from 0 to n - 1 that are n make every number.
    missing = whole.agg(F.count_distinct("number").alias("n")).where(F.col("n") != version.n)
    return {
        f"{id_name}s with several numbers": whole.groupBy("id").count().where("count > 1").select("id"),
        f"{index_name}es with several ids": whole.groupBy("number")
        .agg(F.min("id").alias("id"), F.count("*").alias("n"))
        .where("n > 1")
        .select("id"),
        f"{index_name}es out of range": whole.where(outside).select("id"),
        f"{index_name} has gaps": missing.select(F.concat(F.col("n"), F.lit(" numbers")).alias("id")),
        f"{id_name}s of the run with another number": mine.join(whole, ["id", "number"], "left_anti").select("id"),
    }
