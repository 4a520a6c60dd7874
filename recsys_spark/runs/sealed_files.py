"""The files of a run's tables as its manifest names them, and whether they still are what was written."""

from __future__ import annotations

from typing import Any

from recsys_spark.runs.run_directory import Run
from recsys_spark.storage import Storage, join, read_json
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
    return [
        {"path": place_in_run(run, file.path), "size": file.size}
        | ({"sha256": storage.checksum(file.path)} if name in _WITH_CHECKSUMS else {})
        for file in storage.find(join(run.path, name))
    ]


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
    sealed = {file["path"]: file for file in read_json(storage, run.manifest_path)["files"].get(name, [])}
    found = {place_in_run(run, file.path): file for file in storage.find(join(run.path, name))}
    faults = [f"{place}: is not there" for place in sorted(sealed.keys() - found.keys())]
    faults += [f"{place}: is no file of the run" for place in sorted(found.keys() - sealed.keys())]
    for place in sorted(sealed.keys() & found.keys()):
        if found[place].size != sealed[place]["size"]:
            faults.append(f"{place}: has {found[place].size:,} bytes instead of {sealed[place]['size']:,}")
        elif "sha256" in sealed[place] and storage.checksum(found[place].path) != sealed[place]["sha256"]:
            faults.append(f"{place}: its bytes were changed")
    return faults
