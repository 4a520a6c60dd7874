"""Whether what is stored is what was written: the log, the manifests and their files, indexes, and the history."""

from __future__ import annotations

from recsys_spark.errors import RecsysError
from recsys_spark.index import index_version, part_faults
from recsys_spark.ingest import history_folder
from recsys_spark.runs.publication_log import log_folder, publications
from recsys_spark.runs.run_directory import Run, find_runs
from recsys_spark.runs.sealed_files import table_faults
from recsys_spark.storage import Storage, join, read_json
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import ITEM_INDEX, USER_INDEX


def verify(root: str, storage: Storage, run: Run | None = None) -> tuple[int, list[str]]:
    """Check all sealed runs, or one, and what they share.

    Parameters
    ----------
    root : str
    storage : Storage
    run : Run, optional

    Returns
    -------
    n_files : int
        How many files were looked at.
    faults : list of str
        Each with its place. Without Spark; files with checksums are read, others only looked at.
    """
    sealed = [each for each in find_runs(root, storage) if storage.exists(each.manifest_path)] if run is None else [run]
    n_files = 0
    faults: list[str] = []
    for each in sealed:
        n, found = _verify_run(each, storage)
        n_files, faults = n_files + n, faults + found
    for n, found in (_verify_log(root, storage), _verify_indexes(root, storage), _verify_history(root, storage)):
        n_files, faults = n_files + n, faults + found
    return n_files, faults


def _verify_run(run: Run, storage: Storage) -> tuple[int, list[str]]:
    try:
        files = read_json(storage, run.manifest_path)["files"]
    except (RecsysError, OSError, ValueError, KeyError) as error:
        return 1, [f"{run.manifest_path}: {_first_line(error)}"]
    faults = [f"{run.path}/{fault}" for name in files for fault in table_faults(run, name, storage)]
    return 1 + sum(map(len, files.values())), faults


def _verify_log(root: str, storage: Storage) -> tuple[int, list[str]]:
    log = NumberedLog(storage, log_folder(root))
    numbers = log.numbers()
    faults = [f"{log.path(n)}: is not there" for n in range(1, numbers[-1] + 1 if numbers else 0) if n not in numbers]
    entries = publications(root, storage)
    readable = {entry.number for entry in entries}
    faults += [f"{log.path(n)}: is damaged" for n in numbers if n not in readable]
    if entries and not storage.exists(entries[-1].run(root).manifest_path):
        faults.append(f"{entries[-1].run(root).path}: readers see this run, and it is not whole")
    return len(numbers), faults


def _verify_indexes(root: str, storage: Storage) -> tuple[int, list[str]]:
    n_files, faults = 0, []
    for table in (USER_INDEX, ITEM_INDEX):
        try:
            version = index_version(root, table, storage)
        except (RecsysError, OSError, ValueError) as error:
            faults.append(_first_line(error))
            continue
        for part in version.parts:
            n_files += max(1, len(part.files))
            faults += part_faults(version, part, storage)
    return n_files, faults


def _verify_history(root: str, storage: Storage) -> tuple[int, list[str]]:
    folder = history_folder(root)
    try:
        latest = NumberedLog(storage, join(folder, "versions")).latest()
    except (RecsysError, OSError, ValueError) as error:
        return 1, [f"{folder}: {_first_line(error)}"]
    if latest is None:
        return 0, []
    named = {file["path"]: file["size"] for day in latest[1]["days"].values() for file in day["files"]}
    parts = {"/".join(path.split("/")[:2]) for path in named}
    sizes = {
        part + file.path.partition(f"/{part}")[2]: file.size
        for part in parts
        for file in storage.find(join(folder, part))
    }
    faults = [f"{join(folder, path)}: is not there" for path in named if path not in sizes]
    faults += [
        f"{join(folder, path)}: has {sizes[path]:,} bytes instead of {size:,}"
        for path, size in named.items()
        if path in sizes and sizes[path] != size
    ]
    return len(named), sorted(faults)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:3]) or type(error).__name__
