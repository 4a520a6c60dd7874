"""The files of a run's tables as its manifest names them, and whether they still are what was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import FileStatus, Storage, join, read_json
from recsys_spark.tables import (
    ITEM_FACTORS,
    ITEM_INDEX,
    METRICS,
    RECOMMENDATION_ROWS,
    RECOMMENDATIONS,
    SIMILAR_ITEMS,
    SIMILAR_USERS,
    USER_FACTORS,
    USER_INDEX,
)

# What readers and the next run use. The larger tables of ratings are known by their sizes alone.
_WITH_CHECKSUMS = frozenset(
    table.name
    for table in (
        RECOMMENDATIONS,
        RECOMMENDATION_ROWS,
        SIMILAR_ITEMS,
        SIMILAR_USERS,
        USER_FACTORS,
        ITEM_FACTORS,
        USER_INDEX,
        ITEM_INDEX,
        METRICS,
    )
)


def files_of_table(run: Run, name: str, storage: Storage) -> list[dict[str, Any]]:
    """Return ``path`` (within the run), ``size`` and, where readers use the table, ``sha256`` of each of its files."""
    found = storage.find(join(run.path, name))
    return [seal(file, place_in_run(run, file.path), storage, with_checksum=name in _WITH_CHECKSUMS) for file in found]


def seal(file: FileStatus, place: str, storage: Storage, *, with_checksum: bool = True) -> dict[str, Any]:
    """Return what is written down of a file: where it is, its size, and its SHA-256, for which it is read."""
    content: dict[str, Any] = {"path": place, "size": file.size}
    return content | ({"sha256": storage.checksum(file.path)} if with_checksum else {})


def place_in_run(run: Run, path: str) -> str:
    """Return the part of a file's path that lies within a run's directory."""
    return path.rpartition(f"/date={run.date}/run={run.run_id}/")[2]


def table_faults(run: Run, name: str, storage: Storage) -> list[str]:
    """Return how the files of a sealed table differ from its manifest: absent, other, cut off or changed.

    Raises
    ------
    RecsysError
        If the manifest is damaged.
    """
    found = {place_in_run(run, file.path): file for file in storage.find(join(run.path, name))}
    return file_faults(read_json(storage, run.manifest_path)["files"].get(name, []), found, storage)


def file_faults(sealed: Sequence[dict[str, Any]], found: dict[str, FileStatus], storage: Storage) -> list[str]:
    """Return how files, by place, differ from what `seal` has written down of them."""
    known = {file["path"]: file for file in sealed}
    faults = [f"{place}: is not there" for place in sorted(known.keys() - found.keys())]
    faults += [f"{place}: is no file of the run" for place in sorted(found.keys() - known.keys())]
    for place in sorted(known.keys() & found.keys()):
        if found[place].size != known[place]["size"]:
            faults.append(f"{place}: has {found[place].size:,} bytes instead of {known[place]['size']:,}")
        elif "sha256" in known[place] and storage.checksum(found[place].path) != known[place]["sha256"]:
            faults.append(f"{place}: its bytes were changed")
    return faults
