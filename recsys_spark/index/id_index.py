"""Indexes that only grow: an id keeps its number for ever, and new ids are numbered on.

``<root>/indexes/<table>/versions/00000001.json`` names the parts of a version, which lie in ``parts`` beside it.
A version has the parts of the one before, and one more.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys_spark.errors import RecsysError
from recsys_spark.index.dense_index import write_dense_index
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import Storage, join
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import Table

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class IndexPart:
    """Ids that one run has added: where they are, their first number, and how many."""

    path: str
    start: int
    n: int


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


def index_version(root: str, table: Table, storage: Storage, number: int | None = None) -> IndexVersion:
    """Return a version of an index, the newest by default.

    Raises
    ------
    RecsysError
        If its entry is damaged, or a part of it does not begin where the one before ends.
    """
    folder = index_folder(root, table)
    log = NumberedLog(storage, join(folder, "versions"))
    numbers = log.numbers() if number is None else [number]
    if not numbers:
        return IndexVersion(table, folder, 0, ())
    parts = tuple(IndexPart(**part) for part in log.read(numbers[-1])["parts"])
    starts = [sum(part.n for part in parts[:k]) for k in range(len(parts))]
    if starts != [part.start for part in parts]:
        raise RecsysError(
            "a version of an index is damaged: its parts do not follow each other",
            where=log.path(numbers[-1]),
            got=f"{[(part.start, part.n) for part in parts]}",
            remedy="restore the file from a copy; the tables of published runs are whole",
        )
    return IndexVersion(table, folder, numbers[-1], parts)


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
    log = NumberedLog(context.storage, join(index_folder(context.run.root, table), "versions"))
    for _ in range(_ATTEMPTS):
        before = index_version(context.run.root, table, context.storage)
        new = ids.join(before.read(context.spark), table.key[0], "left_anti") if before.parts else ids
        if before.parts and not new.take(1):
            return before
        part = _write_part(context, before, new)
        after = IndexVersion(table, before.folder, before.number + 1, (*before.parts, part))
        entry = {
            "run_id": context.run.run_id,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "n": after.n,
            "parts": [asdict(each) for each in after.parts],
        }
        if log.append(after.number, entry):
            return after
        # Its numbers were given to the other run's ids.
        context.storage.remove(join(before.folder, part.path))
        context.progress.say(f"index: another run has appended to {table.name} meanwhile; numbering again after it")
    raise RecsysError(
        f"other runs keep appending to {table.name}",
        where=log.folder,
        got=f"{_ATTEMPTS} attempts",
        remedy="let one run at a time number its ids, and run the stage again; nothing was changed",
    )


def _write_part(context: StageContext, before: IndexVersion, new: DataFrame) -> IndexPart:
    place = join("parts", f"{context.run.run_id}-{secrets.token_hex(4)}")
    path = join(before.folder, place)
    n = write_dense_index(new, before.table, path, f"{path}-work", context.storage, start=before.n)
    return IndexPart(place, before.n, n)


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
