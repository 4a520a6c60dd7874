"""Where the rows of every input file went: nothing may be lost, or counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from recsys_spark.errors import ContractError
from recsys_spark.ingest.validate import REASONS
from recsys_spark.storage import FileStatus


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Where the rows of one input file went: ``rows_in = accepted + merged + quarantined``.

    ``merged`` rows became part of another row, or were cancelled with it; with a history, rows are merged there, and
    none are here. ``outside_interval`` rows have an event time that this run does not cover; they are not part of
    ``rows_in``.
    """

    path: str
    rows_in: int
    accepted: int
    merged: int
    quarantined: int
    outside_interval: int


def count_rows(
    files: Sequence[FileStatus], checked: DataFrame, accepted: DataFrame, quarantined: DataFrame, merged_away: int
) -> dict[str, Any]:
    """Count where the rows of each file went, from the tables as they were written.

    Parameters
    ----------
    files : sequence of FileStatus
    checked : DataFrame
        Every row: ``source_file, outside``.
    accepted, quarantined : DataFrame
        ``source_file``; ``source_file, reason``.
    merged_away : int
        Rows that others stand for, or that were cancelled, as the written tables add them up.

    Returns
    -------
    dict
        ``totals``, ``reasons``, ``files`` and ``inputs``. The driver receives one row per file and reason.

    Raises
    ------
    ContractError
        If the counts do not add up.
    """
    seen = _by_file(
        checked.groupBy("source_file").agg(
            F.count_if(~F.col("outside")).alias("rows_in"),
            F.count_if(F.col("outside")).alias("outside_interval"),
        )
    )
    kept_rows = _by_file(accepted.groupBy("source_file").agg(F.count("*").alias("accepted")))
    set_aside = quarantined.groupBy("source_file", "reason").count().collect()
    counts = []
    for path in sorted(seen.keys() | {plain_path(file.path) for file in files}):
        rows_in = _get(seen, path, "rows_in")
        kept = _get(kept_rows, path, "accepted")
        set_aside_here = sum(row["count"] for row in set_aside if row["source_file"] == path)
        merged = rows_in - kept - set_aside_here
        outside = _get(seen, path, "outside_interval")
        counts.append(FileCounts(path, rows_in, kept, merged, set_aside_here, outside))
    totals = {name: sum(getattr(c, name) for c in counts) for name in ("rows_in", "accepted", "merged", "quarantined")}
    _check_conservation(totals, counts, merged_away)
    return {
        "totals": {**totals, "outside_interval": sum(c.outside_interval for c in counts)},
        "reasons": {r: sum(row["count"] for row in set_aside if row["reason"] == r) for r in REASONS},
        "files": [asdict(c) for c in counts],
        "inputs": [file.as_dict() for file in files],
    }


def plain_path(path: str) -> str:
    """Return a file's path as ``source_file`` has it: no ``file:`` before local ones."""
    return "/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path


def _check_conservation(totals: dict[str, int], counts: list[FileCounts], merged_away: int) -> None:
    """Compare the two independent counts of merged rows: by file, and as the tables add them up."""
    if totals["merged"] != merged_away or any(c.merged < 0 for c in counts):
        raise ContractError(
            "rows were lost or made between reading and writing",
            got=f"{totals}, while the tables stand for {merged_away} merged rows",
            remedy="do not change the input while it is read; run again under a new run id",
        )


def _by_file(frame: DataFrame) -> dict[str, Row]:
    return {row["source_file"]: row for row in frame.collect()}


def _get(rows: dict[str, Row], path: str, name: str) -> int:
    return int(rows[path][name]) if path in rows else 0
