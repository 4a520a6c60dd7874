"""What may be removed: old runs, attempts that came to nothing, and files that no version names any more."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from recsys_spark.index import index_folder
from recsys_spark.ingest import history_folder
from recsys_spark.publish.kept_versions import parts_of_history, parts_of_index, readable_versions
from recsys_spark.runs.publication_log import Publication, publications
from recsys_spark.runs.run_directory import Run, find_runs
from recsys_spark.storage import Storage, join
from recsys_spark.storage.numbered_log import NumberedLog
from recsys_spark.tables import ITEM_INDEX, USER_INDEX


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that may go: where it is, why it may, and its bytes."""

    path: str
    reason: str
    n_bytes: int


def plan_removals(root: str, storage: Storage, keep: int, now: datetime, min_age: timedelta) -> list[Removal]:
    """Return what can go without anybody missing it; nothing is changed.

    Parameters
    ----------
    root : str
    storage : Storage
    keep : int
        Published runs to keep, the newest ones; the run that readers see, and a pinned one, are kept in any case.
    now : datetime
    min_age : timedelta
        A run stays so long after readers were taken from it, an unfinished one so long after its last file.

    Returns
    -------
    list of Removal
        Runs first. Versions of indexes and of the history are kept, at least as many as runs.
    """
    # In this order: a run that is published meanwhile is not in the list, or is in the log.
    known = find_runs(root, storage)
    entries = publications(root, storage)
    published = list(dict.fromkeys(entry.newest(root) for entry in entries))
    kept = set(published[len(published) - min(keep, len(published)) :])
    kept |= {entries[-1].run(root), entries[-1].newest(root)} if entries else set()
    removals, unfinished = [], []
    for run in known:
        if run in kept:
            continue
        age = _age(run, entries, storage, now) if run in published else _unpublished_age(run, storage, now)
        if age < min_age:
            unfinished += [] if run in published else [run]
            continue
        reason = "an old run" if run in published else "a run that was never published"
        removals.append(Removal(run.path, reason, _bytes(run.path, storage)))
    return removals + _unnamed(root, storage, unfinished, max(keep, 1))


def remove_all(root: str, removals: list[Removal], storage: Storage) -> None:
    """Remove what `plan_removals` has found; a run's manifest first: half a run must not be taken for a whole one.

    A run that readers have gone back to since stays. Who takes them there looks at the manifest afterwards, and here
    the log is looked at once more without it: of two at once, one sees the other.
    """
    for removal in removals:
        manifest = join(removal.path, "manifest.json")
        if _is_in_use(root, storage, removal):
            continue
        content = _text_if_there(manifest, storage)
        storage.remove(manifest)
        if content is not None and _is_in_use(root, storage, removal):
            storage.write_text(manifest, content)
            continue
        storage.remove(removal.path)


def _text_if_there(path: str, storage: Storage) -> str | None:
    try:
        return storage.read_text(path)
    except Exception:
        if storage.exists(path):
            raise
        # Half of a run, or one that another process is removing.
        return None


def _is_in_use(root: str, storage: Storage, removal: Removal) -> bool:
    entries = publications(root, storage)
    return bool(entries) and removal.path in (entries[-1].run(root).path, entries[-1].newest(root).path)


def _age(run: Run, entries: list[Publication], storage: Storage, now: datetime) -> timedelta:
    """Return how long ago readers were taken from a run."""
    shown = [k for k, entry in enumerate(entries) if entry.run(run.root) == run]
    if not shown:
        return _unpublished_age(run, storage, now)
    # The next entry took them, and came after all before it, whatever the clock of its machine said.
    times = [datetime.fromisoformat(entry.published_at) for entry in entries[: shown[-1] + 2]]
    return now - max(times)


def _unpublished_age(run: Run, storage: Storage, now: datetime) -> timedelta:
    modified = max((file.modified for file in storage.find(run.path)), default=0.0)
    return timedelta(seconds=now.timestamp() - modified)


def _unnamed(root: str, storage: Storage, unfinished: list[Run], n_versions: int) -> list[Removal]:
    """Return folders of parts that no kept version names, and that no unfinished run may be about to name."""
    busy = tuple(f"{run.run_id}-" for run in unfinished)
    found = []
    for folder, named_in in (
        *((index_folder(root, table), parts_of_index) for table in (USER_INDEX, ITEM_INDEX)),
        (history_folder(root), parts_of_history),
    ):
        log = NumberedLog(storage, join(folder, "versions"))
        named = {name for _, entry in islice(readable_versions(log, named_in), n_versions) for name in named_in(entry)}
        for name in storage.list_names(join(folder, "parts")):
            if name not in named and not (busy and name.startswith(busy)):
                path = join(folder, "parts", name)
                found.append(Removal(path, "named by no kept version", _bytes(path, storage)))
    return found


def _bytes(path: str, storage: Storage) -> int:
    return sum(file.size for file in storage.find(path))
